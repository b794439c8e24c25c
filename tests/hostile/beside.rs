//! Good envelopes during an attack: they must be answered soon.

use std::cell::Cell;
use std::future::Future;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::support::envelopes::{self, new_id};
use crate::support::relay::Relay;

/// The maximum time to the answer of a good envelope during an attack, on two processors with an unoptimised build.
const MOST_WAIT: Duration = Duration::from_secs(3);

/// Runs an attack to its end and sends an envelope every 50 ms meanwhile; each must be taken in time. Returns the attack's result and the
/// number of envelopes.
pub(crate) async fn beside<T>(relay: &Relay, attack: impl Future<Output = T>) -> (T, usize) {
    let is_over = Cell::new(false);
    let attack = async {
        let outcome = attack.await;
        is_over.set(true);
        outcome
    };
    let good = async {
        let (mut sent, mut slowest) = (0, Duration::ZERO);
        let mut turns = interval(Duration::from_millis(50));
        turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !is_over.get() {
            turns.tick().await;
            let began = Instant::now();
            let answer = relay.send(envelopes::error(&new_id())).await;
            assert_eq!(answer.status(), 200, "{:?}", answer.text().await);
            slowest = slowest.max(began.elapsed());
            sent += 1;
        }
        (sent, slowest)
    };
    let (outcome, (sent, slowest)) = tokio::join!(attack, good);
    eprintln!("  {sent} envelopes beside it, the slowest answer took {slowest:?}");
    assert!(slowest < MOST_WAIT, "an envelope waited {slowest:?} for its answer");
    (outcome, sent)
}
