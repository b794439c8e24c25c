//! The memory for bodies: one project fills its share with slow bodies, and another is served meanwhile.

use std::time::Duration;

use tokio::time::interval;

use super::second::{self, Second};
use crate::support::envelopes::{self, KEY, new_id};
use crate::support::http2::Http2;
use crate::support::memory::Memory;
use crate::support::relay::{Plan, SOON};
use crate::support::upstream::Upstream;
use crate::support::wire::{Wire, head};

/// The bytes that arrive of a body that never ends.
const SMALL: usize = 60_000;
const LARGE: usize = 700_000;
const CRUMB: usize = 2_000;

/// Begins `count` bodies and sends `length` bytes of each.
async fn slowly(address: &str, path: &str, count: usize, length: usize) -> Vec<Wire> {
    let announced = head("POST", path, &[("content-length", &(length + 1000).to_string())]);
    let begin = async |()| {
        let mut wire = Wire::connect(address).await;
        wire.offer(&announced).await;
        wire.offer(b"{}\n").await;
        wire.offer(&vec![b'x'; length - 3]).await;
        wire
    };
    futures_util::future::join_all((0..count).map(|_| begin(()))).await
}

/// Sends a byte of each body now and then, so that none times out.
async fn go_on(wires: &mut [Wire]) {
    let mut turns = interval(Duration::from_millis(200));
    loop {
        turns.tick().await;
        for wire in wires.iter_mut() {
            wire.offer(b"x").await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_key_that_fills_the_memory_for_bodies_leaves_another_served() {
    let upstream = Upstream::start().await;
    let plan = Plan::new(&[("tracker", upstream.dsn("cafe", 7))]).server("max_inflight_bytes = \"8MiB\"");
    let plan = plan.server("tunnel = \"/tunnel\"");
    let relay = plan.more(&second::project(&[("tracker", upstream.dsn("beef", 8))])).start().await;
    let second = Second::of(&relay);
    let calm = second.events(100).await;
    let keyed = format!("/api/1/envelope/?sentry_key={KEY}");
    for (what, path, count, length) in [
        ("small bodies of one key", &*keyed, 300, SMALL),
        ("large bodies of one key", &keyed, 40, LARGE),
        ("small bodies of one client without a key", "/tunnel", 300, SMALL),
    ] {
        let mut wires = slowly(&relay.address(), path, count, length).await;
        // Crumbs fill the gaps that larger bodies leave.
        wires.extend(slowly(&relay.address(), path, 100, CRUMB).await);
        let attacked = tokio::select! {
            attacked = second.events(100) => attacked,
            () = go_on(&mut wires) => unreachable!("it goes on"),
        };
        second::compare(what, &calm, &attacked);
    }
    relay.balanced(SOON).await;
    relay.finish().await;
    assert_eq!(upstream.taken_count(), 400);
}

/// The limit of memory for all bodies, and the number of connections that would send nine times as much.
const ROOM: u64 = 8 << 20;
const CONNECTIONS: usize = 300;
/// The memory of 300 HTTP/2 connections without bodies, and what the allocator keeps, in an unoptimised build.
const BESIDE: u64 = 24 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn http2_bodies_count_as_memory_and_leave_another_client_served() {
    let upstream = Upstream::start().await;
    let plan = Plan::new(&[("tracker", upstream.dsn("cafe", 7))]).server("max_inflight_bytes = \"8MiB\"");
    let relay = plan.more(&second::project(&[("tracker", upstream.dsn("beef", 8))])).start().await;
    let (second, memory) = (Second::of(&relay), Memory::of(relay.pid()));
    let calm = second.events(100).await;
    let before = memory.resident() << 10;
    let (address, path) = (relay.address(), format!("/api/1/envelope/?sentry_key={KEY}"));
    let attack = async {
        let mut connections = vec![];
        for _ in 0..CONNECTIONS {
            let mut connection = Http2::connect_from("127.0.0.2", &address).await;
            for _ in 0..4 {
                connection.begin(&path, SMALL).await;
            }
            connections.push(connection);
        }
        connections
    };
    let (connections, mut attacked) = tokio::join!(attack, second.events(100));
    let mut most = memory.resident() << 10;
    let mut other = Http2::connect_from("127.0.0.3", &address).await;
    let other_path = format!("/api/2/envelope/?sentry_key={}", second::KEY);
    for _ in 0..20 {
        assert_eq!(other.post(&other_path, envelopes::error(&new_id())).await, 200, "{}", relay.log());
        attacked = second.events(10).await;
        most = most.max(memory.resident() << 10);
    }
    second::compare("HTTP/2 connections full of bodies that do not end", &calm, &attacked);
    eprintln!("{CONNECTIONS} connections of HTTP/2: {} KiB more", (most - before) >> 10);
    assert!(most - before < ROOM + BESIDE, "{} bytes more", most - before);
    drop((connections, other));
    relay.balanced(SOON).await;
    relay.finish().await;
    assert_eq!(upstream.taken_count(), 420);
}
