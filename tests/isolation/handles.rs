//! Open files: endless large bodies, over many connections or many streams of a few, leave the files that operators, the journal and
//! another project need.

use std::fs;

use tokio::time::Instant;

use super::second::{self, Times};
use crate::support::envelopes::{KEY, envelope, new_id};
use crate::support::eventually::eventually;
use crate::support::http2::Http2;
use crate::support::relay::{Plan, Relay, SOON, needs_a_file};
use crate::support::upstream::Upstream;
use crate::support::wire::{Wire, exchange, head, post};

const APP: &str = "0b0e5ca1ab1e0ddba11c0ffee0decade";
const SITE: &str = "0b0e5ca1ab1e0ddba11c0ffee0decadf";
/// The relay's limit of open files.
const FILES: usize = 256;
/// The announced length of an endless body, and the bytes that arrive.
const ANNOUNCED: usize = 9 << 20;
const COMES: usize = 1_100_000;

/// A relay with a low limit of open files, and a connection of the project that does not attack.
async fn scene(upstream: &Upstream) -> (Relay, Wire) {
    let section = |name: &str, id: u64, key: &str| {
        let dsn = upstream.dsn(&format!("0{id}"), id);
        format!(
            "[[projects]]\nname = \"{name}\"\nid = \"{id}\"\npublic_key = \"{key}\"\n[projects.upstreams]\na = \"{dsn}\"\n"
        )
    };
    let plan = Plan::new(&[("a", upstream.dsn("01", 1))]).journal("min_free_disk = \"0B\"");
    let plan = plan.server("max_inflight_bytes = \"128MiB\"");
    let mut relay = plan.more(&(section("app", 2, APP) + &section("site", 3, SITE))).prepare();
    relay.launch_after(&format!("ulimit -n {FILES}"));
    relay.await_ready().await;
    let wire = Wire::connect(&relay.address()).await;
    (relay, wire)
}

/// A path with one of the attacker's two keys in turn.
fn path(turn: usize) -> String {
    if turn.is_multiple_of(2) {
        format!("/api/1/envelope/?sentry_version=7&sentry_key={KEY}")
    } else {
        format!("/api/3/envelope/?sentry_version=7&sentry_key={SITE}")
    }
}

fn open_files(relay: &Relay) -> usize {
    fs::read_dir(format!("/proc/{}/fd", relay.pid())).expect("a running process").count()
}

/// Waits until `count` bodies go through files.
async fn bodies_in_files(relay: &Relay, count: usize) {
    eventually("the bodies are in files", 2 * SOON, async || {
        let bodies = fs::read_dir(relay.home().join("journal.db-bodies")).expect("the folder of bodies").count();
        if bodies >= count { Ok(()) } else { Err(format!("{bodies} bodies, {} files are open", open_files(relay))) }
    })
    .await;
}

/// Sends ten small and ten large bodies, each of which must be taken, and opens new connections to the admin listener meanwhile.
async fn served(relay: &Relay, wire: &mut Wire) -> Times {
    let mut times = Times::default();
    for _ in 0..10 {
        let answer = exchange(&relay.admin_address(), &head("GET", "/readyz", &[("connection", "close")])).await;
        assert_eq!(answer.status, 200);
        for size in [4 << 10, 2 << 20] {
            let body = envelope(&new_id(), "attachment", &"x".repeat(size));
            let began = Instant::now();
            wire.send(&post(&format!("/api/2/envelope/?sentry_key={APP}"), &[], body.as_bytes())).await;
            let answer = wire.answer().await;
            assert_eq!(answer.status, 200, "{answer:?} {}", relay.log());
            times.add(began.elapsed());
        }
        assert!(open_files(relay) < FILES * 3 / 4, "{} files are open", open_files(relay));
    }
    times
}

/// Fails unless everything of the other project was taken and no file was missing.
async fn ends_well(relay: Relay, upstream: &Upstream) {
    let log = relay.log();
    assert!(!log.contains("Too many open files") && !log.contains("could not be accepted"), "{log}");
    relay.finish().await;
    assert_eq!(upstream.taken_count(), 40);
}

#[tokio::test(flavor = "multi_thread")]
async fn endless_large_bodies_leave_files_for_operators_and_another_project() {
    if needs_a_file("it counts the files of bodies") {
        return;
    }
    let upstream = Upstream::start().await;
    let (relay, mut wire) = scene(&upstream).await;
    let calm = served(&relay, &mut wire).await;
    let begin = async |turn: usize| {
        let mut wire = Wire::connect(&relay.address()).await;
        wire.offer(&head("POST", &path(turn), &[("content-length", &ANNOUNCED.to_string())])).await;
        wire.offer(b"{}\n").await;
        wire.offer(&vec![b'x'; COMES - 3]).await;
        wire
    };
    // More connections than the relay accepts: the last ones wait.
    let mut wires: Vec<Wire> = vec![];
    for turn in 0..124 {
        match tokio::time::timeout(SOON / 10, begin(turn)).await {
            Ok(wire) => wires.push(wire),
            Err(_) => break,
        }
    }
    bodies_in_files(&relay, 90).await;
    let attacked = served(&relay, &mut wire).await;
    second::compare("bodies of two keys that never end", &calm, &attacked);
    drop(wires);
    ends_well(relay, &upstream).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn endless_http2_bodies_leave_files_for_operators_and_another_project() {
    if needs_a_file("it counts the files of bodies") {
        return;
    }
    let upstream = Upstream::start().await;
    let (relay, mut wire) = scene(&upstream).await;
    let calm = served(&relay, &mut wire).await;
    let mut connections = vec![];
    for turn in 0..6 {
        let mut connection = Http2::connect(&relay.address()).await;
        for _ in 0..50 {
            connection.begin(&path(turn), COMES).await;
        }
        connections.push(connection);
    }
    bodies_in_files(&relay, 200).await;
    let attacked = served(&relay, &mut wire).await;
    second::compare("HTTP/2 bodies of two keys that never end", &calm, &attacked);
    drop(connections);
    ends_well(relay, &upstream).await;
}
