//! Whether the relay stands still. A process that is stopped, or whose machine sleeps or swaps, answers nobody and sees only afterwards
//! that it did not run.
//!
//! Rule: beats are measured by a clock that nobody sets, and do not wait for the journal. A beat that is late ends a stretch of the
//! relay's time and begins the next, as a restart does.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::Timestamp;

use super::gaps::GapStatus;

/// How long there may be no beat. They come every second, also under load.
const LATE: Duration = Duration::from_secs(30);
/// The most gaps that wait for a journal that cannot be written.
const MOST: usize = 64;

/// The beats of this process. Clones share them.
#[derive(Clone, Debug)]
pub struct Pulse(Arc<Mutex<Beats>>);

#[derive(Debug)]
struct Beats {
    /// When the stretch began that goes on.
    since: Timestamp,
    /// The last beat, by the clock that nobody sets.
    last: Duration,
    /// When it stood still, as far as the journal was not told. Oldest first.
    untold: Vec<GapStatus>,
}

impl Pulse {
    /// Of a process that starts now; `clock` is the time by a clock that nobody sets.
    pub fn new(now: Timestamp, clock: Duration) -> Self {
        Self(Arc::new(Mutex::new(Beats { since: now, last: clock, untold: vec![] })))
    }

    /// The relay runs. Returns how long it stood still, if it did.
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

    /// When the stretch began that goes on.
    pub fn since(&self) -> Timestamp {
        self.lock().since
    }

    /// The first gap of which the journal was not told.
    pub fn untold(&self) -> Option<GapStatus> {
        self.lock().untold.first().copied()
    }

    /// The journal was told of that one.
    pub fn note_told(&self) {
        let mut beats = self.lock();
        if !beats.untold.is_empty() {
            beats.untold.remove(0);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Beats> {
        // Nothing panics while holding it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_beat_that_is_late_is_a_gap_and_a_clock_that_was_set_is_none() {
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
