//! Checks the documents against the project: every named test exists, every link leads somewhere, every verb is the program's, every alert
//! is explained, and no page is too long to read.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::report;

const HANDBOOK: &str = "deploy/handbook";
/// The maximum number of lines of a page. The tables of tests are for reference and may be longer.
const MAX_PAGE: usize = 200;

/// A document: its path relative to the root, and its text.
struct Document {
    path: String,
    text: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> Document {
    let text = fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
    Document { path: path.to_owned(), text }
}

/// The README and the pages of the handbook.
fn pages() -> Vec<Document> {
    let folder = fs::read_dir(root().join(HANDBOOK)).expect("the handbook");
    let names = folder.map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"));
    let mut paths: Vec<String> = names.map(|name| format!("{HANDBOOK}/{name}")).collect();
    paths.sort();
    paths.push("README.md".into());
    paths.iter().map(|path| read(path)).collect()
}

fn documents() -> Vec<Document> {
    let others = ["tests/README.md", "deploy/systemd/README.md", "deploy/pm2/README.md"];
    pages().into_iter().chain(others.map(read)).collect()
}

impl Document {
    fn at(&self, line: usize, what: &str) -> String {
        format!("{}:{}: {what}", self.path, line + 1)
    }
}

#[test]
fn every_promise_names_a_test_that_exists() {
    let mut broken = Vec::new();
    for document in documents() {
        let mut test_column = None;
        for (number, line) in document.text.lines().enumerate() {
            for test in named_tests(line) {
                if let Some(why) = missing(test) {
                    let why = format!("`{test}`: {why}: name the test that keeps the promise");
                    broken.push(document.at(number, &why));
                }
            }
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            if cells.len() < 3 {
                test_column = None;
            } else if test_column.is_none() {
                test_column = cells.iter().position(|cell| cell.eq_ignore_ascii_case("test"));
            } else if let Some(cell) = test_column.and_then(|column| cells.get(column)) {
                let ruler = cell.chars().all(|c| matches!(c, '-' | ':' | ' '));
                if cell.is_empty() || (!ruler && named_tests(cell).is_empty()) {
                    broken.push(document.at(number, "this row names no test: write `tests/file.rs::name`"));
                }
            }
        }
    }
    let promises = read("tests/README.md");
    if !promises.text.lines().any(|line| !named_tests(line).is_empty()) {
        broken.push(promises.at(0, "no promise names a test: write `tests/file.rs::name` beside each"));
    }
    report(&broken);
}

/// The backquoted tokens of the form `path/file.rs::name`.
fn named_tests(line: &str) -> Vec<&str> {
    line.split('`').skip(1).step_by(2).filter(|token| token.contains(".rs::")).collect()
}

/// The reason why the named test does not exist; `None` when it does.
fn missing(test: &str) -> Option<String> {
    let (file, name) = test.split_once("::")?;
    let name = name.rsplit("::").next().unwrap_or(name);
    let Ok(text) = fs::read_to_string(root().join(file)) else { return Some(format!("there is no {file}")) };
    let defined = text.contains(&format!("fn {name}("));
    (!defined).then(|| format!("{file} has no `fn {name}`"))
}

#[test]
fn every_link_leads_somewhere() {
    let mut broken = Vec::new();
    for document in documents() {
        let folder = root().join(&document.path).parent().expect("a folder").to_owned();
        for (number, line) in document.text.lines().enumerate() {
            for link in links(line).filter(|link| !link.starts_with("http")) {
                let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
                let target = if path.is_empty() { root().join(&document.path) } else { folder.join(path) };
                if !target.exists() || !(anchor.is_empty() || has_anchor(&target, anchor)) {
                    broken.push(document.at(number, &format!("nothing is at {link}")));
                }
            }
        }
    }
    report(&broken);
}

/// The targets of the links in a line.
fn links(line: &str) -> impl Iterator<Item = &str> {
    line.split("](").skip(1).filter_map(|rest| rest.split(')').next())
}

fn has_anchor(target: &PathBuf, anchor: &str) -> bool {
    let text = fs::read_to_string(target).unwrap_or_default();
    let of_heading = |line: &str| -> Option<String> {
        let heading = line.strip_prefix('#')?.trim_start_matches('#').trim().to_lowercase();
        let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        Some(kept.map(|c| if c == ' ' { '-' } else { c }).collect())
    };
    text.contains(&format!("id=\"{anchor}\"")) || text.lines().filter_map(of_heading).any(|own| own == anchor)
}

#[test]
fn no_page_is_too_long_to_read() {
    let long = pages().into_iter().filter(|page| page.text.lines().count() > MAX_PAGE);
    let says = |page: Document| {
        let lines = page.text.lines().count();
        page.at(0, &format!("{lines} lines, {MAX_PAGE} are allowed: a page answers one question"))
    };
    report(&long.map(says).collect::<Vec<_>>());
}

#[test]
fn every_page_of_the_handbook_is_linked_from_the_readme() {
    let readme = read("README.md");
    let linked: BTreeSet<&str> = readme.text.lines().flat_map(links).collect();
    let missing = pages().into_iter().filter(|page| page.path != readme.path && !linked.contains(page.path.as_str()));
    report(&missing.map(|page| page.at(0, "the README has no link to this page")).collect::<Vec<_>>());
}

#[test]
fn every_verb_in_a_document_exists_in_the_program() {
    let help = Command::new(env!("CARGO_BIN_EXE_switchyard")).arg("--help").output().expect("the program runs");
    let help = String::from_utf8(help.stdout).expect("UTF-8");
    let verbs: BTreeSet<&str> = help.lines().filter_map(|line| line.strip_prefix("  ")?.split(' ').next()).collect();
    let mut broken = Vec::new();
    for document in documents() {
        for (number, line) in document.text.lines().enumerate() {
            for verb in shown_verbs(line).filter(|verb| !verbs.contains(verb)) {
                broken.push(document.at(number, &format!("`switchyard {verb}` is no verb of the program")));
            }
        }
    }
    assert!(verbs.contains("report") && verbs.contains("switch"), "the help lists verbs: {help}");
    report(&broken);
}

/// The verbs of commands in a line, between backticks or as a line of a shell.
fn shown_verbs(line: &str) -> impl Iterator<Item = &str> {
    let is_shell =
        ["switchyard ", "sudo switchyard ", "cd / && sudo switchyard "].iter().any(|start| line.starts_with(start));
    let shown = line.split('`').enumerate().filter(move |(i, _)| is_shell || i % 2 == 1).map(|(_, code)| code);
    let after = shown.flat_map(|code| code.split("switchyard ").skip(1).map(move |rest| (code, rest)));
    let command =
        after.filter(|(code, _)| ["switchyard ", "sudo switchyard ", "cd "].iter().any(|s| code.starts_with(s)));
    command.filter_map(|(_, rest)| {
        let word = rest.split([' ', ',', ';']).next()?;
        (!word.is_empty() && word.chars().all(|c| c.is_ascii_lowercase() || c == '-') && !word.starts_with('-'))
            .then_some(word)
    })
}

#[test]
fn every_alert_is_explained_under_its_name() {
    let rules = read("deploy/prometheus/rules.yml").text;
    let alerts: BTreeSet<&str> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    let page = read(&format!("{HANDBOOK}/alerts.md"));
    let explained: BTreeSet<&str> = page.text.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    assert_eq!(explained, alerts);
}
