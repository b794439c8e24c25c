//! Backfills: after a rollback the old tracker gets the events that it missed while the mirror was off.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::verbs::verb;
use crate::support::envelopes;
use crate::support::eventually::eventually;
use crate::support::process::Process;
use crate::support::relay::{Plan, Relay, SOON, needs_a_file};
use crate::support::upstream::{Reply, Upstream};

const HOUR: i64 = 3600;

/// Sends `count` errors like an SDK whose clock is `ago` seconds behind, with `sent_at` in the header; returns their ids.
async fn send(relay: &Relay, count: usize, ago: i64) -> Vec<String> {
    let mut ids = Vec::new();
    for _ in 0..count {
        let id = envelopes::new_id();
        let now = OffsetDateTime::now_utc() - time::Duration::seconds(ago);
        let now = now.format(&Rfc3339).expect("a date");
        let envelope = format!(
            "{}\n{{\"type\":\"event\"}}\n{{\"event_id\":\"{id}\",\"message\":\"x\"}}\n",
            json!({ "event_id": id, "sent_at": now })
        );
        assert_eq!(relay.send(envelope).await.status(), 200);
        ids.push(id);
    }
    ids
}

#[tokio::test]
async fn a_backfill_after_a_rollback_delivers_everything_once_and_unshifted() {
    let (old, new) = (Upstream::start().await, Upstream::start().await);
    let plan = Plan::new(&[("new", new.dsn("4e3", 2)), ("old", old.dsn("0ld", 1))]).top("mirror = false");
    let mut relay = plan.start().await;
    let missed = send(&relay, 60, HOUR).await;
    relay.balanced(SOON).await;
    assert_eq!((new.taken_count(), old.taken_count()), (60, 0));
    relay.stop().await;
    relay.age(Duration::from_secs(HOUR.cast_unsigned()));
    let mut relay = relay.started().await;

    // The rollback: new events go to the old tracker, and before the backfill.
    relay.flip_to("old").await;
    let live = send(&relay, 5, 0).await;
    let counted = verb(&relay, &["backfill", "old", "--since", "6h", "--dry-run", "--json"]).await.json();
    assert_eq!((&counted["found"], &counted["state"]), (&json!(60), &json!("planned")), "{counted}");
    assert_eq!(verb(&relay, &["backfill", "old", "--since", "30m", "--dry-run", "--json"]).await.json()["found"], 0);
    let order = json!({ "upstream": "old", "since": "48h" });
    let address = format!("http://{}/api/backfill", relay.admin_address());
    let browser = relay.client().post(&address).header("origin", "http://evil.example").json(&order);
    assert_eq!(browser.send().await.expect("an answer").status(), 403);
    let begun = relay.client().post(&address).json(&order).send().await.expect("an answer");
    let begun: Value = begun.json().await.expect("JSON");
    assert!(begun["note"].as_str().expect("a note").contains("only 24h can be had: journal.retain"), "{begun}");
    let twice = relay.client().post(&address).json(&order).send().await.expect("an answer");
    assert_eq!(twice.status(), 409);

    // A restart during the backfill.
    eventually("some of it is there", SOON, async || match old.taken_count() {
        n if n > 10 => Ok(()),
        n => Err(n.to_string()),
    })
    .await;
    relay.stop().await;
    let relay = relay.started().await;
    eventually("all of it is there", Duration::from_secs(20), async || match old.taken_count() {
        65 => Ok(()),
        n => Err(n.to_string()),
    })
    .await;
    let taken = old.taken_ids();
    let all: BTreeSet<&String> = missed.iter().chain(&live).collect();
    assert_eq!(taken.iter().collect::<BTreeSet<_>>(), all);
    assert_eq!(taken.len(), 65, "each once");

    // A tracker takes the difference between `sent_at` and its own clock for the client's error and shifts timestamps by it.
    for seen in old.taken() {
        let sent_at = seen.header()["sent_at"].as_str().expect("sent_at").to_owned();
        let sent_at = OffsetDateTime::parse(&sent_at, &Rfc3339).expect("a date");
        let late = (OffsetDateTime::now_utc() - sent_at).whole_seconds();
        assert!((0..600).contains(&late), "sent an hour ago, and held for as long: {late} s");
    }

    let again = verb(&relay, &["backfill", "old", "--since", "6h", "--json"]).await;
    let again = again.json();
    assert_eq!((&again["state"], &again["taken"]), (&json!("done"), &json!(0)), "it has everything: {again}");
    let samples = relay.balanced(SOON).await;
    assert_eq!(samples.sum("switchyard_returned_items_total", &[("upstream", "old")]), 60.0);
    let lag = samples.sum("switchyard_delivery_lag_seconds_sum", &[("upstream", "old")]);
    assert!(lag < 1800.0, "an hour is nothing that the old tracker took: {lag} s");
    assert_eq!(old.taken_count(), 65);
    assert!(verb(&relay, &["status"]).await.text().contains("backfill of old, shop"));
    relay.finish().await;
}

/// Begins a backfill and does not wait for its end.
async fn begin(relay: &Relay, upstream: &str) -> Value {
    let ended = verb(relay, &["backfill", upstream, "--since", "1h", "--detach", "--json"]).await;
    assert_eq!(ended.code, 0, "{ended:?}");
    ended.json()
}

/// Waits until at least `least` envelopes wait for the upstream; returns their number.
async fn waiting(relay: &Relay, upstream: &str, least: u64) -> u64 {
    eventually(&format!("{least} wait"), SOON, async || {
        let waits = relay.upstream(upstream).await["backlog"]["envelopes"].as_u64().unwrap_or_default();
        if waits >= least { Ok(waits) } else { Err(format!("{waits} do")) }
    })
    .await
}

/// Checks the number that a backfill has handed over to an upstream that is down: four, and one more for each delivery that was under way.
fn handed_over(count: u64, most_under_way: u64) -> u64 {
    assert!((4..=4 + most_under_way).contains(&count), "few at a time: {count}");
    count
}

#[tokio::test]
async fn a_backfill_yields_to_live_deliveries_and_spares_a_down_upstream() {
    if needs_a_file("it counts what a backfill hands over at one moment") {
        return;
    }
    let (old, new) = (Upstream::start().await, Upstream::start().await);
    old.always(Reply::status(503));
    let plan = Plan::new(&[("new", new.dsn("4e3", 2)), ("old", old.dsn("0ld", 1))]).top("mirror = false");
    let relay = plan.upstream("old", "max_in_flight = 1").start().await;
    let missed = send(&relay, 30, 0).await;
    assert_eq!(begin(&relay, "old").await["found"], 30);
    waiting(&relay, "old", 4).await;
    relay.flip_to("old").await;
    let live = send(&relay, 10, 0).await;
    handed_over(waiting(&relay, "old", 14).await - 10, 1);
    let samples = relay.samples().await.expect("metrics");
    let remaining = samples.sum("switchyard_backfill_remaining_envelopes", &[("upstream", "old")]);
    assert!((25.0..=26.0).contains(&remaining), "{remaining}");
    old.always(Reply::Ok);
    eventually("all of it is there", Duration::from_secs(30), async || match old.taken_count() {
        40 => Ok(()),
        n => Err(n.to_string()),
    })
    .await;
    let taken = old.taken_ids();
    let place = |id: &String| taken.iter().position(|taken| taken == id).expect("it is there");
    // Envelopes that failed earlier come when their own wait is over.
    let seen = old.seen();
    let untried = live.iter().filter(|id| seen.iter().filter(|seen| seen.event_id() == **id).count() == 1);
    let last = untried.map(place).max().expect("an upstream that is down is asked seldom");
    assert!(last < 15, "behind what was tried before them, before everything else: {last}");
    assert_eq!(taken.iter().collect::<BTreeSet<_>>(), missed.iter().chain(&live).collect());
    relay.finish().await;
}

#[tokio::test]
async fn ctrl_c_cancels_a_backfill_and_the_next_one_resumes_it() {
    if needs_a_file("it counts what a backfill hands over at one moment") {
        return;
    }
    let (old, new) = (Upstream::start().await, Upstream::start().await);
    old.always(Reply::status(503));
    let plan = Plan::new(&[("new", new.dsn("4e3", 2)), ("old", old.dsn("0ld", 1))]).top("mirror = false");
    let relay = plan.upstream("old", "max_in_flight = 1").start().await;
    send(&relay, 30, 0).await;
    for (args, code, says) in [
        (vec!["backfill", "nobody", "--since", "1h"], 2, "no upstream"),
        (vec!["backfill", "old", "--since", "1h", "--project", "other"], 1, "no project"),
        (vec!["backfill", "old", "--cancel"], 1, "no backfill of old is running"),
        (vec!["backfill", "old"], 2, "--since"),
    ] {
        let ended = verb(&relay, &args).await;
        assert!(ended.code == code && ended.err.contains(says), "{args:?}: {ended:?}");
    }
    let log = relay.home().join("backfill.log");
    let mut command = Command::new(env!("CARGO_BIN_EXE_switchyard"));
    command.args(["backfill", "old", "--since", "1h", "--config"]).arg(relay.config());
    let mut watching = Process::start("the backfill", &mut command, &log, None);
    waiting(&relay, "old", 4).await;
    watching.signal(Signal::INT);
    let status = eventually("it ends", SOON, async || watching.ended().ok_or_else(|| watching.last_words())).await;
    assert_eq!(status.code(), Some(1), "{}", watching.last_words());
    let said = std::fs::read_to_string(&log).expect("what it said");
    // The backfill has ended and hands over no more.
    let before = handed_over(waiting(&relay, "old", 4).await, 1);
    let cancelled = format!("cancelled, {before} of 30 handed over");
    for line in ["30 envelopes of ", &cancelled, "what was handed over is still delivered"] {
        assert!(said.contains(line), "{line}: {said}");
    }
    // Once the upstream answers again, exactly the envelopes that were handed over arrive.
    old.always(Reply::Ok);
    relay.balanced(Duration::from_secs(20)).await;
    assert_eq!(old.taken_count() as u64, before);
    let rest = verb(&relay, &["backfill", "old", "--since", "1h"]).await;
    let done = format!("done, {rest} of {rest} handed over", rest = 30 - before);
    assert!(rest.code == 0 && rest.text().contains(&done), "{rest:?}");
    relay.balanced(SOON).await;
    assert_eq!(old.taken_ids().into_iter().collect::<BTreeSet<_>>().len(), 30);
    assert_eq!(old.taken_count(), 30);
    relay.finish().await;
}

#[tokio::test]
async fn an_upstream_added_later_gets_earlier_envelopes_once() {
    let (old, late) = (Upstream::start().await, Upstream::start().await);
    let other = format!(
        "[[projects]]\nname = \"other\"\nid = \"2\"\npublic_key = \"07e2\"\n[projects.upstreams]\nold = \"{}\"",
        old.dsn("0ld", 9)
    );
    let relay = Plan::new(&[("old", old.dsn("0ld", 1))]).more(&other).start().await;
    let refused = send(&relay, 6, 0).await.swap_remove(2);
    for _ in 0..3 {
        let path = "/api/2/envelope/?sentry_version=7&sentry_key=07e2";
        let sent = relay.post(path, envelopes::error(&envelopes::new_id())).send().await.expect("an answer");
        assert_eq!(sent.status(), 200);
    }
    let config = std::fs::read_to_string(relay.config()).expect("the configuration");
    let upstreams = format!("[projects.upstreams]\nlate = \"{}\"", late.dsn("1a7e", 3));
    let config = config
        .replace("[projects.upstreams]", &upstreams)
        .replace("[upstreams.old]", "[upstreams.late]\n[upstreams.old]");
    relay.replace_config(&config);
    eventually("it is known", SOON, async || match relay.status().await["upstreams"].as_array().map(Vec::len) {
        Some(2) => Ok(()),
        n => Err(format!("{n:?}")),
    })
    .await;
    send(&relay, 1, 0).await;
    late.when(move |seen| (seen.event_id() == refused).then(|| Reply::status(400)));
    let one = verb(&relay, &["backfill", "late", "--since", "1h", "--project", "shop"]).await;
    assert!(one.code == 0 && one.text().contains("backfill of late, shop"), "{one:?}");
    assert!(one.text().contains("done, 6 of 6 handed over"), "{one:?}");
    eventually("five, and the one that came since", SOON, async || match late.taken_count() {
        6 => Ok(()),
        n => Err(n.to_string()),
    })
    .await;
    // The second backfill skips envelopes that the upstream took or refused for good.
    let all = verb(&relay, &["backfill", "late", "--since", "1h"]).await;
    assert!(all.text().contains("3 envelopes of "), "{all:?}");
    eventually("the other project's", SOON, async || match late.taken_count() {
        9 => Ok(()),
        n => Err(n.to_string()),
    })
    .await;
    relay.balanced(SOON).await;
    let known = relay.upstream("late").await;
    assert_eq!((&known["difference"], &known["returned"], &known["dead_letters"]), (&json!(0), &json!(9), &json!(1)));
    assert_eq!(late.seen().len(), 10);
    relay.finish().await;
}
