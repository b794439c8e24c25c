//! Events of our own: marked as such, so that nobody takes one for a service's. Knows how they look, not where they go.

use bytes::Bytes;
use serde_json::json;

use crate::clock::Timestamp;

use super::envelope::Envelope;
use super::event_id::EventId;
use super::item::ItemType;

/// What an event of ours is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mark {
    /// Somebody asked for it: `switchyard send-test`.
    Test,
    /// It is sent again and again: the canary.
    Canary,
}

impl Mark {
    const fn word(self) -> &'static str {
        match self {
            Self::Test => "test",
            Self::Canary => "canary",
        }
    }
}

/// An envelope with one such event.
pub fn event(mark: Mark, id: EventId, at: Timestamp) -> Bytes {
    let word = mark.word();
    let payload = json!({
        "event_id": id,
        "timestamp": at.as_secs_f64(),
        "level": "info",
        "logger": "switchyard",
        "platform": "other",
        "message": format!("Switchyard {word} event"),
        "tags": { format!("switchyard.{word}"): "true" },
        "sdk": { "name": "switchyard", "version": env!("CARGO_PKG_VERSION") },
        // Each one under its own issue would bury the trackers in them.
        "fingerprint": [format!("switchyard-{word}")],
    });
    Envelope::of_one(id, &ItemType::Event, payload.to_string().as_bytes())
}
