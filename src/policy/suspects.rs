//! Projects whose records fail while the upstream works. Such a project waits alone, so that what it sends costs the others next
//! to nothing, and its failures say nothing about the upstream.
//!
//! Rules:
//!
//! - A project is suspected when it fails three times in a row while another project was taken [`LATELY`], or when the upstream
//!   answers questions and only very few projects fail.
//! - A suspect has one record under way at a time, and a tenth of the time at most. All suspects together have half of the
//!   places.
//! - The other records that are claimed get a place in a line, one after the other, so that never more come due than are cheap to
//!   look at.
//! - A suspect that succeeds is forgiven step by step.
//! - What has not failed yet and hangs leaves a place to others as soon as it takes unusually long.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Timestamp;

use super::backoff::Backoff;

/// So often a project fails in a row before it is suspected.
const PATIENCE: u32 = 3;
/// The most failures that are remembered: four successes forgive them.
const MOST: u32 = 8;
/// What was taken of another project so long ago shows that the upstream works.
pub const LATELY: Duration = Duration::from_secs(30);
/// The least time between two records of a suspect, and between two places in its line.
pub const GAP: Duration = Duration::from_millis(200);
/// A suspect pauses so many times as long as its last failure took.
const PAUSES: u32 = 9;
/// When so many projects fail and none is taken, the upstream is down, though it answers questions.
const SEVERAL: usize = 3;
/// When no request of a project has moved for so long, its requests leave room for others; earlier where answers usually take less.
pub const SLOW: Duration = Duration::from_secs(2);
/// So many times as long as usual is slow.
const UNUSUAL: u32 = 20;
/// For so long after its wait is over a suspect is told as one: it may be tried just then.
const TOLD: Duration = Duration::from_secs(60);

/// The projects of one upstream that fail, and what is under way of each.
#[derive(Clone, Debug, Default)]
pub struct Suspects {
    failing: BTreeMap<Arc<str>, Suspect>,
    under_way: BTreeMap<Arc<str>, UnderWay>,
    /// The two projects that were taken last, the last one first.
    taken: [Option<(Arc<str>, Timestamp)>; 2],
    /// How long it takes to be taken, on average.
    usual: Option<Duration>,
}

/// A project that has failed.
#[derive(Clone, Copy, Debug, Default)]
struct Suspect {
    failures: u32,
    /// Failures in a row while the upstream answered questions and took nothing.
    doubts: u32,
    /// Until when it waits; `None` when it is not suspected.
    until: Option<Timestamp>,
    /// The last place in its line.
    line: Timestamp,
    /// Some of it was put off because it had its share of the room.
    crowded: bool,
}

#[derive(Clone, Copy, Debug)]
struct UnderWay {
    count: usize,
    /// When one of them began or ended.
    moved: Timestamp,
}

impl Suspects {
    /// A record of the project failed after `took`; `reached`: the upstream answers questions, and no record is known to be taken.
    /// Returns whether the project waits alone now.
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

    /// A record of the project was taken. Returns whether the project waited alone, and does no more.
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

    /// When a record of the project that is claimed now may be tried; `None`: now. No more than `places` suspects are tried at once.
    pub fn waits(&mut self, project: &str, places: usize, now: Timestamp) -> Option<Timestamp> {
        let until = self.failing.get(project)?.until?;
        let is_suspected = |name: &Arc<str>| self.failing.get(name).is_some_and(|suspect| suspect.until.is_some());
        let is_next = until <= now && !self.under_way.contains_key(project);
        if is_next && self.under_way.keys().filter(|name| is_suspected(name)).count() < places {
            return None;
        }
        self.failing.get_mut(project).map(|suspect| suspect.next_place(until, now))
    }

    /// The projects that wait alone, each with the moment until which that may be said of it if nothing more is heard.
    pub fn told(&self) -> Vec<(Arc<str>, Timestamp)> {
        let waiting = |(name, suspect): (&Arc<str>, &Suspect)| Some((Arc::clone(name), suspect.until? + TOLD));
        self.failing.iter().filter_map(waiting).collect()
    }

    /// A record was taken after `took`.
    pub fn took(&mut self, took: Duration) {
        self.usual = Some(self.usual.map_or(took, |usual| (usual * 7 + took) / 8));
    }

    fn slow(&self) -> Duration {
        self.usual.map_or(SLOW, |usual| (usual * UNUSUAL).clamp(GAP, SLOW))
    }

    /// A request of the project was started.
    pub fn started(&mut self, project: &Arc<str>, now: Timestamp) {
        match self.under_way.get_mut(project) {
            Some(under_way) => under_way.count += 1,
            None => drop(self.under_way.insert(Arc::clone(project), UnderWay { count: 1, moved: now })),
        }
    }

    /// A request of the project came to its end.
    pub fn ended(&mut self, project: &str, now: Timestamp) {
        let Some(under_way) = self.under_way.get_mut(project) else { return };
        (under_way.count, under_way.moved) = (under_way.count - 1, now);
        if under_way.count == 0 {
            self.under_way.remove(project);
        }
    }

    /// From when on the room that is left is for other projects than the one that has `share` requests under way; `None` when none has.
    pub fn crowded_since(&self, share: usize) -> Option<Timestamp> {
        self.under_way
            .values()
            .find(|under_way| under_way.count >= share)
            .map(|under_way| under_way.moved + self.slow())
    }

    /// When a record of the project that is claimed now may be tried, if the project has `share` requests under way already.
    pub fn crowds(&mut self, project: &Arc<str>, share: usize, now: Timestamp) -> Option<Timestamp> {
        let is_crowding = self.under_way.get(project).is_some_and(|under_way| under_way.count >= share);
        is_crowding.then(|| {
            let suspect = self.failing.entry(Arc::clone(project)).or_default();
            suspect.crowded = true;
            suspect.next_place(now, now)
        })
    }

    /// Somebody may have mended it: nobody is suspected. Returns whether anybody was.
    pub fn forgive(&mut self) -> bool {
        let any = self.failing.values().any(|suspect| suspect.until.is_some());
        self.failing.clear();
        any
    }

    /// The clock was set back by so much: what projects wait for moves with it.
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
