//! The journal: what was acknowledged and is not yet settled. The only meeting point of intake and delivery.
//!
//! It is made of ports, each with its invariants in its head comment:
//!
//! | port | what it does |
//! | --- | --- |
//! | [`Log`] | takes submissions |
//! | [`Bodies`] | takes large bodies, before their submission |
//! | [`Queues`] | hands records out, one queue for each upstream |
//! | [`Archive`] | shows what is kept |
//! | [`Redelivery`] | hands out again what was settled |
//! | [`Facts`] | tells what became of it |
//! | [`Storage`] | bounds the room that it takes |
//! | [`Verification`] | keeps what was found of events at their upstreams |
//! | [`Pace`] | what several relays on one journal tell each other; none where there is one relay |
//! | [`ControlPlane`] | what several relays on one journal share besides it; none where there is one relay |
//! | [`transfer::Store`] | moves a journal from one backend to another |
//!
//! The suite in `contract` holds most of the invariants for every backend. Eviction, records that are set aside and [verification] are
//! held by the tests of each backend.
//!
//! Every change of an account is posted to the ledger that the backend was opened with: once, after the commit that made it. The
//! ledger begins with the totals. Where several relays share a journal, each ledger gets the postings of all. When [`Log::prune`]
//! returns, every settlement that was handed over before is committed and posted: the suite waits by that.
//!
//! A chore that one relay does for all is done under its [term].
//!
//! The journal never looks into a body, with two exceptions. It counts the spans of a transaction that is dropped. And it counts the
//! items of what a relay had kept on its own machine when another relay has taken some of them meanwhile.

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
    /// How operators and the API name it.
    pub const fn number(self) -> u64 {
        self.0
    }

    /// The record that the API names so.
    pub const fn from_number(number: u64) -> Self {
        Self(number)
    }
}

impl fmt::Display for RecordId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A place in a walk through the records. Only the backend that gave it knows what it means.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Cursor(u64);

impl Cursor {
    /// Before all records.
    pub const START: Self = Self(0);

    /// For backends, and for who was given [`Cursor::number`].
    pub const fn from_number(number: u64) -> Self {
        Self(number)
    }

    /// What stands for it outside of this process.
    pub const fn number(self) -> u64 {
        self.0
    }
}

/// An upstream as the journal knows it: given by [`Log::target`], the same for the same name through restarts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct TargetId(pub(in crate::journal) u8);

impl TargetId {
    /// For backends: the target that they know under this number, below [`MAX_TARGETS`].
    pub const fn new(number: u8) -> Self {
        Self(number)
    }
}

/// The most targets a journal can know, those no longer configured included while something waits for them.
pub const MAX_TARGETS: usize = 32;

/// For backends: a limit as a statement takes it.
fn bounded(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

/// Everything that is kept, in one place. Shared by everyone through `Arc<dyn Journal>`.
pub trait Journal: Log + Bodies + Queues + Archive + Redelivery + Facts + Storage + fmt::Debug {
    /// What it keeps of the look for events at their upstreams.
    fn verification(&self) -> &dyn Verification;

    /// What the relays on it tell each other; `None` when there is one.
    fn pace(&self) -> Option<&dyn Pace> {
        None
    }

    /// What the relays on it share besides it, as one of them sees it; `None` when there is one.
    fn control_plane(self: Arc<Self>) -> Option<Arc<dyn ControlPlane>> {
        None
    }
}
