//! How long to wait before the next try.

use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBuilder};

/// An exponential backoff from `first` to `most`, with jitter so that many waiters do not return together.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    first: Duration,
    most: Duration,
}

impl Backoff {
    /// For a record that failed while its upstream works.
    pub const RECORD: Self = Self { first: Duration::from_secs(1), most: Duration::from_secs(300) };
    /// For an upstream that is down, until the next probe.
    pub const CIRCUIT: Self = Self { first: Duration::from_millis(500), most: Duration::from_secs(30) };
    /// For an upstream that refuses our DSN, until an operator mends it.
    pub const MISCONFIGURED: Self = Self { first: Duration::from_secs(30), most: Duration::from_secs(300) };

    /// The wait before the try after `failures` failures in a row (at least one).
    pub fn after(self, failures: u32) -> Duration {
        self.step(ExponentialBuilder::default().with_jitter(), failures)
    }

    /// The shortest wait that [`Backoff::after`] may return.
    pub fn at_least(self, failures: u32) -> Duration {
        self.step(ExponentialBuilder::default(), failures)
    }

    fn step(self, curve: ExponentialBuilder, failures: u32) -> Duration {
        let curve = curve.with_min_delay(self.first).with_max_delay(self.most).without_max_times().build();
        // The wait has reached `most` long before the 32nd step.
        let step = usize::try_from(failures.clamp(1, 32)).unwrap_or(1) - 1;
        curve.into_iter().nth(step).unwrap_or(self.most).min(self.most * 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_and_end_at_the_most() {
        for backoff in [Backoff::RECORD, Backoff::CIRCUIT, Backoff::MISCONFIGURED] {
            assert!(backoff.after(1) >= backoff.first && backoff.after(1) <= backoff.first * 2);
            assert!(backoff.after(3) >= backoff.first * 4);
            assert_eq!((backoff.at_least(1), backoff.at_least(3)), (backoff.first, backoff.first * 4));
            for failures in [0, 20, u32::MAX] {
                assert!(backoff.after(failures) <= backoff.most * 2, "{failures}");
            }
        }
    }
}
