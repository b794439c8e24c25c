//! Notifications through the real binary to a scripted receiver.

mod support;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use assert_cmd::Command;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use support::eventually::eventually;
use support::glitchtip::{self, Glitchtip};
use support::relay::Plan;
use support::upstream::{Reply, Upstream};

/// A timeout for several checks of the daemon on a busy machine.
const SOON: Duration = Duration::from_secs(60);

/// The path and the body of a request; `None` until it is complete.
fn whole(bytes: &[u8]) -> Option<(String, Value)> {
    let text = String::from_utf8_lossy(bytes);
    let (head, body) = text.split_once("\r\n\r\n")?;
    let length = head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
    let body = serde_json::from_str(body).ok().filter(|_| length == Some(body.len()))?;
    Some((head.split(' ').nth(1)?.to_owned(), body))
}

/// A webhook that keeps the posts it gets.
struct Receiver {
    address: std::net::SocketAddr,
    seen: Arc<Mutex<Vec<(String, Value)>>>,
    status: Arc<Mutex<u16>>,
    serving: JoinSet<()>,
}

impl Receiver {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (seen, status) = (Arc::default(), Arc::new(Mutex::new(200)));
        let mut receiver = Self { address, seen, status, serving: JoinSet::new() };
        let inbox = (Arc::clone(&receiver.seen), Arc::clone(&receiver.status));
        receiver.serving.spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut bytes = vec![];
                while stream.read_buf(&mut bytes).await.is_ok_and(|read| read > 0) {
                    if let Some(message) = whole(&bytes) {
                        inbox.0.lock().expect("no panic").push(message);
                        break;
                    }
                }
                let status = *inbox.1.lock().expect("no panic");
                let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
                stream.write_all(answer.as_bytes()).await.ok();
            }
        });
        receiver
    }

    fn answers(&self, status: u16) {
        *self.status.lock().expect("no panic") = status;
    }

    fn section(&self, more: &str) -> String {
        format!("[[notify]]\nurl = \"http://{}/hook/hunter2\"\nafter = \"1s\"\nevery = \"1s\"\n{more}\n", self.address)
    }

    /// Waits until there are `count` notices and the last one is `what`.
    async fn is_told(&self, what: &str, count: usize) {
        eventually(what, SOON, async || {
            let told = self.told();
            let last = told.last().map(String::as_str);
            (told.len() == count && last == Some(what)).then_some(()).ok_or(format!("{told:?}"))
        })
        .await;
    }

    /// All notices.
    fn notices(&self) -> Vec<Value> {
        let seen = self.seen.lock().expect("no panic");
        seen.iter().flat_map(|(_, body)| body["notices"].as_array().cloned().unwrap_or_default()).collect()
    }

    /// All notices in the form `upstream_down began`.
    fn told(&self) -> Vec<String> {
        self.notices().iter().map(|n| format!("{} {}", n["event"], n["phase"]).replace('"', "")).collect()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outages_refusals_and_switches_are_notified_once_and_failures_retried() {
    let (sentry, glitchtip, receiver) = (Upstream::start().await, Upstream::start().await, Receiver::start().await);
    let plan = Plan::new(&[("sentry", sentry.dsn("k", 1)), ("glitchtip", glitchtip.dsn("k", 1))]);
    let relay = plan.more(&receiver.section("")).start().await;

    glitchtip.always(Reply::status(503));
    relay.send_errors(8).await;
    receiver.is_told("upstream_down began", 1).await;
    glitchtip.always(Reply::Ok);
    receiver.is_told("upstream_down ended", 2).await;

    glitchtip.always(Reply::status(400));
    relay.send_errors(1).await;
    receiver.is_told("dead_letters began", 3).await;
    let order = relay.client().post(format!("http://{}/api/dead-letters/discard", relay.admin_address()));
    let order = order.header("content-type", "application/json").body(r#"{"all":true}"#).send().await;
    assert!(order.expect("an answer").status().is_success());
    receiver.is_told("dead_letters ended", 4).await;

    receiver.answers(500);
    relay.rewrite_primary("glitchtip");
    eventually("a message fails", SOON, async || {
        let samples = relay.samples().await?;
        let failed = samples.sum("switchyard_notifications_total", &[("outcome", "failed")]);
        (failed > 0.0).then_some(()).ok_or_else(|| "none failed".to_owned())
    })
    .await;
    receiver.answers(200);
    eventually("it comes again", SOON, async || {
        let told = receiver.told();
        let last = told.last().map(String::as_str);
        (told.len() > 4 && last == Some("switch happened")).then_some(()).ok_or(format!("{told:?}"))
    })
    .await;
    let log = relay.log();
    assert!(log.contains("a notification did not get through") && !log.contains("hunter2"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_switch_and_its_undo_are_notified_in_order() {
    let (sentry, glitchtip, receiver) = (Upstream::start().await, Upstream::start().await, Receiver::start().await);
    let plan = Plan::new(&[("sentry", sentry.dsn("k", 1)), ("glitchtip", glitchtip.dsn("k", 1))]);
    let relay = plan.more(&receiver.section("events = [\"switch\"]")).start().await;
    relay.flip_to("glitchtip").await;
    relay.flip_to("sentry").await;
    receiver.is_told("switch happened", 2).await;
    let notices = receiver.notices();
    let texts: Vec<&str> = notices.iter().filter_map(|notice| notice["text"].as_str()).collect();
    assert!(texts[0].starts_with("the primary is glitchtip now, before it was sentry"), "{texts:?}");
    assert!(texts[1].starts_with("the primary is sentry now, before it was glitchtip"), "{texts:?}");
    let kept = relay.status().await["switches"].clone();
    assert_eq!([&notices[0]["at"], &notices[1]["at"]], [&kept[1]["at"], &kept[0]["at"]], "each has its own time");
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_end_of_an_outage_is_notified_after_a_restart() {
    let (sentry, glitchtip, receiver) = (Upstream::start().await, Upstream::start().await, Receiver::start().await);
    let plan = Plan::new(&[("sentry", sentry.dsn("k", 1)), ("glitchtip", glitchtip.dsn("k", 1))]);
    let mut relay = plan.more(&receiver.section("")).start().await;
    glitchtip.always(Reply::status(503));
    relay.send_errors(8).await;
    receiver.is_told("upstream_down began", 1).await;
    relay.stop().await;
    let mut relay = relay.started().await;
    // The upstream is probed again and still fails.
    let asked = glitchtip.seen().len();
    eventually("it is asked again", SOON, async || match glitchtip.seen().len() {
        more if more > asked => Ok(()),
        _ => Err(relay.log()),
    })
    .await;
    relay.stop().await;
    glitchtip.always(Reply::Ok);
    let relay = relay.started().await;
    receiver.is_told("upstream_down ended", 2).await;
    let end = receiver.notices()[1].clone();
    assert_eq!(end["text"], "glitchtip takes envelopes again", "{end}");
    let outage = relay.upstream("glitchtip").await["outages"][0].clone();
    let at = |told: &Value| told.as_str().expect("a time").parse::<switchyard::clock::Timestamp>().expect("a time");
    assert!(at(&end["at"]) >= at(&outage["to"]), "{end} {outage}");
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_events_and_their_return_are_notified() {
    let (sentry, receiver) = (Upstream::start().await, Receiver::start().await);
    let tracker = Glitchtip::start(Duration::from_millis(100), Duration::ZERO).await;
    let relay = Plan::new(&[("sentry", sentry.dsn("k", 1)), ("glitchtip", tracker.dsn())])
        .api("glitchtip", "glitchtip", Some(glitchtip::PLACE), glitchtip::TOKEN)
        .more("[verify]\nsettle = \"1s\"\nrequests = \"50/s\"\n")
        .more(&receiver.section("events = [\"events_missing\"]"))
        .start()
        .await;
    // A stored event proves that the project is the right one.
    relay.send_errors(1).await;
    eventually("it is stored", SOON, async || {
        match relay.upstream("glitchtip").await["verification"]["stored"].clone() {
            one if one == 1 => Ok(()),
            none => Err(none.to_string()),
        }
    })
    .await;
    tracker.set_worker(false);
    relay.send_errors(2).await;
    receiver.is_told("events_missing began", 1).await;
    // Late events are not lost.
    tracker.set_worker(true);
    receiver.is_told("events_missing ended", 2).await;
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_gets_only_its_events_and_notify_test_reaches_it() {
    let (sentry, receiver) = (Upstream::start().await, Receiver::start().await);
    let plan = Plan::new(&[("sentry", sentry.dsn("k", 1))]);
    let section =
        receiver.section("format = \"slack\"\nevents = [\"switch\"]") + &receiver.section("events = [\"ready\"]");
    let relay = plan.more(&section).start().await;
    let config = relay.config();
    let test = move || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_switchyard"));
        command.args(["notify", "test", "--config"]).arg(&config).env("NO_COLOR", "1").output().expect("the binary")
    };
    let output = tokio::task::spawn_blocking(test.clone()).await.expect("the verb ends");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && said.contains("sent to slack at 127.0.0.1"), "{output:?}");
    let (path, body) = receiver.seen.lock().expect("no panic")[0].clone();
    assert_eq!(path, "/hook/hunter2");
    assert!(body["text"].to_string().contains("messages get through"), "{body}");
    assert_eq!(receiver.notices()[0]["event"], "test");
    receiver.answers(404);
    let output = tokio::task::spawn_blocking(test).await.expect("the verb ends");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("it answered 404") && !said.contains("hunter2"), "{said}");
}
