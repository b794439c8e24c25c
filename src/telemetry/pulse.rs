//! Detects when the relay stood still. A process that is stopped, or whose machine sleeps or swaps, answers nobody, and notices only
//! afterwards that it did not run.
//!
//! Rule: beats are measured by a clock that nobody can set, and do not wait for the journal. A late beat ends a stretch of the relay's
//! running time and begins the next, as a restart does.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::Timestamp;

use super::gaps::GapStatus;

/// The longest time without a beat that is no gap. Beats come every second, also under load.
const LATE: Duration = Duration::from_secs(30);
/// The most gaps that wait while the journal cannot be written.
const MOST: usize = 64;

/// The beats of this process. Cheap to clone; clones share them.
#[derive(Clone, Debug)]
pub struct Pulse(Arc<Mutex<Beats>>);

#[derive(Debug)]
struct Beats {
    /// When the present stretch began.
    since: Timestamp,
    /// The last beat, by the clock that nobody can set.
    last: Duration,
    /// The gaps that the journal does not have yet, oldest first.
    untold: Vec<GapStatus>,
}

impl Pulse {
    /// The pulse of a process that starts now. `clock` is the time by the clock that nobody can set.
    pub fn new(now: Timestamp, clock: Duration) -> Self {
        Self(Arc::new(Mutex::new(Beats { since: now, last: clock, untold: vec![] })))
    }

    /// Records a beat. Returns the length of the gap before it, if there was one.
    pub fn beat(&self, now: Timestamp, clock: Duration) -> Option<Duration> {
        let mut beats = self.lock();
        let length = clock.saturating_sub(std::mem::replace(&mut beats.last, clock));
        if length <= LATE {
            return None;
        }
        beats.since = now;
        if beats.untold.len() < MOST {
            beats.untold.push(GapStatus { from: now - length, to: now });
        }
        Some(length)
    }

    /// When the present stretch began.
    pub fn since(&self) -> Timestamp {
        self.lock().since
    }

    /// The first gap that the journal does not have.
    pub fn untold(&self) -> Option<GapStatus> {
        self.lock().untold.first().copied()
    }

    /// Records that the journal has that gap.
    pub fn note_told(&self) {
        let mut beats = self.lock();
        if !beats.untold.is_empty() {
            beats.untold.remove(0);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Beats> {
        // Nothing panics while holding the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_beat_is_a_gap_and_a_clock_that_was_set_is_none() {
        let (at, second) = (|seconds: u64| Timestamp::from_millis(1_000_000 + seconds * 1000), Duration::from_secs);
        let pulse = Pulse::new(at(0), second(5));
        assert_eq!(pulse.beat(at(29), second(35)), None, "it is not late yet");
        assert_eq!(pulse.beat(at(5000), second(36)), None, "the clock was set");
        assert_eq!((pulse.since(), pulse.untold()), (at(0), None));
        assert_eq!(pulse.beat(at(5140), second(176)), Some(second(140)));
        assert_eq!(pulse.beat(at(5141), second(177)), None);
        assert_eq!(pulse.since(), at(5140));
        assert_eq!(pulse.untold(), Some(GapStatus { from: at(5000), to: at(5140) }));
        pulse.note_told();
        assert_eq!(pulse.untold(), None);
    }
}
