//! The cost of draining a backlog: pages that statements read, which are counted and not timed.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::join_all;

use crate::contract::{at, delivered, submission};
use crate::journal::body::Body;
use crate::journal::{Journal, Primaries, Submission, TargetId};
use crate::promises;
use crate::support::postgres::{Database, Server};
use crate::telemetry::ledger::Ledger;
use crate::units::ByteSize;

/// The backlog of each relay, in records.
const EACH: usize = 3_000;

/// The pages read per slice, settlements included. A statement that hands out slices returns them as its rows.
const COST: &str =
    "SELECT round(sum(shared_blks_hit + shared_blks_read) / sum(rows) FILTER (WHERE query LIKE '%INSERT INTO slice%'))
    FROM pg_stat_statements WHERE query ~ 'slice|frontier|pending'";
/// The maximum cost of a slice in pages: several times the usual cost.
const MOST: i64 = 2_000;
/// The number of searches for records that may be evicted.
const LOOKS: &str = "SELECT coalesce(sum(calls), 0) FROM pg_stat_statements WHERE query LIKE 'WITH old AS%'";

/// The number of transactions that count.
const COMMITS: &str =
    "SELECT coalesce(sum(calls), 0) FROM pg_stat_statements WHERE query LIKE 'UPDATE committed SET before%'";

fn open(database: &Database, name: &str) -> Arc<dyn Journal> {
    promises::open(database, name, ByteSize::mib(1000), Ledger::default())
}

async fn fill(relay: &Arc<dyn Journal>, target: TargetId) {
    let body = Body::from(Bytes::from(vec![7; 1000]));
    for _ in 0..EACH / 250 {
        let appends = (0..250).map(|_| relay.append(Submission { body: body.clone(), ..submission(at(1), &[target]) }));
        assert!(join_all(appends).await.iter().all(Result::is_ok));
    }
}

async fn drain(relay: &Arc<dyn Journal>, target: TargetId) -> usize {
    let claims = relay.claim(target, at(100), 16).await.unwrap();
    let settled = join_all(claims.iter().map(|claim| relay.settle(&claim.lease, delivered(1)))).await;
    assert!(settled.iter().all(Result::is_ok), "{settled:?}");
    claims.len()
}

/// A database of a server that counts the pages that statements read.
fn counted() -> (Server, Database) {
    let server = Server::start(&["fsync=off", "shared_preload_libraries=pg_stat_statements"]);
    let database = server.database();
    database.execute("CREATE EXTENSION pg_stat_statements");
    (server, database)
}

#[tokio::test]
async fn draining_a_backlog_costs_only_what_it_hands_out() {
    let (_server, database) = counted();
    let relays = ["one", "two", "three"].map(|name| open(&database, name));
    let target = relays[0].target("a").await.unwrap();
    for relay in &relays {
        fill(relay, target).await;
    }
    database.execute("SELECT pg_stat_statements_reset()");
    let mut left = relays.len() * EACH;
    let mut costs = Vec::new();
    for goal in [left / 4 * 3, 0] {
        while left > goal {
            left -= join_all(relays.iter().map(|relay| drain(relay, target))).await.iter().sum::<usize>();
        }
        costs.push(database.number(COST));
    }
    assert!(costs.iter().all(|cost| *cost <= MOST), "pages a slice: {costs:?}");
}

#[tokio::test]
async fn refusing_a_batch_without_room_costs_a_bounded_number_of_looks() {
    let (_server, database) = counted();
    let journal: Arc<dyn Journal> = promises::open(&database, "one", ByteSize::mib(1), Ledger::default());
    let target = journal.target("a").await.unwrap();
    journal.protect(Primaries { everywhere: Some(target), ..Primaries::default() });
    let body = Body::from(Bytes::from(vec![7; 200_000]));
    let one = || journal.append(Submission { body: body.clone(), ..submission(at(1), &[target]) });
    while one().await.is_ok() {}
    database.execute("SELECT pg_stat_statements_reset()");
    let refused = join_all((0..250).map(|_| one())).await;
    assert!(refused.iter().all(Result::is_err), "there is no room");
    let (looks, commits) = (database.number(LOOKS), database.number(COMMITS));
    assert!(looks <= 32 * commits, "{looks} looks in {commits} transactions");
}
