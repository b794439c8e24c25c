//! `switchyard help`: the pages of the handbook in the terminal, and the help of each verb.
//!
//! Rule: the pages are part of the program. They are there without a network, and match the version that runs.

use clap::CommandFactory as _;
use comfy_table::{ContentArrangement, Table};
use textwrap::{Options, WordSeparator, WordSplitter};

use super::Cli;
use super::failure::{Exit, Failure};
use super::terminal::{self, Tone};

/// The pages by topic: those of `deploy/handbook`, and the pages on PM2 and systemd.
const PAGES: &[(&str, &str)] = &[
    ("alerts", include_str!("../../deploy/handbook/alerts.md")),
    ("beyond", include_str!("../../deploy/handbook/beyond.md")),
    ("cluster", include_str!("../../deploy/handbook/cluster.md")),
    ("configure", include_str!("../../deploy/handbook/configure.md")),
    ("connect", include_str!("../../deploy/handbook/connect.md")),
    ("delivery", include_str!("../../deploy/handbook/delivery.md")),
    ("guarantees", include_str!("../../deploy/handbook/guarantees.md")),
    ("install", include_str!("../../deploy/handbook/install.md")),
    ("leaving", include_str!("../../deploy/handbook/leaving.md")),
    ("notify", include_str!("../../deploy/handbook/notify.md")),
    ("operate", include_str!("../../deploy/handbook/operate.md")),
    ("parallel-run", include_str!("../../deploy/handbook/parallel-run.md")),
    ("pm2", include_str!("../../deploy/pm2/README.md")),
    ("protocol", include_str!("../../deploy/handbook/protocol.md")),
    ("security", include_str!("../../deploy/handbook/security.md")),
    ("speed", include_str!("../../deploy/handbook/speed.md")),
    ("storage", include_str!("../../deploy/handbook/storage.md")),
    ("systemd", include_str!("../../deploy/systemd/README.md")),
    ("trackers", include_str!("../../deploy/handbook/trackers.md")),
    ("verify", include_str!("../../deploy/handbook/verify.md")),
];

/// Prints a page of the handbook, or the help of a verb
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Examples: switchyard help alerts   ·   switchyard help parallel-run | less   ·   switchyard help switch"
)]
pub(super) struct Args {
    /// A page, or a verb, as in `journal move`; without one, the verbs and the pages there are
    #[arg(value_name = "TOPIC")]
    topic: Vec<String>,
}

/// Prints a page or the help of a verb.
pub(super) fn help(args: &Args) -> Result<(), Failure> {
    let mut command = Cli::command();
    command.build();
    let topics = PAGES.iter().map(|(topic, _)| *topic).collect::<Vec<_>>().join(", ");
    if args.topic.is_empty() {
        terminal::say(command.render_help().to_string().trim_end())?;
        return terminal::say(format_args!("\nPages: {topics}. Example: switchyard help alerts"));
    }
    let topic = args.topic.join(" ");
    if let Some((_, page)) = PAGES.iter().find(|(name, _)| *name == topic) {
        return terminal::say(rendered(page, terminal::page_width()));
    }
    let verb = args.topic.iter().try_fold(&mut command, |verb, word| verb.find_subcommand_mut(word));
    match verb {
        Some(verb) => terminal::say(verb.render_long_help().to_string().trim_end()),
        None => {
            let unknown = format_args!("there is no page and no verb {topic:?}; the pages are {topics}").to_string();
            Err(Failure::new(Exit::Usage, unknown))
        }
    }
}

/// Renders a page for a terminal: headings stand out, links become their text, prose and tables fit the width. Code stays as it is.
fn rendered(page: &str, width: u16) -> String {
    let mut out = String::new();
    let mut is_code = false;
    let mut lines = page.lines().peekable();
    while let Some(line) = lines.next() {
        if is_fence(line) {
            is_code = !is_code;
        } else if is_code {
            out.push_str(&format!("    {line}\n"));
        } else if line.starts_with('|') {
            let mut rows = vec![cells(line)];
            while let Some(row) = lines.next_if(|next| next.starts_with('|')) {
                rows.push(cells(row));
            }
            out.push_str(&table(&rows, width));
        } else if let Some(heading) = line.strip_prefix('#') {
            out.push_str(&terminal::tint(Tone::Strong, heading.trim_start_matches('#').trim()));
            out.push('\n');
        } else {
            let mut text = line.to_owned();
            while let Some(more) = lines.next_if(|next| !line.is_empty() && goes_on(next)) {
                text.push(' ');
                text.push_str(more.trim());
            }
            out.push_str(&wrapped(&plain(&text), width));
            out.push('\n');
        }
    }
    out.trim_end().to_owned()
}

fn is_fence(line: &str) -> bool {
    line.trim_start().starts_with("```")
}

/// Whether a line goes on with the paragraph before it.
fn goes_on(line: &str) -> bool {
    !(line.is_empty() || is_fence(line) || line.starts_with(['|', '#']) || marker(line).is_some())
}

/// Where the text of a list item begins in its line; `None` for another line.
fn marker(line: &str) -> Option<usize> {
    let text = line.trim_start();
    let rest = text.trim_start_matches(|c: char| c.is_ascii_digit());
    let is_item = text.starts_with("- ") || rest.len() < text.len() && rest.starts_with(". ");
    is_item.then(|| line.len() - rest.len() + 2)
}

/// A paragraph or a list item in lines of the width. Words stay whole, because many are commands and paths.
fn wrapped(text: &str, width: u16) -> String {
    let indent = " ".repeat(marker(text).unwrap_or(0));
    let options = Options::new(width.into()).subsequent_indent(&indent).break_words(false);
    let options = options.word_separator(WordSeparator::AsciiSpace).word_splitter(WordSplitter::NoHyphenation);
    textwrap::fill(text, options)
}

/// The cells of a table row.
fn cells(row: &str) -> Vec<String> {
    row.trim().trim_matches('|').split('|').map(|cell| plain(cell.trim())).collect()
}

fn table(rows: &[Vec<String>], width: u16) -> String {
    let header: Vec<&str> = rows[0].iter().map(String::as_str).collect();
    let mut table: Table = terminal::table(&header);
    table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
    // The second row is the Markdown ruler.
    table.add_rows(rows.iter().skip(2));
    let text = table.to_string();
    text.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

/// A text without markup: links become their text, with the page they lead to, and `**` is removed.
fn plain(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("](") {
        let (start, text) = before.rsplit_once('[').unwrap_or((before, ""));
        out.push_str(start);
        out.push_str(text);
        let (target, after) = after.split_once(')').unwrap_or((after, ""));
        if let Some(topic) = topic(target).filter(|topic| !topic.eq_ignore_ascii_case(text)) {
            out.push_str(&format!(" (help {topic})"));
        }
        rest = after;
    }
    out.push_str(rest);
    out.replace("**", "")
}

/// The topic of the page that a link on a page leads to; `None` if it leads elsewhere.
fn topic(target: &str) -> Option<&'static str> {
    let path = target.split('#').next().unwrap_or_default();
    let name = match path.trim_end_matches("/README.md") {
        "../pm2" => "pm2",
        "../systemd" => "systemd",
        path => path.trim_start_matches("../handbook/").strip_suffix(".md")?,
    };
    PAGES.iter().map(|(topic, _)| *topic).find(|topic| *topic == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_handbook_page_is_a_help_topic() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/handbook");
        let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let mut stems: Vec<String> = files.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect();
        stems.extend(["pm2", "systemd"].map(str::to_owned));
        stems.sort();
        assert_eq!(PAGES.iter().map(|(topic, _)| *topic).collect::<Vec<_>>(), stems);
    }

    #[test]
    fn rendered_links_become_text_and_tables_keep_every_cell() {
        assert_eq!(plain("see [Alerts](alerts.md) and [PM2](../pm2) **now**"), "see Alerts and PM2 now");
        assert_eq!(plain("[How](../handbook/verify.md#x). [Files](../cluster)"), "How (help verify). Files");
        let text = rendered("# Head\n\n| a | b |\n| --- | --- |\n| one | two [x](y) |\n\n```sh\nrun\n```\nend", 80);
        assert_eq!(text.split_whitespace().collect::<Vec<_>>(), ["Head", "a", "b", "one", "two", "x", "run", "end"]);
        assert!(!text.contains("---") && text.contains("\n    run\n"));
    }

    #[test]
    fn prose_fits_the_width_and_code_and_words_stay_whole() {
        let page = "one two\nthree [a\nb](alerts.md)\n\n1. four five six\n   seven\n   ```sh\n   run this command now\n   ```\n- x\n- y";
        let text =
            "one two\nthree a b\n(help\nalerts)\n\n1. four five\n   six seven\n       run this command now\n- x\n- y";
        assert_eq!(rendered(page, 12), text);
        for (topic, page) in PAGES {
            for line in rendered(page, 80).lines().filter(|line| !line.starts_with("    ")) {
                let has_long_word = line.split_whitespace().any(|word| word.chars().count() > 60);
                assert!(line.chars().count() <= 80 || has_long_word, "{topic}: {line}");
            }
        }
    }
}
