//! Good envelopes beside an attack: they must be answered, and soon.

use std::future::Future;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::support::envelopes::{self, new_id};
use crate::support::relay::Relay;

/// The longest that a good envelope may wait for its answer while the relay is under attack; two processors, an unoptimised build.
const MOST_WAIT: Duration = Duration::from_secs(3);

/// Runs an attack to its end and sends an envelope every 50 ms meanwhile, each of which must be taken in time. Returns what the
/// attack returned, and how many envelopes were sent.
pub(crate) async fn beside<T>(relay: &Relay, attack: impl Future<Output = T>) -> (T, usize) {
    let mut attack = std::pin::pin!(attack);
    let (mut sent, mut slowest) = (0, Duration::ZERO);
    let mut turns = interval(Duration::from_millis(50));
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            outcome = &mut attack => {
                eprintln!("  {sent} envelopes beside it, the slowest answer took {slowest:?}");
                assert!(slowest < MOST_WAIT, "an envelope waited {slowest:?} for its answer");
                return (outcome, sent);
            }
            _ = turns.tick() => {}
        }
        let began = Instant::now();
        let answer = relay.send(envelopes::error(&new_id())).await;
        assert_eq!(answer.status(), 200, "{:?}", answer.text().await);
        slowest = slowest.max(began.elapsed());
        sent += 1;
    }
}
