//! Client reports: what the relay tells an upstream about items that were dropped for it.

mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use support::envelopes::{self, envelope, new_id};
use support::eventually::eventually;
use support::relay::{Plan, Relay, SOON};
use support::upstream::{Reply, Seen, Upstream};

/// A relay and two upstreams that get reports each second; `lines` go into the section of the first.
async fn relay_with(lines: &[&str], more: &str) -> (Upstream, Upstream, Relay) {
    let (a, b) = (Upstream::start().await, Upstream::start().await);
    let plan = Plan::new(&[("a", a.dsn("cafe", 7)), ("b", b.dsn("beef", 8))]).more(more);
    let plan = plan.upstream("a", "client_reports = \"1s\"").upstream("b", "client_reports = \"1s\"");
    let relay = lines.iter().fold(plan, |plan, line| plan.upstream("a", line)).start().await;
    (a, b, relay)
}

fn is_report(seen: &Seen) -> bool {
    envelopes::items(&seen.body).iter().all(|item| item.kind == "client_report")
}

/// The reports that an upstream has taken.
fn reports(upstream: &Upstream) -> Vec<Seen> {
    upstream.taken().into_iter().filter(is_report).collect()
}

/// The quantities in the reports of an upstream, summed up by reason and category.
fn told(upstream: &Upstream) -> BTreeMap<(String, String), u64> {
    let mut sums = BTreeMap::new();
    for seen in reports(upstream) {
        for item in envelopes::items(&seen.body) {
            let payload = item.bytes.splitn(2, |b| *b == b'\n').nth(1).expect("a payload");
            let report: Value = serde_json::from_slice(payload).expect("JSON");
            assert!(report["timestamp"].is_string());
            for entry in report["discarded_events"].as_array().expect("entries") {
                let word = |key: &str| entry[key].as_str().expect("a word").to_owned();
                *sums.entry((word("reason"), word("category"))).or_default() +=
                    entry["quantity"].as_u64().expect("a number");
            }
        }
    }
    sums
}

fn sums<const N: usize>(entries: [(&str, &str, u64); N]) -> BTreeMap<(String, String), u64> {
    entries.into_iter().map(|(reason, category, n)| ((reason.to_owned(), category.to_owned()), n)).collect()
}

async fn is_told(upstream: &Upstream, expected: BTreeMap<(String, String), u64>) {
    eventually("the upstream is told all that was dropped for it", SOON, async || {
        let told = told(upstream);
        if told == expected { Ok(()) } else { Err(format!("{told:?}")) }
    })
    .await;
}

/// A transaction with `spans` spans.
fn transaction(spans: usize) -> String {
    let id = new_id();
    let payload = json!({"type": "transaction", "event_id": id, "spans": vec![json!({"op": "db"}); spans]});
    envelope(&id, "transaction", &payload.to_string())
}

async fn dropped(relay: &Relay, upstream: &str, reason: &str) -> f64 {
    let labels = [("upstream", upstream), ("reason", reason)];
    relay.samples().await.expect("metrics").sum("switchyard_dropped_items_total", &labels)
}

#[tokio::test]
async fn items_expired_in_an_outage_are_reported_to_that_upstream_once() {
    let (mut a, b, relay) = relay_with(&["max_age = \"2s\""], "").await;
    a.go_down().await;
    relay.send_errors(3).await;
    assert_eq!(relay.send(transaction(4)).await.status(), 200);
    let entry = json!({"reason": "before_send", "category": "error", "quantity": 5});
    let of_an_sdk = json!({"timestamp": "2026-11-25T10:00:00Z", "discarded_events": [entry]}).to_string();
    assert_eq!(relay.send(format!("{{}}\n{{\"type\":\"client_report\"}}\n{of_an_sdk}\n")).await.status(), 200);
    eventually("all of it expired", SOON, async || match dropped(&relay, "a", "expired").await {
        5.0 => Ok(()),
        n => Err(n.to_string()),
    })
    .await;
    a.come_back().await;
    let expected = [("network_error", "error", 3), ("network_error", "transaction", 1), ("network_error", "span", 5)];
    is_told(&a, sums(expected)).await;
    let report = reports(&a).remove(0);
    assert_eq!(a.taken_count(), 1, "one report, and nothing else");
    assert_eq!(report.path, "/api/7/envelope/");
    let auth = report.headers["x-sentry-auth"].to_str().expect("text").to_owned();
    assert!(auth.contains("sentry_key=cafe") && auth.contains("sentry_client=switchyard/"), "{auth}");
    assert!(report.header()["sent_at"].is_string());
    // A report causes no further report. The other upstream lost nothing and got only the SDK's own report.
    relay.send_errors(1).await;
    relay.balanced(SOON).await;
    assert_eq!(told(&b), sums([("before_send", "error", 5)]));
    assert_eq!((a.taken_count(), b.taken_count()), (2, 6));
    relay.finish().await;
}

#[tokio::test]
async fn our_limits_are_reported_to_every_upstream_and_an_upstreams_to_it_alone() {
    let limits = "[limits]\ntransaction = { rate = \"1/h\", burst = 1 }\n[limits.storm]\nlimit = 1\nwindow = \"1h\"";
    let (a, b, relay) = relay_with(&["on_rate_limit = \"drop\""], limits).await;
    let crash = || {
        let id = new_id();
        let exception = json!({"values": [{"type": "TypeError", "value": "x is undefined"}]});
        envelope(&id, "event", &json!({"event_id": id, "exception": exception}).to_string())
    };
    for (sent, status) in [(transaction(1), 200), (transaction(2), 429), (crash(), 200), (crash(), 200), (crash(), 200)]
    {
        assert_eq!(relay.send(sent).await.status(), status);
    }
    relay.balanced(SOON).await;
    let shed =
        [("ratelimit_backoff", "transaction", 1), ("ratelimit_backoff", "span", 3), ("event_processor", "error", 2)];
    is_told(&a, sums(shed)).await;
    is_told(&b, sums(shed)).await;
    a.then([Reply::with_header(429, "x-sentry-rate-limits", "600:session:key")]);
    assert_eq!(relay.send(envelope(&new_id(), "session", "{}")).await.status(), 200);
    relay.balanced(SOON).await;
    let [first, second, third] = shed;
    is_told(&a, sums([first, second, third, ("ratelimit_backoff", "session", 1)])).await;
    assert_eq!(told(&b), sums(shed));
    relay.finish().await;
}

#[tokio::test]
async fn kills_between_a_drop_and_its_report_lose_and_double_nothing() {
    let (mut a, b, mut relay) = relay_with(&["max_age = \"1s\""], "").await;
    // The report is due in an hour, so it is sent only after the kill.
    let file = std::fs::read_to_string(relay.config()).expect("the file");
    let later = file.replacen("client_reports = \"1s\"", "client_reports = \"1h\"", 1);
    for round in 1..=3_u64 {
        a.go_down().await;
        relay.kill();
        relay.replace_config(&later);
        relay = relay.started().await;
        relay.send_errors(round as usize).await;
        let all = (1..=round).sum::<u64>();
        eventually("all of it expired", SOON, async || match dropped(&relay, "a", "expired").await {
            n if n == all as f64 => Ok(()),
            n => Err(n.to_string()),
        })
        .await;
        relay.kill();
        relay.replace_config(&file);
        a.come_back().await;
        relay = relay.started().await;
        is_told(&a, sums([("network_error", "error", all)])).await;
        // Waits until the report is settled: a kill before that would deliver it twice, like any envelope.
        relay.balanced(SOON).await;
    }
    assert_eq!((reports(&a).len(), reports(&b).len()), (3, 0));
    relay.finish().await;
}

#[tokio::test]
async fn an_upstream_with_reports_off_gets_none_and_mirror_off_is_no_loss() {
    let (a, b) = (Upstream::start().await, Upstream::start().await);
    let drops = "on_rate_limit = \"drop\"";
    let plan = Plan::new(&[("a", a.dsn("cafe", 7)), ("b", b.dsn("beef", 8))]).top("mirror = false");
    let plan =
        plan.upstream("a", drops).upstream("a", "client_reports = \"0s\"").upstream("b", "client_reports = \"1s\"");
    let relay = plan.start().await;
    a.then([Reply::with_header(429, "x-sentry-rate-limits", "3:error:key")]);
    relay.send_errors(1).await;
    let samples = relay.balanced(SOON).await;
    assert!(samples.sum("switchyard_dropped_items_total", &[("upstream", "a"), ("reason", "rate_limited")]) == 1.0);
    assert_eq!(samples.sum("switchyard_dropped_items_total", &[("upstream", "b"), ("reason", "mirror_off")]), 1.0);
    // With reports on from now on, it gets reports of losses from now on.
    eventually("its limit is over", SOON, async || match relay.upstream("a").await["state"] == "limited" {
        true => Err("it is limited".to_owned()),
        false => Ok(()),
    })
    .await;
    let file = std::fs::read_to_string(relay.config()).expect("the file");
    relay.replace_config(&file.replacen("client_reports = \"0s\"", "client_reports = \"1s\"", 1));
    eventually("the file is loaded", SOON, async || match relay.log().contains("client_reports") {
        true => Ok(()),
        false => Err(relay.log()),
    })
    .await;
    a.then([Reply::with_header(429, "x-sentry-rate-limits", "600:error:key")]);
    assert_eq!(relay.send(envelopes::error(&new_id())).await.status(), 200);
    is_told(&a, sums([("ratelimit_backoff", "error", 1)])).await;
    assert_eq!(reports(&b).len(), 0);
    relay.finish().await;
}

#[tokio::test]
async fn a_removed_upstream_gets_its_report_when_it_returns() {
    let (a, b) = (Upstream::start().await, Upstream::start().await);
    let plan = Plan::new(&[("a", a.dsn("cafe", 7)), ("b", b.dsn("beef", 8))]);
    let plan = plan.upstream("a", "client_reports = \"1s\"").upstream("b", "client_reports = \"1h\"");
    let mut relay = plan.more("[limits]\nerror = { rate = \"1/h\", burst = 1 }").start().await;
    relay.send_errors(1).await;
    for _ in 0..5 {
        assert_eq!(relay.send(envelopes::error(&new_id())).await.status(), 429);
    }
    let shed = sums([("ratelimit_backoff", "error", 5)]);
    is_told(&a, shed.clone()).await;
    let file = std::fs::read_to_string(relay.config()).expect("the file");
    let both = file.replace("client_reports = \"1h\"", "client_reports = \"1s\"");
    let line = format!("b = \"{}\"\n", b.dsn("beef", 8));
    relay.replace_config(&both.replace("[upstreams.b]\nclient_reports = \"1s\"", "").replace(&line, ""));
    eventually("it is taken out", SOON, async || {
        let status = relay.status().await;
        let upstreams = status["projects"][0]["upstreams"].as_array().expect("a list").len();
        if upstreams == 1 { Ok(()) } else { Err(relay.log()) }
    })
    .await;
    // A loss after that change is in another report to `a`.
    assert_eq!(relay.send(envelopes::error(&new_id())).await.status(), 429);
    is_told(&a, sums([("ratelimit_backoff", "error", 6)])).await;
    // The losses of a project are kept while it has another name.
    relay.replace_config(&both.replace("name = \"shop\"", "name = \"store\""));
    eventually("it is back", SOON, async || match relay.status().await["projects"][0]["name"] == "store" {
        true => Ok(()),
        false => Err(relay.log()),
    })
    .await;
    assert_eq!(relay.send(envelopes::error(&new_id())).await.status(), 200);
    assert_eq!(relay.send(envelopes::error(&new_id())).await.status(), 429);
    is_told(&b, sums([("ratelimit_backoff", "error", 1)])).await;
    relay.replace_config(&both);
    is_told(&b, sums([("ratelimit_backoff", "error", 6)])).await;
    relay.balanced(SOON).await;
    relay.stop().await;
}

#[tokio::test]
async fn a_report_that_is_not_taken_waits_while_further_losses_are_gathered() {
    let (a, _b, relay) = relay_with(&["on_rate_limit = \"drop\""], "").await;
    a.when(|seen| match is_report(seen) {
        true => Some(Reply::status(503)),
        false => Some(Reply::with_header(429, "x-sentry-rate-limits", "1:error:key")),
    });
    relay.send_errors(1).await;
    eventually("a report is tried", SOON, async || match a.seen().iter().any(is_report) {
        true => Ok(()),
        false => Err("no report yet".to_owned()),
    })
    .await;
    relay.send_errors(3).await;
    eventually("all of them are dropped", SOON, async || match dropped(&relay, "a", "rate_limited").await {
        4.0 => Ok(()),
        n => Err(n.to_string()),
    })
    .await;
    a.when(|_| None);
    is_told(&a, sums([("ratelimit_backoff", "error", 4)])).await;
    eventually("the report was settled", Duration::from_secs(5), async || {
        let waiting = relay.upstream("a").await["backlog"]["envelopes"].clone();
        if waiting == 0 { Ok(()) } else { Err(waiting.to_string()) }
    })
    .await;
    let made = relay.samples().await.expect("metrics").sum("switchyard_client_reports_total", &[("upstream", "a")]);
    assert!((1.0..=4.0).contains(&made), "{made}");
    relay.finish().await;
}
