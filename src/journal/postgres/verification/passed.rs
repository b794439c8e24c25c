//! The positions that a target had reached in each incarnation, at times in the past. A cursor stands for such positions, up to which all
//! records were tried.
//!
//! Rule: a forgotten cursor stands for the one before it. Its positions may then be too low, and never too high.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::{Duration, Instant};

use crate::journal::{Cursor, TargetId};

/// The positions that a target had reached, by incarnation.
pub(super) type Reached = BTreeMap<i32, i64>;

/// The most cursors that are remembered of a target.
const MOST: usize = 512;
/// Positions that come sooner after the last ones get the same cursor.
const APART: Duration = Duration::from_millis(200);

/// The cursors of all targets.
#[derive(Debug, Default)]
pub(in crate::journal::postgres) struct Passed(Mutex<HashMap<TargetId, Known>>);

#[derive(Debug, Default)]
struct Known {
    last: u64,
    at: Option<Instant>,
    all: BTreeMap<u64, Arc<Reached>>,
}

impl Passed {
    /// Remembers the positions reached now; returns their cursor.
    pub(super) fn remember(&self, target: TargetId, reached: Reached) -> Cursor {
        let (mut known, now) = (self.0.lock().unwrap_or_else(PoisonError::into_inner), Instant::now());
        let known = known.entry(target).or_default();
        if known.at.is_none_or(|at| now - at >= APART) {
            known.last += 1;
            known.at = Some(now);
            known.all.insert(known.last, Arc::new(reached));
        }
        if known.all.len() > MOST {
            // Every second one of the older half goes, so the older they are, the fewer are kept.
            let older: Vec<u64> = known.all.keys().copied().take(MOST / 2).skip(1).step_by(2).collect();
            older.iter().for_each(|number| drop(known.all.remove(number)));
        }
        Cursor::from_number(known.last)
    }

    /// The positions that a cursor stands for.
    pub(super) fn of(&self, target: TargetId, cursor: Cursor) -> Arc<Reached> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = known.get(&target).and_then(|known| known.all.range(..=cursor.number()).next_back());
        found.map(|(_, reached)| Arc::clone(reached)).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_forgotten_cursor_stands_for_the_one_before_it() {
        let (passed, target) = (Passed::default(), TargetId::new(0));
        assert!(passed.of(target, Cursor::START).is_empty());
        let mut cursors = vec![];
        for n in 0..2000 {
            tokio::time::advance(APART).await;
            cursors.push(passed.remember(target, Reached::from([(1, n)])));
        }
        for (n, cursor) in cursors.iter().enumerate() {
            assert!(passed.of(target, *cursor)[&1] <= n as i64);
        }
        assert_eq!(passed.of(target, cursors[1999])[&1], 1999);
        assert_eq!(passed.of(target, cursors[0])[&1], 0);
        assert!(passed.of(target, Cursor::START).is_empty());
        assert_eq!(passed.remember(target, Reached::from([(1, 5000)])), cursors[1999], "it came too soon");
    }
}
