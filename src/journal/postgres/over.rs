//! What the leader knows of past days of bodies.
//!
//! Rule: this knowledge is only in the leader's memory. When it is lost, the bodies of pruned records are looked for once more.

use std::collections::BTreeMap;
use std::time::Instant;

/// What is known of past days.
#[derive(Debug)]
pub(super) struct Over {
    /// When the next day may be dropped.
    pub(super) not_before: Instant,
    /// Days with many bodies left, and the record behind which the next look for bodies of pruned records begins; `None` after the last
    /// one. Bodies of records that are pruned later are deleted singly.
    pub(super) held: BTreeMap<i64, Option<i64>>,
}

impl Default for Over {
    fn default() -> Self {
        Self { not_before: Instant::now(), held: BTreeMap::new() }
    }
}

impl Over {
    /// Returns whether the body of a pruned record is left to go with its day.
    pub(super) fn goes_whole(&self, day: i64, today: i64) -> bool {
        day < today && !self.held.contains_key(&day)
    }
}
