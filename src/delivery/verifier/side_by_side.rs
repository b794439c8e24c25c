//! One event on demand: what was accepted beside what the tracker holds.

use std::sync::Arc;

use crate::content::{self, Difference};
use crate::journal::JournalError;
use crate::protocol::event_id::EventId;
use crate::protocol::item::ItemType;
use crate::tasks;

use super::Verifier;

/// What is known of one event at one tracker.
#[derive(Clone, Debug)]
pub enum SideBySide {
    /// The journal retains no such event: there is nothing to compare with.
    NotRetained,
    /// The upstream, or the event's project there, cannot be asked.
    NotAsked,
    /// The tracker could not be asked, or its copy could not be compared, and why.
    Unknown(String),
    /// The tracker has no such event.
    NotStored,
    /// It has, and so much is not as it was sent.
    Stored(Vec<Difference>),
}

impl Verifier {
    /// Compares an event as it was accepted with the tracker's copy. Returns its project as well, where the journal retains it.
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
        let copy = match api.event(&there, id).await {
            Ok(Some(copy)) => copy,
            Ok(None) => return Ok((project, SideBySide::NotStored)),
            Err(trouble) => return Ok((project, SideBySide::Unknown(trouble.to_string()))),
        };
        let sent = tasks::blocking(move || {
            let envelope = record.body.outline().ok()?;
            let event = envelope.items().iter().find(|item| item.kind == ItemType::Event)?;
            record.body.payload(event).ok()
        })
        .await;
        let compared = match (api.content_kind(), sent) {
            (Some(kind), Some(sent)) => content::compare(kind, &sent, &copy).map_err(|why| why.to_string()),
            _ => Err("the event that was sent cannot be read".to_owned()),
        };
        Ok((project, compared.map_or_else(SideBySide::Unknown, SideBySide::Stored)))
    }
}
