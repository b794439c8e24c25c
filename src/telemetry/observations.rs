//! Observations of upstreams between two rounds of the upkeep: attempts, lags, outages. The upkeep hands them to the journal every few
//! seconds.
//!
//! Rule: unlike the accounts, observations are not committed with the deliveries, so a crash loses those since the last round. All of it
//! is bounded, however long the journal cannot take it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::Timestamp;
use crate::policy::verdict::Verdict;

use super::lags::Lags;

/// The most changes of one upstream between two rounds.
const MOST_CHANGES: usize = 64;
/// The most hours of one upstream between two rounds.
const MOST_HOURS: usize = 48;

/// The performance of an upstream in some time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Performance {
    /// The number of requests, by the position of their verdict in [`Verdict::ALL`].
    pub attempts: [u64; Verdict::ALL.len()],
    /// The time from the acceptance of an envelope to the 2xx, for each request that got one.
    pub lags: Lags,
}

impl Performance {
    /// The number of requests that ended with this verdict.
    pub const fn attempts(&self, verdict: Verdict) -> u64 {
        self.attempts[verdict as usize]
    }

    /// Adds the counts of another performance.
    pub fn merge(&mut self, other: &Self) {
        self.attempts.iter_mut().zip(other.attempts).for_each(|(own, more)| *own += more);
        self.lags.merge(&other.lags);
    }
}

/// The beginning or end of an outage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The upstream has not answered since then, the time of the first failure that opened its circuit.
    Down {
        /// When.
        at: Timestamp,
        /// What went wrong, without secrets.
        cause: Box<str>,
    },
    /// The upstream answers again, or for the first time since the start.
    Up {
        /// When.
        at: Timestamp,
    },
}

/// The observations of one upstream since the last round.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// The performance by hour, counted from the epoch.
    pub hours: BTreeMap<u64, Performance>,
    /// The changes, in order.
    pub changes: Vec<Change>,
    /// Whether the upstream answered last; `None` before anything is known.
    up: Option<bool>,
}

impl Observed {
    /// Whether there is nothing to report.
    pub fn is_empty(&self) -> bool {
        self.hours.is_empty() && self.changes.is_empty()
    }

    /// The upstream answered, with whatever answer.
    fn answered(&mut self, now: Timestamp) {
        if self.up.replace(true) != Some(true) {
            self.change(Change::Up { at: now });
        }
    }

    fn change(&mut self, change: Change) {
        // The last place is kept for the end of an outage.
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

/// The observations of every upstream. Cheap to clone; clones share them.
#[derive(Clone, Debug, Default)]
pub struct Observations(Arc<Mutex<BTreeMap<Arc<str>, Observed>>>);

impl Observations {
    /// Reports that a request ended; `lag` is set if it was answered with 2xx.
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

    /// Reports that an upstream answered, and that the verdict is not known yet.
    pub fn answered(&self, upstream: &Arc<str>, now: Timestamp) {
        self.of(upstream, |observed| observed.answered(now));
    }

    /// Reports the verdict on earlier answers.
    pub fn counted(&self, upstream: &Arc<str>, now: Timestamp, verdict: Verdict, answers: u64) {
        if answers > 0 {
            self.of(upstream, |observed| observed.hour(now.hour()).attempts[verdict as usize] += answers);
        }
    }

    /// Reports that an upstream has not answered since `at` and that its circuit opened.
    pub fn down(&self, upstream: &Arc<str>, at: Timestamp, cause: &str) {
        self.of(upstream, |observed| {
            if observed.up.replace(false) != Some(false) {
                observed.change(Change::Down { at, cause: cause.into() });
            }
        });
    }

    /// Reports that an upstream is no longer used. That ends its outage, even one from before the start.
    pub fn removed(&self, upstream: &Arc<str>, at: Timestamp) {
        self.of(upstream, |observed| {
            if observed.up.replace(true) != Some(true) {
                observed.change(Change::Up { at });
            }
        });
    }

    /// Whether an outage began or ended since the last [`Observations::take`]: it is reported at once.
    pub fn is_urgent(&self) -> bool {
        self.lock().values().any(|observed| !observed.changes.is_empty())
    }

    /// Removes and returns the observations, by upstream.
    pub fn take(&self) -> Vec<(Arc<str>, Observed)> {
        let mut all = self.lock();
        let news = all.iter_mut().filter(|(_, observed)| !observed.is_empty());
        news.map(|(upstream, observed)| {
            let (hours, changes) = (std::mem::take(&mut observed.hours), std::mem::take(&mut observed.changes));
            (Arc::clone(upstream), Observed { hours, changes, up: observed.up })
        })
        .collect()
    }

    /// Puts back observations that the journal could not keep.
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
        // Nothing panics while holding the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: Timestamp = Timestamp::from_millis(7_200_000);

    #[test]
    fn observations_put_back_are_taken_again_with_later_ones() {
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
    fn observations_are_bounded_and_the_last_outage_has_its_end() {
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
