//! Looks that somebody asks for: through all that is kept, some events at a time.
//!
//! Rule: what is not found is noted, so that the steps look for it again and call it missing.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::journal::verification::{Notes, State, Wanted};
use crate::journal::{JournalError, RecordId};
use crate::policy::verification::NotFound;

use super::look::Seen;
use super::{STEP, Verifier};

/// What a look on demand found.
#[derive(Clone, Debug, Default)]
pub struct Looked {
    /// How many events are stored.
    pub stored: u64,
    /// Events that are not there, at the first look.
    pub absent: Vec<Wanted>,
    /// Events that are missing.
    pub missing: Vec<Wanted>,
    /// How many nobody can say anything of.
    pub unknown: u64,
    /// How many were taken so recently that it is too early to look.
    pub recent: u64,
    /// Why nobody can say anything.
    pub trouble: Option<String>,
    /// The record behind which to go on; `None` when there are no more.
    pub next: Option<RecordId>,
    /// How long after this look what was not found is looked for again.
    pub look_again_after: Duration,
}

impl Verifier {
    /// Looks on demand for events accepted since `since`, some of those behind the record `after`; with `open` only for those that
    /// were not found before. What is not found is noted, and looked for again by the steps.
    pub async fn look_for(
        &self,
        name: &Arc<str>,
        since: Timestamp,
        after: RecordId,
        open: bool,
    ) -> Result<Option<Looked>, JournalError> {
        let Some((tracker, settings, bound)) = self.begin(name) else { return Ok(None) };
        let Some(verification) = self.journal.verification() else { return Ok(None) };
        let mut taken = verification.taken(tracker.target, since, Some(after)).await?;
        taken.events.retain(|event| !open || event.state != State::Stored);
        let settled = taken.events.partition_point(|event| event.record <= bound.max(taken.reached));
        let mut recent = (taken.events.len() - settled) as u64;
        let mut end = settled.min(STEP);
        let (seen, trouble) = self.looker(name, &tracker, &settings).look(taken.events[..end].iter().collect()).await;
        if trouble.is_none() {
            let unseen = taken.events[..end].iter().position(|event| !seen.contains_key(&event.record));
            end = unseen.unwrap_or(end);
        }
        if end < settled {
            // There was no room or no time for the rest: the next look goes on there.
            (taken.next, recent) = (Some(RecordId(taken.events[end].record.0 - 1)), 0);
        }
        taken.events.truncate(end);
        self.note_trouble(name, trouble.as_ref(), !seen.is_empty());
        let trouble = trouble.map(|trouble| trouble.to_string());
        let mut looked = Looked { trouble, recent, next: taken.next, ..Looked::default() };
        let (mut notes, now) = (Notes::default(), self.clock.now());
        looked.look_again_after = match settings.not_found(0, 0, now) {
            NotFound::LookAgain(at) => at.since(now),
            NotFound::Missing(_) | NotFound::GiveUp => Duration::ZERO,
        };
        for event in taken.events {
            notes.again.extend(self.finding(name, &tracker, &settings, &event, &seen, now).await);
            match seen.get(&event.record) {
                Some(Seen::Stored) => looked.stored += 1,
                Some(Seen::Absent) if event.looks == 0 => looked.absent.push(event),
                Some(Seen::Absent) => looked.missing.push(event),
                Some(Seen::Unknown(_)) | None => looked.unknown += 1,
            }
        }
        verification.note(tracker.target, notes).await?;
        Ok(Some(looked))
    }
}
