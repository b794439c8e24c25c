//! Times in which the relay did not run or stood still. Nobody can count what services sent then.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;

/// A time in which the relay did not run or stood still.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GapStatus {
    /// The last sign of life.
    pub from: Timestamp,
    /// The next start, or when the relay went on.
    pub to: Timestamp,
}

/// The sum of their lengths.
pub fn length(gaps: &[GapStatus]) -> Duration {
    gaps.iter().map(|gap| gap.to.since(gap.from)).sum()
}
