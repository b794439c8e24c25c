//! Relays on one journal share their pace: together they send an upstream no more than one relay would, and admit no more.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use reqwest::StatusCode;
use serde_json::Value;
use tokio::time::Instant;

use crate::support::envelopes;
use crate::support::eventually::eventually;
use crate::support::fault_proxy::{Fault, FaultProxy};
use crate::support::postgres::{Database, Server};
use crate::support::relay::{Plan, Relay, SOON};
use crate::support::upstream::{Reply, Upstream};

const NAMES: [&str; 3] = ["one", "two", "three"];

/// The primary `a`, the upstream `b`, and three relays on one journal.
struct Scene {
    a: Upstream,
    b: Upstream,
    relays: Vec<Relay>,
}

/// The plan of a relay with its own DSN for `a`, which the common configuration takes from a variable.
fn plan(name: &str, a: String, b: &Upstream, database: &Database) -> Plan {
    let plan = Plan::new(&[("a", "${A}".to_owned()), ("b", b.dsn("key", 1))]).variable("A", a.into());
    plan.shared(&database.url, name).journal("durability = \"single\"")
}

impl Scene {
    async fn begin(with: impl Fn(Plan) -> Plan) -> Self {
        let (a, b, database) = (Upstream::start().await, Upstream::start().await, Server::shared().database());
        let mut relays = Vec::new();
        for name in NAMES {
            relays.push(with(plan(name, a.dsn("key", 1), &b, &database)).start().await);
        }
        let heard = "SELECT count(*) FROM standing, jsonb_each_text(known::jsonb -> 'places') AS p
             WHERE target = (SELECT id FROM target WHERE name = 'b') AND p.value IN ('2', '3')";
        eventually("each has heard of the others", SOON, async || match database.number(heard) {
            3 => Ok(()),
            count => Err(format!("{count} have")),
        })
        .await;
        Self { a, b, relays }
    }

    /// Waits until the entry of `a` matches at all relays.
    async fn all_say(&self, what: &str, is_so: impl Fn(&Value) -> bool) {
        for relay in &self.relays {
            says(relay, what, &is_so).await;
        }
    }

    /// Sends `each` errors to each relay, and waits until `b` has all of them.
    async fn send_to_all(&self, each: usize) {
        let before = self.b.taken_count();
        for relay in &self.relays {
            relay.send_errors(each).await;
        }
        self.b_has(before + each * self.relays.len()).await;
    }

    async fn b_has(&self, count: usize) {
        eventually("b takes everything", SOON, async || match self.b.taken_count() {
            taken if taken == count => Ok(()),
            taken => Err(format!("{taken} of {count}")),
        })
        .await;
    }

    async fn a_takes(&self, count: usize, within: Duration) {
        eventually("a takes everything", within, async || match self.a.taken_count() {
            taken if taken == count => Ok(()),
            taken => Err(format!("{taken} of {count}\n{}", self.relays[0].log())),
        })
        .await;
    }
}

async fn says(relay: &Relay, what: &str, is_so: impl Fn(&Value) -> bool) {
    eventually(what, SOON, async || match relay.upstream("a").await {
        upstream if is_so(&upstream) => Ok(()),
        upstream => Err(format!("{upstream}\n{}", relay.log())),
    })
    .await;
}

#[tokio::test]
async fn an_upstreams_limit_at_one_relay_holds_at_all() {
    let scene = Scene::begin(|plan| plan).await;
    scene.a.then([Reply::with_header(429, "x-sentry-rate-limits", "60:error:key")]);
    scene.relays[0].send_errors(1).await;
    scene.all_say("errors are limited", |a| a["limits"][0]["category"] == "error").await;
    scene.b_has(1).await;
    scene.send_to_all(4).await;
    for relay in &scene.relays {
        let id = envelopes::new_id();
        let transaction = envelopes::envelope(&id, "transaction", "{}");
        assert_eq!(relay.send(transaction).await.status(), StatusCode::OK);
    }
    scene.a_takes(3, SOON).await;
    assert_eq!(scene.a.seen().len(), 4, "one error that was answered with the limit, and what is not limited");
}

#[tokio::test]
async fn a_project_refused_at_one_relay_waits_at_all() {
    let scene = Scene::begin(|plan| plan).await;
    scene.a.always(Reply::status(403));
    scene.relays[0].send_errors(1).await;
    scene.all_say("the DSN is refused", |a| a["state"] == "misconfigured").await;
    scene.b_has(1).await;
    scene.send_to_all(4).await;
    assert_eq!(scene.a.seen().len(), 1, "nobody tries it again before the wait is over");
}

#[tokio::test]
async fn reloading_one_relay_frees_a_refused_project_at_the_others() {
    let scene = Scene::begin(|plan| plan).await;
    scene.a.always(Reply::status(403));
    scene.relays[0].send_errors(1).await;
    scene.all_say("the DSN is refused", |a| a["state"] == "misconfigured").await;
    scene.a.always(Reply::Ok);
    scene.relays[1].signal(rustix::process::Signal::HUP);
    scene.a_takes(1, SOON).await;
    // The relay that was refused itself waits as after a first refusal, because the fault may be its own.
    for relay in &scene.relays[1..] {
        says(relay, "it is taken again", |a| a["state"] == "up").await;
    }
}

#[tokio::test]
async fn three_relays_share_an_upstreams_max_in_flight() {
    let scene = Scene::begin(|plan| plan.upstream("a", "max_in_flight = 4")).await;
    scene.a.always(Reply::Hang);
    scene.send_to_all(10).await;
    eventually("all places are used", SOON, async || match scene.a.seen().len() {
        4 => Ok(()),
        seen => Err(format!("{seen} requests")),
    })
    .await;
    scene.send_to_all(4).await;
    assert_eq!(scene.a.seen().len(), 4);
}

#[tokio::test]
async fn a_circuit_opened_at_one_relay_is_open_at_all_and_one_probes() {
    let scene = Scene::begin(|plan| plan).await;
    let asked: Arc<Mutex<Vec<Instant>>> = Arc::default();
    let noted = Arc::clone(&asked);
    // Probes count too.
    scene.a.when(move |_| {
        noted.lock().expect("the times").push(Instant::now());
        Some(Reply::status(503))
    });
    for relay in &scene.relays {
        relay.send_errors(4).await;
    }
    scene.all_say("it is down", |a| a["state"] == "down" || a["state"] == "probing").await;
    let before = asked.lock().expect("the times").len();
    eventually("it is probed again and again", Duration::from_secs(40), async || {
        let probes = asked.lock().expect("the times").len() - before;
        if probes >= 3 { Ok(()) } else { Err(format!("{probes} probes")) }
    })
    .await;
    let times = asked.lock().expect("the times")[before..].to_vec();
    let gaps: Vec<Duration> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    // A single circuit doubles its wait after each probe.
    let is_one = gaps.iter().zip([1, 2]).all(|(gap, least)| *gap >= Duration::from_secs(least));
    assert!(is_one, "{gaps:?}");
    scene.a.when(|_| None);
    scene.a_takes(12, Duration::from_secs(60)).await;
    scene.all_say("it is back", |a| a["state"] == "up").await;
}

#[tokio::test]
async fn a_relay_that_cannot_reach_an_upstream_keeps_no_other_from_it() {
    let (a, b, database) = (Upstream::start().await, Upstream::start().await, Server::shared().database());
    let proxy = FaultProxy::start(&a.address()).await;
    let cut = plan("one", proxy.dsn("key", 1), &b, &database).start().await;
    let well = plan("two", a.dsn("key", 1), &b, &database).start().await;
    proxy.set(Fault::Reset);
    let mut ids = Vec::new();
    eventually("one of them knows that it cannot reach it", Duration::from_secs(30), async || {
        ids.extend(cut.send_errors(1).await);
        ids.extend(well.send_errors(1).await);
        let state = cut.upstream("a").await["state"].clone();
        if state == "down" || state == "probing" { Ok(()) } else { Err(format!("{state}\n{}", cut.log())) }
    })
    .await;
    let (before, sent) = (a.taken_count(), well.send_errors(30).await);
    eventually("the other goes on", SOON, async || {
        let taken = a.taken_ids();
        let missing = sent.iter().filter(|id| !taken.contains(id)).count();
        if missing <= 8 { Ok(()) } else { Err(format!("{missing} of 30 are missing\n{}", well.log())) }
    })
    .await;
    assert!(a.taken_count() > before);
    assert_eq!(well.upstream("a").await["state"], "up");
    proxy.set(Fault::Pass);
    ids.extend(sent);
    eventually("everything is delivered", Duration::from_secs(60), async || {
        let (taken, lost) = (a.taken_ids(), |taken: &[String]| ids.iter().filter(|id| !taken.contains(id)).count());
        if lost(&taken) == 0 { Ok(()) } else { Err(format!("{} are missing", lost(&taken))) }
    })
    .await;
}

/// Sends `count` errors; returns the number that a relay admits.
async fn let_in(relay: &Relay, count: usize) -> usize {
    let mut taken = 0;
    for _ in 0..count {
        let status = relay.send(envelopes::error(&envelopes::new_id())).await.status();
        assert!(status == StatusCode::OK || status == StatusCode::TOO_MANY_REQUESTS, "{status}");
        taken += usize::from(status == StatusCode::OK);
    }
    taken
}

/// A burst of 60, and one more each second.
const LIMIT: &str = "[limits]\nerror = \"60/m\"";

#[tokio::test]
async fn three_relays_loaded_together_admit_what_one_would() {
    let scene = Scene::begin(|plan| plan.more(LIMIT)).await;
    let begun = Instant::now();
    let [one, two, three] = &scene.relays[..] else { panic!("three relays") };
    let (mut sum, mut rounds) = (0, 0);
    while begun.elapsed() < Duration::from_secs(4) || rounds < 2 {
        let (a, b, c) = tokio::join!(let_in(one, 30), let_in(two, 30), let_in(three, 30));
        sum += a + b + c;
        rounds += 1;
    }
    let most = 60.0 + begun.elapsed().as_secs_f64();
    assert!(sum >= 60 && sum as f64 <= most + 1.0, "{sum} of {most}");
}

#[tokio::test]
async fn relays_that_join_admit_two_thirds_of_the_limit_more_at_most() {
    let scene = Scene::begin(|plan| plan.more(LIMIT)).await;
    let begun = Instant::now();
    let mut sum = 0;
    eventually("it lets in all of it", SOON, async || {
        sum += let_in(&scene.relays[0], 10).await;
        if sum >= 60 { Ok(()) } else { Err(format!("{sum}")) }
    })
    .await;
    let alone = 60.0 + begun.elapsed().as_secs_f64();
    assert!(sum as f64 <= alone + 1.0, "{sum} of {alone}");
    let (two, three) = tokio::join!(let_in(&scene.relays[1], 60), let_in(&scene.relays[2], 60));
    let most = (60.0 + begun.elapsed().as_secs_f64()) * 5.0 / 3.0;
    assert!(two >= 20 && three >= 20 && (sum + two + three) as f64 <= most + 1.0, "{sum}, {two}, {three} of {most}");
}
