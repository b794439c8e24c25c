//! How new records get from an append into a relay's hand.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;

use crate::contract::{at, delivered, submission};
use crate::journal::{Journal, TargetId};
use crate::promises;
use crate::support::envelopes;
use crate::support::eventually::eventually;
use crate::support::postgres::{Database, SESSIONS, Server};
use crate::support::relay::{Plan, SOON};
use crate::support::upstream::Upstream;
use crate::telemetry::ledger::Ledger;
use crate::units::ByteSize;

/// The number of pieces of bodies that were read; larger bodies are stored apart from their rows.
const READS: &str =
    "SELECT coalesce(sum(s.idx_tup_fetch), 0) FROM pg_class c JOIN pg_stat_all_tables s ON s.relid = c.reltoastrelid
     WHERE c.relname = 'record' OR c.relname LIKE 'body%'";

fn open(database: &Database, name: &str) -> Arc<dyn Journal> {
    promises::open(database, name, ByteSize::mib(100), Ledger::default())
}

/// Claims once and settles everything; returns the numbers of the records.
async fn deliver(relay: &Arc<dyn Journal>, target: TargetId) -> Vec<u64> {
    let claims = relay.claim(target, at(100), 16).await.unwrap();
    let settled = join_all(claims.iter().map(|claim| relay.settle(&claim.lease, delivered(1)))).await;
    assert!(settled.iter().all(Result::is_ok), "{settled:?}");
    claims.iter().map(|claim| claim.record.id.number()).collect()
}

#[tokio::test]
async fn a_relay_delivers_new_records_without_reading_their_bodies() {
    let (a, b, database) = (Upstream::start().await, Upstream::start().await, Server::shared().database());
    let plan = Plan::new(&[("a", a.dsn("key", 1)), ("b", b.dsn("key", 1))]).shared(&database.url, "one");
    let mut relay = plan.journal("durability = \"single\"").start().await;
    let mut ids = Vec::new();
    for _ in 0..200 {
        let id = envelopes::new_id();
        let event = format!(r#"{{"event_id":"{id}","message":"{}"}}"#, "m".repeat(8 << 10));
        assert!(relay.send(envelopes::envelope(&id, "event", &event)).await.status().is_success());
        ids.push(id);
    }
    ids.sort();
    for upstream in [&a, &b] {
        eventually("all is delivered", SOON, async || {
            let mut taken = upstream.taken_ids();
            taken.sort();
            if taken == ids { Ok(()) } else { Err(format!("{} of {}", taken.len(), ids.len())) }
        })
        .await;
    }
    relay.balanced(SOON).await;
    relay.stop().await;
    eventually("its sessions have ended", SOON, async || match database.number(SESSIONS) {
        0 => Ok(()),
        count => Err(count.to_string()),
    })
    .await;
    // A starting relay reads new records as if another relay had left them.
    let reads = database.number(READS);
    assert!(reads < 200, "{reads} pieces were read, and there are 1,000 for each upstream");
    let bodies = "SELECT count(*) FROM (SELECT body FROM record UNION ALL SELECT bytes FROM body) AS all_bodies WHERE length(body) > 8000";
    assert_eq!(database.number(bodies), 200, "bodies are there");
}

#[tokio::test]
async fn a_relay_drains_anothers_backlog_beside_its_own_flow() {
    let database = Server::shared().database();
    let (one, two) = (open(&database, "one"), open(&database, "two"));
    let target = one.target("a").await.unwrap();
    assert!(deliver(&one, target).await.is_empty());
    let mut left = Vec::new();
    for _ in 0..100 {
        left.push(two.append(submission(at(2), &[target])).await.unwrap().number());
    }
    let mut flow = Vec::new();
    for _ in 0..200 {
        flow.push(one.append(submission(at(3), &[target])).await.unwrap().number());
    }
    eventually("what the other left is delivered", Duration::from_secs(10), async || {
        for _ in 0..12 {
            flow.push(one.append(submission(at(3), &[target])).await.unwrap().number());
        }
        let done = deliver(&one, target).await;
        left.retain(|number| !done.contains(number));
        flow.retain(|number| !done.contains(number));
        if left.is_empty() { Ok(()) } else { Err(format!("{} are left", left.len())) }
    })
    .await;
    assert!(!flow.is_empty(), "there was something of its own to do all the time");
    eventually("its own is delivered, too", SOON, async || {
        let done = deliver(&one, target).await;
        flow.retain(|number| !done.contains(number));
        if flow.is_empty() { Ok(()) } else { Err(format!("{} are left", flow.len())) }
    })
    .await;
    assert_eq!(one.backlog(target).await.unwrap().envelopes, 0);
}

#[tokio::test]
async fn records_beyond_a_relays_memory_are_delivered_once_and_in_order() {
    let database = Server::shared().database();
    let one = open(&database, "one");
    let target = one.target("a").await.unwrap();
    assert!(deliver(&one, target).await.is_empty());
    let mut taken = Vec::new();
    for _ in 0..600 {
        taken.push(one.append(submission(at(2), &[target])).await.unwrap().number());
    }
    let mut done = Vec::new();
    eventually("all is delivered", SOON, async || {
        // More records come while the backlog is drained.
        for _ in 0..4 {
            if taken.len() < 700 {
                taken.push(one.append(submission(at(2), &[target])).await.unwrap().number());
            }
            done.extend(deliver(&one, target).await);
        }
        if done.len() == taken.len() { Ok(()) } else { Err(format!("{} of {}", done.len(), taken.len())) }
    })
    .await;
    assert_eq!(done, taken);
}

#[tokio::test]
async fn a_submission_does_not_wait_for_the_lock_of_a_target() {
    let database = Server::shared().database();
    let one = open(&database, "one");
    let target = one.target("a").await.unwrap();
    assert!(deliver(&one, target).await.is_empty());
    let other = database.open();
    other.say("BEGIN; SELECT pg_advisory_xact_lock(x'53774a74'::int, id) FROM target;");
    eventually("somebody has it", SOON, async || {
        let held =
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND classid = x'53774a74'::int::oid AND granted
             AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
        if database.number(held) > 0 { Ok(()) } else { Err("nobody yet".to_owned()) }
    })
    .await;
    let taken = one.append(submission(at(2), &[target])).await.expect("kept").number();
    other.say("COMMIT;");
    eventually("it is handed out all the same", SOON, async || match deliver(&one, target).await {
        done if done == [taken] => Ok(()),
        done => Err(format!("{done:?}")),
    })
    .await;
}
