//! The journal: a durable store of acknowledged envelopes and of what became of them. Intake and delivery meet only here.
//!
//! It is made of ports, each with its invariants in its head comment:
//!
//! | port | what it does |
//! | --- | --- |
//! | [`Log`] | appends submissions |
//! | [`Bodies`] | stores large bodies before they are appended |
//! | [`Queues`] | leases records and settles them, one queue for each upstream |
//! | [`Archive`] | scans kept records |
//! | [`Redelivery`] | hands settled records out again |
//! | [`Facts`] | reads accounts and evidence |
//! | [`Storage`] | bounds the room taken |
//! | [`Verification`] | keeps whether upstreams stored the events they took |
//! | [`Pace`] | shares limits and circuits between relays on one journal; a single relay has none |
//! | [`ControlPlane`] | shares the primary, the configuration and the leader between relays; a single relay has none |
//! | [`transfer::Store`] | moves a journal from one backend to another |
//!
//! The suite in `contract` tests most invariants for every backend. Each backend's own tests cover eviction, records that are set
//! aside and [verification].
//!
//! A backend posts every change of an account once, after its commit, to the ledger that it was opened with. The ledger begins with
//! the totals. When several relays share a journal, each ledger gets the postings of all. When [`Log::prune`] returns, every
//! settlement handed over before is committed and posted; the suite uses that to wait.
//!
//! A chore that one relay does for all runs under its [term].
//!
//! The journal never looks into a body, with two exceptions: it counts the spans of a dropped transaction, and the items of a spilled
//! envelope of which another relay has taken some meanwhile.

pub mod archive;
pub mod backfill;
pub mod bodies;
pub mod body;
mod client;
#[cfg(test)]
mod contract;
mod error;
pub mod evidence;
pub mod facts;
pub mod letters;
pub mod log;
pub mod losses;
mod measures;
pub mod pace;
pub mod plane;
pub mod postgres;
pub mod queue;
pub mod redelivery;
mod settings;
mod shares;
pub mod sqlite;
pub mod storage;
pub mod term;
pub mod transfer;
pub mod verification;

use std::fmt;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};

pub use error::{JournalError, OpenError};

pub use archive::Archive;
pub use bodies::Bodies;
pub use client::{Client, LeftOut, Spilled};
pub use facts::{Facts, Switch};
pub use letters::{DeadLetter, Letter, Pick, WithRecord};
pub use log::{Log, RecentKeys, Record, Submission, Targets};
pub use measures::{Measures, Node, Primaries, Space, Standby, Stats};
pub use pace::Pace;
pub use plane::ControlPlane;
pub use queue::{Backlog, Claim, Differences, LEASE, Lease, Progress, Queues, Rest, Settlement};
pub use redelivery::Redelivery;
pub use settings::{DatabaseUrl, Durability, Settings, Sync};
pub use shares::Share;
pub use storage::Storage;
use verification::Verification;

/// A call of a port: what it answers, in a while.
pub type Call<'a, T> = BoxFuture<'a, Result<T, JournalError>>;

/// Which record: never used twice. Only the backend knows what it is made of, and which of two came first: numbers need not rise.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct RecordId(pub(in crate::journal) u64);

impl RecordId {
    /// The number that operators and the API use.
    pub const fn number(self) -> u64 {
        self.0
    }

    /// The record with the number that the API uses.
    pub const fn from_number(number: u64) -> Self {
        Self(number)
    }
}

impl fmt::Display for RecordId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A position in a scan of the records. It is opaque to all but the backend that returned it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Cursor(u64);

impl Cursor {
    /// The position before all records.
    pub const START: Self = Self(0);

    /// The cursor with this [number](Cursor::number).
    pub const fn from_number(number: u64) -> Self {
        Self(number)
    }

    /// The cursor as a number, for storage and the API.
    pub const fn number(self) -> u64 {
        self.0
    }
}

/// The journal's number of an upstream, from [`Log::target`]. A name keeps its number through restarts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct TargetId(pub(in crate::journal) u8);

impl TargetId {
    /// For backends: the target with this number, below [`MAX_TARGETS`].
    pub const fn new(number: u8) -> Self {
        Self(number)
    }
}

/// The most targets of a journal, including unconfigured ones for which something waits.
pub const MAX_TARGETS: usize = 32;

/// For backends: a limit as a statement takes it.
fn bounded(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

/// Everything that is kept, in one place. Shared by everyone through `Arc<dyn Journal>`.
pub trait Journal: Log + Bodies + Queues + Archive + Redelivery + Facts + Storage + fmt::Debug {
    /// The state of verification.
    fn verification(&self) -> &dyn Verification;

    /// The port to other relays' limits and circuits; `None` for a single relay.
    fn pace(&self) -> Option<&dyn Pace> {
        None
    }

    /// The port to what relays share besides records; `None` for a single relay.
    fn control_plane(self: Arc<Self>) -> Option<Arc<dyn ControlPlane>> {
        None
    }
}
