//! Events of the relay itself, marked so that nobody takes one for a service's. This module makes them and does not send them.

use bytes::Bytes;
use memchr::memmem;
use serde_json::json;

use crate::clock::Timestamp;

use super::envelope::Envelope;
use super::event_id::EventId;
use super::item::ItemType;

/// The tag of a test event.
pub const TEST: &str = "switchyard.test";
/// The most bytes of an envelope with a test event.
const LONGEST: usize = 2048;

/// The purpose of such an event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mark {
    /// An operator asked for it: `switchyard send-test`.
    Test,
    /// It is sent regularly: the canary.
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

/// An envelope with one marked event.
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
        // With a fingerprint of its own each event would be a new issue in the tracker.
        "fingerprint": [format!("switchyard-{word}")],
    });
    Envelope::of_one(id, &ItemType::Event, payload.to_string().as_bytes())
}

/// Whether an envelope is that of a test event ([`Mark::Test`]).
pub fn is_test(envelope: &[u8]) -> bool {
    envelope.len() <= LONGEST && memmem::find(envelope, br#""switchyard.test":"true""#).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_event_is_told_from_a_canary() {
        let is_one = |mark| is_test(&event(mark, EventId::from(7), Timestamp::default()));
        assert_eq!((is_one(Mark::Test), is_one(Mark::Canary)), (true, false));
    }
}
