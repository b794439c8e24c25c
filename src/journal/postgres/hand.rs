//! What this relay has in hand of one target: handed out by the database, ready to be claimed, or leased to a worker. No SQL here.
//!
//! Rules: what is here has our incarnation as its owner in the database, so no other relay has it. Leases are judged by tokio's clock:
//! a claim revokes those that have ended, and puts their records off until then. The mutex is held for moments only.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::clock::Timestamp;
use crate::journal::{Claim, LEASE, Lease, Progress, Record, TargetId};
use crate::protocol::category::Quantities;

/// The most settlements of one target that may await their commit: what a crash may repeat.
pub(super) const MAX_UNCOMMITTED: usize = 64;

/// What this relay has of one target.
#[derive(Debug)]
pub(super) struct Hand {
    pub(super) changed: Arc<Notify>,
    /// There may be more in the database than was looked at.
    pub(super) more: AtomicBool,
    /// A fetch did not come to its end: what it brought may be ours in the database and not be here.
    pub(super) is_doubtful: AtomicBool,
    /// Held by who fetches more.
    pub(super) fetching: tokio::sync::Mutex<()>,
    state: Mutex<State>,
}

/// The state behind the mutex.
#[derive(Debug, Default)]
pub(super) struct State {
    /// What was due, then what was never tried, then what a backfill took up.
    pub(super) ready: VecDeque<Ready>,
    leases: HashMap<i64, Leased>,
    last_lease: u64,
    pub(super) uncommitted: usize,
    /// When the next row in `pending` comes due, as far as is known.
    pub(super) next_due: Option<Timestamp>,
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
        let (changed, is_doubtful, fetching, state) = Default::default();
        Self { changed, more: AtomicBool::new(true), is_doubtful, fetching, state }
    }
}

impl Hand {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes out what leases have ended of. Should that not reach the database, it is looked up there.
    pub(super) fn lapse(&self, at: Instant) -> Vec<Ready> {
        let lapsed = self.state().lapse(at);
        if !lapsed.is_empty() {
            self.is_doubtful.store(true, Ordering::Release);
        }
        lapsed
    }

    /// Forgets what is ready: what of it is ours is looked up in the database.
    pub(super) fn forget(&self) {
        self.is_doubtful.store(true, Ordering::Release);
        self.more.store(true, Ordering::Release);
        self.state().ready.clear();
    }

    /// Tells the worker that there may be more.
    pub(super) fn wake(&self) {
        self.more.store(true, Ordering::Release);
        self.changed.notify_one();
    }
}

impl State {
    /// Takes out what leases have ended of.
    fn lapse(&mut self, at: Instant) -> Vec<Ready> {
        self.leases.extract_if(|_, leased| leased.ends <= at).map(|(_, leased)| leased.ready).collect()
    }

    /// Makes ready again what was withdrawn, before everything else.
    pub(super) fn put_back(&mut self, withdrawn: impl DoubleEndedIterator<Item = Ready>) {
        withdrawn.rev().for_each(|ready| self.ready.push_front(ready));
    }

    /// Leases up to `max` of what is ready.
    pub(super) fn take(&mut self, (target, owner): (TargetId, u64), at: Instant, max: usize) -> Vec<Claim> {
        let free = MAX_UNCOMMITTED.saturating_sub(self.uncommitted);
        if free == 0 {
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

    /// Takes out what is leased so, to be settled.
    pub(super) fn end(&mut self, lease: &Lease) -> Option<Leased> {
        let id = lease.record.number().cast_signed();
        self.leases.get(&id).filter(|leased| leased.number == lease.number)?;
        self.uncommitted += 1;
        self.leases.remove(&id)
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

    /// The records that are here; `None` while settlements are on their way.
    pub(super) fn known(&self) -> Option<Vec<i64>> {
        let here = self.ready.iter().chain(self.leases.values().map(|leased| &leased.ready));
        (self.uncommitted == 0).then(|| here.map(Ready::number).collect())
    }

    /// A row comes due then.
    pub(super) fn note_due(&mut self, due: Timestamp) {
        self.next_due = Some(self.next_due.map_or(due, |next| next.min(due)));
    }
}
