//! Incidents: an operator is told once when one has lasted a while, and once when it is over; a happening is told when it happens.
//!
//! Rule: signs come in repeatedly as they are seen. Notices depend on them and on the uptime, which never goes back, so that setting
//! the clock delays nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;

/// The events that operators are told of.
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
    /// Submissions are refused for want of room: they are lost.
    Refusing,
    /// The configuration file has a problem and is not in force.
    ConfigRefused,
    /// The primary was switched.
    Switch,
    /// The report says that the candidate is ready.
    Ready,
    /// A test message. It cannot be configured.
    #[serde(skip_deserializing)]
    Test,
}

impl Event {
    /// All events that can be configured.
    pub const ALL: [Self; 9] = [
        Self::UpstreamDown,
        Self::CanaryFailed,
        Self::EventsMissing,
        Self::DeadLetters,
        Self::JournalFilling,
        Self::Refusing,
        Self::ConfigRefused,
        Self::Switch,
        Self::Ready,
    ];

    /// The name in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::UpstreamDown => "upstream_down",
            Self::CanaryFailed => "canary_failed",
            Self::EventsMissing => "events_missing",
            Self::DeadLetters => "dead_letters",
            Self::JournalFilling => "journal_filling",
            Self::Refusing => "refusing",
            Self::ConfigRefused => "config_refused",
            Self::Switch => "switch",
            Self::Ready => "ready",
            Self::Test => "test",
        }
    }
}

/// A sign of an event, as seen at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sign {
    /// The event.
    pub event: Event,
    /// The upstream's name, or empty.
    pub subject: String,
    /// The text of the notice.
    pub text: String,
    /// The text when it is over.
    pub over: String,
    /// How it lasts.
    pub kind: Kind,
    /// When it happened, if that is known.
    pub at: Option<Timestamp>,
}

/// How a sign lasts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// It lasts as long as it is seen.
    Lasts,
    /// It is unknown whether it is over: an incident from before the start goes on, and none begins.
    GoesOn,
    /// It lasts while the number is not zero, and is told again when the number grows.
    Grows(u64),
    /// It happened again when the number is higher than ever.
    Happens(u64),
}

/// The phase of an event.
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

/// A notice for a receiver.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Notice {
    /// The event.
    pub event: Event,
    /// The upstream's name, or empty.
    pub subject: String,
    /// Whether it began, ended or happened.
    pub phase: Phase,
    /// The text.
    pub text: String,
    /// When it began or happened.
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
    /// When it was first and last seen, as uptime.
    since: Duration,
    seen: Duration,
    /// When it was first seen, or seen to be gone, by the clock.
    at: Timestamp,
    gone: Option<Timestamp>,
    is_told: bool,
    over: String,
}

/// An incident that an earlier process has told.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Told {
    /// The event.
    pub event: Event,
    /// The upstream's name, or empty.
    pub subject: String,
}

impl Incidents {
    /// The incidents of a receiver that was told of these already, and of every switch before `now`.
    pub fn after(told: impl IntoIterator<Item = (Told, String)>, uptime: Duration, now: Timestamp) -> Self {
        let open = |(told, over): (Told, String)| {
            let open = Open { since: uptime, seen: uptime, at: now, gone: None, is_told: true, over };
            ((told.event, told.subject), open)
        };
        let counts = BTreeMap::from([((Event::Switch, String::new()), now.as_millis().saturating_sub(1))]);
        Self { open: told.into_iter().map(open).collect(), counts }
    }

    /// Incidents that were told and are not over.
    pub fn told(&self) -> impl Iterator<Item = Told> {
        let told = self.open.iter().filter(|(_, open)| open.is_told);
        told.map(|((event, subject), _)| Told { event: *event, subject: subject.clone() })
    }

    /// The notices to send for the signs seen at `now`, `uptime` after the start. An incident is told after it has lasted for `after`, and
    /// its end after it has been gone for as long.
    pub fn follow(&mut self, signs: &[Sign], uptime: Duration, now: Timestamp, after: Duration) -> Vec<Notice> {
        let mut notices = vec![];
        for sign in signs {
            let key = (sign.event, sign.subject.clone());
            let notice = match sign.kind {
                Kind::Lasts => self.lasts(key, sign, (uptime, now), after),
                Kind::GoesOn if self.open.contains_key(&key) => self.lasts(key, sign, (uptime, now), after),
                Kind::Grows(count) if count > 0 => {
                    let is_more = self.counts.insert(key.clone(), count).is_some_and(|before| count > before);
                    let began = self.lasts(key, sign, (uptime, now), Duration::ZERO);
                    began.or_else(|| is_more.then(|| notice(sign, Phase::Began, now)))
                }
                Kind::GoesOn | Kind::Grows(_) => None,
                Kind::Happens(count) => self.rises(key, sign, count, now),
            };
            notices.extend(notice);
        }
        notices.extend(self.ended((uptime, now), after));
        notices
    }

    fn lasts(
        &mut self,
        key: (Event, String),
        sign: &Sign,
        (uptime, now): (Duration, Timestamp),
        after: Duration,
    ) -> Option<Notice> {
        let fresh = Open { since: uptime, seen: uptime, at: now, gone: None, is_told: false, over: String::new() };
        let open = self.open.entry(key).or_insert(fresh);
        (open.seen, open.gone) = (uptime, None);
        open.over.clone_from(&sign.over);
        let is_due = !open.is_told && uptime.saturating_sub(open.since) >= after;
        open.is_told |= is_due;
        is_due.then(|| notice(sign, Phase::Began, open.at))
    }

    fn rises(&mut self, key: (Event, String), sign: &Sign, count: u64, now: Timestamp) -> Option<Notice> {
        let before = self.counts.get(&key).copied();
        self.counts.insert(key, before.map_or(count, |before| before.max(count)));
        let at = sign.at.unwrap_or(now);
        before.is_some_and(|before| count > before).then(|| notice(sign, Phase::Happened, at))
    }

    fn ended(&mut self, (uptime, now): (Duration, Timestamp), after: Duration) -> Vec<Notice> {
        let mut notices = vec![];
        let counts = &mut self.counts;
        self.open.retain(|(event, subject), open| {
            if open.seen == uptime {
                return true;
            }
            let at = *open.gone.get_or_insert(now);
            let is_over = uptime.saturating_sub(open.seen) >= after || !open.is_told;
            if is_over && open.is_told {
                let (event, subject, text) = (*event, subject.clone(), open.over.clone());
                counts.remove(&(event, subject.clone()));
                notices.push(Notice { event, subject, phase: Phase::Ended, text, at });
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
        Sign {
            event,
            subject,
            text: "sentry is down".into(),
            over: "sentry is back".into(),
            kind: Kind::Lasts,
            at: None,
        }
    }

    fn letters(count: u64) -> Sign {
        Sign { event: Event::DeadLetters, kind: Kind::Grows(count), ..down() }
    }

    fn switch(second: u64, text: &str) -> Sign {
        let kind = Kind::Happens(at(second).as_millis());
        Sign { event: Event::Switch, subject: String::new(), text: text.into(), kind, at: Some(at(second)), ..down() }
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
        assert_eq!(told, [(30, Phase::Began, at(0)), (129, Phase::Ended, at(100))]);
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
    fn what_grows_is_told_at_once_again_when_there_is_more_and_when_there_is_none() {
        let mut incidents = Incidents::default();
        let mut told = |count, second| phases(&follow(&mut incidents, &[letters(count)], second));
        assert_eq!(told(0, 0), []);
        assert_eq!(told(7, 1), [Phase::Began]);
        assert_eq!(told(7, 2), []);
        assert_eq!(told(9, 3), [Phase::Began]);
        assert_eq!(told(2, 4), [], "some were discarded");
        assert_eq!(told(3, 5), [Phase::Began]);
        assert_eq!(told(0, 20), []);
        assert_eq!(told(0, 40), [Phase::Ended]);
        assert_eq!(told(1, 50), [Phase::Began]);
    }

    #[test]
    fn each_switch_is_told_in_order_with_its_own_time_and_none_of_before() {
        let mut incidents = Incidents::after([], Duration::ZERO, at(10));
        let all = [switch(3, "before"), switch(11, "there"), switch(12, "back")];
        let told = follow(&mut incidents, &all, 14);
        let told: Vec<_> = told.iter().map(|notice| (notice.text.as_str(), notice.at)).collect();
        assert_eq!(told, [("there", at(11)), ("back", at(12))]);
        assert!(follow(&mut incidents, &all, 15).is_empty());
        assert!(follow(&mut incidents, &all[..1], 16).is_empty(), "a journal that does not answer changes nothing");
        assert!(follow(&mut incidents, &all, 17).is_empty());
    }

    #[test]
    fn what_an_earlier_process_told_goes_on_and_has_its_end() {
        let known = || [(Told { event: Event::UpstreamDown, subject: "sentry".into() }, "it is back".to_owned())];
        let unknown = Sign { kind: Kind::GoesOn, ..down() };
        let mut incidents = Incidents::after(known(), Duration::ZERO, at(0));
        let mut told = vec![];
        for second in 1..200 {
            let signs = match second {
                ..50 => vec![unknown.clone()],
                50..60 => vec![down()],
                _ => vec![],
            };
            told.extend(follow(&mut incidents, &signs, second).into_iter().map(|n| (second, n.phase, n.at)));
        }
        assert_eq!(told, [(89, Phase::Ended, at(60))], "it is not told once more");
        // Over before the first look.
        let mut incidents = Incidents::after(known(), Duration::ZERO, at(0));
        assert_eq!(incidents.told().count(), 1);
        assert!(follow(&mut incidents, &[], 5).is_empty());
        let told = follow(&mut incidents, &[], 40);
        assert_eq!((told[0].text.as_str(), told[0].at), ("it is back", at(5)));
        assert!(follow(&mut Incidents::default(), &[unknown], 100).is_empty(), "nothing begins by that");
    }

    #[test]
    fn each_event_is_written_as_it_is_named() {
        for event in Event::ALL {
            assert_eq!(serde_json::to_value(event).unwrap(), event.name());
        }
    }
}
