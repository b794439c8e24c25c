//! Waiting for something that another process does: check repeatedly, and fail loudly at a deadline.
//!
//! Rule: a wait names what it waits for and has a deadline. It knows nothing of what it checks.

use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};

/// Calls `look` about ten times a second until it returns `Ok`, and returns the value.
///
/// # Panics
/// When `within` has passed: with `what` and the last error of `look`.
pub(crate) async fn eventually<T>(what: &str, within: Duration, mut look: impl AsyncFnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + within;
    let mut turns = interval(Duration::from_millis(100));
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        turns.tick().await;
        let reason = match look().await {
            Ok(found) => return found,
            Err(reason) => reason,
        };
        assert!(Instant::now() < deadline, "not within {within:?}: {what}: {reason}");
    }
}
