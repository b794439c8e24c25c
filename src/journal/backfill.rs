//! Backfills: records that an upstream was not meant to get when they came, given to it later.
//!
//! Rules: a backfill never takes a record that the target was meant to get, even if that was dropped. What it takes up waits
//! behind everything else of the target, and only while little waits there. How far a backfill has come is committed with what it
//! takes up, so that a restart neither forgets nor repeats anything.

use std::sync::Arc;

use super::{Cursor, TargetId};
use crate::clock::Timestamp;

/// The due times of backfilled records begin here, in the order of acceptance: beyond every real one, so that they are looked
/// for by themselves, when nothing else can be tried.
pub(in crate::journal) const BACKGROUND: Timestamp = Timestamp::from_millis(1 << 62);

/// Which records a backfill is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// The target that is to get them.
    pub target: TargetId,
    /// The projects whose records they are.
    pub projects: Vec<Arc<str>>,
    /// Accepted then or later.
    pub since: Timestamp,
}

/// What a look at some records found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// Records that would be taken up.
    pub records: u64,
    /// Their bodies in bytes.
    pub bytes: u64,
    /// Where to go on; `None` when that was all.
    pub next: Option<Cursor>,
}

/// A backfill, as it is kept: the last one of each target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backfill {
    /// What it is about.
    pub scope: Scope,
    /// Where it ends: what comes later came under another configuration.
    pub until: Cursor,
    /// How far records were looked at.
    pub reached: Cursor,
    /// How many records were found when it began.
    pub found: u64,
    /// How many were taken up.
    pub taken: u64,
    /// When it began.
    pub started_at: Timestamp,
    /// When it came to its end, by itself or cancelled.
    pub ended_at: Option<Timestamp>,
    /// Whether somebody ended it.
    pub cancelled: bool,
}

impl Backfill {
    /// Whether there is more to take up.
    pub const fn is_running(&self) -> bool {
        self.ended_at.is_none()
    }
}

/// What is to be done about the backfill of a target.
#[derive(Clone, Debug)]
pub enum BackfillStep {
    /// Begin this one, in place of an earlier one. `until` is set by the journal: it ends with the newest record.
    Begin(Box<Backfill>),
    /// Take up more records, of those that are behind everything tried so far, until so many wait that are not being tried.
    GoOn(usize),
    /// Take up no more.
    Cancel,
}
