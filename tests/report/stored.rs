//! The report's figures on stored events, compared with a scripted GlitchTip in simulated time: through losses at the tracker, repairs, a
//! restart and an hour without its API.

use std::collections::BTreeMap;
use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use crate::simulation::Simulation;
use crate::support::envelopes::{self, envelope, new_id};
use crate::support::glitchtip::{Glitchtip, PLACE, TOKEN};
use crate::support::relay::Plan;
use crate::support::upstream::{Reply, Upstream};
use crate::{HOUR, MINUTE, of};

/// The times of a real GlitchTip.
const BATCH: Duration = Duration::from_secs(2);
const MEMORY: Duration = Duration::from_secs(300);
const CANDIDATE: &str = "glitchtip";

async fn scene(more: &str) -> (Upstream, Glitchtip, Simulation) {
    let (sentry, glitchtip) = (Upstream::start().await, Glitchtip::start(BATCH, MEMORY).await);
    let plan = Plan::new(&[("sentry", sentry.dsn("key-a", 1)), (CANDIDATE, glitchtip.dsn())])
        .api(CANDIDATE, "glitchtip", Some(PLACE), TOKEN)
        .journal(r#"retain = "72h""#)
        .more(more);
    (sentry, glitchtip, Simulation::start(plan).await)
}

/// Sends errors and waits until both upstreams have taken them; returns their ids.
async fn send(relay: &Simulation, count: usize) -> Vec<String> {
    let mut ids = vec![];
    for _ in 0..count {
        let id = new_id();
        assert_eq!(relay.send(envelopes::error(&id)).await, 200);
        ids.push(id);
    }
    relay.quiet(&["sentry", CANDIDATE]).await;
    ids
}

/// Sends an event with this message and release; returns its id.
async fn send_one(relay: &Simulation, message: &str, release: Option<String>) -> String {
    let id = new_id();
    let event = json!({"event_id": id, "message": message, "level": "error", "release": release});
    assert_eq!(relay.send(envelope(&id, "event", &event.to_string())).await, 200);
    id
}

/// The tracker's own record of every event that it took.
struct Truth {
    /// The number of times that it answered 200 to the event, and that it stores it.
    events: BTreeMap<String, (u64, u64)>,
}

impl Truth {
    fn of(glitchtip: &Glitchtip) -> Self {
        let mut events: BTreeMap<String, (u64, u64)> = BTreeMap::new();
        for seen in glitchtip.upstream.taken().iter().filter(|seen| seen.method == Method::POST) {
            events.entry(seen.event_id()).or_default().0 += 1;
        }
        for id in glitchtip.stored() {
            events.get_mut(&id).expect("an event that it took").1 += 1;
        }
        Self { events }
    }

    fn sum(&self, figure: impl Fn(&str, u64, u64) -> u64) -> u64 {
        self.events.iter().map(|(id, (taken, stored))| figure(id, *taken, *stored)).sum()
    }
}

/// Checks every figure of the report's part on stored events. `given_up` are lost for good; of `open` nothing can be known.
fn check(told: &Value, truth: &Truth, given_up: &[&String], open: &[String], recent: u64) {
    let is_open = |id: &str| open.iter().any(|one| one == id);
    let is_given_up = |id: &str| given_up.iter().any(|one| *one == id);
    let delivered = truth.sum(|_, taken, _| taken);
    let stored = truth.sum(|id, _, stored| if is_open(id) { 0 } else { stored });
    let missing = truth.sum(|id, _, stored| u64::from(stored == 0 && !is_open(id) && !is_given_up(id)));
    let lost = truth.sum(|id, taken, _| if is_given_up(id) { taken } else { taken - 1 });
    let figures = [
        ("delivered", delivered),
        ("stored", stored),
        ("missing", missing),
        ("lost", lost),
        ("given_up", given_up.len() as u64),
        ("recent", recent),
        ("unknown", open.len() as u64 - recent),
    ];
    for (name, expected) in figures {
        assert_eq!(told[name], expected, "{name}: {told}");
    }
    assert_eq!(stored + missing + lost + open.len() as u64, delivered, "{told}");
    let expected = delivered - recent - lost + given_up.len() as u64;
    let percent = told["stored_percent"].as_f64().expect("a share");
    assert!((percent - stored as f64 / expected as f64 * 100.0).abs() < 0.001, "{told}");
    let mut named: Vec<&str> =
        told["sample"].as_array().expect("a list").iter().filter_map(|one| one["event_id"].as_str()).collect();
    named.sort_unstable();
    let absent = truth.events.iter().filter(|(id, (_, stored))| *stored == 0 && !is_open(id) && !is_given_up(id));
    assert_eq!(named, absent.map(|(id, _)| id.as_str()).collect::<Vec<_>>(), "those that are missing are named");
}

/// Advances the time until every event is verified and every stored one is compared.
async fn known(relay: &Simulation) {
    relay.all_known(CANDIDATE).await;
    let all_compared = async || {
        let told = part(relay).await;
        told["content"]["compared"] == told["stored"]
    };
    relay.seconds_until("what is stored was compared", all_compared).await;
}

/// An hour with three events, each of them verified.
async fn an_hour(relay: &Simulation) {
    let until = relay.elapsed() + HOUR;
    send(relay, 3).await;
    known(relay).await;
    relay.advance(until.saturating_sub(relay.elapsed())).await;
}

async fn hours(relay: &Simulation, until: u32) {
    while relay.elapsed() < until * HOUR {
        an_hour(relay).await;
    }
}

async fn part(relay: &Simulation) -> Value {
    let report = relay.report(&format!("?since={}ms", relay.elapsed().as_millis())).await;
    of(&report, CANDIDATE)["verification"].clone()
}

/// An event that changes at the tracker, an event that it can never store, and a lost queue that is repaired by hand; returns the ids of
/// the first two.
async fn first_20_hours(relay: &Simulation, glitchtip: &Glitchtip) -> [String; 2] {
    hours(relay, 3).await;
    // An event changes at the tracker before the relay verifies it.
    let changed = send_one(relay, "as it was sent", None).await;
    relay.seconds_until("it is stored", async || glitchtip.stored().contains(&changed)).await;
    glitchtip.change_message(&changed, "as it is there");
    known(relay).await;
    hours(relay, 6).await;
    // An event that the tracker can never store becomes a dead letter.
    let poison = send_one(relay, "poison", Some("r".repeat(300))).await;
    relay.seconds_until("it is given up", async || part(relay).await["given_up"] == 1).await;
    hours(relay, 10).await;
    // The worker stops, and the queue is lost.
    glitchtip.set_worker(false);
    send(relay, 10).await;
    known(relay).await;
    assert_eq!(part(relay).await["missing"], 10);
    assert_eq!(glitchtip.lose_queue(), 10);
    glitchtip.set_worker(true);
    let repaired = relay.order("/api/repair", &json!({"upstream": CANDIDATE, "since": "24h"})).await;
    assert_eq!((&repaired["missing"], &repaired["sent_again"]), (&json!(10), &json!(10)), "{repaired}");
    relay.seconds_until("they are stored", async || part(relay).await["missing"] == 0).await;
    relay.seconds_until("nothing waits", async || relay.waiting(CANDIDATE).await == 0).await;
    known(relay).await;
    hours(relay, 20).await;
    [changed, poison]
}

/// A restart after a loss, then automatic repair; returns the id of an event that is sent again in vain.
async fn until_hour_40(relay: &mut Simulation, glitchtip: &Glitchtip) -> String {
    // The relay is stopped for ten minutes while lost events are not yet known to be missing.
    glitchtip.set_worker(false);
    send(relay, 4).await;
    relay.restart(10 * MINUTE).await;
    assert_eq!(glitchtip.lose_queue(), 4);
    glitchtip.set_worker(true);
    known(relay).await;
    assert_eq!(part(relay).await["missing"], 4);
    // From now on missing events are sent again automatically, one of them in vain.
    relay.rewrite("compare = 5000", "compare = 5000\nrepair = \"auto\"").await;
    let vanishing = send(relay, 1).await.remove(0);
    glitchtip.lose_each_time(&vanishing);
    relay.seconds_until("what is in vain is given up", async || part(relay).await["given_up"] == 2).await;
    known(relay).await;
    hours(relay, 40).await;
    vanishing
}

/// An hour without the API, and missing events at the end.
async fn until_hour_48(relay: &Simulation, glitchtip: &Glitchtip) {
    // The API fails for an hour, and the relay catches up.
    glitchtip.set_trouble(Some(Reply::status(503)));
    send(relay, 5).await;
    relay.seconds_until("it is said", async || !part(relay).await["trouble"].is_null()).await;
    relay.advance(HOUR).await;
    assert_eq!(part(relay).await["unknown"], 5);
    glitchtip.set_trouble(None);
    known(relay).await;
    hours(relay, 46).await;
    // At the end some events are missing and some cannot be verified.
    relay.rewrite("repair = \"auto\"", "repair = \"off\"").await;
    glitchtip.set_worker(false);
    send(relay, 3).await;
    known(relay).await;
    glitchtip.lose_queue();
    glitchtip.set_worker(true);
    hours(relay, 48).await;
}

/// Fails unless page and command line say what the report says.
async fn page_and_command_line_say(relay: &Simulation, told: &Value) {
    let number = |name: &str| told[name].as_u64().expect("a number");
    let line = format!(
        "error events: {} taken, {} found there ({:.3}%), {} missing, {} lost there of which 2 were given up, {} not known",
        number("delivered"),
        number("stored"),
        told["stored_percent"].as_f64().expect("a share"),
        number("missing"),
        number("lost"),
        number("unknown")
    );
    let (code, text) = relay.cli(&["--since", "49h"]).await;
    assert!(code == 1 && text.contains(&line) && text.contains("not ready"), "{line}\n{text}");
    let page = relay.page().await;
    assert!(page.contains(&format!("{} taken", number("delivered"))), "{page}");
}

#[tokio::test(start_paused = true)]
async fn every_number_of_stored_events_is_what_the_tracker_holds() {
    let (sentry, glitchtip, mut relay) = scene("[verify]\ncompare = 5000\n").await;
    let [changed, poison] = first_20_hours(&relay, &glitchtip).await;
    let vanishing = until_hour_40(&mut relay, &glitchtip).await;
    until_hour_48(&relay, &glitchtip).await;

    let given_up = [&poison, &vanishing];
    check(&part(&relay).await, &Truth::of(&glitchtip), &given_up, &[], 0);
    let just_now = send(&relay, 1).await;
    check(&part(&relay).await, &Truth::of(&glitchtip), &given_up, &just_now, 1);
    glitchtip.set_trouble(Some(Reply::status(503)));
    let open = [just_now, send(&relay, 2).await].concat();
    relay.seconds_until("it is said", async || !part(&relay).await["trouble"].is_null()).await;
    relay.advance(10 * MINUTE).await;
    relay.second().await;
    let (told, truth) = (part(&relay).await, Truth::of(&glitchtip));
    check(&told, &truth, &given_up, &open, 0);
    // Everything that was found was compared.
    let content = &told["content"];
    assert_eq!([&content["compared"], &content["differing"]], [&told["stored"], &json!(1)], "{content}");
    assert_eq!(content["sample"][0]["event_id"], json!(changed), "{content}");
    assert!(glitchtip.stored().iter().all(|id| truth.events[id].1 == 1), "once each");
    let posted = truth.events.len();
    assert_eq!(sentry.taken_count(), posted, "nobody else got anything twice");
    page_and_command_line_say(&relay, &told).await;
    let report = relay.report("?since=49h").await;
    let errors = of(&report, CANDIDATE)["categories"].as_array().expect("a list").iter();
    let errors = errors.clone().find(|one| one["category"] == "error").expect("the errors").clone();
    assert_eq!((&errors["accepted"], &errors["delivered"]), (&json!(posted), &told["delivered"]), "{errors}");
    assert_eq!((&of(&report, CANDIDATE)["difference"], &errors["pending"]), (&json!(0), &json!(0)), "{errors}");
    relay.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_sent_again_because_the_tracker_lost_it_is_in_no_figure_of_lag() {
    let (_sentry, glitchtip, relay) = scene("").await;
    send(&relay, 1).await;
    known(&relay).await;
    glitchtip.set_worker(false);
    send(&relay, 3).await;
    known(&relay).await;
    assert_eq!(part(&relay).await["missing"], 3);
    assert_eq!(glitchtip.lose_queue(), 3);
    glitchtip.set_worker(true);
    let repaired = relay.order("/api/repair", &json!({"upstream": CANDIDATE, "since": "24h"})).await;
    assert_eq!(repaired["sent_again"], 3, "{repaired}");
    relay.seconds_until("they are stored", async || glitchtip.stored().len() == 4).await;
    relay.advance(5 * MINUTE).await;
    let report = relay.report("").await;
    let lag = &of(&report, CANDIDATE)["lag"];
    assert!(lag["count"] == 4 && lag["max_seconds"].as_f64().is_some_and(|max| max < 60.0), "{lag}");
    relay.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_stopped_worker_is_reported_within_settle_and_a_minute() {
    let (_sentry, glitchtip, relay) = scene("[canary]\ninterval = \"1m\"\ntimeout = \"50s\"\n").await;
    send(&relay, 3).await;
    relay.all_known(CANDIDATE).await;
    let canary = async || relay.upstream(CANDIDATE).await["canary"].clone();
    relay.seconds_until("a canary got through", async || canary().await["state"] == "through").await;
    glitchtip.set_worker(false);
    let (stopped, really) = (relay.now(), std::time::Instant::now());
    send(&relay, 20).await;
    let test_event = relay.begin(&["send-test"]);
    let mut said: BTreeMap<&str, u64> = BTreeMap::new();
    while relay.now() < stopped + 600_000 {
        let own = relay.upstream(CANDIDATE).await;
        let page = relay.status_page().await;
        let report = relay.report("").await;
        let criteria = report["criteria"].as_array().expect("criteria");
        let stored = criteria.iter().find(|one| one["name"] == "stored").expect("the criterion");
        let why = own["canary"]["why"].as_str().unwrap_or_default();
        for (face, says) in [
            ("canary", why.contains("does not store it")),
            ("status", own["verification"]["missing"].as_u64() >= Some(20)),
            ("page", page.contains("20 missing") || page.contains("21 missing")),
            ("report", report["ready"] == false && stored["passed"] == false),
        ] {
            if says {
                said.entry(face).or_insert(relay.now() - stopped);
            }
        }
        if said.len() == 4 {
            break;
        }
        relay.second().await;
    }
    assert_eq!(said.len(), 4, "{said:?}");
    assert!(said.values().all(|after| *after <= 120_000), "within settle (1m) and a minute: {said:?}");
    assert_eq!(relay.cli(&[]).await.0, 1);
    let (code, told) = test_event.await;
    assert!(code == 1 && told.contains("took it and does not store it"), "{told}");
    assert!(really.elapsed() < Duration::from_secs(120), "{:?}", really.elapsed());
    relay.stop().await;
}
