//! Backfills: kept records are given to an upstream that was not to get them when they were accepted.
//!
//! Rules: a backfill never takes a record that the target was to get, even one that was dropped. Backfilled records wait behind
//! everything else of the target, and are added only while little waits there. The progress of a backfill is committed together with
//! the records it adds, so that a restart neither forgets nor repeats one.

use std::sync::Arc;

use super::{Cursor, TargetId};
use crate::clock::Timestamp;

/// Due times of backfilled records begin here, in order of acceptance. They lie beyond every real due time, so that such records are
/// claimed only when nothing else can be tried.
pub(in crate::journal) const BACKGROUND: Timestamp = Timestamp::from_millis(1 << 62);

/// The records that a backfill selects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// The target that gets them.
    pub target: TargetId,
    /// Their projects.
    pub projects: Vec<Arc<str>>,
    /// Records accepted then or later.
    pub since: Timestamp,
}

/// One step of counting what a backfill would take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// The number of records that would be taken.
    pub records: u64,
    /// The size of their bodies in bytes.
    pub bytes: u64,
    /// The cursor to continue at; `None` at the end.
    pub next: Option<Cursor>,
}

/// The state of a backfill. The journal keeps the last one of each target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backfill {
    /// The records that it selects.
    pub scope: Scope,
    /// Where it ends: later records were accepted under another configuration.
    pub until: Cursor,
    /// How far it has come.
    pub reached: Cursor,
    /// How many records it selected when it began.
    pub found: u64,
    /// How many it has handed to the target so far.
    pub taken: u64,
    /// When it began.
    pub started_at: Timestamp,
    /// When it was completed or cancelled; `None` while it runs.
    pub ended_at: Option<Timestamp>,
    /// Whether an operator cancelled it.
    pub cancelled: bool,
}

impl Backfill {
    /// Whether it still runs.
    pub const fn is_running(&self) -> bool {
        self.ended_at.is_none()
    }
}

/// A step of the backfill of a target.
#[derive(Clone, Debug)]
pub enum BackfillStep {
    /// Begin this one in place of an earlier one. The journal sets `until` to the newest record.
    Begin(Box<Backfill>),
    /// Add records until this many records of the target wait that are not leased.
    GoOn(usize),
    /// Add no more records.
    Cancel,
}
