//! The memory for bodies: one project fills its share with bodies that come slowly, and another is served meanwhile.

use std::time::Duration;

use tokio::time::interval;

use super::second::{self, Second};
use crate::support::envelopes::KEY;
use crate::support::relay::{Plan, SOON};
use crate::support::upstream::Upstream;
use crate::support::wire::{Wire, head};

/// Bodies that are announced with this length and never come to their end.
const SMALL: usize = 60_000;
const LARGE: usize = 700_000;
const CRUMB: usize = 2_000;

/// Bodies under way: as many as it takes to fill the room, and more.
async fn slowly(address: &str, path: &str, count: usize, length: usize) -> Vec<Wire> {
    let announced = head("POST", path, &[("content-length", &(length + 1000).to_string())]);
    let begin = async |()| {
        let mut wire = Wire::connect(address).await;
        wire.offer(&announced).await;
        wire.offer(&vec![b'x'; length]).await;
        wire
    };
    futures_util::future::join_all((0..count).map(|_| begin(()))).await
}

/// Brings a byte of each now and then, so that none is given up.
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
async fn one_key_fills_the_memory_for_bodies_and_another_project_does_not_notice() {
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
        // What room is left between them.
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
