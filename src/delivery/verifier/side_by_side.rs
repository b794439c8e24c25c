//! Compares one event on demand: what was accepted beside what the tracker holds.

use std::sync::Arc;

use crate::content::{Difference, Kind, Unreadable};
use crate::journal::{JournalError, Record};
use crate::protocol::event_id::EventId;
use crate::tasks;

use super::sample::{NotCompared, differences, payload};
use super::{Api, There, Verifier};

/// The result of comparing one event at one tracker.
#[derive(Clone, Debug)]
pub enum SideBySide {
    /// The journal keeps no such event, so there is nothing to compare with.
    NotRetained,
    /// The upstream, or the event's project there, cannot be asked.
    NotAsked,
    /// The tracker could not be asked, or its copy could not be compared, and why.
    Unknown(String),
    /// The tracker has no such event.
    NotStored,
    /// The tracker has it, with these differences from what was sent.
    Stored(Vec<Difference>),
}

impl Verifier {
    /// Compares an event as it was accepted with the tracker's copy. Also returns its project if the journal keeps the event.
    ///
    /// # Errors
    ///
    /// When the journal does not answer.
    pub async fn side_by_side(
        &self,
        upstream: &str,
        id: EventId,
    ) -> Result<(Option<Arc<str>>, SideBySide), JournalError> {
        let Some(record) = self.journal.record_of(id).await? else {
            return Ok((None, SideBySide::NotRetained));
        };
        let project = Some(Arc::clone(&record.project));
        let Some((api, there)) = self.place(upstream, &record.project) else {
            return Ok((project, SideBySide::NotAsked));
        };
        let Some(kind) = api.content_kind() else { return Ok((project, SideBySide::NotAsked)) };
        Ok((project, beside(record, (&api, kind), &there, id).await))
    }
}

/// Compares the event of a record with the tracker's copy. Trackers find only error events by id, so a lookup of any other event would say
/// nothing.
async fn beside(record: Arc<Record>, (api, kind): (&Api, Kind), there: &There, id: EventId) -> SideBySide {
    let sent = Arc::clone(&record);
    let no_error = |sent| matches!(sent, Err(NotCompared::Unreadable(Unreadable::NoError)));
    if tasks::blocking(move || no_error(payload(&sent))).await {
        return SideBySide::Unknown(Unreadable::NoError.to_string());
    }
    match api.event(there, id).await {
        Ok(Some(copy)) => match differences(kind, record, copy).await {
            Ok(differences) => SideBySide::Stored(differences),
            Err(why) => SideBySide::Unknown(why.to_string()),
        },
        Ok(None) => SideBySide::NotStored,
        Err(trouble) => SideBySide::Unknown(trouble.to_string()),
    }
}
