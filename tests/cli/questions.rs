//! `init` at a terminal: its questions, the meaning of Enter, and when it does not ask.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use crate::support::eventually::eventually;

/// A timeout for a program that asks one question after the other.
const A_WHILE: Duration = Duration::from_secs(20);
const TOKEN: &str = "hunter2-of-the-api";

/// A program at a terminal of its own.
pub(super) struct Terminal {
    child: Child,
    keys: File,
    shown: Arc<Mutex<Vec<u8>>>,
}

impl Terminal {
    pub(super) fn run(path: &Path, args: &[&str]) -> Self {
        let keys = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
        grantpt(&keys).expect("a terminal of ours");
        unlockpt(&keys).expect("an open terminal");
        let name = ptsname(&keys, Vec::new()).expect("its name");
        let screen = rustix::fs::open(name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).expect("its other side");
        let side = || screen.try_clone().expect("another handle");
        let mut command = Command::new(env!("CARGO_BIN_EXE_switchyard"));
        command.args(args).arg("--config").arg(path).env("TERM", "xterm").env_remove("NO_COLOR");
        let child = command.stdin(side()).stdout(side()).stderr(side()).spawn().expect("it runs");
        let (keys, shown) = (File::from(keys), Arc::<Mutex<Vec<u8>>>::default());
        let (mut screen, seen) = (keys.try_clone().expect("another handle"), Arc::clone(&shown));
        // Reading ends when the last handle of the other side is closed.
        std::thread::spawn(move || {
            let mut piece = [0; 1024];
            while let Ok(n @ 1..) = screen.read(&mut piece) {
                seen.lock().expect("no panic").extend_from_slice(&piece[..n]);
            }
        });
        Self { child, keys, shown }
    }

    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.shown.lock().expect("no panic")).into_owned()
    }

    /// Waits for a question and types the answer to it.
    async fn answer(&mut self, question: &str, answer: &str) {
        eventually(question, A_WHILE, async || match self.text() {
            text if text.contains(question) => Ok(()),
            text => Err(text),
        })
        .await;
        self.keys.write_all(format!("{answer}\r").as_bytes()).expect("keys");
    }

    /// Waits for the end; returns the exit code and the whole output.
    async fn end(mut self) -> (Option<i32>, String) {
        let code = eventually("it ends", A_WHILE, async || match self.child.try_wait().expect("a child") {
            Some(status) => Ok(status.code()),
            None => Err(String::from_utf8_lossy(&self.shown.lock().expect("no panic")).into_owned()),
        })
        .await;
        eventually("all is shown", A_WHILE, async || match self.text() {
            text if text.contains("next: switchyard") || code != Some(0) => Ok(()),
            text => Err(text),
        })
        .await;
        (code, self.text())
    }
}

const DSNS: [&str; 3] = ["init", "shop:sentry=http://key@h/1", "shop:glitchtip=http://key@g/2"];
const QUESTIONS: [&str; 6] = [
    "Where SDKs send to",
    "Where the status page and the metrics are",
    "Token of the API of sentry with the scopes event:read and project:read",
    "Token of the API of glitchtip",
    "Who must have sent something",
    "How often a test event",
];

#[tokio::test]
async fn init_asks_at_a_terminal_and_writes_the_answers() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("config.toml");
    let mut terminal = Terminal::run(&path, &DSNS);
    terminal.answer(QUESTIONS[0], "127.0.0.1:9484").await;
    terminal.answer(QUESTIONS[1], "127.0.0.1:9485").await;
    terminal.answer(QUESTIONS[2], "").await;
    terminal.answer(QUESTIONS[3], TOKEN).await;
    terminal.answer("What glitchtip calls shop", "acme").await;
    terminal.answer("write organization/project", "acme/shop").await;
    terminal.answer(QUESTIONS[4], "shop, shop/api").await;
    terminal.answer(QUESTIONS[5], "5m").await;
    let (code, shown) = terminal.end().await;
    assert_eq!(code, Some(0), "{shown}");
    assert!(!shown.contains("hunter2"), "a token is not shown: {shown}");
    assert!(shown.contains("@127.0.0.1:9484/1"), "{shown}");
    let text = std::fs::read_to_string(&path).expect("the file");
    for line in [
        "[server]\nlisten = [\"127.0.0.1:9484\"]\n",
        "[admin]\nlisten = \"127.0.0.1:9485\"\n",
        "[report]\nexpect = [\"shop\", \"shop/api\"]\n",
        "[canary]\ninterval = \"5m\"\n",
        "# [upstreams.sentry.api]",
        &format!("[upstreams.glitchtip.api]\ntoken = \"{TOKEN}\"\n"),
        "glitchtip = { dsn = \"http://key@g/2\", project = \"acme/shop\" }\n",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    let check = Command::new(env!("CARGO_BIN_EXE_switchyard")).args(["check", "--config"]).arg(&path).output();
    assert!(check.expect("it runs").status.success(), "{text}");
}

#[tokio::test]
async fn enter_at_every_question_writes_what_init_writes_without_asking() {
    let folder = tempfile::tempdir().expect("a folder");
    let (asked, silent) = (folder.path().join("asked.toml"), folder.path().join("silent.toml"));
    let mut terminal = Terminal::run(&asked, &DSNS);
    for question in QUESTIONS {
        terminal.answer(question, "").await;
    }
    let (code, shown) = terminal.end().await;
    assert_eq!(code, Some(0), "{shown}");
    // Neither `--yes` at a terminal nor a program without a terminal asks questions.
    let (code, shown) = Terminal::run(&silent, &[&DSNS[..], &["--yes"]].concat()).end().await;
    assert!(code == Some(0) && !QUESTIONS.iter().any(|question| shown.contains(question)), "{shown}");
    let written = |path: &Path| {
        let text = std::fs::read_to_string(path).expect("the file");
        let is_key = |line: &&str| line.starts_with("public_key");
        text.lines().filter(|line| !is_key(line)).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(written(&asked), written(&silent));
    let piped = folder.path().join("piped.toml");
    let output = Command::new(env!("CARGO_BIN_EXE_switchyard")).args(DSNS).arg("--config").arg(&piped).output();
    assert!(output.expect("it runs").status.success());
    assert_eq!(written(&piped), written(&silent));
}

#[tokio::test]
async fn a_flag_replaces_its_question_and_an_existing_file_is_reported_first() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("config.toml");
    let flags = [
        "--listen",
        "127.0.0.1:9484",
        "--admin",
        "127.0.0.1:9485",
        "--token",
        "sentry=${S}",
        "--token",
        "glitchtip=${G}",
        "--name",
        "shop:sentry=acme/shop",
        "--name",
        "shop:glitchtip=acme/shop",
        "--expect",
        "shop",
        "--canary",
        "5m",
    ];
    let args = [&DSNS[..], &flags].concat();
    let (code, shown) = Terminal::run(&path, &args).end().await;
    assert!(code == Some(0) && !QUESTIONS.iter().any(|question| shown.contains(question)), "{shown}");
    let (code, shown) = Terminal::run(&path, &DSNS).end().await;
    assert!(code == Some(73) && shown.contains("--force") && !shown.contains(QUESTIONS[0]), "{shown}");
}
