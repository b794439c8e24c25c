//! One queue per target: what was accepted for it and is not settled.
//!
//! Invariants:
//!
//! - A claim is a lease that lives in memory: after a restart everything unsettled can be claimed again.
//! - What is due comes first, in order of its due time; then what was never tried, in order of acceptance; then what a
//!   [`backfill`](super::backfill) has taken up.
//! - Settling is idempotent: settling what is settled, or was never claimed, changes nothing and posts nothing.
//! - No call does work that grows with the number of records waiting.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::sync::Notify;

use crate::clock::Timestamp;
use crate::policy::outcome::DropReason;
use crate::protocol::category::{Category, Quantities};

use super::letters::DeadLetter;
use super::log::Record;
use super::{JournalError, TargetId};

/// How it went so far with one record at one target.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Requests made.
    pub attempts: u32,
    /// Answers of 5xx while the upstream took other records: the mark of a poisonous one.
    pub strikes: u32,
    /// The positions of the items still to be delivered; `None` means all.
    pub items: Option<Vec<u16>>,
}

/// A leased record.
#[derive(Clone, Debug)]
pub struct Claim {
    /// The record.
    pub record: Arc<Record>,
    /// How it went so far.
    pub progress: Progress,
    /// Whether a backfill has taken it up, and this is its first try since: its age says nothing of the upstream then.
    pub backfilled: bool,
}

/// What became of a claim. `delivered`, `dropped` and `rest` together are what was pending for it.
#[derive(Clone, Debug, Default)]
pub struct Settlement {
    /// What the upstream took.
    pub delivered: Quantities,
    /// What it will not get, and why.
    pub dropped: Option<(DropReason, Quantities)>,
    /// What is to be tried again.
    pub rest: Option<Rest>,
    /// What to keep of a refusal; goes with [`DropReason::Rejected`].
    pub dead_letter: Option<DeadLetter>,
}

/// What is left of a record for a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rest {
    /// Not before this.
    pub due: Timestamp,
    /// How it went so far.
    pub progress: Progress,
    /// What the remaining items count as.
    pub quantities: Quantities,
}

/// What waits for one target: everything accepted for it and not settled, leased or not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Records.
    pub envelopes: u64,
    /// Their bodies in bytes.
    pub bytes: u64,
    /// When the oldest of them was accepted, those aside that a [`backfill`](super::backfill) has taken up and nobody has tried since.
    pub oldest: Option<Timestamp>,
    /// What they count as, by project.
    pub quantities: Vec<(Arc<str>, Category, u64)>,
}

/// Hands records out to be delivered, and takes back what became of them.
pub trait Queues: Send + Sync {
    /// Leases up to `max` records that may be tried now. Empty when there are none, or when so many settlements of this
    /// target await their commit that a crash now would repeat too much; [`Queues::changed`] tells when to ask again.
    fn claim(&self, target: TargetId, now: Timestamp, max: usize) -> BoxFuture<'_, Result<Vec<Claim>, JournalError>>;

    /// Ends a lease. Returns at once; the change is durable with the next commit.
    fn settle(&self, target: TargetId, record: &Record, settlement: Settlement);

    /// Woken when a claim of this target may find more than before: a record came, or settlements were committed.
    fn changed(&self, target: TargetId) -> Arc<Notify>;

    /// When the next record put off by [`Settlement::rest`] comes due, if any is.
    fn next_due(&self, target: TargetId) -> Option<Timestamp>;

    /// Drops up to `limit` records that wait for `target` and were accepted before `before`, in the order of acceptance, looking
    /// no further than the first one accepted later, leased ones left alone. Returns how many; fewer than `limit` means that
    /// there are no more.
    fn discard(
        &self,
        target: TargetId,
        before: Timestamp,
        reason: DropReason,
        limit: usize,
    ) -> BoxFuture<'_, Result<usize, JournalError>>;

    /// Lets up to `limit` records that were put off be tried at once, in the order of their due times. Returns how many; fewer
    /// than `limit` means that there are no more.
    fn hasten(&self, target: TargetId, limit: usize) -> BoxFuture<'_, Result<usize, JournalError>>;

    /// What waits for a target.
    fn backlog(&self, target: TargetId) -> BoxFuture<'_, Result<Backlog, JournalError>>;
}
