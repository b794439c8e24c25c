//! Suspects: projects whose records fail while the upstream works. A suspect waits alone, so that it costs other projects next to
//! nothing, and its failures say nothing about the upstream.
//!
//! Rules:
//!
//! - A project is suspected when it fails three times in a row while another project was taken [`LATELY`], or when the upstream
//!   answers questions and only very few projects fail.
//! - A suspect has one record under way at a time, for a tenth of the time at most. All suspects together have half of the places.
//! - Its other records get due times one after the other, so that only a few come due at once.
//! - Each success forgives a suspect by a step.
//! - Requests that hang and have not failed yet leave a place to other projects once they take unusually long.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Timestamp;

use super::backoff::Backoff;

/// The failures in a row that make a project a suspect.
const PATIENCE: u32 = 3;
/// The most failures that are remembered. Four successes forgive them.
const MOST: u32 = 8;
/// How recently another project's record must have been taken to show that the upstream works.
pub const LATELY: Duration = Duration::from_secs(30);
/// The least time between two records of a suspect, and between two due times in its line.
pub const GAP: Duration = Duration::from_millis(200);
/// How many times as long as its last failure took a suspect pauses.
const PAUSES: u32 = 9;
/// The number of failing projects at which the upstream counts as down, though it answers questions, if it takes nothing.
const SEVERAL: usize = 3;
/// The time without progress after which a project's requests leave room for others; earlier where answers usually take less.
pub const SLOW: Duration = Duration::from_secs(2);
/// How many times as long as usual counts as slow.
const UNUSUAL: u32 = 20;
/// How long after its wait a suspect is still reported as one: it may be under way.
const TOLD: Duration = Duration::from_secs(60);

/// The failing projects of one upstream, and the requests of each project under way.
#[derive(Clone, Debug, Default)]
pub struct Suspects {
    failing: BTreeMap<Arc<str>, Suspect>,
    under_way: BTreeMap<Arc<str>, UnderWay>,
    /// The two projects whose records were taken last, latest first.
    taken: [Option<(Arc<str>, Timestamp)>; 2],
    /// The average time of a delivery.
    usual: Option<Duration>,
}

/// A project that has failed.
#[derive(Clone, Copy, Debug, Default)]
struct Suspect {
    failures: u32,
    /// Failures in a row while the upstream answered questions and took nothing.
    doubts: u32,
    /// The end of its wait; `None` when it is no suspect.
    until: Option<Timestamp>,
    /// The last due time in its line.
    line: Timestamp,
    /// Whether a record was put off because the project had its share of the places.
    crowded: bool,
}

#[derive(Clone, Copy, Debug)]
struct UnderWay {
    count: usize,
    /// When one of its requests last began or ended.
    moved: Timestamp,
}

impl Suspects {
    /// Reports that a record failed after `took`; `reached` if the upstream answers questions and is not known to take records. Returns
    /// whether the project becomes a suspect.
    pub fn failed(&mut self, project: &Arc<str>, took: Duration, reached: bool, now: Timestamp) -> bool {
        let others_pass = self.others_taken(project).is_some_and(|at| now.since(at) <= LATELY);
        let doubted = self.failing.iter().filter(|(name, suspect)| *name != project && suspect.doubts > 0).count();
        let suspect = self.failing.entry(Arc::clone(project)).or_default();
        suspect.failures = (suspect.failures + 1).min(MOST);
        suspect.doubts = if reached { suspect.doubts.saturating_add(1) } else { 0 };
        suspect.until = if others_pass && suspect.failures >= PATIENCE {
            Some(now + GAP.max(took * PAUSES))
        } else if reached && doubted + 1 < SEVERAL {
            Some(now + Backoff::CIRCUIT.after(suspect.doubts))
        } else {
            None
        };
        suspect.until.is_some()
    }

    /// Reports that a record was taken. Returns whether the project stops being a suspect.
    pub fn taken(&mut self, project: &Arc<str>, now: Timestamp) -> bool {
        match &mut self.taken {
            [Some((last, at)), _] if last == project => *at = now,
            [last, before] => {
                std::mem::swap(last, before);
                *last = Some((Arc::clone(project), now));
            }
        }
        let Some(suspect) = self.failing.get_mut(project) else { return false };
        suspect.failures /= 2;
        suspect.doubts = 0;
        let waited = suspect.until.is_some() || std::mem::take(&mut suspect.crowded);
        suspect.until = suspect.until.filter(|_| suspect.failures >= PATIENCE).map(|_| now);
        let waits = suspect.until.is_some();
        if suspect.failures == 0 {
            self.failing.remove(project);
        }
        waited && !waits
    }

    fn others_taken(&self, project: &str) -> Option<Timestamp> {
        self.taken.iter().flatten().find(|(name, _)| **name != *project).map(|(_, at)| *at)
    }

    /// When a record that is claimed now may be sent; `None`: now. At most `places` suspects are tried at once.
    pub fn waits(&mut self, project: &str, places: usize, now: Timestamp) -> Option<Timestamp> {
        let until = self.failing.get(project)?.until?;
        let is_suspected = |name: &Arc<str>| self.failing.get(name).is_some_and(|suspect| suspect.until.is_some());
        let is_next = until <= now && !self.under_way.contains_key(project);
        if is_next && self.under_way.keys().filter(|name| is_suspected(name)).count() < places {
            return None;
        }
        self.failing.get_mut(project).map(|suspect| suspect.next_place(until, now))
    }

    /// The suspects, each with the time until which it may be reported as one.
    pub fn told(&self) -> Vec<(Arc<str>, Timestamp)> {
        let waiting = |(name, suspect): (&Arc<str>, &Suspect)| Some((Arc::clone(name), suspect.until? + TOLD));
        self.failing.iter().filter_map(waiting).collect()
    }

    /// Reports that a delivery took this long.
    pub fn took(&mut self, took: Duration) {
        self.usual = Some(self.usual.map_or(took, |usual| (usual * 7 + took) / 8));
    }

    fn slow(&self) -> Duration {
        self.usual.map_or(SLOW, |usual| (usual * UNUSUAL).clamp(GAP, SLOW))
    }

    /// Reports that a request of the project was started.
    pub fn started(&mut self, project: &Arc<str>, now: Timestamp) {
        match self.under_way.get_mut(project) {
            Some(under_way) => under_way.count += 1,
            None => drop(self.under_way.insert(Arc::clone(project), UnderWay { count: 1, moved: now })),
        }
    }

    /// Reports that a request of the project has ended.
    pub fn ended(&mut self, project: &str, now: Timestamp) {
        let Some(under_way) = self.under_way.get_mut(project) else { return };
        (under_way.count, under_way.moved) = (under_way.count - 1, now);
        if under_way.count == 0 {
            self.under_way.remove(project);
        }
    }

    /// The time from which free places are kept for other projects than the one with `share` requests under way; `None` if no project has
    /// that many.
    pub fn crowded_since(&self, share: usize) -> Option<Timestamp> {
        self.under_way
            .values()
            .find(|under_way| under_way.count >= share)
            .map(|under_way| under_way.moved + self.slow())
    }

    /// When a record that is claimed now may be sent, if its project already has `share` requests under way.
    pub fn crowds(&mut self, project: &Arc<str>, share: usize, now: Timestamp) -> Option<Timestamp> {
        let is_crowding = self.under_way.get(project).is_some_and(|under_way| under_way.count >= share);
        is_crowding.then(|| {
            let suspect = self.failing.entry(Arc::clone(project)).or_default();
            suspect.crowded = true;
            suspect.next_place(now, now)
        })
    }

    /// Forgives all suspects, because an operator may have mended the cause. Returns whether there were any.
    pub fn forgive(&mut self) -> bool {
        let any = self.failing.values().any(|suspect| suspect.until.is_some());
        self.failing.clear();
        any
    }

    /// Moves all times back, because the clock was set back by `by`.
    pub fn set_back(&mut self, by: Duration) {
        for suspect in self.failing.values_mut() {
            (suspect.until, suspect.line) = (suspect.until.map(|until| until - by), suspect.line - by);
        }
        self.under_way.values_mut().for_each(|under_way| under_way.moved = under_way.moved - by);
        self.taken.iter_mut().flatten().for_each(|(_, at)| *at = *at - by);
    }
}

impl Suspect {
    fn next_place(&mut self, from: Timestamp, now: Timestamp) -> Timestamp {
        self.line = (self.line + GAP).max(from).max(now + GAP);
        self.line
    }
}

#[cfg(test)]
mod tests;
