//! What is observed of upstreams and intake between two rounds of the upkeep: attempts, lags, outages, repeats, refusals. The
//! upkeep hands it to the journal every few seconds.
//!
//! Rule: unlike the accounts this is not committed with what it tells of, so a crash loses what was observed since the last
//! round. Everything is bounded, however long the journal cannot take it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::Timestamp;
use crate::policy::verdict::Verdict;

use super::lags::Lags;

/// The most beginnings and ends of outages that wait for a look.
const MOST_CHANGES: usize = 64;
/// The most hours that wait for a look.
const MOST_HOURS: usize = 48;

/// What an upstream did in some time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Performance {
    /// Requests made, by the position of their verdict in [`Verdict::ALL`].
    pub attempts: [u64; Verdict::ALL.len()],
    /// From the acceptance of an envelope to the 2xx, for each request that got one.
    pub lags: Lags,
}

impl Performance {
    /// How many requests ended with that verdict.
    pub const fn attempts(&self, verdict: Verdict) -> u64 {
        self.attempts[verdict as usize]
    }

    /// Adds the other to it.
    pub fn merge(&mut self, other: &Self) {
        self.attempts.iter_mut().zip(other.attempts).for_each(|(own, more)| *own += more);
        self.lags.merge(&other.lags);
    }
}

/// A change in whether an upstream answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It does not since then: the first of the failures that opened its circuit.
    Down {
        /// When.
        at: Timestamp,
        /// What went wrong. Without secrets.
        cause: Box<str>,
    },
    /// It does again, or for the first time since the start.
    Up {
        /// When.
        at: Timestamp,
    },
}

/// What was observed of one upstream since the last look.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// By the hour, counted from the epoch.
    pub hours: BTreeMap<u64, Performance>,
    /// In order.
    pub changes: Vec<Change>,
    /// The last that is known: `None` before anything was heard of it.
    up: Option<bool>,
}

impl Observed {
    /// Whether there is nothing to tell.
    pub fn is_empty(&self) -> bool {
        self.hours.is_empty() && self.changes.is_empty()
    }

    /// It answers, whatever the answer.
    fn answered(&mut self, now: Timestamp) {
        if self.up.replace(true) != Some(true) {
            self.change(Change::Up { at: now });
        }
    }

    fn change(&mut self, change: Change) {
        // An end always has room behind its beginning.
        let room = MOST_CHANGES - usize::from(matches!(change, Change::Down { .. }));
        if self.changes.len() < room {
            self.changes.push(change);
        }
    }

    fn hour(&mut self, hour: u64) -> &mut Performance {
        let hour = if self.hours.len() < MOST_HOURS { hour } else { *self.hours.keys().next_back().unwrap_or(&hour) };
        self.hours.entry(hour).or_default()
    }
}

/// What was observed of every upstream. Cheap to clone; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Observations(Arc<Mutex<BTreeMap<Arc<str>, Observed>>>);

impl Observations {
    /// A request came to its end; `lag` when it was answered with 2xx.
    pub fn attempted(&self, upstream: &Arc<str>, now: Timestamp, verdict: Verdict, lag: Option<Duration>) {
        self.of(upstream, |observed| {
            let performance = observed.hour(now.hour());
            performance.attempts[verdict as usize] += 1;
            if let Some(lag) = lag {
                performance.lags.record(lag);
            }
            if verdict != Verdict::Failed {
                observed.answered(now);
            }
        });
    }

    /// It answered, and how that counts is not known yet.
    pub fn answered(&self, upstream: &Arc<str>, now: Timestamp) {
        self.of(upstream, |observed| observed.answered(now));
    }

    /// How so many of its answers count has become known.
    pub fn counted(&self, upstream: &Arc<str>, now: Timestamp, verdict: Verdict, answers: u64) {
        if answers > 0 {
            self.of(upstream, |observed| observed.hour(now.hour()).attempts[verdict as usize] += answers);
        }
    }

    /// An upstream has not answered since `at`, and its circuit opened.
    pub fn down(&self, upstream: &Arc<str>, at: Timestamp, cause: &str) {
        self.of(upstream, |observed| {
            if observed.up.replace(false) != Some(false) {
                observed.change(Change::Down { at, cause: cause.into() });
            }
        });
    }

    /// An upstream is used no longer: an outage of it ends with that, also one of the time before the start.
    pub fn removed(&self, upstream: &Arc<str>, at: Timestamp) {
        self.of(upstream, |observed| {
            if observed.up.replace(true) != Some(true) {
                observed.change(Change::Up { at });
            }
        });
    }

    /// Whether an outage began or ended since the last time: that is told at once.
    pub fn is_urgent(&self) -> bool {
        self.lock().values().any(|observed| !observed.changes.is_empty())
    }

    /// What was observed since the last time, by upstream.
    pub fn take(&self) -> Vec<(Arc<str>, Observed)> {
        let mut all = self.lock();
        let news = all.iter_mut().filter(|(_, observed)| !observed.is_empty());
        news.map(|(upstream, observed)| {
            let (hours, changes) = (std::mem::take(&mut observed.hours), std::mem::take(&mut observed.changes));
            (Arc::clone(upstream), Observed { hours, changes, up: observed.up })
        })
        .collect()
    }

    /// Takes back what could not be kept.
    pub fn give_back(&self, all: Vec<(Arc<str>, Observed)>) {
        for (upstream, mut before) in all {
            self.of(&upstream, |observed| {
                for (hour, performance) in &before.hours {
                    observed.hour(*hour).merge(performance);
                }
                let since = std::mem::take(&mut observed.changes);
                observed.changes = std::mem::take(&mut before.changes);
                since.into_iter().for_each(|change| observed.change(change));
            });
        }
    }

    fn of(&self, upstream: &Arc<str>, act: impl FnOnce(&mut Observed)) {
        let mut all = self.lock();
        match all.get_mut(upstream) {
            Some(observed) => act(observed),
            None => act(all.entry(Arc::clone(upstream)).or_default()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, Observed>> {
        // Nothing panics while holding it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: Timestamp = Timestamp::from_millis(7_200_000);

    #[test]
    fn what_could_not_be_kept_is_told_again_with_what_came_since() {
        let (all, a) = (Observations::default(), Arc::from("a"));
        all.attempted(&a, T, Verdict::Delivered, Some(Duration::from_secs(1)));
        all.down(&a, T, "refused");
        let taken = all.take();
        assert!(all.take().is_empty());
        all.attempted(&a, T, Verdict::Delivered, Some(Duration::from_secs(2)));
        all.give_back(taken);
        let (_, observed) = all.take().remove(0);
        assert_eq!(observed.hours[&2].attempts(Verdict::Delivered), 2);
        assert_eq!(observed.hours[&2].lags.count(), 2);
        let down = Change::Down { at: T, cause: "refused".into() };
        assert_eq!(observed.changes, [Change::Up { at: T }, down, Change::Up { at: T }]);
    }

    #[test]
    fn what_waits_is_bounded_and_an_outage_that_is_told_has_its_end() {
        let (all, a) = (Observations::default(), Arc::from("a"));
        for hour in 0..1000_u64 {
            let at = Timestamp::from_millis(hour * 3_600_000);
            all.down(&a, at, "refused");
            all.attempted(&a, at, Verdict::Delivered, None);
        }
        let (_, observed) = all.take().remove(0);
        assert_eq!((observed.hours.len(), observed.changes.len()), (MOST_HOURS, MOST_CHANGES));
        assert!(matches!(observed.changes.last(), Some(Change::Up { .. })));
        assert_eq!(observed.hours.values().map(|hour| hour.attempts(Verdict::Delivered)).sum::<u64>(), 1000);
    }
}
