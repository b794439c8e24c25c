//! The hand-off of one target: records that are ready in memory, leased, or awaiting their commit. No SQL and no waiting in here.
//!
//! Rules: untried records are handed out in order of their numbers, so every untried record up to `handed` is ready, leased, or ended.
//! While `live`, every untried record on disk was handed to memory. The mutex is held for moments only, never across a read or a commit.

mod leases;

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::clock::Timestamp;
use crate::journal::backfill::BACKGROUND;
use crate::journal::evidence::Latest;
use crate::journal::{Claim, LEASE, Lease, Progress, Record, Settlement, TargetId};
use crate::protocol::category::Quantities;

use super::tally::Tally;

/// The most records held ready in memory, and the most bytes of their bodies.
pub(super) const READY_RECORDS: usize = 256;
/// See [`READY_RECORDS`].
pub(super) const READY_BYTES: usize = 1 << 20;
/// With more ready records than this, intake is faster than delivery.
const CROWD: usize = READY_RECORDS / 4;
/// The most settlements of one target that may await their commit. A crash may repeat these deliveries.
const MAX_UNCOMMITTED: usize = 64;
/// This many settlements are committed without waiting for an append or for older records.
const HURRY: usize = MAX_UNCOMMITTED / 2;
/// The due time of a record set aside: never.
pub(super) const NEVER: Timestamp = Timestamp::from_millis(i64::MAX as u64);

/// A target and its hand-off.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) id: TargetId,
    pub(super) name: Arc<str>,
    pub(super) changed: Arc<Notify>,
    queue: Mutex<Queue>,
}

impl Target {
    pub(super) fn new(id: TargetId, name: Arc<str>, queue: Queue) -> Self {
        Self { id, name, changed: Arc::new(Notify::new()), queue: Mutex::new(queue) }
    }

    pub(super) fn queue(&self) -> MutexGuard<'_, Queue> {
        // A panic while the mutex was held is a bug. In the reader or the writer it ends the process. The state is whole between
        // statements.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The target's bit in the mask of a record.
    pub(super) fn bit(&self) -> i64 {
        1 << self.id.0
    }
}

/// A record that can be claimed without a read.
#[derive(Debug)]
pub(super) struct Ready {
    pub(super) record: Arc<Record>,
    pub(super) project: u32,
    /// The contents of the record's row in `pending`, if it has one.
    pub(super) put_off: Option<PutOff>,
}

/// The contents of a row in `pending`.
#[derive(Debug)]
pub(super) struct PutOff {
    pub(super) due: Timestamp,
    pub(super) progress: Progress,
    /// `None` means all of the record.
    pub(super) quantities: Option<Quantities>,
    /// Whether the upstream took the record before, and lost it.
    pub(super) repaired: bool,
}

/// What is needed of a leased record when its lease ends.
#[derive(Debug)]
pub(super) struct Leased {
    /// The number of the lease.
    pub(super) number: u64,
    /// When the lease ends; `None` for a record that the reader holds to set it aside.
    pub(super) ends: Option<Instant>,
    /// The progress before the claim.
    pub(super) progress: Progress,
    pub(super) project: u32,
    pub(super) size: u64,
    /// The quantities pending for the target.
    pub(super) quantities: Quantities,
    /// Whether the record has a row in `pending`.
    pub(super) row: bool,
}

/// Who makes a claim, and when.
#[derive(Clone, Copy, Debug)]
pub(super) struct Claimant {
    pub(super) target: TargetId,
    pub(super) owner: u64,
    pub(super) at: Instant,
}

/// A settled lease on its way to disk.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) id: u64,
    pub(super) lease: Leased,
    pub(super) settlement: Settlement,
}

impl Ended {
    /// Whether it can be committed without rows for older records. `first` is the first leased record that has no row.
    fn is_before(&self, first: Option<u64>) -> bool {
        self.lease.row || first.is_none_or(|first| self.id < first)
    }
}

/// The result of a claim.
#[derive(Debug)]
pub(super) enum Take {
    /// These are leased now.
    Claims(Vec<Claim>),
    /// Due rows must be read first.
    ReadDue,
    /// Untried records must be read first.
    ReadFresh,
    /// Backfilled records must be read first.
    ReadBackground,
}

/// The state behind the mutex.
#[derive(Debug, Default)]
pub(super) struct Queue {
    pub(super) ready: VecDeque<Ready>,
    ready_bytes: usize,
    /// Rows that were due when they were read, by due time.
    pub(super) due_ready: VecDeque<Ready>,
    /// The next due time of a row that is neither leased nor in `due_ready`. May be early, never late.
    pub(super) next_due: Option<Timestamp>,
    /// The earliest due time of a row that came since the reader began to read.
    pub(super) came: Option<Timestamp>,
    /// Rows of backfilled records, by number. They are tried when nothing else can be.
    pub(super) background: VecDeque<Ready>,
    /// Whether there may be more of them on disk.
    pub(super) more_background: bool,
    pub(super) live: bool,
    /// The highest number handed to memory.
    pub(super) handed: u64,
    /// The highest number committed.
    pub(super) committed: u64,
    /// The watermark on disk, or after the current transaction.
    pub(super) watermark: u64,
    pub(super) leases: BTreeMap<u64, Leased>,
    /// The number of the last lease given.
    last_lease: u64,
    /// No lease ends before this; `None` when unknown.
    first_end: Option<Instant>,
    pub(super) ended: Vec<Ended>,
    pub(super) committing: Vec<u64>,
    /// Whether a discard or an eviction is under way. Nothing is handed out until its commit.
    pub(super) frozen: bool,
    /// The number of discards and evictions. A change tells the reader that some of what it read may be gone.
    pub(super) discards: u64,
    pub(super) tally: Tally,
    pub(super) dead_letters: u64,
    pub(super) latest: Latest,
}

impl Queue {
    /// A queue with nothing handed out beyond `watermark`. The caller says by `committed` and `live` whether something waits there.
    pub(super) fn new(watermark: u64, live: bool) -> Self {
        Self { live, handed: watermark, committed: watermark, watermark, ..Self::default() }
    }

    /// Leases up to `max` records, or says what must be read first.
    pub(super) fn take(&mut self, claimant: Claimant, now: Timestamp, max: usize) -> Take {
        let mut claims = Vec::new();
        if self.frozen || self.ended.len() + self.committing.len() >= MAX_UNCOMMITTED {
            return Take::Claims(claims);
        }
        while claims.len() < max {
            let due = self.due_ready.front().and_then(|ready| ready.put_off.as_ref()).map(|row| row.due);
            if due.is_some_and(|due| due <= now) {
                claims.extend(self.due_ready.pop_front().map(|ready| self.lease(ready, claimant)));
            } else if self.next_due.is_some_and(|due| due <= now) {
                return if claims.is_empty() { Take::ReadDue } else { Take::Claims(claims) };
            } else if let Some(ready) = self.ready.pop_front() {
                self.ready_bytes -= ready.record.body.in_memory();
                claims.push(self.lease(ready, claimant));
            } else if !self.live && claims.is_empty() {
                return Take::ReadFresh;
            } else if !self.live {
                break;
            } else if let Some(ready) = self.background.pop_front() {
                claims.push(self.lease(ready, claimant));
            } else if self.more_background && claims.is_empty() {
                return Take::ReadBackground;
            } else {
                break;
            }
        }
        Take::Claims(claims)
    }

    fn lease(&mut self, ready: Ready, claimant: Claimant) -> Claim {
        let Ready { record, project, put_off } = ready;
        let row = put_off.is_some();
        let backfilled = put_off.as_ref().is_some_and(|row| row.repaired || BACKGROUND <= row.due);
        let (progress, quantities) = put_off.map_or_else(Default::default, |row| (row.progress, row.quantities));
        let quantities = quantities.unwrap_or_else(|| record.quantities.clone());
        self.last_lease += 1;
        let (number, ends) = (self.last_lease, claimant.at + LEASE);
        let (size, kept) = (record.body.len(), progress.clone());
        let leased = Leased { number, ends: Some(ends), progress: kept, project, size, quantities, row };
        self.leases.insert(record.id.0, leased);
        let lease = Lease { target: claimant.target, record: record.id, owner: claimant.owner, number, ends };
        Claim { lease, record, progress, backfilled }
    }

    /// Ends the lease of a record, whoever holds it. `None` if there is none; otherwise whether its commit should not wait.
    pub(super) fn end(&mut self, id: u64, settlement: Settlement) -> Option<bool> {
        let lease = self.leases.remove(&id)?;
        self.ended.push(Ended { id, lease, settlement });
        Some(self.ended.len() >= HURRY)
    }

    /// Whether any settlement can be committed now: see [`Queue::take_ended`].
    pub(super) fn has_ended(&self, all: bool) -> bool {
        let first = self.first_untried();
        let is_due = all || self.ended.len() >= HURRY;
        self.ended.iter().any(|ended| is_due || ended.is_before(first))
    }

    /// Takes the settlements to commit. Without `all`, those that need rows for older leased records stay unless there are many: the older
    /// records are likely to be settled in a moment, and then need no rows.
    pub(super) fn take_ended(&mut self, all: bool) -> Vec<Ended> {
        let first = self.first_untried();
        if all || self.ended.len() >= HURRY {
            return std::mem::take(&mut self.ended);
        }
        let (ended, stays) = std::mem::take(&mut self.ended).into_iter().partition(|ended| ended.is_before(first));
        self.ended = stays;
        ended
    }

    /// The first leased record without a row.
    fn first_untried(&self) -> Option<u64> {
        self.leases.iter().find(|(_, lease)| !lease.row).map(|(id, _)| *id)
    }

    /// Adds a new record, just committed. Records come in order.
    pub(super) fn arrived(&mut self, record: &Arc<Record>, project: u32) {
        let id = record.id.0;
        self.committed = id;
        self.tally.enter(project, record.body.len(), &record.quantities);
        if self.live && self.has_room(record.body.in_memory()) {
            self.push(Ready { record: Arc::clone(record), project, put_off: None });
        } else {
            self.live = false;
        }
    }

    /// Whether a body that takes `size` bytes of memory may be held ready as well.
    pub(super) fn has_room(&self, size: usize) -> bool {
        self.ready.len() < READY_RECORDS && self.ready_bytes + size <= READY_BYTES
    }

    /// Whether intake is faster than a worker that is busy settling. A worker whose upstream does not answer settles nothing, and one that
    /// has fallen behind reads from the disk anyway: neither is waited for.
    pub(super) fn is_crowded(&self) -> bool {
        self.live && self.ready.len() > CROWD && !self.ended.is_empty()
    }

    /// Makes an untried record ready.
    pub(super) fn push(&mut self, ready: Ready) {
        self.handed = ready.record.id.0;
        self.ready_bytes += ready.record.body.in_memory();
        self.ready.push_back(ready);
    }

    /// Notes a new row. It can be claimed at `due` or, if it is of a backfill, when nothing else can be.
    pub(super) fn wait(&mut self, due: Timestamp) {
        if (BACKGROUND..NEVER).contains(&due) {
            self.more_background = true;
        } else {
            self.put_off(due);
        }
    }

    /// Notes a new row that can be claimed at `due`.
    pub(super) fn put_off(&mut self, due: Timestamp) {
        self.next_due = Some(self.next_due.map_or(due, |next| next.min(due)));
        self.came = Some(self.came.map_or(due, |next| next.min(due)));
        let last = self.due_ready.back().and_then(|ready| ready.put_off.as_ref()).map(|row| row.due);
        if last.is_some_and(|last| due < last) {
            // The row belongs before some that are ready. These are read again, in the right order.
            let first = self.due_ready.front().and_then(|ready| ready.put_off.as_ref()).map(|row| row.due);
            self.next_due = self.next_due.min(first);
            self.due_ready.clear();
        }
    }

    /// The records whose rows must not be read again: ready, leased, settled or committing.
    pub(super) fn busy_rows(&self) -> HashSet<u64> {
        let ready = self.due_ready.iter().chain(&self.background).map(|ready| ready.record.id.0);
        self.leased_rows().into_iter().chain(ready).chain(self.committing.iter().copied()).collect()
    }

    /// The records that are leased and have a row, and those that were settled since the current transaction began.
    pub(super) fn leased_rows(&self) -> HashSet<u64> {
        let leased = self.leases.iter().filter(|(_, lease)| lease.row).map(|(id, _)| *id);
        leased.chain(self.ended.iter().map(|ended| ended.id)).collect()
    }

    /// Whether every record up to the last commit is settled or has a row, so that the watermark may rise to it.
    pub(super) fn is_clear(&self) -> bool {
        self.live && self.ready.is_empty() && self.ended.is_empty() && self.leases.values().all(|lease| lease.row)
    }

    /// Raises the watermark. Returns the unsettled records at or below it that need a row from now on.
    pub(super) fn advance(&mut self, watermark: u64) -> Vec<u64> {
        self.watermark = self.watermark.max(watermark);
        let mut rowed = Vec::new();
        for (id, lease) in self.leases.range_mut(..=self.watermark) {
            if !std::mem::replace(&mut lease.row, true) {
                rowed.push(*id);
            }
        }
        for ended in self.ended.iter_mut().filter(|ended| ended.id <= self.watermark) {
            if !std::mem::replace(&mut ended.lease.row, true) {
                rowed.push(ended.id);
            }
        }
        rowed
    }

    /// Undoes [`Queue::advance`] after a rollback.
    pub(super) fn retreat(&mut self, watermark: u64, rowed: &[u64]) {
        self.watermark = watermark;
        for id in rowed {
            if let Some(lease) = self.leases.get_mut(id) {
                lease.row = false;
            }
        }
        for ended in &mut self.ended {
            ended.lease.row &= !rowed.contains(&ended.id);
        }
    }

    /// Forgets the dropped records of `gone`. Rows that were read ahead are read again.
    pub(super) fn forget(&mut self, gone: &HashSet<u64>, last_fresh: u64) {
        self.ready.retain(|ready| !gone.contains(&ready.record.id.0));
        self.ready_bytes = self.ready.iter().map(|ready| ready.record.body.in_memory()).sum();
        self.due_ready.clear();
        self.background.clear();
        self.more_background = true;
        self.handed = self.handed.max(last_fresh);
        self.discards += 1;
    }

    /// When the next row comes due; `None` if none does. Rows that are set aside or backfilled do not count.
    pub(super) fn due(&self) -> Option<Timestamp> {
        let ready = self.due_ready.front().and_then(|ready| ready.put_off.as_ref()).map(|row| row.due);
        ready.into_iter().chain(self.next_due).min().filter(|due| *due < BACKGROUND)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::{Client, RecordId};

    fn record(id: u64) -> Arc<Record> {
        Arc::new(Record {
            id: RecordId(id),
            accepted_at: Timestamp::default(),
            project: "p".into(),
            event_id: None,
            quantities: Quantities::new(),
            client: Client::default(),
            body: bytes::Bytes::from_static(b"x").into(),
            located: std::sync::OnceLock::new(),
        })
    }

    fn claimant() -> Claimant {
        Claimant { target: TargetId(0), owner: 1, at: Instant::now() }
    }

    #[test]
    fn settlements_out_of_order_wait_for_older_records_unless_there_are_many() {
        let mut queue = Queue::new(0, true);
        (1..=100).for_each(|id| queue.arrived(&record(id), 0));
        queue.take(claimant(), Timestamp::default(), 50);
        let ids = |ended: Vec<Ended>| ended.iter().map(|ended| ended.id).collect::<Vec<_>>();
        for id in [2, 3] {
            queue.end(id, Settlement::default());
        }
        assert!(!queue.has_ended(false) && queue.has_ended(true));
        assert_eq!(ids(queue.take_ended(false)), [0; 0]);
        queue.end(1, Settlement::default());
        queue.end(5, Settlement::default());
        assert!(queue.has_ended(false));
        assert_eq!(ids(queue.take_ended(false)), [2, 3, 1]);
        assert_eq!(ids(queue.take_ended(true)), [5], "whoever asks for all gets it");
        let many = 6..6 + HURRY as u64;
        many.clone().for_each(|id| assert!(queue.end(id, Settlement::default()).is_some()));
        assert_eq!(ids(queue.take_ended(false)), many.collect::<Vec<_>>());
    }

    #[test]
    fn a_commit_waits_only_for_a_worker_that_settles() {
        let mut queue = Queue::new(0, true);
        let many = CROWD as u64 + 2;
        (1..=many).for_each(|id| queue.arrived(&record(id), 0));
        assert!(!queue.is_crowded(), "an upstream that does not answer holds up nobody");
        let Take::Claims(claims) = queue.take(claimant(), Timestamp::default(), 1) else {
            panic!("they are in memory")
        };
        queue.settle(&claims[0].lease, Settlement::default());
        assert!(queue.is_crowded());
        (many + 1..many + READY_RECORDS as u64).for_each(|id| queue.arrived(&record(id), 0));
        assert!(!queue.is_crowded(), "one that has fallen behind holds up nobody");
    }
}
