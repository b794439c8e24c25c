//! The plain fields of a form: kept as Relay's form data, and searched for the event id.
//!
//! An entry is a key and a value, each preceded by its length as four bytes, little-endian (getsentry/relay,
//! `relay-server/src/utils/multipart.rs`, `FormDataWriter`). Only the event id is read; trackers read the rest.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures_util::{Stream, TryStreamExt as _};
use serde::Deserialize;

use crate::protocol::event_id::EventId;

use super::workshop::CrashError;

/// The most bytes of all fields together.
const LIMIT: usize = 1024 * 1024;

/// The plain fields of a form.
#[derive(Debug, Default)]
pub(super) struct Form {
    entries: Vec<u8>,
    /// The parts of an event that was too long for one field, by their numbers.
    chunks: BTreeMap<u32, String>,
    id: Option<EventId>,
}

impl Form {
    /// Adds a field.
    pub(super) async fn add<S>(&mut self, name: &str, mut chunks: S) -> Result<(), CrashError>
    where
        S: Stream<Item = Result<Bytes, CrashError>> + Unpin,
    {
        let before = self.entries.len() + name.len();
        let mut value = Vec::new();
        check(before)?;
        while let Some(chunk) = chunks.try_next().await? {
            check(before + value.len() + chunk.len())?;
            value.extend_from_slice(&chunk);
        }
        // Crash reporters send whatever they find. A value that is not UTF-8 is converted, as Relay does.
        let value = String::from_utf8_lossy(&value);
        for text in [name, &value] {
            self.entries.extend_from_slice(&u32::try_from(text.len()).unwrap_or(u32::MAX).to_le_bytes());
            self.entries.extend_from_slice(text.as_bytes());
        }
        match name {
            "sentry" => self.found_in(&value),
            "sentry[event_id]" => self.id = self.id.or_else(|| value.parse().ok()),
            _ => {
                if let Some(number) = name.strip_prefix("sentry__").and_then(|number| number.parse().ok()) {
                    self.chunks.insert(number, value.into_owned());
                }
            }
        }
        Ok(())
    }

    /// Records an event id that was found elsewhere, unless one is known.
    pub(super) fn found(&mut self, id: EventId) {
        self.id.get_or_insert(id);
    }

    fn found_in(&mut self, event: &str) {
        #[derive(Deserialize)]
        struct Event {
            event_id: Option<String>,
        }
        let event: Option<Event> = serde_json::from_str(event).ok();
        if let Some(id) = event.and_then(|event| event.event_id?.parse().ok()) {
            self.found(id);
        }
    }

    /// The event id; `None` if no field has one.
    pub(super) fn event_id(&mut self) -> Option<EventId> {
        let whole: String = self.chunks.values().map(String::as_str).collect();
        self.found_in(&whole);
        self.id
    }

    /// All entries in a row; `None` if there are none.
    pub(super) fn into_entries(self) -> Option<Vec<u8>> {
        (!self.entries.is_empty()).then_some(self.entries)
    }
}

fn check(bytes: usize) -> Result<(), CrashError> {
    if bytes <= LIMIT { Ok(()) } else { Err(CrashError::TooLarge { what: "the form's data", limit: LIMIT as u64 }) }
}
