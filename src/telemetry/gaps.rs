//! Times in which the relay did not run, or stood still: nobody can count what services sent then.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;

/// A time in which the relay did not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GapStatus {
    /// From the last sign of life on.
    pub from: Timestamp,
    /// To the next start, or until it went on.
    pub to: Timestamp,
}

/// How long they are together.
pub fn length(gaps: &[GapStatus]) -> Duration {
    gaps.iter().map(|gap| gap.to.since(gap.from)).sum()
}
