//! Counts refusals of our DSN, without those that pass by themselves. GlitchTip refuses a project to everybody for 30 seconds after
//! anybody's wrong key, which says nothing about our DSN.
//!
//! Rule: a refusal counts when it goes on for more than a minute.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Timestamp;

/// A minute, and the time until the project is tried again.
const PASSES: Duration = Duration::from_secs(75);

/// The refusals of each project.
#[derive(Clone, Debug, Default)]
pub struct Refusals(HashMap<Arc<str>, Row>);

/// Refusals in a row.
#[derive(Clone, Copy, Debug)]
struct Row {
    since: Timestamp,
    /// Refusals that are not counted yet.
    in_doubt: u64,
}

/// The outcome of refusals in doubt.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Known {
    /// How many were refusals.
    pub refusals: u64,
    /// How many passed by themselves.
    pub passing: u64,
}

impl Refusals {
    /// Reports that the upstream refused the project's DSN.
    pub fn refused(&mut self, project: &Arc<str>, now: Timestamp) -> Known {
        let row = self.0.entry(Arc::clone(project)).or_insert(Row { since: now, in_doubt: 0 });
        row.in_doubt += 1;
        if now.since(row.since) <= PASSES {
            return Known::default();
        }
        Known { refusals: std::mem::take(&mut row.in_doubt), passing: 0 }
    }

    /// Reports that the upstream took something of the project.
    pub fn taken(&mut self, project: &str, now: Timestamp) -> Known {
        if self.0.is_empty() {
            return Known::default();
        }
        match self.0.remove(project) {
            None => Known::default(),
            Some(row) if now.since(row.since) <= PASSES => Known { refusals: 0, passing: row.in_doubt },
            Some(row) => Known { refusals: row.in_doubt, passing: 0 },
        }
    }

    /// The number of refusals in doubt.
    pub fn in_doubt(&self) -> u64 {
        self.0.values().map(|row| row.in_doubt).sum()
    }

    /// Moves all times back, because the clock was set back by `by`.
    pub fn set_back(&mut self, by: Duration) {
        self.0.values_mut().for_each(|row| row.since = row.since - by);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(1_000_000 + seconds * 1000)
    }

    #[test]
    fn what_ends_within_a_minute_was_no_refusal() {
        let (mut refusals, shop) = (Refusals::default(), Arc::from("shop"));
        for second in [0, 0, 40] {
            assert_eq!(refusals.refused(&shop, at(second)), Known::default());
        }
        assert_eq!(refusals.in_doubt(), 3);
        assert_eq!(refusals.taken("shop", at(60)), Known { refusals: 0, passing: 3 });
        assert_eq!((refusals.in_doubt(), refusals.taken("shop", at(61))), (0, Known::default()));
    }

    #[test]
    fn what_goes_on_counts_from_its_beginning() {
        let (mut refusals, shop) = (Refusals::default(), Arc::from("shop"));
        refusals.refused(&shop, at(0));
        assert_eq!(refusals.refused(&shop, at(100)), Known { refusals: 2, passing: 0 });
        assert_eq!(refusals.refused(&shop, at(101)), Known { refusals: 1, passing: 0 });
        assert_eq!(refusals.taken("shop", at(102)), Known::default());
        refusals.refused(&shop, at(200));
        assert_eq!(refusals.taken("shop", at(400)), Known { refusals: 1, passing: 0 }, "nobody knows when it ended");
        refusals.refused(&shop, at(500));
        refusals.set_back(Duration::from_secs(300));
        assert_eq!(refusals.taken("shop", at(230)), Known { refusals: 0, passing: 1 });
    }
}
