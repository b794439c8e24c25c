//! What an operator is told, and when: each incident once when it has lasted a while, and once when it is over; each happening when
//! it happens.
//!
//! Rule: signs come in as they are seen, again and again; what goes out depends on them and on the time passed in, which never goes
//! back: a clock that is set makes nothing wait.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;

/// What an operator can be told of.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// An upstream does not answer, or refuses our DSN.
    UpstreamDown,
    /// No canary gets through to an upstream.
    CanaryFailed,
    /// Events are missing at an upstream that took them.
    EventsMissing,
    /// An upstream refused envelopes for good.
    DeadLetters,
    /// The journal is nearly full, or cannot take anything.
    JournalFilling,
    /// The file has a problem and is not in force.
    ConfigRefused,
    /// The primary was switched.
    Switch,
    /// The report says that the candidate is ready.
    Ready,
}

impl Event {
    /// All there are.
    pub const ALL: [Self; 8] = [
        Self::UpstreamDown,
        Self::CanaryFailed,
        Self::EventsMissing,
        Self::DeadLetters,
        Self::JournalFilling,
        Self::ConfigRefused,
        Self::Switch,
        Self::Ready,
    ];

    /// As it is written in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::UpstreamDown => "upstream_down",
            Self::CanaryFailed => "canary_failed",
            Self::EventsMissing => "events_missing",
            Self::DeadLetters => "dead_letters",
            Self::JournalFilling => "journal_filling",
            Self::ConfigRefused => "config_refused",
            Self::Switch => "switch",
            Self::Ready => "ready",
        }
    }
}

/// What is seen at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sign {
    /// What of.
    pub event: Event,
    /// Whose: an upstream's name, or empty.
    pub subject: String,
    /// What there is to say.
    pub text: String,
    /// What to say when it is over.
    pub over: String,
    /// `None`: it lasts as long as it is seen. A number: it happened again when that rises.
    pub count: Option<u64>,
}

/// Whether something began, ended or happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// It began, and lasts.
    Began,
    /// It is over.
    Ended,
    /// It happened.
    Happened,
}

/// What somebody is to be told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Notice {
    /// What of.
    pub event: Event,
    /// Whose: an upstream's name, or empty.
    pub subject: String,
    /// Whether it began, ended or happened.
    pub phase: Phase,
    /// What there is to say.
    pub text: String,
    /// Since when, or when it happened.
    pub at: Timestamp,
}

/// The incidents that one receiver knows of.
#[derive(Clone, Debug, Default)]
pub struct Incidents {
    open: BTreeMap<(Event, String), Open>,
    counts: BTreeMap<(Event, String), u64>,
}

#[derive(Clone, Debug)]
struct Open {
    /// When it was seen first and last, in the daemon's own time.
    since: Duration,
    seen: Duration,
    /// When it was seen first and last, by the clock.
    at: (Timestamp, Timestamp),
    is_told: bool,
    over: String,
}

impl Incidents {
    /// What is to be told of what is seen at `now`, `uptime` after the start. Something must last for `after` before its beginning is
    /// told, and be gone for as long before its end is.
    pub fn follow(&mut self, signs: &[Sign], uptime: Duration, now: Timestamp, after: Duration) -> Vec<Notice> {
        let mut notices = vec![];
        for sign in signs {
            let key = (sign.event, sign.subject.clone());
            let notice = match sign.count {
                None => self.lasts(key, sign, (uptime, now), after),
                Some(count) => self.rises(key, sign, count, now),
            };
            notices.extend(notice);
        }
        notices.extend(self.ended(uptime, after));
        notices
    }

    fn lasts(
        &mut self,
        key: (Event, String),
        sign: &Sign,
        (uptime, now): (Duration, Timestamp),
        after: Duration,
    ) -> Option<Notice> {
        let fresh = Open { since: uptime, seen: uptime, at: (now, now), is_told: false, over: String::new() };
        let open = self.open.entry(key).or_insert(fresh);
        (open.seen, open.at.1) = (uptime, now);
        open.over.clone_from(&sign.over);
        let is_due = !open.is_told && uptime.saturating_sub(open.since) >= after;
        open.is_told |= is_due;
        is_due.then(|| notice(sign, Phase::Began, open.at.0))
    }

    fn rises(&mut self, key: (Event, String), sign: &Sign, count: u64, now: Timestamp) -> Option<Notice> {
        let before = self.counts.insert(key, count)?;
        (count > before).then(|| notice(sign, Phase::Happened, now))
    }

    fn ended(&mut self, uptime: Duration, after: Duration) -> Vec<Notice> {
        let mut notices = vec![];
        self.open.retain(|(event, subject), open| {
            let gone = uptime.saturating_sub(open.seen);
            let is_over = !gone.is_zero() && (gone >= after || !open.is_told);
            if is_over && open.is_told {
                let (event, subject, text) = (*event, subject.clone(), open.over.clone());
                notices.push(Notice { event, subject, phase: Phase::Ended, text, at: open.at.1 });
            }
            !is_over
        });
        notices
    }
}

fn notice(sign: &Sign, phase: Phase, at: Timestamp) -> Notice {
    Notice { event: sign.event, subject: sign.subject.clone(), phase, text: sign.text.clone(), at }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AFTER: Duration = Duration::from_secs(30);

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(1_000_000 + seconds * 1000)
    }

    fn follow(incidents: &mut Incidents, signs: &[Sign], seconds: u64) -> Vec<Notice> {
        incidents.follow(signs, Duration::from_secs(seconds), at(seconds), AFTER)
    }

    fn down() -> Sign {
        let (event, subject) = (Event::UpstreamDown, "sentry".to_owned());
        Sign { event, subject, text: "sentry is down".into(), over: "sentry is back".into(), count: None }
    }

    fn letters(count: u64) -> Sign {
        Sign { event: Event::DeadLetters, count: Some(count), ..down() }
    }

    fn phases(notices: &[Notice]) -> Vec<Phase> {
        notices.iter().map(|notice| notice.phase).collect()
    }

    #[test]
    fn an_incident_is_told_once_when_it_lasts_and_once_when_it_is_over() {
        let mut incidents = Incidents::default();
        let mut told = vec![];
        for second in 0..200 {
            let signs = if second < 100 { vec![down()] } else { vec![] };
            told.extend(follow(&mut incidents, &signs, second).into_iter().map(|n| (second, n.phase, n.at)));
        }
        assert_eq!(told, [(30, Phase::Began, at(0)), (129, Phase::Ended, at(99))]);
    }

    #[test]
    fn what_passes_by_itself_is_not_told_and_what_comes_and_goes_is_one_incident() {
        let mut incidents = Incidents::default();
        for second in 0..10 {
            assert!(follow(&mut incidents, &[down()], second).is_empty());
        }
        assert!(follow(&mut incidents, &[], 20).is_empty());
        assert!(follow(&mut incidents, &[down()], 45).is_empty(), "it began anew");
        let mut told = vec![];
        for second in 46..400 {
            let signs = if second % 20 < 10 { vec![down()] } else { vec![] };
            told.extend(follow(&mut incidents, &signs, second));
        }
        assert!(told.len() <= 1, "{told:?}");
    }

    #[test]
    fn what_is_counted_is_told_when_it_rises_and_never_for_what_was_there_before() {
        let mut incidents = Incidents::default();
        assert!(follow(&mut incidents, &[letters(7)], 0).is_empty());
        assert!(follow(&mut incidents, &[letters(7)], 1).is_empty());
        assert_eq!(phases(&follow(&mut incidents, &[letters(9)], 2)), [Phase::Happened]);
        assert!(follow(&mut incidents, &[letters(2)], 3).is_empty(), "they were discarded");
        assert_eq!(phases(&follow(&mut incidents, &[letters(3)], 4)), [Phase::Happened]);
    }

    #[test]
    fn each_event_is_written_as_it_is_named() {
        for event in Event::ALL {
            assert_eq!(serde_json::to_value(event).unwrap(), event.name());
        }
    }
}
