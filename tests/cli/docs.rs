//! The README and the handbook are true: each command in them runs, prints what they show, and each piece of configuration is accepted.
//!
//! Rule: a command that no test can run is in [`NOT_RUN`] with the reason. Numbers, times and ids in an output may differ.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use super::support::envelopes;
use super::support::eventually::eventually;
use super::support::glitchtip::{Glitchtip, PLACE, TOKEN};
use super::support::relay::{Plan, Relay, SOON};
use super::support::upstream::{Reply, Upstream};

/// The beginnings of commands that are not run, and the reasons.
const NOT_RUN: &[(&str, &str)] = &[
    (".ci/run", "it runs all tests, this one among them"),
    ("cargo build", "it builds what is run here"),
    ("docker ", "it needs a container engine"),
    ("sudo ", "it changes the machine; deploy/debian/try.sh does these steps in a Debian of its own"),
    ("cargo run --profile look -- demo", "the demo has a test of its own"),
    ("cargo run --release -- demo", "the demo has a test of its own"),
    ("switchyard demo --cluster", "it has a test of its own, in tests/cli/demo.rs"),
    ("cargo bench ", "it takes minutes on a machine of its own; .ci/run counts the instructions"),
    ("cargo test --lib figures", "it prints figures of one machine"),
    ("cargo test --test beyond", "it is a test itself"),
    ("pm2 ", "PM2 keeps a daemon of its own for each user"),
    ("touch .env", "tests/deploy.rs runs it on files of all kinds"),
    ("switchyard status --watch", "it looks until it is ended"),
    ("switchyard sink", "it listens until it is ended"),
    ("switchyard journal ", "it needs a database, and a journal that no relay has; tests/postgres/moved.rs runs it"),
];

/// Verbs that a text mentions without their arguments.
const MENTIONED: &[&str] = &[
    "switchyard init",
    "switchyard run",
    "switchyard backfill",
    "switchyard dead-letters show",
    "switchyard dead-letters retry",
    "switchyard dead-letters discard",
];

/// Commands that exit with 1 for a negative answer, which is a valid outcome.
const ANSWERING: &[&str] =
    &["switchyard report", "switchyard verify", "switchyard status --check", "switchyard dead-letters retry --reason"];

const QUICK: &str = "[verify]\nsettle = \"1s\"\nrequests = \"50/s\"\n";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The text of a page by its path relative to the root.
fn page(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The paths of the README and the handbook.
fn paths() -> Vec<String> {
    let folder = fs::read_dir(root().join("deploy/handbook")).expect("the handbook");
    let name =
        |entry: std::io::Result<fs::DirEntry>| entry.expect("an entry").file_name().into_string().expect("UTF-8");
    let mut paths: Vec<String> = folder.map(|entry| format!("deploy/handbook/{}", name(entry))).collect();
    paths.sort();
    paths.insert(0, "README.md".to_owned());
    paths
}

/// A fenced block of a page.
struct Block {
    language: String,
    line: usize,
    text: String,
}

fn blocks(page: &str) -> Vec<Block> {
    let (mut blocks, mut open) = (Vec::new(), None::<Block>);
    for (at, line) in page.lines().enumerate() {
        match (&mut open, line.strip_prefix("```")) {
            (None, Some(language)) => {
                open = Some(Block { language: language.to_owned(), line: at + 1, text: String::new() })
            }
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (Some(block), None) => block.text.extend([line, "\n"]),
            (None, None) => {}
        }
    }
    blocks
}

/// A command on a page, and its output if the page shows one.
struct Shown {
    line: usize,
    command: String,
    output: Option<String>,
}

/// The commands of a page in order: lines of shell blocks, and backquoted commands.
fn shown(page: &str) -> Vec<Shown> {
    let mut all = Vec::new();
    let blocks = blocks(page);
    for (at, block) in blocks.iter().enumerate().filter(|(_, block)| block.language == "sh") {
        let lines: Vec<&str> = block.text.lines().collect();
        let end = block.line + lines.len() + 1;
        for (n, line) in lines.iter().enumerate() {
            let command = line.split("  #").next().unwrap_or(line).trim().to_owned();
            // The output of a block's last command is in the `text` block right below it.
            let follows = |next: &&Block| n + 1 == lines.len() && next.language == "text" && next.line <= end + 3;
            let output = blocks.get(at + 1).filter(follows).map(|next| next.text.clone());
            all.push(Shown { line: block.line + n + 1, command, output });
        }
    }
    let mut is_block = false;
    for (at, line) in page.lines().enumerate() {
        is_block ^= line.starts_with("```");
        let quoted = line.split('`').enumerate().filter(|(n, _)| n % 2 == 1).map(|(_, quoted)| quoted);
        let mut letters = false;
        for quoted in quoted.filter(|_| !is_block) {
            // In `switchyard dead-letters list`, `show 17` the second is short for the same verb.
            let is_short =
                letters && ["show", "retry", "discard", "export"].iter().any(|verb| quoted.starts_with(verb));
            let command = if is_short { format!("switchyard dead-letters {quoted}") } else { quoted.to_owned() };
            if command.starts_with("switchyard ") {
                letters = command.starts_with("switchyard dead-letters ");
                all.push(Shown { line: at + 1, command, output: None });
            }
        }
    }
    all.sort_by_key(|shown| shown.line);
    all
}

/// The words of a line with numbers, times and ids replaced by placeholders.
fn alike(line: &str) -> Vec<String> {
    let is_id = |word: &str| word.len() >= 12 && word.chars().all(|c| c.is_ascii_hexdigit() || c == '-');
    let months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let mut words: Vec<String> = Vec::new();
    for word in line.split_whitespace() {
        let mut word = if is_id(word) { "ID".to_owned() } else { word.to_owned() };
        let is_after_number = words.last().is_some_and(|last| last.ends_with('0'));
        if is_after_number && ["ms", "s", "min", "h"].contains(&word.trim_end_matches([',', ';', '.', ':'])) {
            word = "time".to_owned();
        }
        if months.contains(&word.as_str()) {
            word = "Jan".to_owned();
        }
        let mut plain = String::new();
        for c in word.chars() {
            let is_more = plain.ends_with('0') && (c.is_ascii_digit() || c == '.');
            if !is_more {
                plain.push(if c.is_ascii_digit() { '0' } else { c });
            }
        }
        // A row of numbers may have any length, so it becomes one word.
        if words.last().is_none_or(|last| !(last == "0" && plain == "0")) {
            words.push(plain);
        }
    }
    words
}

/// The first line of `shown` that `said` lacks in this order; `...` stands for any lines.
pub(crate) fn not_said<'a>(shown: &'a str, said: &str) -> Option<&'a str> {
    let mut rest = said.lines();
    let mut lines = shown.lines().filter(|line| !line.trim().is_empty() && line.trim() != "...");
    lines.find(|line| !rest.any(|own| alike(own) == alike(line)))
}

/// The output of the demo as a page shows it.
pub(crate) fn of_demo(path: &str) -> String {
    let found = blocks(&page(path)).into_iter().find(|block| block.language == "text" && block.text.starts_with("1. "));
    found.expect("the demo's output").text
}

/// A relay before a tracker without an API section and a GlitchTip with one, and a receiver of notifications.
struct Scene {
    glitchtip: Glitchtip,
    _others: [Upstream; 2],
    relay: Relay,
}

impl Scene {
    async fn start() -> Self {
        let (sentry, receiver) = (Upstream::start().await, Upstream::start().await);
        let glitchtip = Glitchtip::start(Duration::from_millis(100), Duration::from_secs(2)).await;
        let plan = Plan::new(&[("sentry", sentry.dsn("beef", 8)), ("glitchtip", glitchtip.dsn())])
            .api("glitchtip", "glitchtip", Some(PLACE), TOKEN)
            .upstream("glitchtip", "api.remembers = \"2s\"")
            .more(&format!("{QUICK}[[notify]]\nurl = \"http://{}/hook\"", receiver.address()));
        let relay = plan.start().await;
        fs::copy(relay.config(), relay.home().join("new.toml")).expect("a second file");
        relay.send_errors(5).await;
        relay.balanced(SOON).await;
        Self { glitchtip, _others: [sentry, receiver], relay }
    }

    /// The number of a dead letter; creates one if there is none.
    async fn letter(&self) -> String {
        let first = async || {
            let (_, told) = self.relay.verb(&["dead-letters", "list", "--json"]).await;
            let told: Value = serde_json::from_str(&told).expect("letters");
            told["dead_letters"][0]["id"].as_u64().map(|id| id.to_string())
        };
        if let Some(id) = first().await {
            return id;
        }
        self.glitchtip.upstream.then([Reply::status(400)]);
        assert_eq!(self.relay.send(envelopes::error(&envelopes::new_id())).await.status(), 200);
        eventually("it is refused", SOON, async || first().await.ok_or_else(|| self.relay.log())).await
    }

    /// Runs a command in the folder of the configuration.
    async fn run(&self, command: &str) -> Output {
        let mut command = command.replace("<key>", "cafe").replace("NAME", "glitchtip").replace("TOPIC", "alerts");
        if command.contains(" 17") || command.ends_with("--all") {
            command = command.replace(" 17", &format!(" {}", self.letter().await));
        }
        if command == "switchyard send-test" {
            // With other events under way `send-test` could not tell whose event was taken.
            self.relay.balanced(SOON).await;
        }
        if command.contains("--event ID") {
            let stored = self.glitchtip.stored();
            command = command.replace("--event ID", &format!("--event {}", stored[0]));
        }
        let fresh = TempDir::with_prefix("switchyard-docs-").expect("a folder");
        let is_init = command.starts_with("switchyard init");
        let folder = if is_init { fresh.path().to_owned() } else { self.relay.home() };
        let programs = Path::new(env!("CARGO_BIN_EXE_switchyard")).parent().expect("a folder").to_owned();
        let run = move || {
            let path = format!("{}:{}", programs.display(), std::env::var("PATH").expect("a path"));
            let mut shell = Command::new("sh");
            shell.args(["-c", &command]).current_dir(folder).env("PATH", path).env("NO_COLOR", "1");
            shell.env_remove("SWITCHYARD_CONFIG").env("COLUMNS", "200").output().expect("a shell")
        };
        tokio::task::spawn_blocking(run).await.expect("it ends")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_command_on_a_page_runs_and_prints_what_the_page_shows() {
    let scene = Scene::start().await;
    let (mut runs, mut wrong) = (0, Vec::new());
    for path in paths() {
        // Every page starts with the same primary.
        scene.relay.verb(&["switch", "sentry"]).await;
        for Shown { line, command, output } in shown(&page(&path)) {
            let place = format!("{path}:{line}: {command}");
            let is_not_run = NOT_RUN.iter().any(|(start, _)| command.starts_with(start));
            if is_not_run || MENTIONED.contains(&command.as_str()) {
                let is_demo = command.ends_with("-- demo") || command == "switchyard demo --cluster";
                assert!(is_demo || output.is_none(), "{place}: nobody checks the output below it");
                continue;
            }
            let ended = scene.run(&command).await;
            let said = String::from_utf8_lossy(&[ended.stdout, ended.stderr].concat()).into_owned();
            println!("{place}\n{said}");
            let is_answer = ANSWERING.iter().any(|verb| command.starts_with(verb));
            let code = ended.status.code();
            let is_well = code == Some(0) || code == Some(1) && is_answer;
            match output.as_deref().and_then(|output| not_said(output, &said)) {
                _ if !is_well => wrong.push(format!("{place}: ends with {code:?}:\n{said}")),
                Some(line) => wrong.push(format!("{place}: does not say: {line}\nbut:\n{said}")),
                None => {}
            }
            runs += 1;
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(runs > 40, "the pages show more than {runs} commands");
    scene.relay.finish().await;
}

/// Merges a page's piece of configuration into the shortest useful file.
fn merged(whole: &mut toml::Table, piece: toml::Table) {
    for (key, value) in piece {
        match (whole.get_mut(&key), value) {
            (Some(toml::Value::Table(whole)), toml::Value::Table(piece)) => merged(whole, piece),
            (Some(toml::Value::Array(whole)), toml::Value::Array(piece)) => whole.extend(piece),
            // A table below an array belongs to the last project.
            (Some(toml::Value::Array(whole)), toml::Value::Table(piece)) => {
                merged(whole.last_mut().and_then(toml::Value::as_table_mut).expect("a table"), piece)
            }
            (_, value) => drop(whole.insert(key, value)),
        }
    }
}

#[test]
fn each_configuration_on_a_page_is_accepted() {
    let shortest: toml::Table = page("config/minimal.toml").parse().expect("TOML");
    let folder = TempDir::with_prefix("switchyard-docs-").expect("a folder");
    let mut pieces = 0;
    for path in paths() {
        for block in blocks(&page(&path)).iter().filter(|block| block.language == "toml") {
            let place = format!("{path}:{}", block.line);
            let piece: toml::Table = block.text.parse().unwrap_or_else(|error| panic!("{place}: {error}"));
            let is_whole = piece.contains_key("primary");
            if path.ends_with("configure.md") && is_whole {
                assert_eq!(piece, shortest, "{place} is config/minimal.toml");
            }
            let mut config = if is_whole { toml::Table::new() } else { shortest.clone() };
            merged(&mut config, piece);
            let text = toml::to_string(&config).expect("TOML").replace("<token>", "1:a").replace("<id>", "a");
            let file = folder.path().join("config.toml");
            fs::write(&file, &text).expect("a configuration");
            let mut check = Command::new(env!("CARGO_BIN_EXE_switchyard"));
            check.arg("check").arg("--config").arg(&file).env("SWITCHYARD_KEY", "0123456789abcdef0123456789abcdef");
            check.env("SENTRY_DSN", "https://key@sentry.example/1").env("GLITCHTIP_DSN", "http://key@127.0.0.1:8080/1");
            check.env("SLACK_WEBHOOK", "https://hooks.slack.com/services/a");
            for name in ["CF_ID", "CF_SECRET", "BASIC", "GLITCHTIP_TOKEN", "SWITCHYARD_DB_PASSWORD"] {
                check.env(name, "secret");
            }
            let ended = check.output().expect("it runs");
            let said = String::from_utf8_lossy(&[ended.stdout, ended.stderr].concat()).into_owned();
            assert!(ended.status.success(), "{place} is refused: {said}\n{text}");
            pieces += 1;
        }
    }
    assert!(pieces >= 5, "the pages show more than {pieces} pieces of configuration");
}
