//! `@sentry/browser` in Chromium on a page of another origin: directly to the DSN, and through a tunnel.

use serde_json::Value;

use super::between::Between;
use super::items::Promise;
use super::program;
use crate::install;

/// Visits the page and returns its promises. Every post must have been answered with a readable 200.
async fn visit(between: &Between, tunnel: Option<&str>) -> Vec<Promise> {
    install::debian("chromium", "chromium");
    let bundle = install::bundled(&program::fixture("browser/page.js"));
    let mut command = program::command("node", "browser/visit.cjs");
    command.env("NODE_PATH", install::browser_modules()).arg(bundle).arg(between.relay.dsn()).args(tunnel);
    let said = program::output("a visit with Chromium", command).await;
    let (promises, last) = said.trim_end().rsplit_once('\n').expect("promises and answers");
    let last: Value = serde_json::from_str(last).expect("the answers");
    let answers = last["answers"].as_object().expect("answers by address");
    let expected = match tunnel {
        Some(tunnel) => tunnel.to_owned(),
        None => format!("http://{}/api/1/envelope/", between.relay.address()),
    };
    assert_eq!(answers.keys().collect::<Vec<_>>(), [&expected]);
    assert!(answers[&expected].as_array().expect("statuses").iter().all(|status| *status == 200), "{last}");
    program::read(promises)
}

/// Fails unless the visit delivered errors, traces, the dialog's feedback and at least two segments of one replay.
async fn assert_whole(between: Between, promises: Vec<Promise>) {
    program::assert_types(&promises, &["event", "attachment", "span", "session", "log", "feedback", "replay_event"]);
    let has = |item: &str, pointer: &str, value: &str| {
        let found = promises.iter().any(|p| p.item == item && p.value(pointer).is_some_and(|have| have == value));
        assert!(found, "no {item} with {value:?} at {pointer} in {promises:?}");
    };
    has("event", "/exception/values/0/value", "it broke \u{2603}");
    has("event", "/exception/values/0/value", "caught");
    has("feedback", "/contexts/feedback/message", "The button\ndoes nothing.");
    let arrived = between.has_brought(&promises).await;
    let events = arrived.iter().filter(|item| item.header["type"] == "replay_event");
    let segments: Vec<Value> = events
        .map(|item| {
            let event: Value = serde_json::from_slice(&item.payload).expect("a replay's event");
            assert_eq!(item.envelope["event_id"], event["event_id"]);
            event
        })
        .collect();
    assert!(segments.len() >= 2, "{segments:?}");
    assert!(segments.iter().all(|segment| segment["event_id"] == segments[0]["event_id"]), "{segments:?}");
    let recordings = arrived.iter().filter(|item| item.header["type"] == "replay_recording").count();
    assert_eq!(recordings, segments.len());
}

#[tokio::test]
async fn everything_that_a_cross_origin_browser_sends_reaches_both_upstreams() {
    let between = Between::start().await;
    let promises = visit(&between, None).await;
    assert_whole(between, promises).await;
}

#[tokio::test]
async fn a_browser_behind_a_tunnel_is_authenticated_by_the_envelopes_dsn() {
    let between = Between::start().await;
    let tunnel = format!("http://{}/api/1/envelope/", between.relay.address());
    let promises = visit(&between, Some(&tunnel)).await;
    assert_whole(between, promises).await;
}

#[tokio::test]
async fn a_browser_that_sends_to_the_configured_tunnel_reaches_both_upstreams() {
    let between = Between::start_with(|plan| plan.server("tunnel = \"/t/monitoring\"")).await;
    let tunnel = format!("http://{}/t/monitoring", between.relay.address());
    let promises = visit(&between, Some(&tunnel)).await;
    assert_whole(between, promises).await;
}
