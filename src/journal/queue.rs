//! The queues: one for each target, of the records that were accepted for it and are not settled.
//!
//! Invariants:
//!
//! - A claim carries a [`Lease`]: its owner may settle the record until the lease ends, and keeps it longer by extending it. No two
//!   leases of one record at one target hold at the same time.
//! - A lease that has ended holds until somebody claims from the same target. That claim revokes it: the record can be claimed again,
//!   with the progress that it had. Until then its owner may still extend it or settle the record.
//! - A relay that is gone is fenced: what it had leased can be claimed again, and its leases are lost. That holds
//!   after a restart, too.
//! - With a lost lease nothing is changed and nothing is posted: the answer is [`LeaseLost`](super::JournalError::LeaseLost).
//! - What is due comes first, in order of its due time; then what was never tried, in order of acceptance; then what a
//!   [`backfill`](super::backfill) has taken up.
//! - Settling is idempotent: the first settlement by a lease counts. A second one changes nothing: the
//!   backend answers [`LeaseLost`](super::JournalError::LeaseLost), or repeats its first answer if it still knows it.
//! - What is put off is part of a settlement, and no call of its own: a record may be delivered in part and put off for the rest,
//!   and a crash must not come between the two.
//! - No call does work that grows with the number of records waiting.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{FutureExt as _, ready};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::clock::Timestamp;
use crate::policy::outcome::DropReason;
use crate::protocol::category::{Category, Quantities};
use crate::telemetry::log::{self, Line};

use super::letters::DeadLetter;
use super::log::Record;
use super::{Call, RecordId, TargetId};

/// The least time that a lease lasts unless it is extended.
pub const LEASE: Duration = Duration::from_secs(60);

/// The right to settle one record at one target.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lease {
    /// The target that the record waits for.
    pub target: TargetId,
    /// The record.
    pub record: RecordId,
    /// The owner: a number of one start of one relay.
    pub owner: u64,
    /// The owner's number of the lease, never used twice.
    pub number: u64,
    /// When it ends, by its owner's clock. A backend with another clock ends it no sooner.
    pub ends: Instant,
}

/// The earlier attempts to deliver one record to one target.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// The number of requests made.
    pub attempts: u32,
    /// The number of 5xx answers while the upstream took other records: the sign of a poison record.
    pub strikes: u32,
    /// The positions of the items that are still to be delivered; `None` means all.
    pub items: Option<Vec<u16>>,
}

/// A leased record.
#[derive(Clone, Debug)]
pub struct Claim {
    /// The right to settle it.
    pub lease: Lease,
    /// The record.
    pub record: Arc<Record>,
    /// The earlier attempts.
    pub progress: Progress,
    /// Whether its age says nothing about the upstream: the first try of a backfilled record, or a repair of one that the upstream took and
    /// lost.
    pub backfilled: bool,
}

/// The outcome of a claim. `delivered`, `dropped` and `rest` add up to what was pending.
#[derive(Clone, Debug, Default)]
pub struct Settlement {
    /// The quantities that the upstream took.
    pub delivered: Quantities,
    /// The quantities that it will not get, and why.
    pub dropped: Option<(DropReason, Quantities)>,
    /// The part to try again.
    pub rest: Option<Rest>,
    /// The dead letter of a refusal, with [`DropReason::Rejected`].
    pub dead_letter: Option<DeadLetter>,
}

/// The part of a record that is still to be delivered to a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rest {
    /// When it may be tried again.
    pub due: Timestamp,
    /// The earlier attempts.
    pub progress: Progress,
    /// The quantities of the remaining items.
    pub quantities: Quantities,
}

/// The backlog of a target: records accepted for it and not settled, leased or not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// The number of records.
    pub envelopes: u64,
    /// The size of their bodies in bytes.
    pub bytes: u64,
    /// When the oldest was accepted. Records of a [`backfill`](super::backfill) that were not tried since do not count.
    pub oldest: Option<Timestamp>,
    /// Their quantities, by project and category.
    pub quantities: Vec<(Arc<str>, Category, u64)>,
}

/// Leases records for delivery, and takes their settlements.
pub trait Queues: Send + Sync {
    /// Leases up to `max` records that may be tried now. Empty when there are none, or when so many settlements of this
    /// target await their commit that a crash now would repeat too much; [`Queues::changed`] tells when to ask again.
    fn claim(&self, target: TargetId, now: Timestamp, max: usize) -> Call<'_, Vec<Claim>>;

    /// Settles a record and ends its lease. The call itself hands the settlement over: dropping the future does not undo it, and the
    /// caller need not await one settlement before making the next.
    ///
    /// `Ok` promises that the lease was good and that the settlement is kept by whoever commits it: it is durable with the next
    /// commit that works, and until then only a crash can undo it, which lets the record be claimed again. A backend may answer
    /// later, after the commit; SQLite answers as soon as its writer has the settlement. After an error other than
    /// [`LeaseLost`](super::JournalError::LeaseLost) nobody knows whether it counts: the lease is left to end, and the record comes again if it does
    /// not.
    fn settle(&self, lease: &Lease, settlement: Settlement) -> Call<'static, ()>;

    /// Keeps leases for [`LEASE`] longer, from now. Returns those that still hold, with their new ends; the others are lost. After
    /// an error nobody knows which hold: whoever has them goes on, and asks again before they end.
    fn extend(&self, leases: Vec<Lease>) -> Call<'_, Vec<Lease>>;

    /// Notified when a claim of this target may find more: a record was appended, or settlements were committed. The end of a lease does
    /// not notify: a worker claims several times within a [`LEASE`] anyway.
    fn changed(&self, target: TargetId) -> Arc<Notify>;

    /// When the next record put off by [`Settlement::rest`] comes due, if any is.
    fn next_due(&self, target: TargetId) -> Call<'_, Option<Timestamp>>;

    /// Drops up to `limit` records that wait for `target` and were accepted before `before`, in the order of acceptance, looking
    /// no further than the first one accepted later, leased ones left alone. Returns how many; fewer than `limit` means that
    /// there are no more.
    fn discard(&self, target: TargetId, before: Timestamp, reason: DropReason, limit: usize) -> Call<'_, usize>;

    /// Lets up to `limit` records that were put off be tried at once, in the order of their due times. Returns how many; fewer
    /// than `limit` means that there are no more.
    fn hasten(&self, target: TargetId, limit: usize) -> Call<'_, usize>;

    /// What waits for a target.
    fn backlog(&self, target: TargetId) -> Call<'_, Backlog>;

    /// By how much the accounts of a target differ from what waits, both looked at in one moment: what is read one after the other
    /// differs while other relays work. `None` where nobody else does.
    fn differences(&self, _target: TargetId) -> Call<'_, Option<Differences>> {
        ready(Ok(None)).boxed()
    }
}

/// The pending quantities of a target's accounts less its backlog, by project and category; empty when they balance.
pub type Differences = BTreeMap<(Arc<str>, Category), i64>;

/// For backends: says that leases of an upstream have ended.
pub(in crate::journal) fn tell_lapsed(upstream: &str, count: usize) {
    if let Some(Line { suppressed }) = log::admit("leases ended", upstream) {
        let message = "envelopes were claimed and nothing was said of them for a minute: they are tried again";
        tracing::warn!(upstream.name = upstream, count, suppressed, "{message}");
    }
}
