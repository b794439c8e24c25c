//! Messages about problems name what is wrong, where, and what to do; they are true, and their commands run.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::process::{Command, Stdio};

use super::questions::Terminal;
use super::support::envelopes;
use super::support::eventually::eventually;
use super::support::net;
use super::support::relay::SOON;
use super::support::upstream::Reply;
use super::{CONFIG, beside, code, err, folder_with, json, on, out, relay_with_two};

#[tokio::test(flavor = "multi_thread")]
async fn the_undo_of_a_switch_names_the_primary_that_was_live() {
    let (relay, _sentry, _glitchtip) = relay_with_two().await;
    let text = std::fs::read_to_string(relay.config()).expect("the configuration");
    let mistyped = text.replacen("\"sentry\"", "\"sentri\"", 1);
    relay.replace_config(&mistyped);
    eventually("the daemon refuses the file", SOON, async || match relay.status().await["config"]["error"].is_null() {
        true => Err(relay.log()),
        false => Ok(()),
    })
    .await;
    let output = beside(&relay.config(), &["switch", "glitchtip"]).await;
    let said = out(&output);
    assert!(said.contains("(before: sentry)") && said.contains("undo: switchyard switch sentry "), "{output:?}");
    // A refused switch restores the file, and an unknown primary is offered as no undo.
    let unfit = mistyped.replacen("\"journal.db\"", "\"another.db\"", 1).replacen("\"sentri\"", "'sentri'", 1);
    relay.replace_config(&unfit);
    assert_eq!(code(&beside(&relay.config(), &["switch", "sentry"]).await), 1);
    assert_eq!(std::fs::read_to_string(relay.config()).expect("the configuration"), unfit);
    relay.finish().await;
    let (_folder, config) = folder_with(&CONFIG.replacen("\"sentry\"", "\"sentri\"", 1));
    let output = on(&config, &["switch", "glitchtip", "--json"]);
    assert!(code(&output) == 0 && json(&output)["undo"].is_null(), "{output:?}");
}

#[tokio::test]
async fn an_unusable_journal_folder_is_named_with_its_remedy() {
    let (folder, config) = folder_with(CONFIG);
    let data = folder.path().join("data");
    std::fs::write(&data, "").expect("a file");
    for (place, words) in [
        (data.join("journal.db"), format!("{} is a file, and a folder is needed there", data.display())),
        ("/proc/no/journal.db".into(), "the folder /proc/no is not there, and user root cannot make it".to_owned()),
    ] {
        let user = Command::new("id").arg("-un").output().expect("a user");
        let words = words.replace("root", String::from_utf8_lossy(&user.stdout).trim());
        std::fs::write(&config, format!("{CONFIG}\n[journal]\npath = {place:?}\n")).expect("a configuration");
        let output = beside(&config, &["run"]).await;
        assert!(code(&output) == 74 && err(&output).contains(&words), "{words}: {output:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_server_on_the_admin_port_is_recognised() {
    let other = TcpListener::bind(("127.0.0.1", net::free_port())).expect("a port");
    let address = other.local_addr().expect("an address");
    std::thread::spawn(move || {
        for mut client in other.incoming().map_while(Result::ok) {
            let page = "<!DOCTYPE HTML><title>Error</title>";
            // The client has sent everything before it reads; unread bytes would reset the connection.
            if client.read(&mut [0; 4096]).is_ok() {
                let head = format!("HTTP/1.1 404 Not Found\r\nContent-Length: {}\r\nConnection: close", page.len());
                drop(write!(client, "{head}\r\n\r\n{page}"));
            }
        }
    });
    let (_folder, config) = folder_with(&CONFIG.replace("127.0.0.1:1\"", &format!("{address}\"")));
    let output = beside(&config, &["status"]).await;
    assert_eq!(code(&output), 69, "{output:?}");
    assert!(err(&output).contains("is no switchyard: 404") && !err(&output).contains("DOCTYPE"), "{output:?}");
    let output = beside(&config, &["switch", "glitchtip"]).await;
    assert!(err(&output).contains("nothing was changed"), "{output:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_with_a_wrong_key_is_logged_without_the_key() {
    const WRONG: &str = "feedfacefeedfacefeedfacefeedface";
    let (relay, _sentry, _glitchtip) = relay_with_two().await;
    for _ in 0..5 {
        let path = format!("/api/4711/envelope/?sentry_key={WRONG}");
        let sent = relay.post(&path, envelopes::error(&envelopes::new_id())).header("User-Agent", "sentry.test/1.2");
        assert_eq!(sent.send().await.expect("an answer").status(), 403);
    }
    eventually("it is logged", SOON, async || match relay.log().contains("a request was refused") {
        true => Ok(()),
        false => Err(relay.log()),
    })
    .await;
    let log = relay.log();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("a request was refused")).collect();
    assert_eq!(lines.len(), 1, "{log}");
    for words in ["unknown_project", "4711", "sentry.test/1.2", "127.0.0.1"] {
        assert!(lines[0].contains(words), "{words:?} is not in {}", lines[0]);
    }
    assert!(!log.contains(WRONG), "{log}");
    relay.finish().await;
}

#[test]
fn check_reports_placeholders_and_a_repeated_dsn_once_each() {
    let (_folder, config) = folder_with(&CONFIG.replace("http://key@127.0.0.1:9/1", "http://<key>@127.0.0.1:9/1"));
    let output = on(&config, &["check"]);
    assert!(code(&output) == 78 && out(&output).contains("placeholder in angle brackets"), "{output:?}");
    std::fs::write(&config, CONFIG.replace("9/2", "9/1")).expect("a configuration");
    let output = on(&config, &["check"]);
    assert!(code(&output) == 0 && out(&output).contains("has this DSN too"), "{output:?}");
    std::fs::write(&config, format!("{CONFIG}[server]\nlisten = [\"127.0.0.1:99999\"]\n")).expect("a configuration");
    let output = on(&config, &["check"]);
    assert!(code(&output) == 78 && !out(&output).contains("is empty"), "{output:?}");
}

#[test]
fn the_commands_that_the_demo_shows_run() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut command = Command::new(env!("CARGO_BIN_EXE_switchyard"));
    command.arg("demo").env("TMPDIR", folder.path()).env("NO_COLOR", "1").stdout(Stdio::piped());
    let mut demo = command.spawn().expect("the binary");
    let mut lines = BufReader::new(demo.stdout.take().expect("its output")).lines().map_while(Result::ok);
    let shown: Vec<String> =
        lines.by_ref().skip_while(|line| !line.contains("In another terminal")).skip(1).take(3).collect();
    let ends: Vec<_> =
        shown.iter().map(|line| Command::new("sh").args(["-c", line]).output().expect("a shell")).collect();
    demo.kill().expect("it runs");
    demo.wait().expect("it ends");
    assert_eq!(shown.len(), 3);
    assert!(ends.iter().all(|end| end.status.success()), "{shown:?}: {ends:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_has_left_changes_no_exit_code() {
    let (relay, _sentry, glitchtip) = relay_with_two().await;
    glitchtip.always(Reply::status(400));
    relay.send_errors(1).await;
    relay.balanced(SOON).await;
    let config = relay.config();
    let gone = || {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        Stdio::from(writer)
    };
    let run = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_switchyard"));
        command.args(args).stdout(gone()).stderr(gone()).status().expect("the binary").code()
    };
    let config = config.to_str().expect("UTF-8");
    tokio::task::block_in_place(|| {
        assert_eq!(run(&["dead-letters", "export", "--all", "--config", config]), Some(0));
        assert_eq!(run(&["status", "--config", config]), Some(0));
        assert_eq!(run(&["switch", "nobody", "--config", config]), Some(2));
        assert_eq!(run(&["status", "--config", "/nowhere/config.toml"]), Some(66));
    });
    relay.finish().await;
}

/// A line as a terminal shows it, without its colours.
fn plain(line: &str) -> String {
    let mut parts = line.split("\u{1b}[");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |line, part| line + part.split_once('m').map_or("", |(_, text)| text))
}

#[tokio::test(flavor = "multi_thread")]
async fn at_a_terminal_that_says_no_size_the_status_of_an_upstream_is_one_line() {
    let (relay, _sentry, _glitchtip) = relay_with_two().await;
    let terminal = Terminal::run(&relay.config(), &["status"]);
    let rows = ["UPSTREAM   ROLE     STATE  DELIVERED  DROPPED", "sentry     primary  up ", "glitchtip  shadow   up "];
    eventually("each is a line", SOON, async || {
        let shown = terminal.text();
        let lines: Vec<String> = shown.lines().map(plain).collect();
        let is_there = |row: &&str| lines.iter().any(|line| line.trim_start().starts_with(row));
        match shown.contains("\u{1b}[") && rows.iter().all(is_there) {
            true => Ok(()),
            false => Err(lines.join("\n")),
        }
    })
    .await;
    relay.finish().await;
}
