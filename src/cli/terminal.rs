//! Output to standard output and standard error: text, JSON, and colours on a terminal. A reader that has left is no error.

use std::io::{self, ErrorKind, IsTerminal as _, Write as _};
use std::path::Path;

use comfy_table::{Attribute, Cell, Color, ColumnConstraint, ContentArrangement, Table, Width, presets};
use serde::Serialize;

use crate::config::diagnostics::Form;
use crate::printable;

use super::failure::{Exit, Failure};

/// The width if no terminal tells one.
const WIDTH: u16 = 100;
/// The least width of a table, and the width of a page of the handbook that goes into a pipe: as into `less`.
const NARROWEST: u16 = 80;
/// The longest word that a table does not break.
const WORD: u16 = 24;

/// Writes one or several lines.
pub(super) fn say(text: impl std::fmt::Display) -> Result<(), Failure> {
    write(format_args!("{text}\n"))
}

/// Writes a part of a line.
pub(super) fn write(text: impl std::fmt::Display) -> Result<(), Failure> {
    write_bytes(text.to_string().as_bytes())
}

/// Writes bytes unchanged.
pub(super) fn write_bytes(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        // `switchyard status | head -1` is no mistake.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(Failure::told(Exit::Done)),
        Err(error) => Err(Failure::new(Exit::Io, format_args!("standard output cannot be written: {error}"))),
        Ok(()) => Ok(()),
    }
}

/// Writes one or several lines to standard error. A failure is ignored: nobody could be told.
pub(super) fn remark(text: impl std::fmt::Display) {
    drop(io::stderr().write_all(format!("{text}\n").as_bytes()));
}

/// Writes a value as JSON, indented.
pub(super) fn say_json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).map_err(|error| Failure::new(Exit::Internal, error))?;
    say(text)
}

/// Prints a failure as JSON as well, if JSON is wanted and the failure has a message.
pub(super) fn with_json(outcome: Result<(), Failure>, json: bool) -> Result<(), Failure> {
    match outcome {
        Err(failure) if json && !failure.message().is_empty() => {
            say(serde_json::json!({ "error": failure.message() }))?;
            Err(failure)
        }
        outcome => outcome,
    }
}

/// Whether standard output is a terminal.
pub(super) fn is_watched() -> bool {
    io::stdout().is_terminal()
}

/// Whether colours are wanted (<https://no-color.org>).
pub(super) fn has_colour() -> bool {
    is_watched() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// The form in which problems of a configuration are shown on standard output.
pub(super) fn form() -> Form {
    form_on(is_watched(), has_colour())
}

/// The form in which problems of a configuration are shown on standard error.
pub(super) fn form_of_errors() -> Form {
    let is_terminal = io::stderr().is_terminal();
    form_on(is_terminal, is_terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()))
}

fn form_on(is_terminal: bool, color: bool) -> Form {
    match is_terminal {
        true => Form::Graphical { color, width: width().into() },
        false => Form::Plain,
    }
}

/// The width of the terminal in columns. A terminal without a size reports 0.
fn width() -> u16 {
    Table::new().width().filter(|width| *width > 0).unwrap_or(WIDTH)
}

/// The width of a page of the handbook.
pub(super) fn page_width() -> u16 {
    if is_watched() { width() } else { NARROWEST }
}

/// A table with a header and without borders. A terminal narrower than [`NARROWEST`] breaks its lines, because very narrow columns are
/// unreadable.
pub(super) fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header);
    if !has_colour() {
        table.force_no_tty();
    }
    match is_watched() {
        true => table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width().max(NARROWEST)),
        false => table.set_content_arrangement(ContentArrangement::Disabled),
    };
    table
}

/// A table as text. No column of a terminal's table is narrower than its longest word, up to [`WORD`] characters: half a word is harder to
/// read than a line that is too long.
pub(super) fn laid_out(mut table: Table) -> String {
    if is_watched() {
        let padding = if width() < WIDTH { (0, 1) } else { (1, 1) };
        let least = longest_words(&mut table);
        for (column, word) in table.column_iter_mut().zip(least) {
            let least = Width::Fixed(word.min(WORD) + padding.0 + padding.1);
            column.set_padding(padding).set_constraint(ColumnConstraint::LowerBoundary(least));
        }
    }
    table.trim_fmt()
}

/// The length of the longest word of each column, in characters.
fn longest_words(table: &mut Table) -> Vec<u16> {
    let mut longest = vec![0; table.column_count()];
    for row in table.header().into_iter().chain(table.row_iter()) {
        for (own, cell) in longest.iter_mut().zip(row.cell_iter()) {
            let content = cell.content();
            let words = content.split_whitespace().map(|word| u16::try_from(word.chars().count()).unwrap_or(u16::MAX));
            *own = words.fold(*own, u16::max);
        }
    }
    longest
}

/// A cell in a colour, if colours are wanted. A text that has colour codes already would be measured and cut with them.
pub(super) fn tinted(tone: Tone, text: impl ToString) -> Cell {
    let cell = Cell::new(text);
    match tone {
        Tone::Good => cell.fg(Color::DarkGreen),
        Tone::Bad => cell.fg(Color::DarkRed),
        Tone::Quiet => cell.add_attribute(Attribute::Dim),
        Tone::Strong => cell.add_attribute(Attribute::Bold),
    }
}

/// A right-aligned cell, for numbers.
pub(super) fn right(text: impl ToString) -> Cell {
    Cell::new(text).set_alignment(comfy_table::CellAlignment::Right)
}

/// A path as one word of a shell command.
pub(super) fn as_word(path: &Path) -> String {
    let path = path.display().to_string();
    let is_plain = |c: char| c.is_alphanumeric() || "/._-+:,@%=".contains(c);
    if path.chars().all(is_plain) { path } else { format!("'{}'", path.replace('\'', "'\\''")) }
}

/// A text cut to `most` characters, without those that move a terminal's cursor, change its colours or turn the line around.
pub(super) fn harmless(text: &str, most: usize) -> String {
    let mut short: String = printable::in_a_line(text).take(most + 1).collect();
    if short.chars().count() > most {
        short = short.chars().take(most.saturating_sub(1)).chain(['…']).collect();
    }
    short
}

/// The colours, by meaning.
#[derive(Clone, Copy, Debug)]
pub(super) enum Tone {
    Good,
    Bad,
    Quiet,
    Strong,
}

/// A text in a colour, if colours are wanted.
pub(super) fn tint(tone: Tone, text: impl std::fmt::Display) -> String {
    if !has_colour() {
        return text.to_string();
    }
    let code = match tone {
        Tone::Good => 32,
        Tone::Bad => 31,
        Tone::Quiet => 2,
        Tone::Strong => 1,
    };
    format!("\x1b[{code}m{text}\x1b[0m")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_cannot_move_the_cursor_and_is_cut() {
        assert_eq!(harmless("a\x1b[2Jb\nc", 80), "a [2Jb c");
        assert_eq!(harmless("a\u{202e}b\u{2028}c", 80), "a b c");
        assert_eq!(harmless("abcdef", 6), "abcdef");
        assert_eq!(harmless("abcdefg", 6), "abcde…");
    }

    #[test]
    fn a_column_is_as_wide_as_its_longest_word() {
        let mut table = table(&["DEAD LETTERS", "LAST"]);
        table.add_row(["7", "4 min ago"]);
        assert_eq!(longest_words(&mut table), [7, 4]);
    }

    #[test]
    fn a_path_becomes_one_word_for_a_shell() {
        for (path, word) in
            [("a/b-c.toml", "a/b-c.toml"), ("my file", "'my file'"), ("it's", r"'it'\''s'"), ("$(x)", "'$(x)'")]
        {
            assert_eq!(as_word(Path::new(path)), word);
        }
    }
}
