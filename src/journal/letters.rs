//! Dead letters: what an upstream refused for good, kept with its record until somebody decides what becomes of it.
//!
//! Rule: they are bounded in number and in size. When there are too many, the oldest of the project that has the most go. That
//! changes no account, because a letter was posted as dropped when it was refused. A letter that is retried is posted as
//! returned, because it waits again.

use std::borrow::Cow;
use std::sync::Arc;

use super::{Record, RecordId, TargetId};
use crate::clock::Timestamp;
use crate::protocol::category::Quantities;
use crate::protocol::event_id::EventId;

/// A refusal for good, as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// When the answer came.
    pub at: Timestamp,
    /// A word for the cause: `refused`, `poison`.
    pub reason: Cow<'static, str>,
    /// The HTTP status.
    pub status: Option<u16>,
    /// The beginning of the answer's body.
    pub answer: String,
    /// Requests made.
    pub attempts: u32,
    /// The positions of the items that were refused; `None` means all of the record.
    pub items: Option<Vec<u16>>,
}

/// A dead letter in the journal, without the record's body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter {
    /// Its number: rises with every one.
    pub id: u64,
    /// Who refused it.
    pub target: TargetId,
    /// The name of who refused it.
    pub upstream: Arc<str>,
    /// What was refused.
    pub record: RecordId,
    /// The project of the record.
    pub project: Arc<str>,
    /// When the record was accepted.
    pub accepted_at: Timestamp,
    /// The event id of the record.
    pub event_id: Option<EventId>,
    /// The body of the record in bytes.
    pub size: u64,
    /// What the refused items count as.
    pub quantities: Quantities,
    /// How it was refused.
    pub refusal: DeadLetter,
}

/// A dead letter with what was refused.
pub type WithRecord = (Letter, Arc<Record>);

/// Which dead letters are meant: those for which everything given here holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pick {
    /// This one.
    pub id: Option<u64>,
    /// Those of this target.
    pub target: Option<TargetId>,
    /// Those with this reason.
    pub reason: Option<Box<str>>,
    /// Those whose record was accepted then or later.
    pub since: Timestamp,
}

impl Pick {
    /// Whether it means this one.
    pub fn means(&self, letter: &Letter) -> bool {
        self.id.is_none_or(|id| id == letter.id)
            && self.target.is_none_or(|target| target == letter.target)
            && self.reason.as_ref().is_none_or(|reason| **reason == *letter.refusal.reason)
            && letter.accepted_at >= self.since
    }
}

/// For backends: the items of two refusals of one record together.
pub fn together(a: Option<Vec<u16>>, b: Option<Vec<u16>>) -> Option<Vec<u16>> {
    let mut all = a?;
    all.extend(b?);
    all.sort_unstable();
    all.dedup();
    Some(all)
}
