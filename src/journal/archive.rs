//! The archive: scans and compares the records that the journal still keeps, settled or not.
//!
//! Invariants:
//!
//! - A scan begins at [`Cursor::START`] and continues at the cursor that the last step returned. It returns every record once that is
//!   kept throughout the scan. It may or may not return a record that is added or removed meanwhile.
//! - A step looks at a bounded number of records, and may return none.
//! - A cursor stays valid after a restart and at another relay. Only the backend can tell which of two cursors is further on.

use std::sync::Arc;

use crate::clock::Timestamp;
use crate::policy::outcome::{Cause, DropReason};
use crate::protocol::event_id::EventId;

use super::{Call, Cursor, Record, RecordId, TargetId};

/// One step of a scan.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    /// The readable records of the step, in scan order.
    pub records: Vec<Arc<Record>>,
    /// The cursor to continue at; `None` at the end.
    pub next: Option<Cursor>,
}

/// What became of a kept record at one upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The upstream has taken it.
    Delivered,
    /// It waits for the upstream.
    Pending,
    /// The upstream was not to get it: the mirror was off, or the upstream was not configured yet.
    NotSent,
    /// All or part of it was dropped.
    Dropped(DropReason),
}

impl Fate {
    /// The name in reports and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Pending => "pending",
            Self::NotSent => "not_sent",
            Self::Dropped(reason) => reason.name(),
        }
    }

    /// The fate of a record that is dropped for `reason`. `None` for what the configuration or the upstream's kind leaves out: such drops
    /// are counted, but there can be too many to list.
    pub fn of(reason: DropReason) -> Option<Self> {
        match reason.cause() {
            Cause::Lost | Cause::Limited | Cause::Refused => Some(Self::Dropped(reason)),
            Cause::Withheld | Cause::NoPlace => None,
        }
    }

    /// For backends: that of a record with that note of a drop, if there is one.
    pub(in crate::journal) fn of_record(is_meant: bool, missed: Option<&Self>, waits: bool) -> Self {
        match missed {
            _ if !is_meant => Self::NotSent,
            Some(missed) => *missed,
            None if waits => Self::Pending,
            None => Self::Delivered,
        }
    }

    /// For backends: what a note of a drop says.
    pub(in crate::journal) fn noted(reason: &str) -> Self {
        DropReason::from_name(reason).and_then(Self::of).unwrap_or(Self::Dropped(DropReason::Rejected))
    }
}

/// A record with different fates at two upstreams.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unequal {
    /// The record.
    pub id: RecordId,
    /// When it was accepted.
    pub accepted_at: Timestamp,
    /// The project's name.
    pub project: Arc<str>,
    /// Its event id.
    pub event_id: Option<EventId>,
    /// Its fate at the first upstream.
    pub a: Fate,
    /// Its fate at the second upstream.
    pub b: Fate,
}

/// One step of a comparison of two upstreams.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// The number of records compared.
    pub compared: u64,
    /// When the oldest of them was accepted.
    pub oldest: Option<Timestamp>,
    /// Records with different fates, oldest first. A record that is pending at one and delivered to the other is counted in `pending`.
    pub unequal: Vec<Unequal>,
    /// How many are pending at the first and delivered to the second upstream, and the reverse.
    pub pending: (u64, u64),
    /// The cursor to continue at; `None` at the end.
    pub next: Option<Cursor>,
}

impl Comparison {
    /// Adds one record to the comparison.
    pub fn note(&mut self, unequal: Unequal) {
        self.compared += 1;
        self.oldest = self.oldest.or(Some(unequal.accepted_at));
        match (unequal.a, unequal.b) {
            (a, b) if a == b => {}
            (Fate::Pending, Fate::Delivered) => self.pending.0 += 1,
            (Fate::Delivered, Fate::Pending) => self.pending.1 += 1,
            _ => self.unequal.push(unequal),
        }
    }
}

/// Reads the records that are still kept.
pub trait Archive: Send + Sync {
    /// A record, if it is still kept.
    fn record(&self, record: RecordId) -> Call<'_, Option<Arc<Record>>>;

    /// The newest record with this event id that is still kept; one of an error event, if there is one, whatever came after it.
    fn record_of(&self, event_id: EventId) -> Call<'_, Option<Arc<Record>>>;

    /// The records that are still kept behind `after`, as many as one step takes.
    fn kept(&self, after: Cursor) -> Call<'_, Kept>;

    /// Which records one target got and another did not, of those behind `after` that were accepted since `since` for at least one
    /// of them.
    fn compare(&self, targets: (TargetId, TargetId), since: Timestamp, after: Cursor) -> Call<'_, Comparison>;
}
