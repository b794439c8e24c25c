//! What shadows are spared: types of items and sampled traces. The primary is spared nothing. Daily caps: tests/report/caps.rs.

use std::collections::BTreeMap;

use serde_json::json;

use super::policing::{item, told};
use crate::support::envelopes::{self, KEY, envelope, new_id};
use crate::support::eventually::eventually;
use crate::support::relay::{Plan, Relay, SOON};
use crate::support::samples::Samples;
use crate::support::upstream::{Reply, Seen, Upstream};

/// A relay with the primary `new` and the shadow `old`, whose shadow section this is.
async fn spared(section: &str) -> (Upstream, Upstream, Relay) {
    let (new, old) = (Upstream::start().await, Upstream::start().await);
    let plan = Plan::new(&[("new", new.dsn("4e3", 1)), ("old", old.dsn("01d", 2))]);
    let relay = plan.more(&format!("[upstreams.old.shadow]\n{section}")).start().await;
    (new, old, relay)
}

fn dropped(samples: &Samples, category: &str, reason: &str) -> f64 {
    let labels = [("upstream", "old"), ("category", category), ("reason", reason)];
    samples.sum("switchyard_dropped_items_total", &labels)
}

/// The items of an event at an upstream, in the order of arrival.
fn items_of(upstream: &Upstream, id: &str) -> Vec<String> {
    let own = upstream.taken().into_iter().filter(|seen| seen.event_id() == id);
    own.map(|seen| String::from_utf8_lossy(seen.items()).into_owned()).collect()
}

/// An event, its attachment, a session and a log.
fn mixed(id: &str) -> String {
    let rest = [item("attachment", "a\nb"), item("session", "{}"), item("log", "{}")].concat();
    format!("{{\"event_id\":\"{id}\"}}\n{}{rest}", item("event", "{\"message\":\"m\"}"))
}

fn without_attachment_and_log() -> String {
    item("event", "{\"message\":\"m\"}") + &item("session", "{}")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shadow_gets_what_its_section_allows_and_a_primary_everything() {
    let (new, mut old, mut relay) = spared("items = [\"event\", \"session\"]").await;
    let id = new_id();
    assert_eq!(relay.send(mixed(&id)).await.status(), 200);
    assert_eq!(relay.send(envelope(&new_id(), "log", "{}")).await.status(), 200);
    assert_eq!(relay.send(envelope(&new_id(), "client_report", "{}")).await.status(), 200);
    let samples = relay.balanced(SOON).await;
    assert_eq!((new.taken_count(), old.taken_count()), (3, 2), "nothing is left of the log");
    assert_eq!(new.taken().iter().find(|seen| seen.event_id() == id).expect("it").body, mixed(&id).as_bytes());
    assert_eq!(items_of(&old, &id), [without_attachment_and_log()]);
    for (category, count) in [("attachment_item", 1.0), ("log_item", 2.0), ("error", 0.0), ("session", 0.0)] {
        assert_eq!(dropped(&samples, category, "filtered"), count, "{category}");
    }
    let status = relay.upstream("old").await;
    assert_eq!((&status["spared"], &status["dropped"]["filtered"]), (&json!("only event, session"), &json!(3)));
    // The decision at acceptance holds through an outage, a crash and a switch.
    old.go_down().await;
    let waiting = new_id();
    assert_eq!(relay.send(mixed(&waiting)).await.status(), 200);
    relay.kill();
    let relay = relay.started().await;
    relay.flip_to("old").await;
    let whole = new_id();
    assert_eq!(relay.send(mixed(&whole)).await.status(), 200);
    assert_eq!(relay.upstream("old").await["spared"], json!(null));
    old.come_back().await;
    relay.balanced(SOON).await;
    assert_eq!(items_of(&old, &waiting), [without_attachment_and_log()]);
    assert_eq!(old.taken().iter().find(|seen| seen.event_id() == whole).expect("it").body, mixed(&whole).as_bytes());
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shadow_is_spared_other_requests_like_the_items_they_stand_for() {
    let (new, old, relay) = spared("items = [\"event\", \"check_in\"]").await;
    let report = relay.post(&format!("/api/1/security/?sentry_key={KEY}"), "{\"csp-report\":{}}");
    let report = report.header("content-type", "application/csp-report").send().await.expect("an answer");
    assert_eq!(report.status(), 200);
    let check_in = relay.post(&format!("/api/1/cron/nightly/{KEY}/?status=ok"), "").send().await.expect("an answer");
    assert_eq!(check_in.status(), 202);
    let samples = relay.balanced(SOON).await;
    assert_eq!((new.taken_count(), old.taken_count()), (2, 1));
    assert!(old.taken()[0].path.contains("/cron/nightly/"), "{}", old.taken()[0].path);
    assert_eq!((dropped(&samples, "security", "filtered"), dropped(&samples, "monitor", "filtered")), (1.0, 0.0));
    relay.finish().await;
}

/// The traces of an upstream's transactions, with the number of transactions of each.
fn traces(upstream: &Upstream) -> BTreeMap<String, usize> {
    let trace = |seen: &Seen| {
        let payload = seen.items().split(|byte| *byte == b'\n').nth(1).expect("a payload");
        let payload: serde_json::Value = serde_json::from_slice(payload).expect("JSON");
        payload["contexts"]["trace"]["trace_id"].as_str().expect("a trace").to_owned()
    };
    let mut all = BTreeMap::new();
    for seen in upstream.taken() {
        *all.entry(trace(&seen)).or_default() += 1;
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sampled_shadow_gets_whole_traces_and_the_same_after_a_restart() {
    let (new, old, mut relay) = spared("sample = { transaction = 0.5 }").await;
    let all: Vec<String> = (0..60).map(|_| new_id()).collect();
    let transaction = |trace: &str, in_header: bool| {
        let context = if in_header { format!(",\"trace\":{{\"trace_id\":\"{trace}\"}}") } else { String::new() };
        let payload = json!({ "contexts": { "trace": { "trace_id": trace } } }).to_string();
        let items = item("transaction", &payload) + &item("profile", "{}");
        format!("{{\"event_id\":\"{}\"{context}}}\n{items}", new_id())
    };
    for trace in &all {
        assert_eq!(relay.send(transaction(trace, true)).await.status(), 200);
    }
    relay.balanced(SOON).await;
    relay.stop().await;
    let relay = relay.started().await;
    // Another service, whose SDK does not name the trace in the envelope's header.
    for trace in &all {
        assert_eq!(relay.send(transaction(trace, false)).await.status(), 200);
    }
    let samples = relay.balanced(SOON).await;
    assert_eq!(new.taken_count(), 120);
    let kept = traces(&old);
    assert!((8..=52).contains(&kept.len()), "{} of 60", kept.len());
    assert!(kept.values().all(|count| *count == 2), "whole traces: {kept:?}");
    assert!(old.taken().iter().all(|seen| String::from_utf8_lossy(seen.items()).contains("\"profile\"")));
    let left_out = 120.0 - 2.0 * kept.len() as f64;
    assert_eq!(dropped(&samples, "transaction", "sampled"), left_out);
    assert_eq!(dropped(&samples, "profile", "sampled"), left_out, "a profile goes with its transaction");
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shadow_that_is_spared_a_type_does_not_hide_the_primarys_limit() {
    let (new, _old, relay) = spared("items = [\"event\"]").await;
    new.then([Reply::with_header(200, "x-sentry-rate-limits", "600:transaction;error:organization")]);
    assert_eq!(relay.send(envelope(&new_id(), "client_report", "{}")).await.status(), 200);
    eventually("the limit is known", SOON, async || match relay.upstream("new").await {
        upstream if upstream["state"] == "limited" => Ok(()),
        upstream => Err(upstream.to_string()),
    })
    .await;
    let transaction = relay.send(envelope(&new_id(), "transaction", "{}")).await;
    assert_eq!((transaction.status().as_u16(), told(&transaction)), (429, vec!["transaction".to_owned()]));
    relay.balanced(SOON).await;
    let error = relay.send(envelopes::error(&new_id())).await;
    assert_eq!((error.status().as_u16(), told(&error)), (200, vec![]), "the shadow takes errors");
    // The limit would hold the error back for ten minutes, so it is made to expire.
    relay.flip_to("old").await;
    relay.replace_config(
        &std::fs::read_to_string(relay.config())
            .expect("the file")
            .replace("[upstreams.new]\n", "[upstreams.new]\nmax_age = \"1ms\"\n"),
    );
    eventually("the primary's copy is given up", SOON, async || match relay.upstream("new").await {
        upstream if upstream["backlog"]["envelopes"] == 0 => Ok(()),
        upstream => Err(upstream.to_string()),
    })
    .await;
    relay.finish().await;
}
