//! The archive: the records that are still kept, settled or not, walked through and compared.
//!
//! Invariants:
//!
//! - A walk begins at [`Cursor::START`] and goes on at the cursor that the last step gave. It meets every record once that is kept
//!   throughout the walk. One that comes or goes meanwhile it may meet.
//! - A step looks at a bounded number of records, and may find none of those that it is asked for.
//! - A cursor may be given back at any time, after a restart and at another relay, too. Only the backend can tell which of two
//!   is further on.

use std::sync::Arc;

use crate::clock::Timestamp;
use crate::policy::outcome::{Cause, DropReason};
use crate::protocol::event_id::EventId;

use super::{Call, Cursor, Record, RecordId, TargetId};

/// Some of the records that are still kept.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    /// In the order of the walk, those that can be read.
    pub records: Vec<Arc<Record>>,
    /// Where to go on; `None` at the end.
    pub next: Option<Cursor>,
}

/// What became of one record at one upstream, as far as it can be told of a record that is still kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It has it.
    Delivered,
    /// It waits for it.
    Pending,
    /// It was not meant for it: the mirror was off, or the upstream not there yet.
    NotSent,
    /// It, or part of it, was dropped.
    Dropped(DropReason),
}

impl Fate {
    /// The name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Pending => "pending",
            Self::NotSent => "not_sent",
            Self::Dropped(reason) => reason.name(),
        }
    }

    /// The fate of what is dropped for that reason; `None` for what the configuration or the upstream's kind leaves out, which is
    /// counted, and can be too much to be listed.
    pub fn of(reason: DropReason) -> Option<Self> {
        match reason.cause() {
            Cause::Lost | Cause::Limited | Cause::Refused => Some(Self::Dropped(reason)),
            Cause::Withheld | Cause::NoPlace => None,
        }
    }

    /// For backends: what a note of a drop says.
    pub(in crate::journal) fn noted(reason: &str) -> Self {
        DropReason::from_name(reason).and_then(Self::of).unwrap_or(Self::Dropped(DropReason::Rejected))
    }
}

/// A record that two upstreams fared differently with.
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
    /// What became of it at the one.
    pub a: Fate,
    /// What became of it at the other.
    pub b: Fate,
}

/// Part of a comparison.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Records looked at.
    pub compared: u64,
    /// When the first of them was accepted.
    pub oldest: Option<Timestamp>,
    /// Those of different fates, the oldest first, without those that wait for one and were delivered to the other.
    pub unequal: Vec<Unequal>,
    /// How many wait for the one and were delivered to the other, and the reverse.
    pub pending: (u64, u64),
    /// Where to go on; `None` at the end.
    pub next: Option<Cursor>,
}

impl Comparison {
    /// Notes one record.
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

/// Shows the records that are still kept.
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
