//! The log about upstreams: the beginning and the end of each trouble, and one line a minute for repeated errors.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::process::Command;
use std::time::Duration;

use crate::support::envelopes;
use crate::support::eventually::eventually;
use crate::support::process::Process;
use crate::support::relay::{Plan, Relay, SOON};
use crate::support::upstream::{Reply, Upstream};

/// The lines that contain this text.
fn lines<'a>(log: &'a str, text: &str) -> Vec<&'a str> {
    log.lines().filter(|line| line.contains(text)).collect()
}

async fn says(relay: &Relay, text: &str, within: Duration) {
    eventually(text, within, async || if relay.log().contains(text) { Ok(()) } else { Err(relay.log()) }).await;
}

#[tokio::test]
async fn a_flood_of_refused_events_makes_a_handful_of_log_lines() {
    let (a, b) = (Upstream::start().await, Upstream::start().await);
    a.always(Reply::status(400));
    let plan = Plan::new(&[("a", a.dsn("key-a", 1)), ("b", b.dsn("key-b", 2))]);
    // There is room for some two hundred dead letters. The log reports the discarded rest as well.
    let relay = plan.journal("max_size = \"16MiB\"").start().await;
    let payload = format!(r#"{{"message":"{}"}}"#, "x".repeat(8000));
    for _ in 0..40 {
        let sends = (0..100).map(|_| relay.send(envelopes::envelope(&envelopes::new_id(), "event", &payload)));
        let answers = futures_util::future::join_all(sends).await;
        assert!(answers.iter().all(|answer| answer.status() == 200 || answer.status() == 503), "{answers:?}");
    }
    // Refused requests repeat as well.
    for _ in 0..50 {
        assert_eq!(relay.send("no envelope").await.status(), 400);
    }
    relay.balanced(6 * SOON).await;
    let log = relay.log();
    let [count, refused] = ["", "refused an envelope for good"].map(|text| lines(&log, text).len());
    println!("{count} lines for 4,000 refused events and 50 bad requests");
    assert!(refused == 1 && count < 12, "{log}");
    relay.finish().await;
}

#[tokio::test]
async fn the_log_says_when_a_refused_dsn_is_accepted_again() {
    let (a, b) = (Upstream::start().await, Upstream::start().await);
    a.then([Reply::status(403)]);
    let relay = Plan::new(&[("a", a.dsn("key-a", 1)), ("b", b.dsn("key-b", 2))]).start().await;
    relay.send_errors(1).await;
    says(&relay, "upstream refuses the DSN of this project", SOON).await;
    assert!(!relay.log().contains("takes the DSN"), "{}", relay.log());
    let text = std::fs::read_to_string(relay.config()).expect("the configuration");
    relay.replace_config(&text.replace("key-a", "key-of-a"));
    says(&relay, "upstream takes the DSN of this project again", SOON).await;
    relay.finish().await;
}

#[tokio::test]
async fn the_log_reports_long_limits_and_no_short_ones() {
    let (a, b) = (Upstream::start().await, Upstream::start().await);
    let relay = Plan::new(&[("a", a.dsn("key-a", 1)), ("b", b.dsn("key-b", 2))]).start().await;
    a.then([Reply::with_header(429, "Retry-After", "1")]);
    relay.send_errors(1).await;
    relay.balanced(2 * SOON).await;
    assert!(!relay.log().contains("limits what it is sent"), "{}", relay.log());
    a.then([Reply::with_header(429, "X-Sentry-Rate-Limits", "62:error:key")]);
    relay.send_errors(1).await;
    says(&relay, "upstream limits what it is sent", SOON).await;
    assert!(lines(&relay.log(), "limits what").iter().all(|line| line.contains("error")), "{}", relay.log());
    says(&relay, "upstream takes everything again", Duration::from_secs(100)).await;
    relay.finish().await;
}

#[tokio::test]
async fn a_web_page_in_an_answer_is_logged_by_its_title() {
    let (a, b) = (Upstream::start().await, Upstream::start().await);
    let page =
        "\n<!doctype html>\n<html lang=\"en\"><head><title>Server Error (500)</title></head><body>…</body></html>";
    a.then([Reply::Status(500, vec![("content-type", "text/html".to_owned())], page.to_owned())]);
    let relay = Plan::new(&[("a", a.dsn("key-a", 1)), ("b", b.dsn("key-b", 2))]).start().await;
    relay.send_errors(1).await;
    says(&relay, "500 Internal Server Error Server Error (500)", SOON).await;
    relay.balanced(SOON).await;
    let told = relay.upstream("a").await["last_error"]["what"].clone();
    assert_eq!(told, "500 Internal Server Error Server Error (500)");
    assert!(!relay.log().contains("doctype"), "{}", relay.log());
    relay.finish().await;
}

/// What is on standard error and on standard output of a relay that refuses a request, with a variable in its environment.
async fn streams(name: &str) -> (String, String) {
    let a = Upstream::start().await;
    let mut relay = Plan::new(&[("a", a.dsn("key-a", 1))]).prepare();
    let (out, errors) = (relay.home().join("out"), relay.home().join("log"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_switchyard"));
    command.args(["run", "--config", "config.toml", "--log-format", "json"]).current_dir(relay.home());
    command.env_remove("pm_id").env(name, "0");
    relay.adopt(Process::start("switchyard", &mut command, &errors, Some(File::create(&out).expect("a file"))));
    relay.await_ready().await;
    assert_eq!(relay.send("no envelope").await.status(), 400);
    says(&relay, "a request was refused", SOON).await;
    relay.stop().await;
    (relay.log(), std::fs::read_to_string(&out).expect("the lines"))
}

#[tokio::test]
async fn a_daemon_logs_to_standard_error() {
    let (errors, out) = streams("NAME").await;
    assert!(errors.contains("switchyard is ready") && errors.contains("\"WARN\""), "{errors}");
    assert_eq!(out, "");
}

#[tokio::test]
async fn pm2_gets_warnings_and_errors_on_standard_error_and_the_rest_on_standard_output() {
    let (errors, out) = streams("pm_id").await;
    assert!(out.contains("switchyard is ready") && !out.contains("\"WARN\""), "{out}");
    assert!(!errors.contains("\"INFO\"") && errors.contains("\"WARN\""), "{errors}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_nobody_reads_holds_up_neither_clients_nor_deliveries_nor_the_end() {
    let a = Upstream::start().await;
    let mut relay = Plan::new(&[("a", a.dsn("key-a", 1))]).prepare();
    let (mut reader, writer) = std::io::pipe().expect("a pipe");
    let mut command = Command::new("sh");
    let script = r#"exec "$0" run --config config.toml --log trace 2>&1"#;
    command.args(["-c", script, env!("CARGO_BIN_EXE_switchyard")]).current_dir(relay.home());
    let (errors, pipe) = (relay.home().join("log"), File::from(OwnedFd::from(writer)));
    relay.adopt(Process::start("switchyard", &mut command, &errors, Some(pipe)));
    drop(command);
    relay.await_ready().await;
    // Far more lines than the pipe holds.
    relay.send_errors(200).await;
    relay.balanced(SOON).await;
    assert_eq!(a.taken_count(), 200);
    let reading = tokio::task::spawn_blocking(move || {
        let mut log = vec![];
        reader.read_to_end(&mut log).map(|_| String::from_utf8_lossy(&log).into_owned())
    });
    relay.send_errors(1).await;
    relay.balanced(SOON).await;
    relay.stop().await;
    let log = reading.await.expect("a thread").expect("the log");
    assert!(log.contains("switchyard is ready") && log.contains("stopping: finishing"), "{log}");
}
