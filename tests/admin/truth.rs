//! What the status says of time in which the relay stood still, and of what waits after a spell of refusals.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::Signal;
use tokio::time::interval;
use tokio_util::sync::CancellationToken;

use super::support::envelopes;
use super::support::eventually::eventually;
use super::support::relay::SOON;
use super::support::upstream::Reply;
use super::two_upstreams;

/// Longer than a beat may be late.
const STOPPED: Duration = Duration::from_secs(33);

#[tokio::test]
async fn a_relay_that_stood_still_names_the_gap_also_after_a_restart() {
    let (_old, _new, plan) = two_upstreams().await;
    let mut relay = plan.start().await;
    relay.signal(Signal::STOP);
    let mut turns = interval(STOPPED);
    turns.tick().await;
    turns.tick().await;
    relay.signal(Signal::CONT);
    let status = eventually("the gap is told", SOON, async || {
        let status = relay.status().await;
        let is_told = status["gaps"].as_array().is_some_and(|gaps| gaps.len() == 1);
        if is_told { Ok(status) } else { Err(status.to_string()) }
    })
    .await;
    let sentence = status["health"]["sentence"].as_str().expect("a sentence");
    assert!(sentence.contains("the relay did not run for ") && !sentence.contains("nothing was lost"), "{sentence}");
    assert!(relay.log().contains("the relay stood still"), "{}", relay.log());
    relay.stop().await;
    relay = relay.started().await;
    let again = relay.status().await["gaps"].clone();
    assert_eq!(again[0]["to"], status["gaps"][0]["to"], "{again}");
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_refused_dsn_held_up_is_sent_as_soon_as_the_dsn_is_taken_again() {
    let (old, _new, plan) = two_upstreams().await;
    let relay = plan.start().await;
    let (refuses, word) = (Arc::new(AtomicBool::new(true)), CancellationToken::new());
    let (spell, held) = (Arc::clone(&refuses), word.clone());
    old.when(move |seen| match seen.body.windows(4).any(|word| word == b"slow") {
        true => Some(Reply::Held(held.clone(), Box::new(Reply::Ok))),
        false => spell.load(Ordering::Relaxed).then(|| Reply::status(403)),
    });
    let slow = envelopes::envelope(&envelopes::new_id(), "event", "{\"message\":\"slow\"}");
    assert_eq!(relay.send(slow).await.status(), 200);
    eventually(
        "one is under way",
        SOON,
        async || if old.seen().len() == 1 { Ok(()) } else { Err("not yet".to_owned()) },
    )
    .await;
    relay.send_errors(6).await;
    eventually("the project is on hold", SOON, async || {
        let status = relay.status().await;
        let upstream = relay.upstream("old").await;
        let is_held = upstream["state"] == "misconfigured" && upstream["backlog"]["envelopes"] == 7;
        if is_held && status["health"]["level"] == "degraded" { Ok(()) } else { Err(status.to_string()) }
    })
    .await;
    refuses.store(false, Ordering::Relaxed);
    word.cancel();
    // A hold lasts for half a minute at least.
    relay.balanced(2 * SOON).await;
    assert_eq!(old.taken_count(), 7);
    relay.finish().await;
}
