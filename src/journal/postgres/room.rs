//! The room that is taken, by project, and whether more fits. In memory: no SQL here.
//!
//! Rules: the room of other relays is what was read last, with each beat. Our own counts from its commit on; the changes of a transaction
//! under way are laid over it. A body that is being written counts here from its first byte until its record counts it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::journal::shares::Shares;
use crate::journal::{JournalError, Primaries, Share};
use crate::units::ByteSize;

/// Stands for bytes of no known project.
pub(super) const NOBODY: i32 = 0;

/// The changes of a transaction so far in bytes, by project.
pub(super) type Changes = BTreeMap<i32, i64>;

/// The room and its takers.
#[derive(Debug)]
pub(super) struct Room(Mutex<State>);

#[derive(Debug)]
struct State {
    max: u64,
    used: u64,
    shares: Shares,
    /// The number of projects that have a number among the shares.
    known: u32,
    takers: HashMap<i32, Taker>,
    primaries: Option<Primaries>,
    /// The project and the bytes that were last refused because there was no room at all.
    refused: Option<(Option<i32>, u64)>,
    /// The position of the search for records to evict: the acceptance time and the number of the last one that was read.
    search: (i64, i64),
    /// Whether a long look found nothing that could go.
    is_barren: bool,
}

/// The room that a project takes, in bytes.
#[derive(Debug, Default)]
struct Taker {
    /// The project's number among the shares.
    number: Option<u32>,
    /// For records that this relay counts.
    ours: i64,
    /// For bodies that are being written here.
    drafts: i64,
    /// For all that other relays count.
    others: i64,
}

impl Taker {
    fn bytes(&self) -> u64 {
        (self.ours + self.drafts + self.others).max(0).cast_unsigned()
    }
}

impl Room {
    /// A room of `max` bytes.
    pub(super) fn new(max: u64) -> Self {
        Self(Mutex::new(State {
            max,
            used: 0,
            shares: Shares::new(max),
            known: 0,
            takers: HashMap::new(),
            primaries: None,
            refused: None,
            search: (i64::MIN, 0),
            is_barren: false,
        }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds these projects to the shares.
    pub(super) fn know<'a>(&self, projects: impl Iterator<Item = (i32, &'a Arc<str>)>) {
        let state = &mut *self.state();
        for (project, name) in projects {
            if state.takers.get(&project).is_none_or(|taker| taker.number.is_none()) {
                state.shares.know(Arc::clone(name));
                let number = Some(state.known);
                state.known += 1;
                state.change(project, |taker| taker.number = number);
            }
        }
    }

    /// Divides the room between these projects.
    pub(super) fn split(&self, projects: Vec<Arc<str>>) {
        self.state().shares.split(projects);
    }

    /// Sets the primaries, whose backlogs are never evicted.
    pub(super) fn protect(&self, primaries: Primaries) {
        self.state().primaries = Some(primaries);
    }

    /// The primaries, whose backlogs are never evicted; `None` until they are set.
    pub(super) fn primaries(&self) -> Option<Primaries> {
        self.state().primaries.clone()
    }

    /// The bytes in use.
    pub(super) fn used(&self) -> u64 {
        self.state().used
    }

    /// The room that each project takes.
    pub(super) fn told(&self) -> Vec<Share> {
        self.state().shares.told()
    }

    /// Reports that a transaction with these changes was committed.
    pub(super) fn commit(&self, changes: &Changes) {
        self.state().lay(changes, 1);
    }

    /// Sets what this relay counts, as the database says.
    pub(super) fn read_ours(&self, read: &HashMap<i32, i64>) {
        self.state().set(read, |taker| &mut taker.ours);
    }

    /// Sets what other relays count, as the database says.
    pub(super) fn read_others(&self, read: &HashMap<i32, i64>) {
        self.state().set(read, |taker| &mut taker.others);
    }

    /// Reports that a body that is being written takes this much more room, or less if it is negative.
    pub(super) fn draft(&self, project: i32, bytes: i64) {
        self.state().change(project, |taker| taker.drafts += bytes);
    }

    /// The reason why `need` more bytes of a project do not fit beside these changes; `None` if they fit.
    pub(super) fn refusal(&self, changes: &Changes, (project, need): (Option<i32>, u64)) -> Option<JournalError> {
        let state = &mut *self.state();
        state.lay(changes, 1);
        let refusal = state.refusal(project, need);
        state.lay(changes, -1);
        refusal
    }

    /// The projects whose records go for `need` more bytes of a project, in the order in which they go.
    pub(super) fn giving(&self, changes: &Changes, (project, need): (Option<i32>, u64)) -> Vec<HashSet<i32>> {
        let state = &mut *self.state();
        state.lay(changes, 1);
        let number = state.number(project);
        let giving = state.shares.giving(number, need);
        state.lay(changes, -1);
        let of = |giving: &crate::journal::shares::Giving| {
            let has = state.takers.iter().filter(|(_, taker)| giving.has(taker.number.unwrap_or(u32::MAX)));
            has.map(|(project, _)| *project).collect()
        };
        giving.iter().map(of).collect()
    }

    /// Records what was refused because there was no room at all; `None` after an admission.
    pub(super) fn note_refused(&self, refused: Option<(Option<i32>, u64)>) {
        self.state().refused = refused;
    }

    /// The reason why what was refused last would be refused again.
    pub(super) fn trouble(&self) -> Option<JournalError> {
        let state = self.state();
        let (project, need) = state.refused?;
        state.refusal(project, need).filter(|why| matches!(why, JournalError::Full(_)))
    }

    /// The position of the search for records to evict.
    pub(super) fn search(&self) -> (i64, i64) {
        self.state().search
    }

    /// Sets the position of the search.
    pub(super) fn go_on(&self, search: (i64, i64)) {
        self.state().search = search;
    }

    /// Returns whether a long look found nothing that could go, and nothing was settled here since.
    pub(super) fn is_barren(&self) -> bool {
        self.state().is_barren
    }

    /// Records whether a long look found nothing; `false` makes the next look a long one again.
    pub(super) fn note_barren(&self, is_barren: bool) {
        self.state().is_barren = is_barren;
    }
}

impl State {
    fn change(&mut self, project: i32, change: impl FnOnce(&mut Taker)) {
        let taker = self.takers.entry(project).or_default();
        let before = taker.bytes();
        change(taker);
        let after = taker.bytes();
        self.used = (self.used + after).saturating_sub(before);
        if let Some(count) = taker.number.and_then(|number| self.shares.count(number)) {
            count.store(after, Ordering::Relaxed);
        }
    }

    /// The number of a project among the shares; one that nobody has if it is not known there yet.
    fn number(&self, project: Option<i32>) -> Option<u32> {
        project.map(|project| self.takers.get(&project).and_then(|taker| taker.number).unwrap_or(u32::MAX))
    }

    fn lay(&mut self, changes: &Changes, sign: i64) {
        changes.iter().for_each(|(project, bytes)| self.change(*project, |taker| taker.ours += sign * bytes));
    }

    fn set(&mut self, read: &HashMap<i32, i64>, which: fn(&mut Taker) -> &mut i64) {
        let projects: HashSet<i32> = self.takers.keys().chain(read.keys()).copied().collect();
        for project in projects {
            let bytes = read.get(&project).copied().unwrap_or(0);
            self.change(project, |taker| *which(taker) = bytes);
        }
    }

    fn refusal(&self, project: Option<i32>, need: u64) -> Option<JournalError> {
        let number = self.number(project);
        let left = self.shares.left_for_others(number, need, self.used);
        if self.used + need + left <= self.max {
            return None;
        }
        let (used, max) = (ByteSize::bytes(self.used), ByteSize::bytes(self.max));
        Some(if self.used + need <= self.max {
            let left = ByteSize::bytes(left);
            JournalError::Share(format!("{used} are in use, max_size is {max}, and {left} are left for other projects"))
        } else {
            JournalError::Full(format!("{used} are in use, max_size is {max}, and nothing can go yet"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transactions_changes_count_only_within_it_until_its_commit() {
        let room = Room::new(1000);
        let name: Arc<str> = "shop".into();
        room.know([(7, &name)].into_iter());
        room.read_others(&HashMap::from([(7, 300), (9, 100)]));
        room.draft(NOBODY, 50);
        assert_eq!(room.used(), 450);
        let changes = Changes::from([(7, 500)]);
        assert!(room.refusal(&changes, (Some(7), 51)).is_some());
        assert!(room.refusal(&changes, (Some(7), 50)).is_none());
        assert!(room.refusal(&Changes::new(), (Some(7), 550)).is_none());
        room.commit(&changes);
        room.draft(NOBODY, -50);
        assert_eq!((room.used(), room.told()[0].bytes), (900, 800));
        room.read_others(&HashMap::from([(7, 200)]));
        room.read_ours(&HashMap::new());
        assert_eq!((room.used(), room.told()[0].bytes), (200, 200), "what was read is what counts");
    }
}
