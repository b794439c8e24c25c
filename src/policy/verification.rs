//! Verification: the section `[verify]` of the configuration, when an event is looked up at an upstream that took it, and when one that
//! is not found counts as missing.
//!
//! Rules: one lookup makes no event missing. An event that turns up late counts as stored.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::units::{Period, Rate};

/// The longest time between two lookups of a missing event.
const LONGEST: Duration = Duration::from_secs(3600);
/// The longest time between the first lookup and the second.
const SECOND_LOOK: Duration = Duration::from_secs(30);
/// How long an event has the upstream to itself after its second or later repair: a tracker that stores batches (GlitchTip: of 2 s)
/// loses the other events of a batch together with one that it cannot store.
pub const ALONE: Duration = Duration::from_secs(4);
/// The number of samples of an upstream's progress within `settle`.
const SAMPLES: u32 = 32;

/// The section `[verify]` of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The time from delivery to the first lookup.
    pub settle: Period,
    /// The rate limit for requests to each tracker's API.
    #[serde(alias = "rate")]
    pub requests: Rate,
    /// Whether missing events are sent again.
    pub repair: Repairs,
    /// How often an event is sent again before it becomes a dead letter.
    pub max_repairs: u32,
    /// The most stored events of each tracker that are compared with what was sent, in 24 hours; 0 for none.
    #[serde(alias = "content")]
    pub compare: u32,
}

/// Whether events that a tracker took and does not store are sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Repairs {
    /// Only an operator sends them again.
    Off,
    /// They are sent again automatically.
    Auto,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            settle: Period::secs(60),
            requests: "2/s".parse().expect("two a second is a rate"),
            repair: Repairs::Off,
            max_repairs: 2,
            compare: 50,
        }
    }
}

impl Settings {
    /// The time between two requests to an API.
    pub fn pace(&self) -> Duration {
        self.requests.per() / self.requests.amount().get()
    }

    /// The decision about an event that was not found, after `looks` lookups without success and `repairs`.
    pub fn not_found(&self, looks: u32, repairs: u32, now: Timestamp) -> NotFound {
        let first = self.settle.get().min(SECOND_LOOK);
        match looks {
            0 => NotFound::LookAgain(now + first),
            _ if repairs >= self.max_repairs => NotFound::GiveUp,
            _ => NotFound::Missing(now + (first * 2u32.pow(looks.min(12))).min(LONGEST)),
        }
    }
}

/// The decision about an event that was not found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotFound {
    /// It may be on its way; look it up again then.
    LookAgain(Timestamp),
    /// It is missing, but may turn up; look it up again then.
    Missing(Timestamp),
    /// It was sent again often enough.
    GiveUp,
}

/// The progress of an upstream over time, to know what it took at least `settle` ago.
#[derive(Clone, Debug)]
pub struct Frontier<T> {
    samples: VecDeque<(Timestamp, T)>,
    settled: Option<T>,
}

impl<T> Default for Frontier<T> {
    fn default() -> Self {
        Self { samples: VecDeque::new(), settled: None }
    }
}

impl<T: Copy> Frontier<T> {
    /// Adds a sample of the progress at `now`.
    pub fn note(&mut self, reached: T, now: Timestamp, settle: Duration) {
        let is_due = self.samples.back().is_none_or(|(at, _)| now.since(*at) >= settle / SAMPLES || *at > now);
        if is_due {
            self.samples.push_back((now, reached));
        }
        while self.samples.len() > SAMPLES as usize * 2 {
            self.samples.pop_front();
        }
    }

    /// The progress `settle` ago; `None` while it is unknown.
    pub fn settled(&mut self, now: Timestamp, settle: Duration) -> Option<T> {
        while let Some((at, reached)) = self.samples.front()
            && now.since(*at) >= settle
        {
            self.settled = Some(*reached);
            self.samples.pop_front();
        }
        self.settled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(seconds * 1000)
    }

    #[test]
    fn nothing_is_missing_after_one_look() {
        let settings = Settings::default();
        assert_eq!(settings.not_found(0, 0, at(100)), NotFound::LookAgain(at(130)));
        assert_eq!(settings.not_found(0, 9, at(100)), NotFound::LookAgain(at(130)));
        assert_eq!(settings.not_found(1, 0, at(100)), NotFound::Missing(at(160)));
        assert_eq!(settings.not_found(90, 1, at(100)), NotFound::Missing(at(3700)));
        assert_eq!(settings.not_found(1, 2, at(100)), NotFound::GiveUp);
        let quick = Settings { settle: Period::secs(2), ..settings };
        assert_eq!(quick.not_found(0, 0, at(100)), NotFound::LookAgain(at(102)));
        assert_eq!(quick.pace(), Duration::from_millis(500));
    }

    #[test]
    fn what_was_taken_just_now_is_not_looked_for() {
        let (mut frontier, settle) = (Frontier::default(), Duration::from_secs(60));
        assert_eq!(frontier.settled(at(0), settle), None);
        frontier.note(7, at(0), settle);
        frontier.note(8, at(1), settle);
        frontier.note(9, at(30), settle);
        assert_eq!(frontier.settled(at(59), settle), None);
        assert_eq!(frontier.settled(at(60), settle), Some(7));
        assert_eq!(frontier.settled(at(89), settle), Some(7), "8 came too soon after 7 to be kept");
        assert_eq!(frontier.settled(at(90), settle), Some(9));
        assert_eq!(frontier.settled(at(900), settle), Some(9));
    }

    #[test]
    fn a_clock_that_is_set_back_and_a_long_time_take_no_memory() {
        let mut frontier = Frontier::default();
        (0..10_000).for_each(|n| frontier.note(n, at(10_000 - n), Duration::from_secs(60)));
        assert!(frontier.samples.len() <= SAMPLES as usize * 2);
    }
}
