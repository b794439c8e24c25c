//! Shares of the room. One half is divided into parts, one for each configured project; the other half is common.
//!
//! Rule: a project always gets its own part. A project beyond its part takes from the common half only, and its records are evicted
//! first. A single project has all the room. For what names no known project nobody gives way. This file knows neither records nor files.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::telemetry::log::{self, Line};

/// The room that a project takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    /// Its name.
    pub project: Arc<str>,
    /// The size of its records and of its large bodies under way, in bytes.
    pub bytes: u64,
    /// Its own part in bytes; `None` for a single project, which has all the room.
    pub part: Option<u64>,
}

/// The room and its holders.
#[derive(Debug, Default)]
pub(super) struct Shares {
    max: u64,
    configured: HashSet<Arc<str>>,
    /// By project number.
    holders: Vec<Holder>,
}

#[derive(Debug)]
struct Holder {
    name: Arc<str>,
    bytes: Arc<AtomicU64>,
    is_configured: bool,
}

/// Which projects' records are evicted, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rank {
    /// Projects at least half as far beyond their part as the furthest.
    Furthest,
    /// All projects beyond their part.
    Beyond,
    /// All projects.
    All,
}

impl Rank {
    /// The number of ranks.
    pub(super) const COUNT: usize = 3;
}

/// The projects of a rank.
#[derive(Debug)]
pub(super) struct Giving {
    pub(super) rank: Rank,
    projects: Vec<bool>,
}

impl Giving {
    /// Whether a project, by number, is of this rank.
    pub(super) fn has(&self, project: u32) -> bool {
        self.rank == Rank::All || self.projects.get(project as usize).copied().unwrap_or(false)
    }
}

impl Shares {
    /// A room of `max` bytes without holders.
    pub(super) fn new(max: u64) -> Self {
        Self { max, ..Self::default() }
    }

    /// Splits the room between these projects. Other projects keep what they hold, and have no part.
    pub(super) fn split(&mut self, projects: Vec<Arc<str>>) {
        self.configured = projects.into_iter().collect();
        for holder in &mut self.holders {
            holder.is_configured = self.configured.contains(&holder.name);
        }
    }

    /// Adds a project, whose number is the next.
    pub(super) fn know(&mut self, name: Arc<str>) {
        let is_configured = self.configured.contains(&name);
        self.holders.push(Holder { name, bytes: Arc::default(), is_configured });
    }

    /// Forgets the projects from `count` on.
    pub(super) fn cut(&mut self, count: usize) {
        self.holders.truncate(count);
    }

    /// The bytes that a project holds.
    pub(super) fn count(&self, project: u32) -> Option<&Arc<AtomicU64>> {
        self.holders.get(project as usize).map(|holder| &holder.bytes)
    }

    /// The part of each configured project, in bytes; `None` unless there are several.
    pub(super) fn part(&self) -> Option<u64> {
        (self.configured.len() > 1).then(|| self.max / 2 / self.configured.len() as u64)
    }

    /// The bytes that must stay free for other projects when a project takes `need` more and all hold `used`. Zero while the project stays
    /// within its part; otherwise the unused rest of the others' parts. A body of no project counts as beyond, and leaves half of the room
    /// to a single project.
    pub(super) fn left_for_others(&self, project: Option<u32>, need: u64, used: u64) -> u64 {
        let of_the_only = (project.is_none() && self.configured.len() == 1).then_some(self.max / 2);
        let part = self.part().or(of_the_only);
        let Some(part) = part.filter(|_| used + need > self.max / 2) else { return 0 };
        let own = project.and_then(|number| self.holders.get(number as usize)).filter(|holder| holder.is_configured);
        if own.is_some_and(|holder| holder.bytes() + need <= part) {
            return 0;
        }
        let known = self.holders.iter().filter(|holder| holder.is_configured);
        let (count, left) = known.fold((0, 0), |(count, left), holder| {
            let is_own = own.is_some_and(|own| Arc::ptr_eq(&own.bytes, &holder.bytes));
            (count + 1, if is_own { left } else { left + part.saturating_sub(holder.bytes()) })
        });
        left + part * (self.configured.len() as u64).saturating_sub(count)
    }

    /// Whose records are evicted when a project needs `need` bytes more, rank by rank. Nobody's for a body of no known project: it may be
    /// no envelope at all.
    pub(super) fn giving(&self, project: Option<u32>, need: u64) -> Vec<Giving> {
        if project.is_none() {
            return vec![];
        }
        let all = || Giving { rank: Rank::All, projects: vec![] };
        let Some(part) = self.part() else { return vec![all()] };
        let excess = |(number, holder): (u32, &Holder)| {
            let bytes = holder.bytes() + if Some(number) == project { need } else { 0 };
            bytes.saturating_sub(if holder.is_configured { part } else { 0 })
        };
        let excesses: Vec<u64> = (0..).zip(&self.holders).map(excess).collect();
        let most = excesses.iter().max().copied().unwrap_or(0);
        let of = |least: u64| excesses.iter().map(|excess| *excess >= least.max(1)).collect();
        let furthest = Giving { rank: Rank::Furthest, projects: of(most.div_ceil(2)) };
        let is_beyond = project.is_none_or(|number| excesses.get(number as usize).is_none_or(|excess| *excess > 0));
        vec![furthest, if is_beyond { Giving { rank: Rank::Beyond, projects: of(1) } } else { all() }]
    }

    /// The room of each project, largest first: the configured ones, and others that still hold something.
    pub(super) fn told(&self) -> Vec<Share> {
        let part = |is_configured| self.part().map(|part| if is_configured { part } else { 0 });
        let share = |holder: &Holder| Share {
            project: Arc::clone(&holder.name),
            bytes: holder.bytes(),
            part: part(holder.is_configured),
        };
        let known: HashSet<&Arc<str>> = self.holders.iter().map(|holder| &holder.name).collect();
        let unknown = self.configured.iter().filter(|name| !known.contains(name));
        let nothing = |name: &Arc<str>| Share { project: Arc::clone(name), bytes: 0, part: part(true) };
        let holders = self.holders.iter().filter(|holder| holder.is_configured || holder.bytes() > 0).map(share);
        let mut all: Vec<Share> = holders.chain(unknown.map(nothing)).collect();
        all.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.project.cmp(&b.project)));
        all
    }
}

impl Holder {
    fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

/// Logs, at most once a minute, that a project is refused because of its share.
pub(super) fn tell_refused(project: &str, why: &str) {
    if let Some(Line { suppressed }) = log::admit("share of the journal", project) {
        let message =
            "the project has taken its share of the journal; what it sends is refused until some of it is delivered";
        tracing::error!(project.name = project, why, suppressed, "{message}");
    }
}

/// Says that so many that wait for an upstream gave way.
pub(super) fn tell_evicted(upstream: &str, envelopes: u64) {
    if let Some(envelopes) = log::admit_sum("evicted", upstream, envelopes) {
        let why = "the journal is full: the oldest that wait for this shadow give way";
        tracing::error!(upstream.name = upstream, envelopes, "{why}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(shares: &Shares, name: &str) -> Option<u32> {
        (0..).zip(&shares.holders).find(|(_, holder)| &*holder.name == name).map(|(number, _)| number)
    }

    fn shares(bytes: &[(&str, u64)], configured: &[&str]) -> Shares {
        let mut shares = Shares::new(1200);
        for (name, bytes) in bytes {
            shares.know((*name).into());
            shares.holders.last().unwrap().bytes.store(*bytes, Ordering::Relaxed);
        }
        shares.split(configured.iter().map(|name| (*name).into()).collect());
        shares
    }

    fn names(shares: &Shares, giving: &Giving) -> Vec<&'static str> {
        let all = ["a", "b", "c"].into_iter().filter(|name| number(shares, name).is_some_and(|at| giving.has(at)));
        all.collect()
    }

    #[test]
    fn whoever_is_beyond_its_part_leaves_to_the_others_what_is_left_of_theirs() {
        let shares = shares(&[("a", 500), ("b", 50), ("gone", 10)], &["a", "b", "c"]);
        assert_eq!(shares.part(), Some(200));
        let left = |project| shares.left_for_others(project, 10, 700);
        assert_eq!([left(Some(0)), left(Some(1)), left(Some(2)), left(None)], [350, 0, 350, 350]);
        assert_eq!(shares.left_for_others(Some(1), 151, 700), 200);
        assert_eq!(
            shares.left_for_others(Some(0), 10, 590),
            0,
            "as long as half of it is free there is enough for all"
        );
    }

    #[test]
    fn the_only_project_leaves_nothing_to_nobody_and_all_give_way_for_it() {
        let shares = shares(&[("a", 1000), ("gone", 100)], &["a"]);
        assert_eq!((shares.part(), shares.left_for_others(Some(0), 100, 1100)), (None, 0));
        let nobodys = |used| shares.left_for_others(None, 100, used);
        assert_eq!((nobodys(1100), nobodys(500)), (0, 0), "it has more than its half, and half is free");
        let giving = shares.giving(Some(0), 10);
        assert!(giving.len() == 1 && giving[0].has(0) && giving[0].has(1) && giving[0].has(7));
        assert_eq!(shares.told()[0], Share { project: "a".into(), bytes: 1000, part: None });
    }

    #[test]
    fn the_furthest_beyond_its_part_gives_way_first_and_one_within_it_for_nobody_beyond() {
        let shares = shares(&[("a", 700), ("b", 250), ("c", 150)], &["a", "b", "c"]);
        let order = |project| {
            let giving = shares.giving(project, 10);
            giving.iter().map(|giving| names(&shares, giving)).collect::<Vec<_>>()
        };
        assert_eq!(order(Some(0)), [vec!["a"], vec!["a", "b"]]);
        assert_eq!(order(Some(2)), [vec!["a"], vec!["a", "b", "c"]]);
        assert!(order(None).is_empty(), "nobody gives way for a body of no known project");
    }

    #[test]
    fn a_body_of_no_known_project_leaves_half_of_the_room_to_the_only_project() {
        let shares = shares(&[("a", 100)], &["a"]);
        assert_eq!((shares.left_for_others(None, 10, 700), shares.left_for_others(Some(0), 10, 700)), (500, 0));
    }

    #[test]
    fn who_takes_most_is_told_first_and_those_that_are_configured_with_nothing_too() {
        let shares = shares(&[("b", 50), ("a", 500), ("gone", 10), ("empty", 0)], &["a", "b", "c"]);
        let told: Vec<_> =
            shares.told().into_iter().map(|s| (s.project.to_string(), s.bytes, s.part.unwrap())).collect();
        let expected = [("a", 500, 200), ("b", 50, 200), ("gone", 10, 0), ("c", 0, 200)];
        assert_eq!(told, expected.map(|(name, bytes, part)| (name.to_owned(), bytes, part)));
    }
}
