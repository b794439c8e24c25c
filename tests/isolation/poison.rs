//! Envelopes of one project that an upstream cannot digest, and their effect on the deliveries of another project.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;
use tokio::time::{Instant, interval};

use crate::support::envelopes::{self, new_id};
use crate::support::eventually::eventually;
use crate::support::relay::{Plan, Relay, SOON};
use crate::support::upstream::{Reply, Seen, Upstream};

/// The key of the project `web`, which is public: it is in every page.
const WEB_KEY: &str = "00000000000000000000000000000bad";
/// The interval between events of `shop`.
const PACE: Duration = Duration::from_millis(100);

fn is_poison(seen: &Seen) -> bool {
    seen.body.windows(6).any(|word| word == b"poison")
}

/// A relay with the projects `shop` and `web`, and one upstream that gives this answer to poison.
async fn scene(answer: Reply, lines: &[&str]) -> (Upstream, Relay) {
    let upstream = Upstream::start().await;
    upstream.when(move |seen| is_poison(seen).then(|| answer.clone()));
    let web = format!(
        "[[projects]]\nname = \"web\"\nid = \"2\"\npublic_key = \"{WEB_KEY}\"\n[projects.upstreams]\na = \"{}\"\n",
        upstream.dsn("key-web", 22)
    );
    let plan = Plan::new(&[("a", upstream.dsn("key-shop", 11))]).more(&web);
    let relay = lines.iter().fold(plan, |plan, line| plan.upstream("a", line)).start().await;
    (upstream, relay)
}

/// Sends `count` poisonous envelopes of `web`.
async fn poison(relay: &Relay, count: usize) {
    for _ in 0..count {
        let envelope = envelopes::envelope(&new_id(), "event", "{\"message\":\"poison\"}");
        let path = format!("/api/2/envelope/?sentry_version=7&sentry_key={WEB_KEY}");
        assert_eq!(relay.post(&path, envelope).send().await.expect("an answer").status(), 200);
    }
}

/// The ids of the events that `shop` has sent, with their times.
#[derive(Default)]
struct Shop(Vec<(String, Instant)>);

impl Shop {
    /// Sends one event each [`PACE`] until `is_over` returns true for their number; runs `also` before each.
    async fn send(&mut self, relay: &Relay, mut also: impl AsyncFnMut(), mut is_over: impl AsyncFnMut(usize) -> bool) {
        let mut turns = interval(PACE);
        for count in 0.. {
            turns.tick().await;
            if is_over(count).await {
                return;
            }
            also().await;
            let sent = Instant::now();
            self.0.extend(relay.send_errors(1).await.into_iter().map(|id| (id, sent)));
        }
    }

    /// Waits until everything it sent is delivered. Prints the number of deliveries and the 99th percentile of their delay.
    async fn has_everything(&self, upstream: &Upstream, within: Duration, when: &str) {
        eventually("everything of the other project is delivered", within, async || {
            let have: BTreeSet<String> = upstream.taken_ids().into_iter().collect();
            let missing = self.0.iter().filter(|(id, _)| !have.contains(id)).count();
            if missing == 0 { Ok(()) } else { Err(format!("{missing} of {} are missing", self.0.len())) }
        })
        .await;
        let taken = upstream.taken();
        let lag = |(id, sent): &(String, Instant)| {
            let arrival = taken.iter().find(|seen| seen.event_id() == *id).expect("it was taken");
            arrival.at.saturating_duration_since(*sent)
        };
        let mut lags: Vec<Duration> = self.0.iter().map(lag).collect();
        lags.sort();
        let p99 = lags[(lags.len() * 99 / 100).min(lags.len() - 1)];
        eprintln!("shop, {when}: {} of {} delivered, p99 {p99:?}", lags.len(), self.0.len());
    }
}

async fn nothing() {}

/// Prints the figures of `shop` without an attacker.
async fn baseline(upstream: &Upstream, relay: &Relay) {
    let mut shop = Shop::default();
    shop.send(relay, nothing, async |count| count == 50).await;
    shop.has_everything(upstream, SOON, "alone").await;
}

fn letters(upstream: &Value) -> u64 {
    upstream["dead_letters"].as_u64().expect("a number")
}

#[tokio::test(flavor = "multi_thread")]
async fn poison_of_one_project_becomes_dead_letters_and_the_other_project_is_delivered() {
    let (upstream, relay) = scene(Reply::status(500), &[]).await;
    baseline(&upstream, &relay).await;
    poison(&relay, 20).await;
    let (mut shop, began) = (Shop::default(), Instant::now());
    shop.send(&relay, nothing, async |_| {
        let upstream = relay.upstream("a").await;
        assert!(began.elapsed() < Duration::from_secs(150), "{upstream:#}");
        letters(&upstream) == 20
    })
    .await;
    shop.has_everything(&upstream, SOON, "beside 20 poisonous envelopes").await;
    eprintln!("20 dead letters after {:?}", began.elapsed());
    let samples = relay.balanced(SOON).await;
    let rejected = [("upstream", "a"), ("project", "web"), ("reason", "rejected")];
    assert_eq!(samples.sum("switchyard_dropped_items_total", &rejected), 20.0);
    assert_eq!(samples.sum("switchyard_dropped_items_total", &[("upstream", "a")]), 20.0, "nothing else is lost");
    assert_eq!(relay.upstream("a").await["outages"], serde_json::json!([]), "it was there all the time");
    relay.finish().await;
}

/// Sends poison that always gets this answer, and events of `shop` meanwhile.
async fn an_attacker_keeps_sending(answer: Reply, lines: &[&str], when: &str) {
    let (upstream, mut relay) = scene(answer, lines).await;
    baseline(&upstream, &relay).await;
    let mut shop = Shop::default();
    shop.send(&relay, async || poison(&relay, 5).await, async |count| count == 150).await;
    shop.has_everything(&upstream, SOON, when).await;
    let state = relay.upstream("a").await;
    assert_eq!(state["alone"], serde_json::json!(["web"]), "{state:#}");
    let samples = relay.samples().await.expect("metrics");
    let alone = |project| samples.sum("switchyard_upstream_project_alone", &[("upstream", "a"), ("project", project)]);
    assert_eq!((alone("web"), alone("shop")), (1.0, 0.0));
    assert_eq!((&state["difference"], &state["outages"]), (&0.into(), &serde_json::json!([])), "{state:#}");
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attacker_who_keeps_sending_poison_waits_alone() {
    an_attacker_keeps_sending(Reply::status(500), &[], "beside 50 poisonous envelopes a second").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn poison_that_an_upstream_closes_the_connection_for_waits_alone() {
    an_attacker_keeps_sending(Reply::Close, &[], "beside 50 a second that close connections").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn poison_that_a_firewall_answers_waits_alone() {
    let page = Reply::Status(502, vec![], "<html><title>Blocked</title></html>".to_owned());
    an_attacker_keeps_sending(page, &[], "beside 50 a second that get a 502").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn poison_that_hangs_waits_alone() {
    an_attacker_keeps_sending(Reply::Hang, &["timeout = \"2s\""], "beside 50 a second that hang").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn poison_that_hangs_leaves_one_of_two_places_to_the_other_project() {
    let (upstream, mut relay) = scene(Reply::Hang, &["timeout = \"60s\"", "max_in_flight = 2"]).await;
    baseline(&upstream, &relay).await;
    poison(&relay, 20).await;
    let mut shop = Shop::default();
    shop.send(&relay, nothing, async |count| count == 50).await;
    shop.has_everything(&upstream, SOON, "with two places, beside 20 that hang").await;
    relay.kill();
}

#[tokio::test(flavor = "multi_thread")]
async fn poison_that_came_first_does_not_keep_the_other_project_waiting() {
    let (upstream, relay) = scene(Reply::status(500), &[]).await;
    poison(&relay, 300).await;
    eventually("the poison was tried", SOON, async || match upstream.seen().len() {
        0..5 => Err("not yet".to_owned()),
        _ => Ok(()),
    })
    .await;
    let mut shop = Shop::default();
    shop.send(&relay, nothing, async |count| count == 20).await;
    shop.has_everything(&upstream, SOON, "behind 300 poisonous envelopes").await;
}
