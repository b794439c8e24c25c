//! The journal: what was acknowledged and is not yet settled. The only meeting point of intake and delivery.
//!
//! Invariants, kept by every backend and held by the suite in `contract`:
//!
//! 1. [`Journal::append`] returns `Ok` only when the record is durable (with [`Sync::Full`]: through a loss of power).
//! 2. A record stays until every target has settled it, then for `retain`, then goes; a dead letter keeps its record, and the oldest letters go when there are too
//!    many ([`letters`]).
//! 3. A claim is a lease that lives in memory: after a restart everything unsettled can be claimed again.
//! 4. Per target, what is due comes first, in order of its due time; then what was never tried, in order of acceptance;
//!    then what a [`backfill`] has taken up.
//! 5. Settling is idempotent: settling what is settled, or was never claimed, changes nothing and posts nothing.
//! 6. Every change of an account ([`Posting`](crate::telemetry::ledger::Posting)) is committed with the change it tells of.
//! 7. A record that cannot be read is set aside and counted, and looked at again by the next start; it never blocks the ones behind it.
//! 8. The space is bounded by `max_size`; delivered records go first, then the oldest of those that wait for shadows alone
//!    ([`Journal::protect`]), and when neither is left [`JournalError::Full`] is the answer. No project takes what is another's part
//!    ([`Journal::split`]). Space is given back to the file system after draining. A full disk is an answer too, and passes when there is room again.
//! 9. No call does work that grows with the number of records waiting.
//!
//! 10. A body in a file is as durable as its record when `append` returns, and counts as room taken from its first byte on. The
//!     file goes after the commit that removes its record; one of no record goes when it is dropped, or with the next start.
//!
//! 11. What is dropped is to be told to its target, until the transaction that appends the report of it ([`losses`]).
//!
//! What is in a body the journal does not look at, but for the spans of a transaction that is dropped.

pub mod backfill;
pub mod body;
mod client;
#[cfg(test)]
mod contract;
mod error;
pub mod evidence;
pub mod letters;
pub mod losses;
mod measures;
mod settings;
mod shares;
pub mod spool;
pub mod sqlite;
pub mod verification;

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::clock::Timestamp;
use crate::policy::dedup::SECRET;
use crate::policy::outcome::DropReason;
use crate::protocol::category::{Category, Quantities};
use crate::protocol::envelope::{HeaderSpans, header_line};
use crate::protocol::event_id::EventId;

pub use error::{JournalError, OpenError};

use backfill::{Backfill, BackfillStep, Scope, Survey};
use body::{Body, Reservation};
pub use client::{Client, LeftOut};
use evidence::{Comparison, Evidence, Latest, Observation, Outage};
pub use letters::{DeadLetter, Letter, Pick, WithRecord};
use losses::Loss;
pub use measures::{Primaries, Space, Stats};
pub use settings::{Settings, Sync};
pub use shares::Share;
use spool::Spool;
use verification::Verification;

/// The number of a record: rises with every append, never used twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct RecordId(pub u64);

impl fmt::Display for RecordId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// An upstream as the journal knows it: given by [`Journal::target`], the same for the same name through restarts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct TargetId(pub u8);

/// The most targets a journal can know, those no longer configured included while something waits for them.
pub const MAX_TARGETS: usize = 32;

/// One submission on its way into the journal.
#[derive(Clone, Debug)]
pub struct Submission {
    /// When it was accepted.
    pub accepted_at: Timestamp,
    /// The project's name.
    pub project: Arc<str>,
    /// The event id of the envelope header.
    pub event_id: Option<EventId>,
    /// What the items count as; nothing for what is ours: a report, a canary.
    pub quantities: Quantities,
    /// The keys under which a repeat of this submission is recognised ([`Journal::recent_keys`]).
    pub keys: Vec<u128>,
    /// What upstreams are told of the client.
    pub client: Client,
    /// The envelope. One body belongs to one record.
    pub body: Body,
    /// Where the values that address the envelope stand in its header line, when that is known already.
    pub spans: Option<HeaderSpans>,
    /// The upstreams that get it.
    pub targets: Vec<TargetId>,
    /// The upstreams that are configured for the project and do not get it, and why. Posted as accepted and dropped at once.
    pub withheld: Vec<(TargetId, DropReason)>,
}

impl Submission {
    /// The record that it becomes under this number.
    pub fn into_record(self, id: RecordId) -> Record {
        let Self { accepted_at, project, event_id, quantities, client, body, spans, .. } = self;
        let located = spans.map(|spans| OnceLock::from(Some(spans))).unwrap_or_default();
        Record { id, accepted_at, project, event_id, quantities, client, body, located }
    }
}

/// One submission in the journal.
#[derive(Clone, Debug)]
pub struct Record {
    /// Its number.
    pub id: RecordId,
    /// When it was accepted.
    pub accepted_at: Timestamp,
    /// The project's name.
    pub project: Arc<str>,
    /// The event id of the envelope header.
    pub event_id: Option<EventId>,
    /// What its items count as.
    pub quantities: Quantities,
    /// What upstreams are told of the client.
    pub client: Client,
    /// The envelope, stored once for all targets.
    pub body: Body,
    /// What [`Record::spans`] has found.
    pub located: OnceLock<Option<HeaderSpans>>,
}

impl Record {
    /// Where the values that address it stand in its header line: looked for once, for all targets. `None` when the line cannot be
    /// read, and for a body in a file, whose outline knows.
    pub fn spans(&self) -> Option<&HeaderSpans> {
        let Body::Memory(bytes) = &self.body else { return None };
        self.located.get_or_init(|| HeaderSpans::locate(header_line(bytes)).ok()).as_ref()
    }

    /// Its id when it is a canary: an event of ours, which counts as nothing ([`losses`]).
    pub fn canary(&self) -> Option<EventId> {
        self.event_id.filter(|_| self.quantities.is_empty())
    }
}

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
    /// When the oldest of them was accepted, those aside that a [`backfill`] has taken up and nobody has tried since.
    pub oldest: Option<Timestamp>,
    /// What they count as, by project.
    pub quantities: Vec<(Arc<str>, Category, u64)>,
}

/// Keys under which repeats are recognised.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecentKeys {
    /// Each with the moment at which its record was accepted.
    pub keys: Vec<(u128, Timestamp)>,
    /// The record before which to go on; `None` when there are no more.
    pub next: Option<RecordId>,
}

/// A switch of the primary, as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Switch {
    /// When it went live.
    pub at: Timestamp,
    /// The project, when only its primary changed.
    pub project: Option<Box<str>>,
    /// The primary before; `None` for the first one of a journal.
    pub from: Option<Box<str>>,
    /// The primary since.
    pub to: Box<str>,
    /// Why, in the words of who did it.
    pub reason: Option<Box<str>>,
    /// Who did it, as far as known.
    pub author: Option<Box<str>>,
}

/// Durable storage of records and of what became of them. Shared by everyone through `Arc<dyn Journal>`.
pub trait Journal: Send + std::marker::Sync + fmt::Debug {
    /// The target for the upstream `name`. A new one begins with nothing waiting.
    fn target(&self, name: &str) -> BoxFuture<'_, Result<TargetId, JournalError>>;

    /// Every target known, with its name, those no longer configured included.
    fn targets(&self) -> Vec<(TargetId, Arc<str>)>;

    /// Makes the submission durable; returns after the commit.
    fn append(&self, submission: Submission) -> BoxFuture<'_, Result<RecordId, JournalError>>;

    /// Where bodies over [`IN_MEMORY`](body::IN_MEMORY) are written.
    fn spool(&self) -> &Arc<Spool>;

    /// Takes room for `bytes` of a file for a project, if it is known for which; delivered records go first.
    /// [`BodyWriter`](spool::BodyWriter) asks for it.
    fn make_room(&self, project: Option<Arc<str>>, bytes: u64) -> BoxFuture<'_, Result<Reservation, JournalError>>;

    /// Leases up to `max` records that may be tried now. Empty when there are none, or when so many settlements of this
    /// target await their commit that a crash now would repeat too much; [`Journal::changed`] tells when to ask again.
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

    /// Removes up to `limit` settled records accepted before `before`; returns how many went. Looks at a bounded number of
    /// records and goes on from there with the next call. The space is given back when there is time for it.
    fn prune(&self, before: Timestamp, limit: usize) -> BoxFuture<'_, Result<usize, JournalError>>;

    /// What waits for a target.
    fn backlog(&self, target: TargetId) -> BoxFuture<'_, Result<Backlog, JournalError>>;

    /// The keys of records accepted since, the newest first: what fills the window of duplicates after a restart. Looks at up to
    /// `limit` records, at those before the record `before`.
    fn recent_keys(
        &self,
        since: Timestamp,
        before: Option<RecordId>,
        limit: usize,
    ) -> BoxFuture<'_, Result<RecentKeys, JournalError>>;

    /// The secret under which those keys are made: random, made once, kept with the journal.
    fn secret(&self) -> [u8; SECRET];

    /// Keeps a switch of the primary.
    fn record_switch(&self, switch: Switch) -> BoxFuture<'_, Result<(), JournalError>>;

    /// The last `limit` switches, newest first.
    fn switches(&self, limit: usize) -> BoxFuture<'_, Result<Vec<Switch>, JournalError>>;

    /// Adds what was observed since the last time to the evidence, and that the relay is alive.
    fn observe(&self, observation: Observation) -> BoxFuture<'_, Result<(), JournalError>>;

    /// What is kept of the time since the beginning of the hour in which `since` lies.
    fn evidence(&self, since: Timestamp) -> BoxFuture<'_, Result<Evidence, JournalError>>;

    /// The outages that had not ended by `since`, newest first, at most `limit`.
    fn outages(&self, since: Timestamp, limit: usize) -> BoxFuture<'_, Result<Vec<Outage>, JournalError>>;

    /// Which records one target got and another did not, of those still kept that were accepted since `since` for at least one
    /// of them. Looks at a bounded number of records behind `after`, and says where to go on.
    fn compare(
        &self,
        targets: (TargetId, TargetId),
        since: Timestamp,
        after: RecordId,
    ) -> BoxFuture<'_, Result<Comparison, JournalError>>;

    /// When a target last took something.
    fn latest(&self, target: TargetId) -> Latest;

    /// The number of dead letters of a target.
    fn dead_letters(&self, target: TargetId) -> u64;

    /// The dead letters meant by `pick` with numbers below `before`, newest first, at most `limit`.
    fn letters(&self, pick: Pick, before: u64, limit: usize) -> BoxFuture<'_, Result<Vec<Letter>, JournalError>>;

    /// One dead letter with its record.
    fn letter(&self, id: u64) -> BoxFuture<'_, Result<Option<WithRecord>, JournalError>>;

    /// Lets up to `limit` dead letters wait for their upstream again, due at once, the oldest first; posted as
    /// [`Outcome::Returned`](crate::policy::outcome::Outcome). Returns how many; one of a record of which something waits there
    /// already is left alone.
    fn retry_letters(&self, pick: Pick, limit: usize) -> BoxFuture<'_, Result<usize, JournalError>>;

    /// Forgets up to `limit` dead letters; returns how many.
    fn discard_letters(&self, pick: Pick, limit: usize) -> BoxFuture<'_, Result<usize, JournalError>>;

    /// Counts what a backfill of `scope` would take up, of a bounded number of records after `from`.
    fn survey(&self, scope: Scope, from: RecordId) -> BoxFuture<'_, Result<Survey, JournalError>>;

    /// Does a step of a target's backfill; returns how it stands then, if there ever was one ([`backfill`]).
    fn backfill(&self, target: TargetId, step: BackfillStep) -> BoxFuture<'_, Result<Option<Backfill>, JournalError>>;

    /// The last backfill of each target.
    fn backfills(&self) -> BoxFuture<'_, Result<Vec<Backfill>, JournalError>>;

    /// Counts losses that no record tells of: what was shed before there was one.
    fn lose(&self, losses: Vec<Loss>) -> BoxFuture<'_, Result<(), JournalError>>;

    /// What was lost for targets and has not been told them.
    fn losses(&self) -> BoxFuture<'_, Result<Vec<Loss>, JournalError>>;

    /// Takes off what is told, and appends the report that tells it, both or neither; without a report it is forgotten. The
    /// report counts as nothing: its quantities are empty ([`losses`]).
    fn report(&self, told: Vec<Loss>, report: Option<Submission>) -> BoxFuture<'_, Result<(), JournalError>>;

    /// What it keeps of the look for events at their upstreams; `None` for one that keeps nothing delivered.
    fn verification(&self) -> Option<&dyn Verification> {
        None
    }

    /// Says whose backlog never gives way. When room is short, the oldest of what waits for others alone is dropped as evicted,
    /// after what is only retained. Until it is said, no backlog gives way.
    fn protect(&self, primaries: Primaries);

    /// Says between which projects the room is split. Half of it is parts, one for each; the other half is common. One that is
    /// beyond its part takes of the common half alone ([`JournalError::Share`]), and is the first to give way.
    fn split(&self, projects: Vec<Arc<str>>);

    /// What each project takes, the most first: those of the split, and those that still have something.
    fn shares(&self) -> Vec<Share>;

    /// Room taken.
    fn space(&self) -> Space;

    /// What the storage did so far.
    fn stats(&self) -> Stats;

    /// Whether an append would be accepted now, and if not, why.
    fn writable(&self) -> Result<(), JournalError>;

    /// Commits what is under way and closes. Calls made later answer [`JournalError::Closed`].
    fn close(&self, patience: Duration) -> BoxFuture<'_, ()>;
}
