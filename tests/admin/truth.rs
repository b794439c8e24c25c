//! What the status says of time in which the relay stood still.

use std::time::Duration;

use rustix::process::Signal;
use tokio::time::interval;

use super::support::eventually::eventually;
use super::support::relay::SOON;
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
