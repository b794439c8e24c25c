//! What a relay that leads knows of the days of bodies that are over.
//!
//! Rule: it is of this relay's memory alone, and lost with it: then what was pruned is looked through once more.

use std::collections::BTreeMap;
use std::time::Instant;

/// What is known of the days that are over.
#[derive(Debug)]
pub(super) struct Over {
    /// When the next one may be dropped.
    pub(super) not_before: Instant,
    /// Days of which much still waits, and behind which record the next look at what was pruned of them begins; `None` after the last
    /// one. What is pruned of them later is deleted singly.
    pub(super) held: BTreeMap<i64, Option<i64>>,
}

impl Default for Over {
    fn default() -> Self {
        Self { not_before: Instant::now(), held: BTreeMap::new() }
    }
}

impl Over {
    /// Whether what is pruned of a day is left to go with it.
    pub(super) fn goes_whole(&self, day: i64, today: i64) -> bool {
        day < today && !self.held.contains_key(&day)
    }
}
