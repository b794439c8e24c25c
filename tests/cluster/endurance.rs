//! A long outage of an upstream and its end: their cost while they last and afterwards.

use tokio::time::Instant;

use super::outage::outage;
use super::scene::{LATE, Scene, stop};
use crate::support::eventually::eventually;
use crate::support::memory::Memory;

/// The bytes by which the tables of queues and accounts may grow: freed pages that were not reused yet.
const GROWN: i64 = 16 << 20;
/// The memory by which a relay may grow, in KiB.
const MEMORY: u64 = 48 << 10;

/// The maximum cost of a slice in pages: several times the usual cost.
const COSTS: i64 = 4_000;

/// The size of the tables that do not grow with the backlog.
const TABLES: &str = "SELECT sum(pg_total_relation_size(oid)) FROM pg_class WHERE relkind = 'r' AND relname IN
    ('slice', 'frontier', 'pending', 'committed', 'node', 'waiting', 'room', 'ledger', 'latest')";

/// The cost of handing out a slice: the pages that statements on the queues read, settlements included, per slice. A statement that hands
/// out slices returns them as its rows.
const COST: &str =
    "SELECT round(sum(shared_blks_hit + shared_blks_read) / sum(rows) FILTER (WHERE query LIKE '%INSERT INTO slice%'))
    FROM pg_stat_statements WHERE query ~ 'slice|frontier|pending'";

impl Scene {
    async fn number(&self, sql: &str) -> i64 {
        self.servers.ask(sql).await.expect("an answer").trim().parse().expect("a number")
    }

    /// The cost of a slice until the upstream that was down has taken `goal` envelopes.
    async fn cost_until(&self, goal: usize) -> i64 {
        self.servers.ask("SELECT pg_stat_statements_reset()").await.expect("an answer");
        self.drained(goal).await;
        self.number(COST).await
    }

    async fn drained(&self, goal: usize) {
        eventually("the upstream gets more", LATE + outage(), async || match self.b.taken_count() {
            taken if taken >= goal => Ok(()),
            taken => Err(format!("{taken} of {goal}")),
        })
        .await;
    }

    fn memory(&self) -> Vec<u64> {
        self.relays.iter().map(|relay| Memory::of(relay.pid()).resident()).collect()
    }
}

#[tokio::test]
async fn a_long_outage_leaves_tables_claim_costs_and_memory_as_they_were() {
    let mut scene = Scene::begin().await;
    scene.servers.ask("CREATE EXTENSION pg_stat_statements").await.unwrap();
    let loads = scene.load(100);
    scene.b.go_down().await;
    let began = Instant::now();
    scene.more_until(&loads, began, outage() / 4).await;
    let (tables, memory) = (scene.number(TABLES).await, scene.memory());
    scene.more_until(&loads, began, outage()).await;
    let tables_then = scene.number(TABLES).await;
    println!("tables of queues and accounts: {tables} bytes, {tables_then} at the end of the outage");
    let sent = stop(loads).await;
    assert!(sent.failures().is_empty(), "{:?}", sent.failures().first());
    let (all, before) = (sent.0.len(), scene.b.taken_count());
    scene.b.come_back().await;
    let drained = Instant::now();
    let first = scene.cost_until(before + (all - before) / 4).await;
    scene.drained(before + (all - before) / 4 * 3).await;
    let last = scene.cost_until(all).await;
    let took = drained.elapsed();
    println!(
        "{} were drained in {took:?}; pages a slice: {first} of the first quarter, {last} of the last",
        all - before
    );
    scene.delivered(&sent.accepted()).await;
    scene.balanced().await;
    let (tables_after, memory_after) = (scene.number(TABLES).await, scene.memory());
    println!("and {tables_after} bytes after; memory {memory:?} and {memory_after:?} KiB");
    assert!(tables_then.max(tables_after) <= tables + GROWN, "{tables}, {tables_then}, {tables_after}");
    assert!(first.max(last) <= COSTS, "it costs what is handed out: {first} and {last} pages a slice");
    // The whole backlog lies behind the frontiers in the first quarter and nothing in the last. With so few slices a factor of four is the
    // best that can be checked.
    assert!(first <= last * 4, "it costs the same however much waits: {first} and {last}");
    assert!(
        memory.iter().zip(&memory_after).all(|(before, after)| *after <= before + MEMORY),
        "{memory:?} {memory_after:?}"
    );
}
