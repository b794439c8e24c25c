//! The journal in memory: the contract in its plainest form, for tests and for a demonstration without a disk.
//!
//! Nothing here is durable, and nothing here is clever: every call does its work under one mutex. Its many lines are the calls of
//! the contract, one after the other.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt, ready};
use tokio::sync::Notify;

use crate::clock::Timestamp;
use crate::policy::dedup::SECRET;
use crate::policy::outcome::{DropReason, Outcome};
use crate::protocol::category::Quantities;
use crate::telemetry::ledger::{Account, AccountKey, Ledger, Posting};

mod backfill;
mod evidence;
mod letters;
mod losses;
mod state;

use super::backfill::{BACKGROUND, Backfill, BackfillStep, Scope, Survey};
use super::body::Reservation;
use super::evidence::{Comparison, Evidence, Latest, Observation, Outage};
use super::losses::Loss;
use super::shares::Shares;
use super::spool::Spool;
use super::{
    Backlog, Claim, Journal, JournalError, Letter, MAX_TARGETS, Pick, Primaries, Progress, RecentKeys, Record,
    RecordId, Rest, Settlement, Share, Space, Stats, Submission, Switch, TargetId, WithRecord,
};

/// A journal that forgets everything when it is dropped.
#[derive(Debug, Default)]
pub struct MemoryJournal {
    ledger: Ledger,
    max_bytes: Option<u64>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    closed: bool,
    last: u64,
    bytes: u64,
    records: BTreeMap<u64, Kept>,
    targets: Vec<Target>,
    switches: Vec<Switch>,
    evidence: evidence::Kept,
    /// Oldest first.
    letters: Vec<Letter>,
    last_letter: u64,
    backfills: BTreeMap<u8, Backfill>,
    losses: losses::Losses,
    primaries: Option<Primaries>,
    shares: Shares,
}

#[derive(Debug)]
struct Kept {
    record: Arc<Record>,
    keys: Vec<u128>,
    /// The targets that were meant to get it.
    targets: Vec<TargetId>,
    /// What a target will not get of it.
    missed: BTreeMap<TargetId, DropReason>,
}

#[derive(Debug)]
struct Target {
    name: Arc<str>,
    changed: Arc<Notify>,
    waiting: BTreeMap<u64, Waiting>,
    /// What can be claimed at some time, in the order in which it is.
    claimable: BTreeSet<Turn>,
}

/// Whose turn it is: what was put off by its due time, then (`true`) what was never tried by its number.
type Turn = (bool, Timestamp, u64);

#[derive(Debug)]
struct Waiting {
    due: Option<Timestamp>,
    progress: Progress,
    quantities: Quantities,
    leased: bool,
}

fn turn(id: u64, due: Option<Timestamp>) -> Turn {
    (due.is_none(), due.unwrap_or_default(), id)
}

impl MemoryJournal {
    /// An empty journal that posts to `ledger`.
    pub fn new(ledger: Ledger) -> Self {
        Self { ledger, ..Self::default() }
    }

    /// Refuses what would make the bodies exceed `max` bytes.
    #[must_use]
    pub fn bounded(self, max: u64) -> Self {
        self.lock().shares = Shares::new(max);
        Self { max_bytes: Some(max), ..self }
    }

    /// Ends every lease as a restart would: all that is unsettled can be claimed again.
    pub fn forget_leases(&self) {
        for target in &mut self.lock().targets {
            for (id, waiting) in &mut target.waiting {
                waiting.leased = false;
                target.claimable.insert(turn(*id, waiting.due));
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Calls leave the state whole between statements that can panic: there are none.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What `act` makes of the state, unless it is closed.
    fn with<T>(&self, act: impl FnOnce(&mut State) -> Result<T, JournalError>) -> Result<T, JournalError> {
        let mut state = self.lock();
        if state.closed { Err(JournalError::Closed) } else { act(&mut state) }
    }

    fn post(&self, upstream: Option<&Arc<str>>, project: &Arc<str>, outcome: Outcome, quantities: &Quantities) {
        let key = |category| AccountKey { upstream: upstream.cloned(), project: Arc::clone(project), category };
        let postings: Vec<Posting> =
            quantities.iter().map(|(c, quantity)| Posting { key: key(c), outcome, quantity }).collect();
        self.ledger.post(&postings);
    }

    /// As much of this as is kept from an upstream.
    fn withheld(&self, upstream: &Arc<str>, project: &Arc<str>, quantities: &Quantities) -> Quantities {
        let accounts = self.ledger.accounts();
        let mut withheld = Quantities::new();
        for (category, quantity) in quantities.iter() {
            let key = AccountKey { upstream: Some(Arc::clone(upstream)), project: Arc::clone(project), category };
            withheld.add(category, quantity.min(accounts.get(&key).map_or(0, Account::withheld)));
        }
        withheld
    }

    fn insert(&self, state: &mut State, submission: Submission) -> Result<RecordId, JournalError> {
        let size = submission.body.len();
        let number = state.number(&submission.project);
        if let Some(max) = self.max_bytes {
            self.make_room(state, (number, size), max)?;
        }
        state.last += 1;
        state.bytes += size;
        if let Some(count) = state.shares.count(number) {
            count.fetch_add(size, Ordering::Relaxed);
        }
        let id = state.last;
        let Submission { project, quantities, keys, body, targets, withheld, .. } = submission.clone();
        self.post(None, &project, Outcome::Accepted, &quantities);
        for (number, target) in (0..).zip(&mut state.targets) {
            if targets.contains(&TargetId(number)) {
                self.post(Some(&target.name), &project, Outcome::Accepted, &quantities);
                let (progress, quantities) = (Progress::default(), quantities.clone());
                target.waiting.insert(id, Waiting { due: None, progress, quantities, leased: false });
                target.claimable.insert(turn(id, None));
                target.changed.notify_one();
            }
            for (_, reason) in withheld.iter().filter(|(withheld, _)| withheld.0 == number) {
                self.post(Some(&target.name), &project, Outcome::Accepted, &quantities);
                self.post(Some(&target.name), &project, Outcome::Dropped(*reason), &quantities);
                state.losses.dropped(TargetId(number), &project, *reason, (&body, &quantities));
            }
        }
        let record = submission.into_record(RecordId(id));
        state.records.insert(id, Kept { record: Arc::new(record), keys, targets, missed: BTreeMap::new() });
        Ok(RecordId(id))
    }

    /// Whether there was a lease to end.
    fn end(&self, state: &mut State, target_id: TargetId, record: &Record, mut settlement: Settlement) -> bool {
        let (id, dead_letter) = (record.id.0, settlement.dead_letter.take());
        let Ok(target) = state.target(target_id) else { return false };
        let Some(waiting) = target.waiting.get_mut(&id).filter(|waiting| waiting.leased) else { return false };
        match settlement.rest {
            Some(Rest { due, progress, quantities }) => {
                *waiting = Waiting { due: Some(due), progress, quantities, leased: false };
                target.claimable.insert(turn(id, Some(due)));
            }
            None => drop(target.waiting.remove(&id)),
        }
        self.post(Some(&target.name), &record.project, Outcome::Delivered, &settlement.delivered);
        if let Some((reason, quantities)) = &settlement.dropped {
            self.post(Some(&target.name), &record.project, Outcome::Dropped(*reason), quantities);
        }
        target.changed.notify_one();
        if let Some((reason, quantities)) = &settlement.dropped {
            state.losses.dropped(target_id, &record.project, *reason, (&record.body, quantities));
        }
        if let Some(refusal) = dead_letter {
            let quantities = settlement.dropped.map(|(_, quantities)| quantities).unwrap_or_default();
            state.keep_letter(target_id, record, quantities, refusal);
        }
        true
    }
}

fn at_once<'a, T: Send + 'a>(answer: T) -> BoxFuture<'a, T> {
    ready(answer).boxed()
}

impl Journal for MemoryJournal {
    fn target(&self, name: &str) -> BoxFuture<'_, Result<TargetId, JournalError>> {
        at_once(self.with(|state| {
            if let Some(at) = state.targets.iter().position(|target| &*target.name == name) {
                return Ok(TargetId(u8::try_from(at).unwrap_or(u8::MAX)));
            }
            let id = u8::try_from(state.targets.len()).ok().filter(|id| usize::from(*id) < MAX_TARGETS);
            let id = id.ok_or_else(|| JournalError::Failed(format!("{MAX_TARGETS} upstreams are known")))?;
            let (waiting, claimable) = (BTreeMap::new(), BTreeSet::new());
            state.targets.push(Target { name: name.into(), changed: Arc::default(), waiting, claimable });
            Ok(TargetId(id))
        }))
    }

    fn targets(&self) -> Vec<(TargetId, Arc<str>)> {
        (0..).map(TargetId).zip(self.lock().targets.iter().map(|target| Arc::clone(&target.name))).collect()
    }

    fn append(&self, submission: Submission) -> BoxFuture<'_, Result<RecordId, JournalError>> {
        async move { self.with(|state| self.insert(state, submission)) }.boxed()
    }

    fn secret(&self) -> [u8; SECRET] {
        [7; SECRET]
    }

    fn spool(&self) -> Option<&Arc<Spool>> {
        None
    }

    fn make_room(&self, _: Option<Arc<str>>, _: u64) -> BoxFuture<'_, Result<Reservation, JournalError>> {
        // There are no files; what a body takes is counted when it is appended.
        at_once(Ok(Reservation::default()))
    }

    fn claim(&self, target: TargetId, now: Timestamp, max: usize) -> BoxFuture<'_, Result<Vec<Claim>, JournalError>> {
        async move { self.with(|state| state.claim(target, now, max)) }.boxed()
    }

    fn settle(&self, target: TargetId, record: &Record, settlement: Settlement) {
        // After closing there is nobody left to tell: the record stays unsettled.
        drop(self.with(|state| {
            let missed = settlement.dropped.as_ref().map(|(reason, _)| *reason);
            if self.end(state, target, record, settlement) {
                state.missed(target, record.id.0, missed);
            }
            Ok(())
        }));
    }

    fn changed(&self, target: TargetId) -> Arc<Notify> {
        self.lock().target(target).map(|target| Arc::clone(&target.changed)).unwrap_or_default()
    }

    fn next_due(&self, target: TargetId) -> Option<Timestamp> {
        let mut state = self.lock();
        let first = state.target(target).ok()?.claimable.first().copied()?;
        (!first.0 && first.1 < BACKGROUND).then_some(first.1)
    }

    fn discard(
        &self,
        target: TargetId,
        before: Timestamp,
        reason: DropReason,
        limit: usize,
    ) -> BoxFuture<'_, Result<usize, JournalError>> {
        at_once(self.with(|state| {
            let State { targets, records, losses, .. } = &mut *state;
            let (id, unknown) = (target, || JournalError::Failed(format!("target {} is not known", target.0)));
            let target = targets.get_mut(usize::from(target.0)).ok_or_else(unknown)?;
            let old = |id: &u64| records.get(id).is_some_and(|kept| kept.record.accepted_at < before);
            let waiting = target.waiting.iter().take_while(|(id, _)| old(id)).filter(|(_, waiting)| !waiting.leased);
            let gone: Vec<u64> = waiting.map(|(id, _)| *id).take(limit).collect();
            for record in &gone {
                if let (Some(waiting), Some(kept)) = (target.waiting.remove(record), records.get(record)) {
                    target.claimable.remove(&turn(*record, waiting.due));
                    let outcome = Outcome::Dropped(reason);
                    self.post(Some(&target.name), &kept.record.project, outcome, &waiting.quantities);
                    losses.dropped(id, &kept.record.project, reason, (&kept.record.body, &waiting.quantities));
                }
            }
            gone.iter().for_each(|record| state.missed(id, *record, Some(reason)));
            Ok(gone.len())
        }))
    }

    fn hasten(&self, target: TargetId, limit: usize) -> BoxFuture<'_, Result<usize, JournalError>> {
        at_once(self.with(|state| {
            let target = state.target(target)?;
            let put_off = target.claimable.range((false, Timestamp::from_millis(1), 0)..(false, BACKGROUND, 0));
            let hastened: Vec<Turn> = put_off.take(limit).copied().collect();
            for next in &hastened {
                target.claimable.remove(next);
                let due = Some(Timestamp::default());
                target.claimable.insert(turn(next.2, due));
                target.waiting.entry(next.2).and_modify(|waiting| waiting.due = due);
            }
            target.changed.notify_one();
            Ok(hastened.len())
        }))
    }

    fn prune(&self, before: Timestamp, limit: usize) -> BoxFuture<'_, Result<usize, JournalError>> {
        at_once(self.with(|state| Ok(state.prune(before, limit))))
    }

    fn backlog(&self, target: TargetId) -> BoxFuture<'_, Result<Backlog, JournalError>> {
        at_once(self.with(|state| {
            state.target(target)?;
            Ok(state.backlog(&state.targets[usize::from(target.0)]))
        }))
    }

    fn recent_keys(
        &self,
        since: Timestamp,
        before: Option<RecordId>,
        limit: usize,
    ) -> BoxFuture<'_, Result<RecentKeys, JournalError>> {
        at_once(self.with(|state| {
            let before = before.map_or(u64::MAX, |id| id.0);
            let newest = state.records.range(..before).rev().take_while(|(_, kept)| kept.record.accepted_at >= since);
            let looked: Vec<_> = newest.take(limit).collect();
            let keys = looked.iter().flat_map(|(_, kept)| kept.keys.iter().map(|key| (*key, kept.record.accepted_at)));
            let next = looked.last().filter(|_| looked.len() == limit).map(|(id, _)| RecordId(**id));
            Ok(RecentKeys { keys: keys.collect(), next })
        }))
    }

    fn record_switch(&self, switch: Switch) -> BoxFuture<'_, Result<(), JournalError>> {
        at_once(self.with(|state| {
            state.switches.push(switch);
            Ok(())
        }))
    }

    fn switches(&self, limit: usize) -> BoxFuture<'_, Result<Vec<Switch>, JournalError>> {
        at_once(self.with(|state| Ok(state.switches.iter().rev().take(limit).cloned().collect())))
    }

    fn observe(&self, observation: Observation) -> BoxFuture<'_, Result<(), JournalError>> {
        at_once(self.with(|state| {
            state.evidence.observe(observation);
            Ok(())
        }))
    }

    fn evidence(&self, _: Timestamp) -> BoxFuture<'_, Result<Evidence, JournalError>> {
        at_once(self.with(|state| Ok(state.evidence.told(self.ledger.accounts(), &state.targets))))
    }

    fn outages(&self, since: Timestamp, limit: usize) -> BoxFuture<'_, Result<Vec<Outage>, JournalError>> {
        at_once(self.with(|state| Ok(state.evidence.outages(since, limit, &state.targets))))
    }

    fn compare(
        &self,
        targets: (TargetId, TargetId),
        since: Timestamp,
        _: RecordId,
    ) -> BoxFuture<'_, Result<Comparison, JournalError>> {
        at_once(self.with(|state| Ok(state.compare(targets, since))))
    }

    fn latest(&self, target: TargetId) -> Latest {
        self.lock().evidence.latest(target)
    }

    fn dead_letters(&self, target: TargetId) -> u64 {
        self.lock().letters.iter().filter(|letter| letter.target == target).count() as u64
    }

    fn letters(&self, pick: Pick, before: u64, limit: usize) -> BoxFuture<'_, Result<Vec<Letter>, JournalError>> {
        at_once(self.with(|state| Ok(state.newest(&pick, before, limit))))
    }

    fn letter(&self, id: u64) -> BoxFuture<'_, Result<Option<WithRecord>, JournalError>> {
        at_once(self.with(|state| Ok(state.letter(id))))
    }

    fn retry_letters(&self, pick: Pick, limit: usize) -> BoxFuture<'_, Result<usize, JournalError>> {
        at_once(self.with(|state| Ok(self.retry(state, &pick, limit))))
    }

    fn discard_letters(&self, pick: Pick, limit: usize) -> BoxFuture<'_, Result<usize, JournalError>> {
        at_once(self.with(|state| Ok(state.forget(&pick, limit))))
    }

    fn survey(&self, scope: Scope, from: RecordId) -> BoxFuture<'_, Result<Survey, JournalError>> {
        at_once(self.with(|state| Ok(state.survey(&scope, from))))
    }

    fn backfill(&self, target: TargetId, step: BackfillStep) -> BoxFuture<'_, Result<Option<Backfill>, JournalError>> {
        at_once(self.with(|state| Ok(self.step(state, target, step))))
    }

    fn backfills(&self) -> BoxFuture<'_, Result<Vec<Backfill>, JournalError>> {
        at_once(self.with(|state| Ok(state.backfills.values().cloned().collect())))
    }

    fn lose(&self, losses: Vec<Loss>) -> BoxFuture<'_, Result<(), JournalError>> {
        at_once(self.with(|state| {
            losses.into_iter().for_each(|loss| state.losses.add(loss));
            Ok(())
        }))
    }

    fn losses(&self) -> BoxFuture<'_, Result<Vec<Loss>, JournalError>> {
        at_once(self.with(|state| Ok(state.losses.all())))
    }

    fn report(&self, told: Vec<Loss>, report: Option<Submission>) -> BoxFuture<'_, Result<(), JournalError>> {
        at_once(self.with(|state| {
            report.map_or(Ok(()), |report| self.insert(state, report).map(drop))?;
            state.losses.take_off(told);
            Ok(())
        }))
    }

    fn protect(&self, primaries: Primaries) {
        self.lock().primaries = Some(primaries);
    }

    fn split(&self, projects: Vec<Arc<str>>) {
        self.lock().shares.split(projects);
    }

    fn shares(&self) -> Vec<Share> {
        self.lock().shares.told()
    }

    fn space(&self) -> Space {
        Space { used: self.lock().bytes, files: 0, disk_free: None }
    }

    fn stats(&self) -> Stats {
        Stats::default()
    }

    fn writable(&self) -> Result<(), JournalError> {
        self.with(|state| match self.max_bytes {
            Some(max) if state.bytes >= max => Err(JournalError::Full(format!("all of {max} bytes are in use"))),
            _ => Ok(()),
        })
    }

    fn close(&self, _: Duration) -> BoxFuture<'_, ()> {
        self.lock().closed = true;
        at_once(())
    }
}
