//! What this relay has in hand of one target: handed out by the database, ready to be claimed, or leased to a worker. No SQL here.
//!
//! Rules: what is here has our incarnation as its owner in the database, so no other relay has it. Leases are judged by tokio's clock:
//! a claim revokes those that have ended, and puts their records off until then. The mutex is held for moments only.

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

/// The most records that are handed out together.
pub(super) const SLICE: usize = 64;
/// The most bytes of bodies that are brought into hand together, but for the first.
pub(super) const BYTES: usize = 4 << 20;
/// A worker that asked last such a time ago has something else to do.
const ASKED: Duration = Duration::from_secs(2);
/// The most settlements of one target that may await their commit: what a crash may repeat.
pub(super) const MAX_UNCOMMITTED: usize = 64;

/// Which start of a relay took the record of that number.
pub(super) fn incarnation(number: i64) -> i32 {
    i32::try_from(number >> 40).unwrap_or(i32::MAX)
}

/// What this relay has of one target.
#[derive(Debug)]
pub(super) struct Hand {
    pub(super) changed: Arc<Notify>,
    /// There may be more in the database than was looked at.
    pub(super) more: AtomicBool,
    /// It is time to look what others have left, whatever is ready here.
    pub(super) is_time: AtomicBool,
    /// How often something was begun that may make records ours in the database, and not be here should it not come to its end.
    doubts: AtomicU64,
    /// How many of these are known to have come to nothing, or to be here.
    resolved: AtomicU64,
    /// Held while more is fetched, while what is ready is taken out for a time, and while something is claimed.
    pub(super) fetching: tokio::sync::Mutex<()>,
    state: Mutex<State>,
}

/// The state behind the mutex.
#[derive(Debug, Default)]
pub(super) struct State {
    /// What was due, then what was never tried, then what a backfill took up. What was never tried of one start of a relay is in the order
    /// of its numbers.
    pub(super) ready: VecDeque<Ready>,
    leases: HashMap<i64, Leased>,
    last_lease: u64,
    /// Settlements that await their commit: the records, by the numbers of their leases.
    settling: HashMap<u64, i64>,
    /// What a transaction hands out that is under way.
    promised: Vec<i64>,
    /// When the next row in `pending` comes due, as far as is known.
    pub(super) next_due: Option<Timestamp>,
    /// What this relay has committed and nobody was handed.
    pub(super) fresh: Fresh,
    /// Others have taken records that nobody was handed: all is handed out in the order of acceptance then.
    pub(super) has_others: bool,
    /// When a worker asked last.
    asked: Option<Instant>,
}

/// Where a record that is in hand stands in the database.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Place {
    /// In a slice.
    Slice(i64),
    /// In `pending`, handed out by this turn: a row is given out again and again.
    Row(i64),
}

/// A record that can be claimed.
#[derive(Clone, Debug)]
pub(super) struct Ready {
    pub(super) record: Arc<Record>,
    pub(super) project: i32,
    pub(super) place: Place,
    pub(super) progress: Progress,
    /// What is pending for the target.
    pub(super) quantities: Quantities,
    pub(super) backfilled: bool,
}

impl Ready {
    /// The number of the record as a column has it.
    pub(super) fn number(&self) -> i64 {
        self.record.id.number().cast_signed()
    }

    /// Whether it was put off, and comes before everything else now.
    fn is_due(&self) -> bool {
        matches!(self.place, Place::Row(_)) && !self.backfilled
    }

    /// Whether nobody has tried it.
    fn is_untried(&self) -> bool {
        matches!(self.place, Place::Slice(_))
    }

    /// Whether this goes before another one that is not due: what was never tried before what a backfill took up, and before what the
    /// same start of a relay took after it.
    fn goes_before(&self, other: &Self) -> bool {
        let is_of_one_start = incarnation(self.number()) == incarnation(other.number());
        let is_earlier = other.is_untried() && is_of_one_start && self.number() < other.number();
        self.is_untried() && (other.backfilled || is_earlier)
    }

    /// Where the record stands.
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
    /// Nothing, and nobody has looked yet.
    fn default() -> Self {
        let (changed, is_time, doubts, resolved, fetching, state) = Default::default();
        Self { changed, more: AtomicBool::new(true), is_time, doubts, resolved, fetching, state }
    }
}

impl Hand {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins what may make records ours in the database; returns its number.
    pub(super) fn doubt(&self) -> u64 {
        self.doubts.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// Whether something begun before this did not come to its end.
    pub(super) fn is_doubtful(&self, before: u64) -> bool {
        self.resolved.load(Ordering::Acquire) + 1 < before
    }

    /// This came to its end, and nothing else did.
    pub(super) fn resolve(&self, doubt: u64) {
        let (before, order) = (doubt - 1, Ordering::AcqRel);
        // When what came before is in doubt, all of it stays so.
        self.resolved.compare_exchange(before, doubt, order, Ordering::Acquire).ok();
    }

    /// All that was begun up to this is known.
    pub(super) fn resolve_all(&self, doubt: u64) {
        self.resolved.fetch_max(doubt, Ordering::AcqRel);
    }

    /// Takes out what leases have ended of. Should that not reach the database, it is looked up there.
    pub(super) fn lapse(&self, at: Instant) -> Vec<Ready> {
        let lapsed = self.state().lapse(at);
        if !lapsed.is_empty() {
            self.doubt();
        }
        lapsed
    }

    /// Forgets what is ready: what of it is ours is looked up in the database.
    pub(super) fn forget(&self) {
        self.doubt();
        self.more.store(true, Ordering::Release);
        self.state().ready.clear();
    }

    /// Tells the worker that there may be more in the database.
    pub(super) fn wake(&self) {
        self.more.store(true, Ordering::Release);
        self.changed.notify_one();
    }

    /// Whether it has to be looked into the database before something is claimed. What is in doubt may come before what is ready.
    pub(super) fn lacks(&self, now: Timestamp) -> bool {
        let state = self.state();
        let is_due = state.next_due.is_some_and(|due| due <= now);
        let is_in_doubt = self.is_doubtful(self.doubts.load(Ordering::Acquire) + 1);
        let is_empty = state.ready.is_empty() && self.more.load(Ordering::Acquire);
        is_due || is_in_doubt || self.is_time.load(Ordering::Acquire) || is_empty
    }
}

impl State {
    /// Takes out what leases have ended of.
    fn lapse(&mut self, at: Instant) -> Vec<Ready> {
        self.leases.extract_if(|_, leased| leased.ends <= at).map(|(_, leased)| leased.ready).collect()
    }

    /// Makes records ready, each in its place. Claims and commits bring some at the same time, and what was taken last may come first.
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

    /// Leases up to `max` of what is ready.
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
            claims.push(Claim { lease, record, progress, backfilled: ready.backfilled });
            self.leases.insert(ready.number(), Leased { ready, number, ends });
        }
        claims
    }

    /// Whether a worker asks for what this relay commits.
    pub(super) fn is_asked(&self) -> bool {
        self.asked.is_some_and(|at| at.elapsed() < ASKED)
    }

    /// Whether one asks, and there is room for it.
    pub(super) fn asks(&self) -> bool {
        self.is_asked() && !self.has_others && self.fresh.is_whole() && self.ready.len() < SLICE
    }

    /// What is to be handed out to this relay of what it has committed, and of what it is about to: as much as a slice holds, for
    /// a worker that asks, and nothing while others have left something.
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

    /// The bytes of the bodies that are ready.
    pub(super) fn bytes(&self) -> usize {
        self.ready.iter().map(|ready| ready.record.body.in_memory()).sum()
    }

    /// What was promised is ready, or is not ours.
    pub(super) fn keep_promise(&mut self, ready: impl Iterator<Item = Ready>) {
        self.promised.clear();
        self.bring(ready);
    }

    /// Takes out what is leased so, to be settled.
    pub(super) fn end(&mut self, lease: &Lease) -> Option<Leased> {
        let id = lease.record.number().cast_signed();
        self.leases.get(&id).filter(|leased| leased.number == lease.number)?;
        self.settling.insert(lease.number, id);
        self.leases.remove(&id)
    }

    /// The settlement of this is committed, or is not.
    pub(super) fn settled(&mut self, leased: &Leased) {
        self.settling.remove(&leased.number);
    }

    /// What was to be settled could not be: its lease is left to end.
    pub(super) fn give_back(&mut self, leased: Leased) {
        self.leases.insert(leased.ready.number(), leased);
    }

    /// Keeps a lease until then.
    pub(super) fn extend(&mut self, lease: &Lease, ends: Instant) -> bool {
        let held = self.leases.get_mut(&lease.record.number().cast_signed()).filter(|held| held.number == lease.number);
        held.map(|held| held.ends = ends).is_some()
    }

    /// Forgets what is ready, of the places for which this holds, and returns it.
    pub(super) fn withdraw(&mut self, which: impl Fn(&Ready) -> bool) -> Vec<Ready> {
        let (gone, stays) = std::mem::take(&mut self.ready).into_iter().partition(which);
        self.ready = stays;
        Vec::from(gone)
    }

    /// The database says that these places are not ours any more: their leases are lost.
    pub(super) fn lose(&mut self, is_lost: impl Fn(&Ready) -> bool) {
        self.ready.retain(|ready| !is_lost(ready));
        self.leases.retain(|_, leased| !is_lost(&leased.ready));
    }

    /// The records that are here, or about to be or to go.
    pub(super) fn known(&self) -> Vec<i64> {
        let here = self.ready.iter().chain(self.leases.values().map(|leased| &leased.ready));
        let moving = self.promised.iter().chain(self.settling.values());
        here.map(Ready::number).chain(moving.copied()).collect()
    }

    /// A row comes due then.
    pub(super) fn note_due(&mut self, due: Timestamp) {
        self.next_due = Some(self.next_due.map_or(due, |next| next.min(due)));
    }
}

#[cfg(test)]
mod tests {
    use super::super::fresh::tests::kept;
    use super::*;

    /// The first number of a start of a relay.
    const ONE: u64 = 1 << 40;
    const TWO: u64 = 2 << 40;

    fn ready(number: u64) -> Ready {
        let Kept { record, project } = kept(number, 1);
        let (place, progress, quantities) = (Place::Slice(1), Progress::default(), Quantities::new());
        Ready { record, project, place, progress, quantities, backfilled: false }
    }

    fn row(number: u64, backfilled: bool) -> Ready {
        Ready { place: Place::Row(1), backfilled, ..ready(number) }
    }

    fn claimed(state: &mut State) -> Vec<u64> {
        let claims = state.take((TargetId(0), 1), Instant::now(), usize::MAX);
        claims.iter().map(|claim| claim.record.id.number()).collect()
    }

    #[test]
    fn what_a_commit_hands_out_before_a_claim_has_brought_what_came_earlier_goes_after_it() {
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
    fn what_was_forgotten_is_looked_for_before_what_came_after_it_is_claimed() {
        let (hand, now) = (Hand::default(), Timestamp::from_millis(1));
        hand.more.store(false, Ordering::Release);
        hand.state().bring([ready(ONE + 1)]);
        assert!(!hand.lacks(now));
        hand.forget();
        hand.state().keep_promise([ready(ONE + 2)].into_iter());
        assert!(hand.lacks(now));
    }

    #[test]
    fn what_is_put_back_goes_where_it_was_whatever_came_meanwhile() {
        let mut state = State::default();
        state.bring([row(ONE + 1, false), ready(ONE + 2), row(ONE + 3, true)]);
        let withdrawn = state.withdraw(|_| true);
        state.keep_promise([ready(ONE + 4)].into_iter());
        state.bring(withdrawn);
        state.keep_promise([ready(ONE + 5)].into_iter());
        assert_eq!(claimed(&mut state), [1, 2, 4, 5, 3].map(|number| ONE + number));
    }
}
