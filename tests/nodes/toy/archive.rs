//! Records that are still kept.

use super::*;
pub(super) use crate::journal::archive::Fate;
use crate::journal::archive::{Comparison, Kept, Unequal};
use crate::protocol::event_id::EventId;

/// The maximum number of records that one step visits.
const STEP: usize = 1000;

impl Archive for Node {
    fn record(&self, record: RecordId) -> BoxFuture<'_, Result<Option<Arc<Record>>, JournalError>> {
        self.call(move |state| Ok(state.records.get(&record.number()).map(|stored| Arc::clone(&stored.record))))
    }

    fn record_of(&self, event_id: EventId) -> BoxFuture<'_, Result<Option<Arc<Record>>, JournalError>> {
        self.call(move |state| {
            let mut newest = state.records.values().rev().map(|stored| &stored.record);
            Ok(newest.find(|record| record.event_id == Some(event_id)).cloned())
        })
    }

    fn kept(&self, after: Cursor) -> BoxFuture<'_, Result<Kept, JournalError>> {
        self.call(move |state| {
            let (step, next) = state.step(after);
            Ok(Kept { records: step.map(|stored| Arc::clone(&stored.record)).collect(), next })
        })
    }

    fn compare(
        &self,
        (a, b): (TargetId, TargetId),
        since: Timestamp,
        after: Cursor,
    ) -> BoxFuture<'_, Result<Comparison, JournalError>> {
        self.call(move |state| {
            let (step, next) = state.step(after);
            let mut comparison = Comparison { next, ..Comparison::default() };
            for stored in step {
                let Record { id, accepted_at, ref project, event_id, ref quantities, .. } = *stored.record;
                let is_meant = |target| stored.fate(target) != Fate::NotSent;
                if accepted_at >= since && !quantities.is_empty() && (is_meant(a) || is_meant(b)) {
                    let (project, a, b) = (Arc::clone(project), stored.fate(a), stored.fate(b));
                    comparison.note(Unequal { id, accepted_at, project, event_id, a, b });
                }
            }
            Ok(comparison)
        })
    }
}

impl State {
    /// The records of the next step of a walk, and the cursor after them; `None` when the walk is at its end.
    fn step(&self, after: Cursor) -> (impl Iterator<Item = &Stored>, Option<Cursor>) {
        let behind = || self.records.range(after.number() + 1..);
        let last = behind().nth(STEP - 1).map(|(id, _)| Cursor::from_number(*id));
        (behind().take(STEP).map(|(_, stored)| stored), last)
    }
}

impl Stored {
    fn fate(&self, target: TargetId) -> Fate {
        match (self.standing.get(&target), self.missed.get(&target)) {
            (None | Some(Standing::Withheld(_)), _) => Fate::NotSent,
            (_, Some(missed)) => *missed,
            (Some(Standing::Waiting(_)), None) => Fate::Pending,
            (Some(Standing::Settled), None) => Fate::Delivered,
        }
    }
}
