//! Canaries show that events get through to each tracker even at night, when no service sends any.

mod support;

use std::time::Duration;

use http::Method;
use serde_json::Value;
use support::envelopes;
use support::eventually::eventually;
use support::glitchtip::{Glitchtip, PLACE, TOKEN};
use support::net;
use support::relay::{Plan, Relay, SOON};
use support::upstream::{Reply, Seen, Upstream};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

const SECTION: &str = "[canary]\ninterval = \"1s\"\ntimeout = \"900ms\"";
/// A timeout for a canary that failed several times, with a margin.
const A_WHILE: Duration = Duration::from_secs(30);

async fn upstreams() -> (Upstream, Upstream, Plan) {
    let (a, b) = (Upstream::start().await, Upstream::start().await);
    let plan = Plan::new(&[("a", a.dsn("cafe", 7)), ("b", b.dsn("beef", 8))]);
    (a, b, plan)
}

/// The event of a canary; `None` for another request.
fn canary(seen: &Seen) -> Option<Value> {
    if seen.method != Method::POST {
        return None;
    }
    let item = envelopes::items(&seen.body).into_iter().next()?;
    let payload = item.bytes.splitn(2, |b| *b == b'\n').nth(1)?;
    let event: Value = serde_json::from_slice(payload).ok()?;
    (event["tags"]["switchyard.canary"] == "true").then_some(event)
}

/// The canaries that an upstream took.
fn canaries(upstream: &Upstream) -> Vec<Seen> {
    upstream.taken().into_iter().filter(|seen| canary(seen).is_some()).collect()
}

/// The success and age gauges of an upstream.
async fn gauges(relay: &Relay, upstream: &str) -> (f64, f64) {
    let samples = relay.samples().await.expect("metrics");
    let of = |name| samples.sum(name, &[("upstream", upstream)]);
    (of("switchyard_canary_success"), of("switchyard_canary_age_seconds"))
}

async fn success_is(relay: &Relay, upstream: &str, expected: f64, within: Duration) {
    eventually(&format!("success of {upstream} is {expected}"), within, async || {
        match gauges(relay, upstream).await.0 == expected {
            true => Ok(()),
            false => Err(format!("{}\n{}", relay.upstream(upstream).await["canary"], relay.log())),
        }
    })
    .await;
}

/// Waits until an upstream has taken `more` canaries.
async fn takes_more(upstream: &Upstream, more: usize) {
    let before = canaries(upstream).len();
    eventually("more canaries are taken", SOON, async || match canaries(upstream).len() {
        n if n >= before + more => Ok(()),
        n => Err(format!("{n} instead of {}", before + more)),
    })
    .await;
}

/// The number of warnings in the log that no canary gets through to an upstream.
fn warnings(relay: &Relay, upstream: &str) -> usize {
    let name = format!("upstream.name={upstream:?}");
    let log = relay.log();
    log.lines().filter(|line| line.contains("a canary did not get through") && line.contains(&name)).count()
}

async fn why_not(relay: &Relay, upstream: &str, word: &str) {
    eventually(&format!("the status says {word}"), SOON, async || {
        let canary = relay.upstream(upstream).await["canary"].clone();
        let is_said = canary["why"].as_str().is_some_and(|why| why.contains(word));
        if is_said && canary["state"] == "failing" { Ok(()) } else { Err(canary.to_string()) }
    })
    .await;
}

#[tokio::test]
async fn canaries_reach_every_upstream_and_are_no_evidence_of_a_service() {
    let (a, b, plan) = upstreams().await;
    let relay = plan.more(SECTION).start().await;
    success_is(&relay, "a", 1.0, SOON).await;
    success_is(&relay, "b", 1.0, SOON).await;
    let (_, age) = gauges(&relay, "a").await;
    assert!((0.0..60.0).contains(&age), "{age}");
    takes_more(&a, 2).await;
    let (first, at_b) = (&canaries(&a)[0], &canaries(&b)[0]);
    assert_eq!((first.path.as_str(), at_b.path.as_str()), ("/api/7/envelope/", "/api/8/envelope/"));
    assert_eq!(first.event_id(), at_b.event_id(), "one event for all");
    assert!(first.headers["x-sentry-auth"].to_str().expect("text").contains("sentry_key=cafe"));
    let (event, next) = (canary(first).expect("an event"), canary(&canaries(&a)[1]).expect("an event"));
    assert_eq!((&event["level"], &event["logger"]), (&"info".into(), &"switchyard".into()));
    assert_eq!(event["event_id"], first.event_id());
    assert_ne!(event["event_id"], next["event_id"]);
    assert_eq!(event["fingerprint"], next["fingerprint"], "one issue for all of them");
    eventually("status and page say that it got through", SOON, async || {
        let canary = relay.upstream("a").await["canary"].clone();
        let page = net::text(relay.client(), &format!("http://{}/", relay.admin_address())).await?;
        let is_shown = page.contains("Canaries: <span class=\"good\">through</span>");
        let is_said = canary["state"] == "through" && canary["why"].is_null();
        if is_said && is_shown { Ok(()) } else { Err(format!("{canary}\n{page}")) }
    })
    .await;
    // No service has sent anything: a canary is in no account and makes no service seen.
    let samples = relay.balanced(SOON).await;
    assert_eq!(samples.sum("switchyard_accepted_items_total", &[]), 0.0);
    let report = net::json(relay.client(), &format!("http://{}/api/report", relay.admin_address())).await;
    let report = report.expect("a report");
    assert_eq!(report["services"][0]["seen"], false, "{}", report["services"]);
    assert_eq!(report["comparison"]["compared"], 0);
    assert!(relay.upstream("a").await["last_delivery_at"].is_null(), "nothing of a service was delivered");
    relay.finish().await;
}

#[tokio::test]
async fn an_upstream_that_is_down_fails_its_canary_alone_and_recovers_by_itself() {
    let (a, mut b, plan) = upstreams().await;
    let relay = plan.more(SECTION).start().await;
    success_is(&relay, "b", 1.0, SOON).await;
    let told = warnings(&relay, "b");
    b.go_down().await;
    let before = canaries(&b).len();
    success_is(&relay, "b", 0.0, SOON).await;
    why_not(&relay, "b", "not taken within 900ms").await;
    takes_more(&a, 2).await;
    success_is(&relay, "a", 1.0, SOON).await;
    let (of_b, age) = gauges(&relay, "b").await;
    assert!(of_b == 0.0 && age >= 1.5, "intervals have passed since b took one: {age}");
    let samples = relay.samples().await.expect("metrics");
    assert_eq!(samples.sum("switchyard_backlog_envelopes", &[("upstream", "b")]), 1.0, "one waits, and no more");
    assert_eq!(warnings(&relay, "b"), told + 1, "told once: {}", relay.log());
    b.come_back().await;
    success_is(&relay, "b", 1.0, A_WHILE).await;
    eventually("that is told, too", SOON, async || match relay.log().contains("canaries get through again") {
        true => Ok(()),
        false => Err(relay.log()),
    })
    .await;
    // The waiting canary comes first, then fresh ones.
    let after = canaries(&b).split_off(before);
    assert!(canaries(&a).iter().any(|seen| seen.event_id() == after[0].event_id()), "the one that waited came, too");
    relay.finish().await;
}

#[tokio::test]
async fn limits_storm_and_shadow_sections_hold_back_no_canary() {
    let (_a, b, plan) = upstreams().await;
    let closed = "[limits]\nerror = { rate = \"1/d\", burst = 1 }\n[limits.storm]\nlimit = 1\nwindow = \"1h\"\n\
                  [upstreams.b.shadow]\nitems = [\"transaction\"]\nsample = { error = 0.0 }\ndaily_cap = { error = 1 }";
    let relay = plan.more(SECTION).more(closed).start().await;
    success_is(&relay, "b", 1.0, SOON).await;
    relay.send_errors(1).await;
    assert_eq!(relay.send(envelopes::error(&envelopes::new_id())).await.status(), 429);
    takes_more(&b, 2).await;
    let samples = relay.balanced(SOON).await;
    assert_eq!(samples.sum("switchyard_dropped_items_total", &[("upstream", "b"), ("reason", "filtered")]), 1.0);
    assert!(b.taken().iter().all(|seen| canary(seen).is_some()), "b gets canaries and nothing else");
    relay.finish().await;
}

#[tokio::test]
async fn a_limited_canary_waits_and_a_refused_canary_is_logged() {
    let (a, b, plan) = upstreams().await;
    a.then([Reply::with_header(429, "x-sentry-rate-limits", "3:error:key")]);
    b.then([Reply::Status(400, vec![], "no such events here".to_owned())]);
    let relay = plan.more(SECTION).start().await;
    why_not(&relay, "a", "not taken").await;
    success_is(&relay, "b", 1.0, SOON).await;
    let log = relay.log();
    assert!(
        log.contains("a canary did not get through") && log.contains("400 Bad Request no such events here"),
        "{log}"
    );
    let (_, letters) = relay.verb(&["dead-letters", "list"]).await;
    assert!(letters.lines().any(|line| line.contains(" canary ") && line.contains("no such events here")), "{letters}");
    success_is(&relay, "a", 1.0, SOON).await;
    let first = a.seen()[0].event_id();
    let tries = a.seen().iter().filter(|seen| seen.event_id() == first).count();
    assert_eq!(tries, 2, "the answer with the limit, and once after its end");
    assert!(canaries(&b).iter().all(|seen| seen.event_id() != first), "what is refused is not sent again");
    relay.finish().await;
}

#[tokio::test]
async fn a_reload_turns_canaries_on_and_off_and_they_follow_the_mirror() {
    let (a, b, plan) = upstreams().await;
    let relay = plan.start().await;
    let off = std::fs::read_to_string(relay.config()).expect("the file");
    assert_eq!(gauges(&relay, "a").await, (0.0, 0.0));
    let on = format!("{off}\n{SECTION}\n");
    relay.replace_config(&on);
    success_is(&relay, "a", 1.0, SOON).await;
    success_is(&relay, "b", 1.0, SOON).await;
    relay.replace_config(&on.replacen('\n', "\nmirror = false\n", 1));
    eventually("b gets nothing new, and no canary", SOON, async || match gauges(&relay, "b").await {
        (0.0, 0.0) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    let before = canaries(&b).len();
    takes_more(&a, 2).await;
    success_is(&relay, "a", 1.0, SOON).await;
    assert_eq!(canaries(&b).len(), before);
    relay.replace_config(&off);
    eventually("there are none any more", SOON, async || match gauges(&relay, "a").await {
        (0.0, 0.0) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    assert_eq!(relay.upstream("a").await["canary"], Value::Null);
    relay.balanced(SOON).await;
    let before = canaries(&a).len();
    relay.send_errors(1).await;
    relay.balanced(SOON).await;
    assert_eq!(canaries(&a).len(), before);
    relay.finish().await;
}

const EVERY_5S: &str = "[canary]\ninterval = \"5s\"\ntimeout = \"4s\"";

/// Two trackers whose APIs are configured and that have stored events already.
async fn trackers() -> (Glitchtip, Glitchtip, Relay) {
    let (batch, memory) = (Duration::from_secs(1), Duration::from_secs(1));
    let (a, b) = (Glitchtip::start(batch, memory).await, Glitchtip::start(batch, memory).await);
    let plan = Plan::new(&[("a", a.dsn()), ("b", b.dsn())]).more(EVERY_5S);
    let plan = plan.api("a", "glitchtip", Some(PLACE), TOKEN).api("b", "glitchtip", Some(PLACE), TOKEN);
    let relay = plan.start().await;
    relay.send_errors(1).await;
    for tracker in [&a, &b] {
        eventually("something is stored", SOON, async || match tracker.stored().len() {
            0 => Err(relay.log()),
            _ => Ok(()),
        })
        .await;
    }
    (a, b, relay)
}

#[tokio::test]
async fn a_canary_that_is_read_back_succeeds_only_when_it_is_stored() {
    let (_a, b, relay) = trackers().await;
    success_is(&relay, "a", 1.0, A_WHILE).await;
    b.set_worker(false);
    why_not(&relay, "b", "does not store it").await;
    assert_eq!(gauges(&relay, "a").await.0, 1.0);
    b.set_worker(true);
    success_is(&relay, "b", 1.0, A_WHILE).await;
    relay.finish().await;
}

#[tokio::test]
async fn a_failing_tracker_api_fails_no_canary_and_leaks_no_token() {
    let (a, b, relay) = trackers().await;
    let elsewhere = Upstream::start().await;
    let location = format!("http://{}/stolen/", elsewhere.address());
    a.set_trouble(Some(Reply::status(401)));
    b.set_trouble(Some(Reply::with_header(302, "location", &location)));
    let before = (a.questions(), b.questions());
    eventually("both were asked", A_WHILE, async || {
        match a.questions() > before.0 + 1 && b.questions() > before.1 + 1 {
            true => Ok(()),
            false => Err(relay.log()),
        }
    })
    .await;
    success_is(&relay, "a", 1.0, A_WHILE).await;
    success_is(&relay, "b", 1.0, A_WHILE).await;
    assert_eq!(elsewhere.seen().len(), 0, "no redirect is followed");
    let page = net::text(relay.client(), &format!("http://{}/", relay.admin_address())).await.expect("the page");
    let shown = [page, relay.status().await.to_string(), relay.metrics().await.expect("metrics"), relay.log()];
    assert!(shown.iter().all(|text| !text.contains(TOKEN)), "{shown:?}");
    relay.finish().await;
}

/// The times of an upstream's last delivery and last successful canary.
async fn latest(relay: &Relay, upstream: &str) -> (Value, Value) {
    let shown = relay.upstream(upstream).await;
    (shown["last_delivery_at"].clone(), shown["canary"]["through_at"].clone())
}

#[tokio::test]
async fn the_last_delivery_and_the_last_canary_outlive_a_kill() {
    let (a, mut b, plan) = upstreams().await;
    let mut relay = plan.more(SECTION).start().await;
    relay.send_errors(1).await;
    success_is(&relay, "b", 1.0, SOON).await;
    relay.balanced(SOON).await;
    // The canaries are saved with the evidence, every ten seconds.
    let journal = relay.config().with_file_name("journal.db");
    eventually("the journal knows of a canary and a delivery", A_WHILE, async || {
        let known = rusqlite::Connection::open(&journal).and_then(|journal| {
            let sql = "SELECT count(*) FROM target WHERE delivered_at > 0 AND canary_at > 0";
            journal.query_row(sql, [], |row| row.get::<_, u8>(0))
        });
        if known == Ok(2) { Ok(()) } else { Err(format!("{known:?}")) }
    })
    .await;
    b.go_down().await;
    let (delivered_before, _) = latest(&relay, "b").await;
    relay.kill();
    let killed = OffsetDateTime::now_utc();
    let relay = relay.started().await;
    eventually("the status says since when", SOON, async || {
        let (delivered, through) = latest(&relay, "b").await;
        let (_, age) = gauges(&relay, "b").await;
        let is_before = |at: &Value| {
            let at = at.as_str().and_then(|at| OffsetDateTime::parse(at, &Rfc3339).ok());
            at.is_some_and(|at| at < killed && killed - at < time::Duration::minutes(1))
        };
        let is_known = is_before(&delivered) && is_before(&through) && age > 0.0;
        if is_known { Ok(()) } else { Err(format!("{delivered} of {delivered_before}, {through}, {age}")) }
    })
    .await;
    let (_, text) = relay.verb(&["status"]).await;
    let row = text.lines().find(|line| line.trim_start().starts_with("b ")).expect("a row");
    assert!(row.trim_end().ends_with(" ago") || row.trim_end().ends_with("just now"), "{text}");
    assert!(text.contains("the last got through "), "{text}");
    let page = net::text(relay.client(), &format!("http://{}/", relay.admin_address())).await.expect("a page");
    assert!(!page.contains("not known") && !page.contains("none before"), "{page}");
    b.come_back().await;
    success_is(&relay, "b", 1.0, A_WHILE).await;
    drop(a);
    relay.finish().await;
}
