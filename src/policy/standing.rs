//! The standing of one upstream among relays that share a journal: its limits, the projects whose DSN it refuses, its circuit, and the
//! number of requests that each relay may have under way.
//!
//! Rules: [lessons](Lesson) change it, one after the other, and a lesson told twice changes nothing the second time. Lessons name spans
//! of time, which become times of the journal's clock, so that relays need not agree on the time. The circuit is open for all relays
//! while the upstream takes requests of none. A relay whose requests fail while another's are taken is cut off, and its failures count
//! for itself alone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::protocol::category::Category;
use crate::protocol::rate_limits::{LONGEST_KEPT, RateLimit};

/// The number of one start of a relay.
pub type Relay = u64;

/// How long after its end a refusal is forgotten, so that the next one counts as the first.
const FORGOTTEN: Duration = Duration::from_secs(3600);

/// A relay's share: its position among the live relays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// The number of live relays that started before it.
    pub position: u32,
    /// The number of live relays.
    pub of: u32,
}

impl Share {
    /// The share of a single relay.
    pub const WHOLE: Self = Self { position: 0, of: 1 };

    /// Its part of `whole`. The parts of all relays add up to it.
    pub fn part(self, whole: u64) -> u64 {
        let of = u64::from(self.of.max(1));
        whole / of + u64::from(u64::from(self.position) < whole % of)
    }
}

/// The common knowledge of one upstream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Standing {
    /// The ends of limits, by project and name of the category; the empty name stands for all categories.
    limits: BTreeMap<Arc<str>, BTreeMap<Box<str>, Timestamp>>,
    /// The projects whose DSN is refused.
    refused: BTreeMap<Arc<str>, Refused>,
    /// The open circuit; `None` while it is closed.
    opened: Option<Opened>,
    /// The relays that failed alone, until each has closed its circuit itself.
    cut_off: BTreeSet<Relay>,
    /// The number of requests that each relay may have under way.
    places: BTreeMap<Relay, u32>,
    /// The number of requests that all may have under way together, as each relay is configured: they differ while a change is rolled out.
    most: BTreeMap<Relay, u32>,
}

/// A project whose DSN is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// A hash of the DSN: relays may have different ones.
    pub dsn: u64,
    /// When it was last refused.
    pub since: Timestamp,
    /// Until when the project waits.
    pub until: Timestamp,
    /// How often it was refused in a row.
    pub refusals: u32,
}

/// An open circuit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opened {
    /// The relay that opened it last.
    pub by: Relay,
    /// When the failures began.
    pub since: Timestamp,
    /// When a relay may probe.
    pub until: Timestamp,
    /// How often it opened since it was last closed.
    pub openings: u32,
    /// Whether the next probe is a question.
    pub asks_next: bool,
    /// Whether a question was answered, so that records may probe.
    pub reached: bool,
    /// The relay that probes now.
    pub probe: Option<Relay>,
}

/// What a relay has learnt of an upstream, or wants of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lesson {
    /// An answer carried limits for this project.
    Limited(Arc<str>, Vec<RateLimit>),
    /// The project's DSN is refused.
    Refused {
        /// The project.
        project: Arc<str>,
        /// A hash of the DSN.
        dsn: u64,
        /// How long it waits from now.
        wait: Duration,
        /// How often it was refused in a row.
        refusals: u32,
    },
    /// The upstream took something of the project under this DSN.
    Taken(Arc<str>, u64),
    /// The circuit opened.
    Opened {
        /// How long ago the failures began.
        ago: Duration,
        /// How long nothing is sent.
        wait: Duration,
        /// How often it opened since it was last closed.
        openings: u32,
        /// Whether the next probe is a question.
        asks_next: bool,
    },
    /// A question was answered while the circuit was open.
    Reached,
    /// The circuit closed.
    Closed,
    /// The upstream took requests of the telling relay after the failures for which the named relay opened the circuit.
    Contradicts(Relay),
    /// The relay wants to probe.
    WantsProbe,
    /// The relay gives the probe up: it has nothing to probe with.
    Forgoes,
    /// The relay's requests under way.
    Places {
        /// How many it may have by its share.
        wanted: u32,
        /// How many it has.
        used: u32,
        /// How many all relays may have together.
        most: u32,
    },
}

impl Standing {
    /// Applies a lesson of the relay `by`.
    pub fn learn(&mut self, by: Relay, lesson: &Lesson, now: Timestamp) {
        match lesson {
            Lesson::Limited(project, limits) => limits.iter().for_each(|limit| self.limit(project, limit, now)),
            Lesson::Refused { project, dsn, wait, refusals } => {
                let next = Refused { dsn: *dsn, since: now, until: now + *wait, refusals: *refusals };
                let known = self.refused.entry(Arc::clone(project)).or_insert(next);
                // A refusal that is told twice ends no later: the wait counts from the first time.
                if known.dsn != *dsn || known.refusals < *refusals || known.until < now {
                    *known = next;
                }
            }
            Lesson::Taken(project, dsn) => {
                if self.refused.get(project).is_some_and(|known| known.dsn == *dsn) {
                    self.refused.remove(project);
                }
            }
            Lesson::Places { wanted, used, most } => {
                let others = self.places.iter().filter(|(relay, _)| **relay != by).map(|(_, places)| *places).sum();
                let granted = (*wanted).min(self.least(by, *most).saturating_sub(others));
                self.places.insert(by, granted.max(*used));
                // A relay without the upstream names 0, and limits nobody.
                if *most == 0 {
                    self.most.remove(&by);
                } else {
                    self.most.insert(by, *most);
                }
            }
            other => self.learn_of_circuit(by, other, now),
        }
    }

    fn limit(&mut self, project: &Arc<str>, limit: &RateLimit, now: Timestamp) {
        if limit.retry_after.is_zero() {
            return;
        }
        // Rounded up to whole seconds, so that many answers within a second make one change.
        let end = now + limit.retry_after.min(LONGEST_KEPT) + Duration::from_millis(999);
        let end = Timestamp::from_millis(end.as_secs() * 1000);
        let known = self.limits.entry(Arc::clone(project)).or_default();
        let names = limit.categories.as_ref().map_or(vec![""], |all| all.iter().map(|one| one.name()).collect());
        for name in names {
            let until = known.entry(name.into()).or_default();
            *until = end.max(*until);
        }
    }

    fn learn_of_circuit(&mut self, by: Relay, lesson: &Lesson, now: Timestamp) {
        match *lesson {
            Lesson::Opened { ago, wait, openings, asks_next } => {
                if self.is_cut_off(by) {
                    return;
                }
                let known = self.opened.filter(|known| known.openings >= openings);
                let since = self.opened.map_or(now - ago, |known| known.since.min(now - ago));
                let probe = self.opened.and_then(|known| known.probe).filter(|probe| *probe != by);
                let next = Opened { by, since, until: now + wait, openings, asks_next, reached: false, probe };
                // Among relays that see the same outage begin, the first sets its length.
                self.opened = Some(known.map_or(next, |known| Opened { probe, ..known }));
            }
            Lesson::Reached => {
                if let Some(opened) = &mut self.opened {
                    opened.reached = true;
                }
            }
            Lesson::Closed => {
                self.opened = None;
                self.cut_off.remove(&by);
            }
            Lesson::Contradicts(whom) if self.opened.is_some_and(|opened| opened.by == whom) => {
                self.opened = None;
                self.cut_off.insert(whom);
            }
            Lesson::WantsProbe => {
                if let Some(opened) = self.opened.as_mut().filter(|opened| opened.until <= now) {
                    opened.probe.get_or_insert(by);
                }
            }
            Lesson::Forgoes => {
                if let Some(opened) = &mut self.opened {
                    opened.probe.take_if(|probe| *probe == by);
                }
            }
            _ => {}
        }
    }

    /// Forgets what has ended, and what belongs to relays that are gone.
    pub fn forget(&mut self, lives: impl Fn(Relay) -> bool, now: Timestamp) {
        self.limits.values_mut().for_each(|limits| limits.retain(|_, until| *until > now));
        self.limits.retain(|_, limits| !limits.is_empty());
        self.refused.retain(|_, refused| refused.until + FORGOTTEN > now);
        self.cut_off.retain(|relay| lives(*relay));
        self.places.retain(|relay, _| lives(*relay));
        self.most.retain(|relay, _| lives(*relay));
        if let Some(opened) = &mut self.opened {
            opened.probe.take_if(|probe| !lives(*probe));
        }
    }

    /// The limits that differ from `before`: project, categories and end.
    pub fn limits_since<'a>(
        &'a self,
        before: &'a Self,
    ) -> impl Iterator<Item = (&'a Arc<str>, Option<Vec<Category>>, Timestamp)> {
        let all = self
            .limits
            .iter()
            .flat_map(|(project, limits)| limits.iter().map(move |(name, end)| (project, name, *end)));
        let is_known =
            |project: &str, name: &str| before.limits.get(project).and_then(|limits| limits.get(name).copied());
        all.filter(move |(project, name, end)| is_known(project, name) != Some(*end)).filter_map(
            |(project, name, end)| {
                // A newer relay may name categories that are unknown here.
                let categories = if name.is_empty() { None } else { Some(vec![Category::from_name(name)?]) };
                Some((project, categories, end))
            },
        )
    }

    /// The projects whose DSN is refused.
    pub fn refused(&self) -> &BTreeMap<Arc<str>, Refused> {
        &self.refused
    }

    /// The open circuit.
    pub fn opened(&self) -> Option<&Opened> {
        self.opened.as_ref()
    }

    /// Whether this relay is cut off. None is while the circuit is open for all.
    pub fn is_cut_off(&self, relay: Relay) -> bool {
        self.opened.is_none() && self.cut_off.contains(&relay)
    }

    /// The number of requests that all relays may have under way together: the least that any of them names, where this one names `most`.
    pub fn least(&self, relay: Relay, most: u32) -> u32 {
        let others = self.most.iter().filter(|(other, _)| **other != relay);
        others.map(|(_, most)| *most).fold(most, u32::min)
    }

    /// The number of requests that this relay may have under way.
    pub fn places(&self, relay: Relay) -> u32 {
        self.places.get(&relay).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: Timestamp = Timestamp::from_millis(1_000_000);
    const WAIT: Duration = Duration::from_secs(1);

    fn opened(openings: u32) -> Lesson {
        Lesson::Opened { ago: WAIT, wait: WAIT, openings, asks_next: true }
    }

    #[test]
    fn relays_that_are_cut_off_together_each_stay_so_until_they_close_themselves() {
        let mut standing = Standing::default();
        standing.learn(1, &opened(1), T);
        standing.learn(3, &Lesson::Contradicts(1), T);
        assert!(standing.opened().is_none() && standing.is_cut_off(1));
        standing.learn(2, &opened(1), T);
        assert!(standing.opened().is_some() && !standing.is_cut_off(1), "it is open for all");
        standing.learn(3, &Lesson::Contradicts(2), T);
        assert_eq!([1, 2, 3].map(|relay| standing.is_cut_off(relay)), [true, true, false]);
        let known = standing.clone();
        for relay in [1, 2, 1] {
            standing.learn(relay, &opened(2), T);
        }
        assert_eq!(standing, known, "their failures are their own");
        standing.learn(1, &Lesson::Closed, T);
        assert_eq!([1, 2].map(|relay| standing.is_cut_off(relay)), [false, true]);
        standing.forget(|relay| relay != 2, T);
        assert!(!standing.is_cut_off(2));
    }

    #[test]
    fn relays_that_are_told_different_numbers_of_places_divide_the_least_of_them() {
        let mut standing = Standing::default();
        let mut places = |position: u32, most: u32, used: u32| {
            let (relay, share) = (Relay::from(position), Share { position, of: 2 });
            let wanted = u32::try_from(share.part(standing.least(relay, most).into())).unwrap();
            standing.learn(relay, &Lesson::Places { wanted, used, most }, T);
            (standing.places(0), standing.places(1), standing.least(relay, most))
        };
        assert_eq!(places(0, 8, 4), (4, 0, 8));
        assert_eq!(places(1, 2, 0), (4, 0, 2), "the first has more under way than there are places");
        assert_eq!(places(0, 8, 1), (1, 0, 2));
        assert_eq!(places(1, 2, 0), (1, 1, 2));
        assert_eq!(places(1, 0, 0), (1, 0, 0), "it works with it no more");
        assert_eq!(places(0, 8, 0), (4, 0, 8));
        assert_eq!(places(1, 8, 0), (4, 4, 8));
    }
}
