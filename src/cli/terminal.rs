//! Writing to standard output and standard error: text, JSON, colours where somebody looks. A reader that has left is no error.

use std::io::{self, ErrorKind, IsTerminal as _, Write as _};
use std::path::Path;

use comfy_table::{Attribute, Cell, Color, ContentArrangement, Table, presets};
use serde::Serialize;

use crate::config::diagnostics::Form;

use super::failure::{Exit, Failure};

/// The width taken where no terminal says one.
pub(super) const WIDTH: u16 = 100;
/// The width of the narrowest table.
const NARROWEST: u16 = 80;

/// Writes a line, or several.
pub(super) fn say(text: impl std::fmt::Display) -> Result<(), Failure> {
    write(format_args!("{text}\n"))
}

/// Writes a piece of a line.
pub(super) fn write(text: impl std::fmt::Display) -> Result<(), Failure> {
    write_bytes(text.to_string().as_bytes())
}

/// Writes bytes as they are.
pub(super) fn write_bytes(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        // `switchyard status | head -1` is no mistake.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(Failure::told(Exit::Done)),
        Err(error) => Err(Failure::new(Exit::Io, format_args!("standard output cannot be written: {error}"))),
        Ok(()) => Ok(()),
    }
}

/// Writes a line, or several, to standard error. When that cannot be, nobody is left to be told.
pub(super) fn remark(text: impl std::fmt::Display) {
    drop(io::stderr().write_all(format!("{text}\n").as_bytes()));
}

/// Writes a value as JSON, indented.
pub(super) fn say_json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).map_err(|error| Failure::new(Exit::Internal, error))?;
    say(text)
}

/// Says a failure as JSON, too, where that is wanted and nothing has been said yet.
pub(super) fn with_json(outcome: Result<(), Failure>, json: bool) -> Result<(), Failure> {
    match outcome {
        Err(failure) if json && !failure.message().is_empty() => {
            say_json(&serde_json::json!({ "error": failure.message() }))?;
            Err(failure)
        }
        outcome => outcome,
    }
}

/// Whether standard output goes to somebody's eyes.
pub(super) fn is_watched() -> bool {
    io::stdout().is_terminal()
}

/// Whether colours are wanted (<https://no-color.org>).
pub(super) fn has_colour() -> bool {
    is_watched() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// How problems of a configuration are shown on standard output.
pub(super) fn form() -> Form {
    form_on(is_watched(), has_colour())
}

/// How problems of a configuration are shown on standard error.
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

/// The columns of the terminal. One that was told no size says 0.
fn width() -> u16 {
    Table::new().width().filter(|width| *width > 0).unwrap_or(WIDTH)
}

/// A table with a header, without lines around it. A narrow terminal breaks its lines: columns of a few letters nobody can read.
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

/// A cell in a colour, where colours are wanted. A text in which the colour is already would be measured, and cut, with its codes.
pub(super) fn tinted(tone: Tone, text: impl ToString) -> Cell {
    let cell = Cell::new(text);
    match tone {
        Tone::Good => cell.fg(Color::DarkGreen),
        Tone::Bad => cell.fg(Color::DarkRed),
        Tone::Quiet => cell.add_attribute(Attribute::Dim),
        Tone::Strong => cell.add_attribute(Attribute::Bold),
    }
}

/// A cell whose text stands at the right: numbers.
pub(super) fn right(text: impl ToString) -> Cell {
    Cell::new(text).set_alignment(comfy_table::CellAlignment::Right)
}

/// A path as one word of a command that a shell takes.
pub(super) fn as_word(path: &Path) -> String {
    let path = path.display().to_string();
    let is_plain = |c: char| c.is_alphanumeric() || "/._-+:,@%=".contains(c);
    if path.chars().all(is_plain) { path } else { format!("'{}'", path.replace('\'', "'\\''")) }
}

/// A text without what could move a terminal's cursor or change its colours, cut to `most` characters.
pub(super) fn harmless(text: &str, most: usize) -> String {
    let clean = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    let mut short: String = clean.take(most + 1).collect();
    if short.chars().count() > most {
        short = short.chars().take(most.saturating_sub(1)).chain(['…']).collect();
    }
    short
}

/// The colours used, by what they mean.
#[derive(Clone, Copy, Debug)]
pub(super) enum Tone {
    Good,
    Bad,
    Quiet,
    Strong,
}

/// The text in a colour, where colours are wanted.
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
    fn what_others_wrote_cannot_move_the_cursor_and_is_cut() {
        assert_eq!(harmless("a\x1b[2Jb\nc", 80), "a [2Jb c");
        assert_eq!(harmless("abcdef", 6), "abcdef");
        assert_eq!(harmless("abcdefg", 6), "abcde…");
    }

    #[test]
    fn a_path_is_one_word_for_a_shell() {
        for (path, word) in
            [("a/b-c.toml", "a/b-c.toml"), ("my file", "'my file'"), ("it's", r"'it'\''s'"), ("$(x)", "'$(x)'")]
        {
            assert_eq!(as_word(Path::new(path)), word);
        }
    }
}
