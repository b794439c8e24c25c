//! Canaries: events of our own that show whether events get through to an upstream. This file has the section `[canary]` of the
//! configuration, and the state of the canaries of one upstream.
//!
//! Rules: each canary is decided once, as in time or not. One that arrives later changes the age but not the decision. While a canary
//! waits for an upstream no other is sent to it, so that none pile up behind an outage.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::protocol::event_id::EventId;
use crate::units::Period;

use super::routing::Project;

/// The section `[canary]` of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The time between two canaries; none are sent when it is absent.
    pub interval: Option<Period>,
    /// The project that canaries are sent for; the first one when it is absent.
    pub project: Option<Box<str>>,
    /// How long a canary may take to be delivered, and to be found stored where that is looked up.
    pub timeout: Period,
}

impl Default for Settings {
    fn default() -> Self {
        Self { interval: None, project: None, timeout: Period::secs(60) }
    }
}

impl Settings {
    /// The project that canaries are sent for.
    pub fn project<'a>(&self, projects: &'a [Arc<Project>]) -> Option<&'a Arc<Project>> {
        match &self.project {
            Some(name) => projects.iter().find(|project| project.name == (**name).into()),
            None => projects.first(),
        }
    }
}

/// The state of the canaries of one upstream: the last one, and when an earlier one arrived.
#[derive(Clone, Debug)]
pub struct Canary {
    first: Timestamp,
    through: Option<Timestamp>,
    /// The last decision; the error says why the canary was not in time.
    decision: Option<Result<(), Box<str>>>,
    /// Whether a failure was reported and not yet its end.
    told: bool,
    last: Sent,
}

#[derive(Clone, Debug)]
struct Sent {
    id: EventId,
    at: Timestamp,
    timeout: Duration,
    /// Whether the upstream is asked whether it stored the canary.
    reads_back: bool,
    stage: Stage,
    is_decided: bool,
}

/// The stage of a canary.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// It waits in the journal, or is under way.
    Waits,
    /// The upstream took it, and is to be asked for it.
    Taken,
    /// The upstream is being asked.
    Sought,
    /// It has ended.
    Ended,
}

/// Whether the next canary is due.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Due {
    /// Not yet.
    Later,
    /// Now.
    Now,
    /// Now, unless something accepted by this time still waits for the upstream: the last canary may be among it.
    UnlessWaiting(Timestamp),
}

impl Canary {
    /// The state when the next canary is about to be sent. Call this before the canary can be delivered.
    pub fn sent(before: Option<Self>, id: EventId, now: Timestamp, timeout: Duration, reads_back: bool) -> Self {
        let last = Sent { id, at: now, timeout, reads_back, stage: Stage::Waits, is_decided: false };
        match before {
            Some(before) => Self { last, ..before },
            None => Self { first: now, through: None, decision: None, told: false, last },
        }
    }

    /// Adds that a canary of an earlier process arrived at `before`.
    pub fn after(self, before: Option<Timestamp>) -> Self {
        Self { through: self.through.max(before), ..self }
    }

    /// Reports that the upstream took this canary.
    pub fn took(&mut self, id: EventId, now: Timestamp) {
        if self.last.id != id || self.last.stage != Stage::Waits {
            return;
        }
        match (self.last.reads_back, self.last.is_decided) {
            (true, false) => self.last.stage = Stage::Taken,
            // It was decided already: nobody looks whether it was stored.
            (true, true) => self.last.stage = Stage::Ended,
            (false, _) => self.is_through(now),
        }
    }

    /// Reports that the upstream refused this canary.
    pub fn refused(&mut self, id: EventId, why: &str) {
        if self.last.id == id && self.last.stage == Stage::Waits {
            self.last.stage = Stage::Ended;
            self.decide(Err(why.into()));
        }
    }

    /// The canary to ask the upstream for now, and until when. Each is returned once.
    pub fn to_be_read_back(&mut self) -> Option<(EventId, Timestamp)> {
        let last = &mut self.last;
        (last.stage == Stage::Taken).then(|| {
            last.stage = Stage::Sought;
            (last.id, last.at + last.timeout)
        })
    }

    /// Reports that the upstream has stored this canary, or what it answered instead.
    pub fn read_back(&mut self, id: EventId, found: Result<(), String>, now: Timestamp) {
        if self.last.id != id || self.last.stage != Stage::Sought {
            return;
        }
        match found {
            Ok(()) => self.is_through(now),
            Err(why) => {
                self.last.stage = Stage::Ended;
                self.decide(Err(format!("taken, but not found stored: {why}").into()));
            }
        }
    }

    fn is_through(&mut self, now: Timestamp) {
        self.last.stage = Stage::Ended;
        self.through = Some(now);
        let took = now.since(self.last.at);
        let decision = match took <= self.last.timeout {
            true => Ok(()),
            false => Err(format!("it took {} s", took.as_secs()).into()),
        };
        self.decide(decision);
    }

    /// Decides a canary whose time is over.
    pub fn look(&mut self, now: Timestamp) {
        if self.last.is_decided || !is_over(now, self.last.at, self.last.timeout) {
            return;
        }
        let within = self.last.timeout;
        match self.last.stage {
            Stage::Waits => self.decide(Err(format!("not taken within {within:?}").into())),
            Stage::Taken | Stage::Sought | Stage::Ended => {
                self.last.stage = Stage::Ended;
                self.decide(Err(format!("taken, but not found stored within {within:?}").into()));
            }
        }
    }

    fn decide(&mut self, decision: Result<(), Box<str>>) {
        if !self.last.is_decided {
            self.last.is_decided = true;
            self.decision = Some(decision);
        }
    }

    /// Whether to send the next canary.
    pub fn due(&self, now: Timestamp, interval: Duration) -> Due {
        match self.last.stage {
            _ if !self.last.is_decided || !is_over(now, self.last.at, interval) => Due::Later,
            Stage::Waits => Due::UnlessWaiting(self.last.at),
            Stage::Taken | Stage::Sought | Stage::Ended => Due::Now,
        }
    }

    /// A change to report, once: canaries fail now, and why, or they arrive again.
    pub fn news(&mut self) -> Option<Result<(), Box<str>>> {
        let is_failing = self.why().is_some();
        let is_new = is_failing != std::mem::replace(&mut self.told, is_failing);
        self.decision.clone().filter(|_| is_new)
    }

    /// Whether the last decided canary was in time; `None` before the first decision.
    pub fn success(&self) -> Option<bool> {
        self.decision.as_ref().map(Result::is_ok)
    }

    /// Why it was not.
    pub fn why(&self) -> Option<&str> {
        self.decision.as_ref()?.as_ref().err().map(|why| &**why)
    }

    /// When the last canary was sent.
    pub const fn sent_at(&self) -> Timestamp {
        self.last.at
    }

    /// When a canary last arrived: it was taken or, where that is looked up, found stored.
    pub const fn through_at(&self) -> Option<Timestamp> {
        self.through
    }

    /// The time since then, or since the first was sent if none arrived.
    pub fn age(&self, now: Timestamp) -> Duration {
        now.since(self.through.unwrap_or(self.first))
    }
}

/// Whether `length` has passed. After the clock was set back, nothing is left to wait for.
fn is_over(now: Timestamp, since: Timestamp, length: Duration) -> bool {
    since > now || now.since(since) >= length
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(60);
    const INTERVAL: Duration = Duration::from_secs(300);

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(1_000_000 + seconds * 1000)
    }

    fn id(n: u128) -> EventId {
        EventId::from(n)
    }

    fn sent(reads_back: bool) -> Canary {
        Canary::sent(None, id(1), at(0), TIMEOUT, reads_back)
    }

    #[test]
    fn one_that_is_taken_in_time_is_a_success_and_the_next_comes_after_the_interval() {
        let mut canary = sent(false);
        assert_eq!((canary.success(), canary.age(at(3))), (None, Duration::from_secs(3)));
        canary.took(id(1), at(5));
        assert_eq!((canary.success(), canary.age(at(9)), canary.news()), (Some(true), Duration::from_secs(4), None));
        assert_eq!(canary.due(at(299), INTERVAL), Due::Later);
        assert_eq!(canary.due(at(300), INTERVAL), Due::Now);
        let next = Canary::sent(Some(canary), id(2), at(300), TIMEOUT, false);
        assert_eq!((next.success(), next.due(at(600), INTERVAL)), (Some(true), Due::Later));
    }

    #[test]
    fn one_that_is_late_fails_is_told_once_and_changes_the_age_alone_when_it_comes() {
        let mut canary = sent(false);
        canary.look(at(59));
        assert_eq!(canary.success(), None);
        canary.look(at(60));
        assert_eq!((canary.success(), canary.why()), (Some(false), Some("not taken within 60s")));
        assert_eq!((canary.news(), canary.news()), (Some(Err("not taken within 60s".into())), None));
        // It still waits, perhaps: no other is sent behind it.
        assert_eq!(canary.due(at(400), INTERVAL), Due::UnlessWaiting(at(0)));
        canary.took(id(1), at(500));
        assert_eq!((canary.success(), canary.age(at(501))), (Some(false), Duration::from_secs(1)));
        assert_eq!((canary.due(at(500), INTERVAL), canary.news()), (Due::Now, None));
        let mut next = Canary::sent(Some(canary), id(2), at(501), TIMEOUT, false);
        next.took(id(1), at(502));
        assert_eq!(next.success(), Some(false), "an older one says nothing of this one");
        next.took(id(2), at(502));
        assert_eq!((next.news(), next.news()), (Some(Ok(())), None));
    }

    #[test]
    fn one_that_is_refused_is_decided_at_once_and_waits_no_longer() {
        let mut canary = sent(false);
        canary.refused(id(1), "400 Bad Request");
        canary.took(id(1), at(1));
        assert_eq!((canary.why(), canary.through_at()), (Some("400 Bad Request"), None));
        assert_eq!(canary.due(at(300), INTERVAL), Due::Now);
    }

    #[test]
    fn where_it_is_read_back_only_what_is_found_stored_counts() {
        let mut canary = sent(true);
        assert_eq!(canary.to_be_read_back(), None);
        canary.took(id(1), at(1));
        assert_eq!((canary.to_be_read_back(), canary.to_be_read_back()), (Some((id(1), at(60))), None));
        assert_eq!((canary.success(), canary.through_at()), (None, None));
        let mut lost = canary.clone();
        canary.read_back(id(1), Ok(()), at(2));
        assert_eq!((canary.success(), canary.through_at()), (Some(true), Some(at(2))));
        let mut silent = lost.clone();
        silent.look(at(60));
        assert_eq!(silent.why(), Some("taken, but not found stored within 60s"));
        assert_eq!(silent.due(at(300), INTERVAL), Due::Now);
        lost.read_back(id(1), Err("404 Not Found".to_owned()), at(59));
        assert_eq!(lost.why(), Some("taken, but not found stored: 404 Not Found"));
        // What is taken too late is not looked for.
        let mut late = sent(true);
        late.look(at(60));
        late.took(id(1), at(61));
        assert_eq!((late.to_be_read_back(), late.through_at()), (None, None));
    }

    #[test]
    fn a_clock_that_was_set_back_holds_nothing_up() {
        let mut canary = Canary::sent(None, id(1), at(100_000), TIMEOUT, false);
        canary.look(at(0));
        assert_eq!((canary.success(), canary.due(at(0), INTERVAL)), (Some(false), Due::UnlessWaiting(at(100_000))));
    }
}
