//! Dead letters: items that an upstream refused for good, kept with their record until an operator retries or discards them.
//!
//! Rule: dead letters are bounded in number and size. When there are too many, the oldest of the project with the most are removed.
//! That changes no account, because a dead letter was posted as dropped when it was refused. A retried dead letter is posted as
//! returned, because it waits again.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Record, RecordId, TargetId};
use crate::clock::Timestamp;
use crate::protocol::category::Quantities;
use crate::protocol::event_id::EventId;
use crate::telemetry::log;

/// A permanent refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// When the answer came.
    pub at: Timestamp,
    /// The cause in a word: `refused`, `poison`.
    pub reason: Cow<'static, str>,
    /// The HTTP status.
    pub status: Option<u16>,
    /// The beginning of the answer's body.
    pub answer: String,
    /// The number of requests made.
    pub attempts: u32,
    /// The positions of the items that were refused; `None` means all of the record.
    pub items: Option<Vec<u16>>,
}

/// A dead letter in the journal, without the record's body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter {
    /// Its number. Later dead letters have higher numbers.
    pub id: u64,
    /// The target that refused it.
    pub target: TargetId,
    /// The name of the upstream that refused it.
    pub upstream: Arc<str>,
    /// The record.
    pub record: RecordId,
    /// The project of the record.
    pub project: Arc<str>,
    /// When the record was accepted.
    pub accepted_at: Timestamp,
    /// The event id of the record.
    pub event_id: Option<EventId>,
    /// The body of the record in bytes.
    pub size: u64,
    /// The quantities of the refused items.
    pub quantities: Quantities,
    /// How it was refused.
    pub refusal: DeadLetter,
}

/// A dead letter with what was refused.
pub type WithRecord = (Letter, Arc<Record>);

/// A selection of dead letters: those that match every field given here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pick {
    /// The dead letter with this number.
    pub id: Option<u64>,
    /// Dead letters of this target.
    pub target: Option<TargetId>,
    /// Dead letters with this reason.
    pub reason: Option<Box<str>>,
    /// Dead letters whose record was accepted then or later.
    pub since: Timestamp,
}

impl Pick {
    /// For backends: its parts as statements take them.
    pub(in crate::journal) fn parts(&self) -> (Option<i64>, Option<i16>, Option<&str>, i64) {
        let Self { id, target, reason, since } = self;
        let target = target.map(|target| target.0.into());
        (id.map(u64::cast_signed), target, reason.as_deref(), since.as_millis().cast_signed())
    }

    /// Whether it means this one.
    pub fn means(&self, letter: &Letter) -> bool {
        self.id.is_none_or(|id| id == letter.id)
            && self.target.is_none_or(|target| target == letter.target)
            && self.reason.as_ref().is_none_or(|reason| **reason == *letter.refusal.reason)
            && letter.accepted_at >= self.since
    }
}

/// The most dead letters that are kept.
const MOST: u64 = 10_000;
/// The part of `max_size` that their records may take, as a divisor.
const SHARE: u64 = 8;

/// For backends: how many letters there are, and of how many bytes, by the number of their project.
#[derive(Clone, Debug, Default)]
pub(in crate::journal) struct Held<P> {
    all: (u64, u64),
    by_project: BTreeMap<P, (u64, u64)>,
}

impl<P: Copy + Ord> Held<P> {
    /// Adds so many of so many bytes.
    pub(in crate::journal) fn add(&mut self, project: P, count: u64, bytes: u64) {
        let own = self.by_project.entry(project).or_default();
        for held in [own, &mut self.all] {
            *held = (held.0 + count, held.1 + bytes);
        }
    }

    /// Takes off one of so many bytes.
    pub(in crate::journal) fn take(&mut self, project: P, bytes: u64) {
        let own = self.by_project.entry(project).or_default();
        for held in [own, &mut self.all] {
            *held = (held.0.saturating_sub(1), held.1.saturating_sub(bytes));
        }
    }

    /// Whose letters give way in a journal of `max_size` bytes, while there are too many or they are too large: those of the project
    /// that has the most of them.
    pub(in crate::journal) fn furthest(&self, max_size: u64) -> Option<P> {
        let measure: fn(&(u64, u64)) -> u64 = match self.all {
            (count, _) if count > MOST => |held| held.0,
            (_, bytes) if bytes > max_size / SHARE => |held| held.1,
            _ => return None,
        };
        let held = self.by_project.iter().filter(|(_, held)| held.0 > 0);
        held.max_by_key(|(_, held)| measure(held)).map(|(project, _)| *project)
    }
}

/// For backends: says that so many went because there were too many.
pub(in crate::journal) fn tell_forgotten(count: u64) {
    if count > 0
        && let Some(count) = log::admit_sum("letters forgotten", "", count)
    {
        let message = "there are too many dead letters: the oldest of the project with the most are forgotten";
        tracing::warn!(count, "{message}");
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
