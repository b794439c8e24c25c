//! The special needs of each kind of tracker: a scripted tracker behaves like the real one, and a generic upstream beside it must get
//! everything as it was sent.

mod support;

use std::time::Duration;

use serde_json::{Value, json};
use support::envelopes::{Item, items, new_id};
use support::eventually::eventually;
use support::relay::{Plan, Relay, SOON};
use support::samples::Samples;
use support::upstream::{Reply, Seen, Upstream};
use tokio::time::Instant;

/// The limit in each of Bugsink's answers.
const BUGSINKS_LIMIT: &str = "86400:transaction;span:organization";

/// A relay with an upstream of this kind and a generic one.
async fn relay_to(kind: &str, lines: &[&str]) -> (Upstream, Upstream, Relay) {
    let (tracker, generic) = (Upstream::start().await, Upstream::start().await);
    let plan = Plan::new(&[("tracker", tracker.dsn("4e3", 11)), ("generic", generic.dsn("0ld", 22))])
        .upstream("tracker", &format!("kind = \"{kind}\""));
    let relay = lines.iter().fold(plan, |plan, line| plan.upstream("tracker", line)).start().await;
    (tracker, generic, relay)
}

/// Sends an envelope of these items, each with its payload; returns its id and its bytes.
async fn send(relay: &Relay, parts: &[(&str, Value)]) -> (String, String) {
    let id = new_id();
    let item = |(kind, payload): &(&str, Value)| format!("{{\"type\":\"{kind}\"}}\n{payload}\n");
    let envelope = format!("{{\"event_id\":\"{id}\"}}\n{}", parts.iter().map(item).collect::<String>());
    let answer = relay.send(envelope.clone()).await;
    assert_eq!(answer.status(), 200, "{envelope} {:?}", answer.text().await);
    (id, envelope)
}

/// The types of the items in a request, in their order.
fn kinds(seen: &Seen) -> Vec<String> {
    items(&seen.body).into_iter().map(|item| item.kind).collect()
}

fn sorted(items: impl IntoIterator<Item = Item>) -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = items.into_iter().map(|item| item.bytes).collect();
    all.sort();
    all
}

fn delivered(samples: &Samples, category: &str) -> f64 {
    samples.sum("switchyard_delivered_items_total", &[("upstream", "tracker"), ("category", category)])
}

fn dropped(samples: &Samples, reason: &str, category: &str) -> f64 {
    let labels = [("upstream", "tracker"), ("reason", reason), ("category", category)];
    samples.sum("switchyard_dropped_items_total", &labels)
}

async fn has_seen(upstream: &Upstream, count: usize, within: Duration) {
    eventually(&format!("{count} requests"), within, async || match upstream.seen().len() {
        seen if seen >= count => Ok(()),
        seen => Err(format!("{seen}")),
    })
    .await;
}

/// The items of a request that GlitchTip 5.2 stores: it stops at a blank line and at an unknown type.
fn glitchtip_stores(seen: &Seen) -> Vec<String> {
    const KNOWN: &str = "event transaction session sessions check_in log attachment user_report client_report replay_event \
                         replay_recording profile span";
    let read =
        items(&seen.body).into_iter().take_while(|item| !item.after_blank && KNOWN.split(' ').any(|k| k == item.kind));
    read.map(|item| item.kind).filter(|kind| kind == "event" || kind == "transaction").collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn glitchtip_gets_events_first_and_unknown_items_in_a_later_request() {
    let (tracker, generic, relay) = relay_to("glitchtip", &[]).await;
    let payload = |n: u32| json!({ "n": n });
    let parts = ["x_new", "session", "feedback", "transaction", "profile_chunk", "event", "attachment", "statsd"];
    let parts: Vec<(&str, Value)> = (0..).zip(parts).map(|(n, kind)| (kind, payload(n))).collect();
    let (id, sent) = send(&relay, &parts).await;
    let samples = relay.balanced(SOON).await;
    let seen = tracker.seen();
    assert_eq!(seen.len(), 2);
    assert_eq!(kinds(&seen[0]), ["event", "transaction", "session", "attachment"]);
    assert_eq!(kinds(&seen[1]), ["feedback", "x_new", "profile_chunk", "statsd"]);
    assert_eq!(glitchtip_stores(&seen[0]), ["event", "transaction"]);
    assert_eq!(sorted(seen.iter().flat_map(|seen| items(&seen.body))), sorted(items(sent.as_bytes())));
    for seen in &seen {
        assert_eq!(seen.event_id(), id);
        assert_eq!(seen.headers["content-length"], seen.body.len().to_string().as_str());
        assert!(!seen.headers.contains_key("content-encoding") && !seen.headers.contains_key("transfer-encoding"));
    }
    assert_eq!(generic.taken()[0].body, sent.as_bytes());
    for category in ["error", "transaction", "session", "attachment_item", "feedback", "profile_chunk", "metric_bucket"]
    {
        assert_eq!(delivered(&samples, category), 1.0, "{category}");
    }
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn glitchtip_gets_no_blank_line_between_items() {
    let (tracker, generic, relay) = relay_to("glitchtip", &[]).await;
    let id = new_id();
    let event = "{\"type\":\"event\"}\n{\"a\":1}";
    let empty = "{\"type\":\"attachment\",\"length\":0}\n";
    let sent = format!(
        "{{\"event_id\":\"{id}\"}}\n\n\n{empty}\n\n{{\"type\":\"attachment\",\"length\":4}}\n\n\n\0\n\n\n{event}\n\n"
    );
    assert_eq!(relay.send(sent.clone()).await.status(), 200);
    relay.balanced(SOON).await;
    let seen = tracker.seen();
    assert_eq!((seen.len(), glitchtip_stores(&seen[0])), (1, vec!["event".to_owned()]));
    assert_eq!(sorted(items(&seen[0].body)), sorted(items(sent.as_bytes())));
    assert_eq!(generic.taken()[0].body, sent.as_bytes());
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_cost_glitchtip_a_batch_are_counted_and_reported() {
    let (tracker, _generic, relay) = relay_to("glitchtip", &["spare_batches = false"]).await;
    let trace = json!({ "trace": { "trace_id": "5b8efff798038103d269b633813fc60c" } });
    let harmless: [(&str, Value); 3] = [
        ("event", json!({ "release": "r".repeat(255) })),
        ("transaction", json!({ "contexts": &trace })),
        ("event", json!({ "message": "\"release\":\"", "extra": "x".repeat(300) })),
    ];
    let poison: [(&str, Value); 3] = [
        ("event", json!({ "release": "r".repeat(256) })),
        ("transaction", json!({ "contexts": { "trace": { "trace_id": "no UUID" } } })),
        ("transaction", json!({})),
    ];
    for part in harmless.into_iter().chain(poison) {
        send(&relay, &[part]).await;
    }
    // A name that occurs twice, in spellings that no SDK uses.
    let long = "r".repeat(300);
    for (kind, payload) in [
        ("event", format!("{{\"\\u0072elease\":\"{long}\"}}")),
        ("event", format!("{{\"release\":\"a\",\"release\":\"{long}\"}}")),
        ("transaction", format!("{{\"contexts\":{trace},\"contexts\":{{}}}}")),
        ("event", format!("{{\"release\":\"{long}\",\"x\":NaN}}")),
    ] {
        let sent = format!("{{\"event_id\":\"{}\"}}\n{{\"type\":\"{kind}\"}}\n{payload}\n", new_id());
        assert_eq!(relay.send(sent).await.status(), 200);
    }
    let samples = relay.balanced(SOON).await;
    let counted = |upstream| samples.sum("switchyard_batch_poison_events_total", &[("upstream", upstream)]);
    assert_eq!((counted("tracker"), counted("generic")), (7.0, 0.0));
    assert_eq!(tracker.taken_count(), 10, "they are not held back");
    assert!(relay.log().contains("WARN") && relay.log().contains("loses with the whole batch"), "{}", relay.log());
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_events_that_cost_glitchtip_a_batch_holds_nobody_up() {
    let (tracker, generic, mut relay) = relay_to("glitchtip", &[]).await;
    for _ in 0..20 {
        send(&relay, &[("event", json!({ "release": "r".repeat(256) }))]).await;
    }
    let good = relay.send_errors(30).await;
    let ids = || tracker.taken().iter().map(|seen| seen.event_id().replace('-', "")).collect::<Vec<_>>();
    eventually("the others are delivered", SOON, async || {
        let ids = ids();
        if good.iter().all(|id| ids.contains(id)) { Ok(()) } else { Err(format!("{ids:?}")) }
    })
    .await;
    has_seen(&generic, 50, SOON).await;
    let told = relay.upstream("tracker").await["poison"].clone();
    assert_eq!(told[0]["cause"], "its release has more than 255 characters", "{told}");
    // One event has its turn each minute; a stop loses none of the waiting ones.
    relay.stop().await;
    let taken = ids().len();
    assert!((30..=31).contains(&taken), "{taken}");
    let mut relay = relay.started().await;
    eventually("the others wait", SOON, async || {
        match relay.upstream("tracker").await["backlog"]["envelopes"].as_u64() {
            Some(waiting) if waiting as usize + ids().len() == 50 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_too_long_for_glitchtip_is_cut_when_configured() {
    let (tracker, generic, relay) = relay_to("glitchtip", &["mend = [\"release\"]"]).await;
    let payload = json!({ "release": "r".repeat(300), "tags": { "a": "b" }, "message": "m" });
    let (_, sent) = send(&relay, &[("event", payload), ("attachment", json!("x"))]).await;
    let samples = relay.balanced(SOON).await;
    let seen = items(&tracker.taken()[0].body);
    let bytes = seen[0].bytes.splitn(2, |b| *b == b'\n').nth(1).expect("a payload");
    let event: Value = serde_json::from_slice(bytes).expect("JSON");
    let tags = json!({ "switchyard.mended": "release", "a": "b" });
    assert_eq!(event, json!({ "release": "r".repeat(255), "tags": tags, "message": "m" }));
    assert_eq!(seen[1].bytes, items(sent.as_bytes())[1].bytes);
    assert_eq!(generic.taken()[0].body, sent.as_bytes(), "nobody else gets it changed");
    assert_eq!(samples.sum("switchyard_mended_envelopes_total", &[("upstream", "tracker")]), 1.0);
    // In a spelling that no SDK uses, and twice: the last one counts.
    let twice = format!("{{\"release\":\"a\",\"\\u0072elease\":\"{}\"}}", "r".repeat(300));
    let sent = format!("{{\"event_id\":\"{}\"}}\n{{\"type\":\"event\"}}\n{twice}\n", new_id());
    assert_eq!(relay.send(sent).await.status(), 200);
    let samples = relay.balanced(SOON).await;
    assert_eq!(samples.sum("switchyard_mended_envelopes_total", &[("upstream", "tracker")]), 2.0);
    assert_eq!(samples.sum("switchyard_batch_poison_events_total", &[("upstream", "tracker")]), 0.0);
    assert!(relay.log().contains("shorten it in the service"), "{}", relay.log());
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn glitchtip_is_left_alone_for_30_seconds_after_a_wrong_key() {
    let (tracker, generic, relay) = relay_to("glitchtip", &[]).await;
    // The tracker refuses a wrong key, and for 30 seconds afterwards everybody.
    let last_wrong = std::sync::Mutex::new(None::<Instant>);
    tracker.when(move |seen| {
        let mut last_wrong = last_wrong.lock().expect("no panic");
        if seen.headers["x-sentry-auth"].to_str().is_ok_and(|auth| auth.ends_with("sentry_key=4e3")) {
            *last_wrong = Some(seen.at);
        }
        let cools_off = last_wrong.is_some_and(|at| at.elapsed() < Duration::from_secs(30));
        cools_off.then(|| Reply::Status(403, vec![], "{\"detail\": \"Denied\"}".to_owned()))
    });
    let ids = relay.send_errors(3).await;
    has_seen(&tracker, 1, SOON).await;
    has_seen(&generic, 3, SOON).await;
    let text = std::fs::read_to_string(relay.config()).expect("the configuration");
    relay.replace_config(&text.replace("4e3@", "4197@"));
    let refused = tracker.seen().len();
    has_seen(&tracker, refused + 3, Duration::from_secs(45)).await;
    let waited = tracker.seen()[refused].at - tracker.seen()[refused - 1].at;
    assert!(waited >= Duration::from_secs(30), "{waited:?}");
    let mut taken = tracker.taken_ids();
    taken.sort();
    assert_eq!(taken, {
        let mut ids = ids;
        ids.sort();
        ids
    });
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn glitchtips_maintenance_is_an_outage() {
    let (tracker, _generic, relay) = relay_to("glitchtip", &[]).await;
    let page = "\n<!doctype html>\n<html lang=\"en\"><title>Server Error (500)</title></html>";
    tracker.always(Reply::Status(500, vec![("content-type", "text/html".to_owned())], page.to_owned()));
    let ids = relay.send_errors(8).await;
    eventually("it is down", SOON, async || match relay.upstream("tracker").await {
        upstream if upstream["state"] == "down" => Ok(()),
        upstream => Err(upstream.to_string()),
    })
    .await;
    tracker.always(Reply::Ok);
    relay.balanced(SOON * 3).await;
    assert_eq!(tracker.taken_count(), ids.len());
    assert_eq!(relay.upstream("tracker").await["dead_letters"], 0);
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_glitchtip_refuses_is_a_dead_letter_there_alone() {
    let (tracker, generic, relay) = relay_to("glitchtip", &[]).await;
    tracker.then([Reply::status(400)]);
    let (_, refused) = send(&relay, &[("event", json!({ "sdk": {} }))]).await;
    relay.balanced(SOON).await;
    let (_, fine) = send(&relay, &[("event", json!({ "message": "fine" }))]).await;
    let samples = relay.balanced(SOON).await;
    assert_eq!((dropped(&samples, "rejected", "error"), delivered(&samples, "error")), (1.0, 1.0));
    assert_eq!(samples.sum("switchyard_dead_letters", &[("upstream", "tracker")]), 1.0);
    assert_eq!(
        generic.taken().iter().map(|seen| &seen.body[..]).collect::<Vec<_>>(),
        [refused.as_bytes(), fine.as_bytes()]
    );
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn items_that_bugsink_never_stores_are_unsupported_and_limit_nothing() {
    let (tracker, generic, relay) = relay_to("bugsink", &[]).await;
    tracker.always(Reply::with_header(200, "x-sentry-rate-limits", BUGSINKS_LIMIT));
    relay.send_errors(2).await;
    send(&relay, &[("transaction", json!({})), ("profile", json!({})), ("client_report", json!({}))]).await;
    send(&relay, &[("span", json!({}))]).await;
    send(&relay, &[("session", json!({}))]).await;
    send(&relay, &[("event", json!({})), ("attachment", json!({}))]).await;
    let samples = relay.balanced(SOON).await;
    for category in ["transaction", "profile", "span"] {
        assert_eq!(
            (delivered(&samples, category), dropped(&samples, "unsupported", category)),
            (0.0, 1.0),
            "{category}"
        );
    }
    for (category, count) in [("error", 3.0), ("session", 1.0), ("attachment_item", 1.0), ("internal", 1.0)] {
        assert_eq!(
            (delivered(&samples, category), dropped(&samples, "unsupported", category)),
            (count, 0.0),
            "{category}"
        );
    }
    let of_one_kind = |kind: &str| tracker.taken().iter().filter(|seen| kinds(seen) == [kind]).count();
    assert_eq!((of_one_kind("client_report"), of_one_kind("session"), tracker.taken_count()), (1, 1, 5));
    let upstream = relay.upstream("tracker").await;
    assert_eq!((&upstream["state"], &upstream["limits"]), (&json!("up"), &json!([])));
    assert!(tracker.seen().iter().all(|seen| !seen.headers.contains_key("content-encoding")));
    assert_eq!(generic.taken_count(), 6);
    relay.finish().await;
}

/// Three events with ids of their own, and an item that belongs to none of them.
fn three_events() -> ([String; 3], Vec<(&'static str, Value)>) {
    let ids = [new_id(), new_id(), new_id()];
    let event = |n: usize| ("event", json!({ "event_id": ids[n], "message": format!("event {n}") }));
    let parts = vec![event(0), ("session", json!({})), event(1), event(2)];
    (ids, parts)
}

#[tokio::test(flavor = "multi_thread")]
async fn bugsink_gets_each_event_of_an_envelope_in_its_own_request() {
    let (tracker, generic, relay) = relay_to("bugsink", &[]).await;
    tracker.always(Reply::with_header(200, "x-sentry-rate-limits", BUGSINKS_LIMIT));
    let (ids, parts) = three_events();
    let (_, sent) = send(&relay, &parts).await;
    let samples = relay.balanced(SOON).await;
    assert_eq!((delivered(&samples, "error"), delivered(&samples, "session")), (3.0, 1.0));
    let seen = tracker.seen();
    assert_eq!(seen.iter().map(Seen::event_id).collect::<Vec<_>>(), ids);
    assert_eq!(seen.iter().map(kinds).collect::<Vec<_>>(), [vec!["event", "session"], vec!["event"], vec!["event"]]);
    assert_eq!(sorted(seen.iter().flat_map(|seen| items(&seen.body))), sorted(items(sent.as_bytes())));
    assert_eq!(generic.taken()[0].body, sent.as_bytes());
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_between_requests_of_one_envelope_repeats_only_the_last() {
    let (tracker, _generic, mut relay) = relay_to("bugsink", &[]).await;
    let (ids, parts) = three_events();
    tracker.then([Reply::Ok, Reply::Hang]);
    send(&relay, &parts).await;
    has_seen(&tracker, 2, SOON).await;
    relay.kill();
    relay.launch();
    relay.await_ready().await;
    has_seen(&tracker, 4, SOON).await;
    let seen: Vec<String> = tracker.seen().iter().map(Seen::event_id).collect();
    assert_eq!(seen, [&ids[0], &ids[1], &ids[1], &ids[2]].map(Clone::clone));
    let samples = relay.balanced(SOON).await;
    assert_eq!((delivered(&samples, "error"), delivered(&samples, "session")), (3.0, 1.0));
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_event_of_an_envelope_may_be_refused_and_the_others_go() {
    let (tracker, _generic, relay) = relay_to("bugsink", &[]).await;
    let (_, parts) = three_events();
    tracker.then([Reply::Ok, Reply::status(400), Reply::status(503)]);
    send(&relay, &parts).await;
    let samples = relay.balanced(SOON).await;
    assert_eq!((delivered(&samples, "error"), dropped(&samples, "rejected", "error")), (2.0, 1.0));
    assert_eq!(relay.upstream("tracker").await["dead_letters"], 1);
    assert_eq!(tracker.seen().len(), 4, "the last one twice");
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bugsinks_quota_pauses_its_events_and_they_resume_by_themselves() {
    let (tracker, _generic, relay) = relay_to("bugsink", &[]).await;
    let answer = |code, limits: &str| Reply::with_header(code, "x-sentry-rate-limits", limits);
    tracker.always(answer(200, BUGSINKS_LIMIT));
    tracker.then([answer(429, &format!("2::key, {BUGSINKS_LIMIT}"))]);
    relay.send_errors(1).await;
    has_seen(&tracker, 1, SOON).await;
    relay.send_errors(4).await;
    send(&relay, &[("transaction", json!({}))]).await;
    let samples = relay.balanced(SOON).await;
    assert_eq!((delivered(&samples, "error"), dropped(&samples, "unsupported", "transaction")), (5.0, 1.0));
    let seen = tracker.seen();
    assert!(seen[1].at - seen[0].at >= Duration::from_millis(1950), "nothing was tried meanwhile");
    assert_eq!(seen.len(), 6);
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bugsink_is_sent_one_request_at_a_time() {
    let (tracker, _generic, relay) = relay_to("bugsink", &["max_in_flight = 8"]).await;
    let pause = Duration::from_millis(200);
    tracker.always(Reply::Slow(pause));
    relay.send_errors(6).await;
    relay.balanced(SOON).await;
    let at: Vec<Instant> = tracker.seen().iter().map(|seen| seen.at).collect();
    assert_eq!(at.len(), 6);
    assert!(at.windows(2).all(|pair| pair[1] - pair[0] >= pause), "{at:?}");
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_429_that_names_no_limits_has_taken_nothing() {
    for kind in ["sentry", "relay", "generic"] {
        let (tracker, _generic, relay) = relay_to(kind, &[]).await;
        tracker.then([Reply::with_header(429, "retry-after", "1")]);
        // No limit concerns an item of an unknown type.
        let (_, sent) = send(&relay, &[("event", json!({})), ("new_thing", json!({}))]).await;
        let samples = relay.balanced(SOON).await;
        assert_eq!(tracker.seen().len(), 2, "{kind}");
        assert_eq!(tracker.seen()[1].body, sent.as_bytes(), "{kind}");
        assert_eq!((delivered(&samples, "error"), delivered(&samples, "unknown")), (1.0, 1.0), "{kind}");
        relay.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_429_of_sentry_or_relay_has_taken_unlimited_items() {
    for (kind, requests) in [("sentry", 1), ("relay", 1), ("generic", 2)] {
        let (tracker, _generic, relay) = relay_to(kind, &["on_rate_limit = \"drop\""]).await;
        tracker.then([Reply::with_header(429, "x-sentry-rate-limits", "1:attachment;attachment_item:key:quota")]);
        let (_, sent) = send(&relay, &[("event", json!({})), ("attachment", json!({}))]).await;
        let samples = relay.balanced(SOON).await;
        assert_eq!(tracker.seen().len(), requests, "{kind}");
        assert_eq!(delivered(&samples, "error"), 1.0, "{kind}");
        let attachment = (delivered(&samples, "attachment_item"), dropped(&samples, "rate_limited", "attachment_item"));
        assert_eq!(attachment, if kind == "generic" { (1.0, 0.0) } else { (0.0, 1.0) }, "{kind}");
        assert_eq!(tracker.seen()[0].body, sent.as_bytes());
        relay.finish().await;
    }
}
