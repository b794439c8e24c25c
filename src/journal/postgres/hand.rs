//! The hand of a target: records that the database has handed out to this relay, ready to be claimed or leased to a worker. No SQL here.
//!
//! Rules: the records in hand have our incarnation as their owner in the database, so no other relay has them. Leases are judged by tokio's
//! clock: a claim revokes those that have ended, and their records are due at once. The mutex is held for moments only.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::clock::Timestamp;
use crate::journal::{Claim, LEASE, Lease, Progress, Record, TargetId};
use crate::protocol::category::Quantities;

use super::fresh::{Fresh, Kept};

/// The most records that are handed out at once.
pub(super) const SLICE: usize = 64;
/// The most bytes of bodies that are fetched at once, except for the first body.
pub(super) const BYTES: usize = 4 << 20;
/// How long after its last claim a worker counts as asking.
const ASKED: Duration = Duration::from_secs(2);
/// The most settlements of a target that may await their commit: a crash repeats them.
pub(super) const MAX_UNCOMMITTED: usize = 64;

/// The incarnation that took the record of this number.
pub(super) fn incarnation(number: i64) -> i32 {
    i32::try_from(number >> 40).unwrap_or(i32::MAX)
}

/// This relay's hand of one target.
#[derive(Debug)]
pub(super) struct Hand {
    pub(super) changed: Arc<Notify>,
    /// Whether the database may have more than was looked at.
    pub(super) more: AtomicBool,
    /// Whether to look for records that other relays have left, even if records are ready here.
    pub(super) is_time: AtomicBool,
    /// The number of operations so far that may make records ours in the database without bringing them here.
    doubts: AtomicU64,
    /// The last of these operations up to which all outcomes are known.
    resolved: AtomicU64,
    /// Held while more is fetched, while ready records are withdrawn, and while records are claimed.
    pub(super) fetching: tokio::sync::Mutex<()>,
    state: Mutex<State>,
}

/// The state behind the mutex.
#[derive(Debug, Default)]
pub(super) struct State {
    /// Due records first, then untried ones, then those of a backfill. Untried records of one incarnation are in the order of their
    /// numbers.
    pub(super) ready: VecDeque<Ready>,
    leases: HashMap<i64, Leased>,
    last_lease: u64,
    /// The records whose settlements await their commit, by the number of the lease.
    settling: HashMap<u64, i64>,
    /// The records that a transaction under way hands out.
    promised: Vec<i64>,
    /// When the next row in `pending` comes due, as far as is known.
    pub(super) next_due: Option<Timestamp>,
    /// The records that this relay has committed and that were not handed out.
    pub(super) fresh: Fresh,
    /// Whether there are records of other relays that were not handed out: then all are handed out in order of acceptance.
    pub(super) has_others: bool,
    /// When a worker claimed last.
    asked: Option<Instant>,
}

/// Where the database keeps a record that is in hand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Place {
    /// In the slice of this number.
    Slice(i64),
    /// In `pending`, handed out with this turn: a row may be handed out several times.
    Row(i64),
}

/// A record that can be claimed.
#[derive(Clone, Debug)]
pub(super) struct Ready {
    pub(super) record: Arc<Record>,
    pub(super) project: i32,
    pub(super) place: Place,
    pub(super) progress: Progress,
    /// The quantities that are pending for the target.
    pub(super) quantities: Quantities,
    pub(super) backfilled: bool,
    /// Whether the upstream took the record before, and lost it.
    pub(super) repaired: bool,
}

impl Ready {
    /// The number of the record as a column has it.
    pub(super) fn number(&self) -> i64 {
        self.record.id.number().cast_signed()
    }

    /// Returns whether the record was put off, and so comes first now.
    fn is_due(&self) -> bool {
        matches!(self.place, Place::Row(_)) && !self.backfilled
    }

    /// Returns whether the record counts as untried.
    fn is_untried(&self) -> bool {
        matches!(self.place, Place::Slice(_))
    }

    /// Returns whether this goes before `other`, which is not due. An untried record goes before those of a backfill, and before later
    /// untried records of its incarnation.
    fn goes_before(&self, other: &Self) -> bool {
        let is_of_one_start = incarnation(self.number()) == incarnation(other.number());
        let is_earlier = other.is_untried() && is_of_one_start && self.number() < other.number();
        self.is_untried() && (other.backfilled || is_earlier)
    }

    /// The number and the place of the record.
    pub(super) fn stands(&self) -> (i64, Place) {
        (self.number(), self.place)
    }
}

/// A leased record.
#[derive(Clone, Debug)]
pub(super) struct Leased {
    pub(super) ready: Ready,
    number: u64,
    ends: Instant,
}

impl Default for Hand {
    /// An empty hand, for which the database was not looked at.
    fn default() -> Self {
        let (changed, is_time, doubts, resolved, fetching, state) = Default::default();
        Self { changed, more: AtomicBool::new(true), is_time, doubts, resolved, fetching, state }
    }
}

impl Hand {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins an operation that may make records ours in the database; returns its number.
    pub(super) fn doubt(&self) -> u64 {
        self.doubts.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// Returns whether the outcome of an operation before this one is unknown.
    pub(super) fn is_doubtful(&self, before: u64) -> bool {
        self.resolved.load(Ordering::Acquire) + 1 < before
    }

    /// Reports that this operation, and no other, has ended.
    pub(super) fn resolve(&self, doubt: u64) {
        let (before, order) = (doubt - 1, Ordering::AcqRel);
        // While an earlier operation is in doubt, this one stays so.
        self.resolved.compare_exchange(before, doubt, order, Ordering::Acquire).ok();
    }

    /// Reports that the outcomes of all operations up to this one are known.
    pub(super) fn resolve_all(&self, doubt: u64) {
        self.resolved.fetch_max(doubt, Ordering::AcqRel);
    }

    /// Takes out the records whose leases have ended. If that does not reach the database, they are looked up there.
    pub(super) fn lapse(&self, at: Instant) -> Vec<Ready> {
        let lapsed = self.state().lapse(at);
        if !lapsed.is_empty() {
            self.doubt();
        }
        lapsed
    }

    /// Forgets the ready records. Those that are ours are looked up in the database.
    pub(super) fn forget(&self) {
        self.doubt();
        self.more.store(true, Ordering::Release);
        self.state().ready.clear();
    }

    /// Notifies the worker that the database may have more.
    pub(super) fn wake(&self) {
        self.more.store(true, Ordering::Release);
        self.changed.notify_one();
    }

    /// Returns whether the database must be looked at before a claim. Records in doubt may come before those that are ready.
    pub(super) fn lacks(&self, now: Timestamp) -> bool {
        let state = self.state();
        let is_due = state.next_due.is_some_and(|due| due <= now);
        let is_in_doubt = self.is_doubtful(self.doubts.load(Ordering::Acquire) + 1);
        let is_empty = state.ready.is_empty() && self.more.load(Ordering::Acquire);
        is_due || is_in_doubt || self.is_time.load(Ordering::Acquire) || is_empty
    }
}

impl State {
    /// Takes out the records whose leases have ended.
    fn lapse(&mut self, at: Instant) -> Vec<Ready> {
        self.leases.extract_if(|_, leased| leased.ends <= at).map(|(_, leased)| leased.ready).collect()
    }

    /// Makes records ready, each in its place. A claim and a commit may bring records at the same time, and the later ones first.
    pub(super) fn bring(&mut self, found: impl IntoIterator<Item = Ready>) {
        let mut due = vec![];
        for ready in found {
            if ready.is_due() {
                due.push(ready);
                continue;
            }
            let at = self.ready.iter().position(|other| ready.goes_before(other)).unwrap_or(self.ready.len());
            self.ready.insert(at, ready);
        }
        due.into_iter().rev().for_each(|ready| self.ready.push_front(ready));
    }

    /// Leases up to `max` ready records; none while too many settlements await their commit.
    pub(super) fn take(&mut self, (target, owner): (TargetId, u64), at: Instant, max: usize) -> Vec<Claim> {
        self.asked = Some(at);
        if self.settling.len() >= MAX_UNCOMMITTED {
            return vec![];
        }
        let mut claims = Vec::new();
        while claims.len() < max {
            let Some(ready) = self.ready.pop_front() else { break };
            self.last_lease += 1;
            let (number, ends) = (self.last_lease, at + LEASE);
            let lease = Lease { target, record: ready.record.id, owner, number, ends };
            let (record, progress) = (Arc::clone(&ready.record), ready.progress.clone());
            claims.push(Claim { lease, record, progress, backfilled: ready.backfilled || ready.repaired });
            self.leases.insert(ready.number(), Leased { ready, number, ends });
        }
        claims
    }

    /// Returns whether a worker asks for records that this relay commits.
    pub(super) fn is_asked(&self) -> bool {
        self.asked.is_some_and(|at| at.elapsed() < ASKED)
    }

    /// Returns whether a worker asks, and what this relay commits may be handed out at once.
    pub(super) fn asks(&self) -> bool {
        self.is_asked() && !self.has_others && self.fresh.is_whole() && self.ready.len() < SLICE
    }

    /// Chooses what to hand out to this relay of the records that it has committed and of `new`, which it is about to commit: as much as a
    /// slice holds. Empty unless [`State::asks`].
    pub(super) fn promise(&mut self, new: &[Kept]) -> Vec<Kept> {
        if !self.asks() {
            return vec![];
        }
        let mut bytes = self.bytes();
        let is_idle = self.ready.is_empty();
        let fits = |(at, kept): &(usize, &Kept)| {
            bytes += kept.bytes();
            bytes <= BYTES || (is_idle && *at == 0)
        };
        let room = SLICE.saturating_sub(self.ready.len());
        let records = self.fresh.records().chain(new).take(room).enumerate().take_while(fits);
        let promised: Vec<Kept> = records.map(|(_, kept)| kept.clone()).collect();
        self.promised = promised.iter().map(Kept::number).collect();
        promised
    }

    /// The size of the ready bodies, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.ready.iter().map(|ready| ready.record.body.in_memory()).sum()
    }

    /// Ends the promise, and makes those of its records ready that are ours.
    pub(super) fn keep_promise(&mut self, ready: impl Iterator<Item = Ready>) {
        self.promised.clear();
        self.bring(ready);
    }

    /// Takes out the record of this lease to be settled; `None` if the lease is lost.
    pub(super) fn end(&mut self, lease: &Lease) -> Option<Leased> {
        let id = lease.record.number().cast_signed();
        self.leases.get(&id).filter(|leased| leased.number == lease.number)?;
        self.settling.insert(lease.number, id);
        self.leases.remove(&id)
    }

    /// Reports that the settlement of this lease is committed, or is not.
    pub(super) fn settled(&mut self, leased: &Leased) {
        self.settling.remove(&leased.number);
    }

    /// Puts a lease back whose record could not be settled. It is left to end.
    pub(super) fn give_back(&mut self, leased: Leased) {
        self.leases.insert(leased.ready.number(), leased);
    }

    /// Extends a lease until `ends`; returns whether it still holds.
    pub(super) fn extend(&mut self, lease: &Lease, ends: Instant) -> bool {
        let held = self.leases.get_mut(&lease.record.number().cast_signed()).filter(|held| held.number == lease.number);
        held.map(|held| held.ends = ends).is_some()
    }

    /// Takes out and returns the ready records for which `which` holds.
    pub(super) fn withdraw(&mut self, which: impl Fn(&Ready) -> bool) -> Vec<Ready> {
        let (gone, stays) = std::mem::take(&mut self.ready).into_iter().partition(which);
        self.ready = stays;
        Vec::from(gone)
    }

    /// Drops the records for which `is_lost` holds: the database says that they are not ours any more. Their leases are lost.
    pub(super) fn lose(&mut self, is_lost: impl Fn(&Ready) -> bool) {
        self.ready.retain(|ready| !is_lost(ready));
        self.leases.retain(|_, leased| !is_lost(&leased.ready));
    }

    /// The records that are ready, leased, promised or being settled.
    pub(super) fn known(&self) -> Vec<i64> {
        let here = self.ready.iter().chain(self.leases.values().map(|leased| &leased.ready));
        let moving = self.promised.iter().chain(self.settling.values());
        here.map(Ready::number).chain(moving.copied()).collect()
    }

    /// Reports that a row comes due at this time.
    pub(super) fn note_due(&mut self, due: Timestamp) {
        self.next_due = Some(self.next_due.map_or(due, |next| next.min(due)));
    }
}

#[cfg(test)]
mod tests {
    use super::super::fresh::tests::kept;
    use super::*;

    /// The numbers of two incarnations begin behind these.
    const ONE: u64 = 1 << 40;
    const TWO: u64 = 2 << 40;

    fn ready(number: u64) -> Ready {
        let Kept { record, project } = kept(number, 1);
        let (place, progress, quantities) = (Place::Slice(1), Progress::default(), Quantities::new());
        Ready { record, project, place, progress, quantities, backfilled: false, repaired: false }
    }

    fn row(number: u64, backfilled: bool) -> Ready {
        Ready { place: Place::Row(1), backfilled, ..ready(number) }
    }

    fn claimed(state: &mut State) -> Vec<u64> {
        let claims = state.take((TargetId(0), 1), Instant::now(), usize::MAX);
        claims.iter().map(|claim| claim.record.id.number()).collect()
    }

    #[test]
    fn records_of_a_commit_go_after_earlier_ones_that_a_claim_brings_later() {
        let mut state = State::default();
        state.bring([row(ONE + 1, false), row(ONE + 2, true)]);
        state.keep_promise([ready(ONE + 9), ready(ONE + 10)].into_iter());
        state.bring([ready(ONE + 7), ready(TWO + 1), ready(ONE + 8), ready(TWO + 2)]);
        state.keep_promise([ready(ONE + 11)].into_iter());
        let (due, own, others, backfilled) = ([1], [7, 8, 9, 10, 11], [1, 2], [2]);
        let numbers = claimed(&mut state);
        let of_one = due.into_iter().chain(own).chain(backfilled).map(|number| ONE + number);
        assert!(numbers.iter().copied().filter(|number| *number < TWO).eq(of_one), "{numbers:?}");
        let of_two = others.map(|number| TWO + number);
        assert!(numbers.iter().copied().filter(|number| *number > TWO).eq(of_two), "{numbers:?}");
    }

    #[test]
    fn forgotten_records_are_looked_up_before_later_ones_are_claimed() {
        let (hand, now) = (Hand::default(), Timestamp::from_millis(1));
        hand.more.store(false, Ordering::Release);
        hand.state().bring([ready(ONE + 1)]);
        assert!(!hand.lacks(now));
        hand.forget();
        hand.state().keep_promise([ready(ONE + 2)].into_iter());
        assert!(hand.lacks(now));
    }

    #[test]
    fn a_record_put_back_keeps_its_place() {
        let mut state = State::default();
        state.bring([row(ONE + 1, false), ready(ONE + 2), row(ONE + 3, true)]);
        let withdrawn = state.withdraw(|_| true);
        state.keep_promise([ready(ONE + 4)].into_iter());
        state.bring(withdrawn);
        state.keep_promise([ready(ONE + 5)].into_iter());
        assert_eq!(claimed(&mut state), [1, 2, 4, 5, 3].map(|number| ONE + number));
    }
}
