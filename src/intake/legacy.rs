//! Makes envelopes of the store endpoint's bodies: one JSON event, plain or in base64, within base64 with or without zlib.
//!
//! A body that does not begin with `{` is base64 with JSON or zlib inside (getsentry/relay, `relay-server/src/endpoints/store.rs`).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use serde::Deserialize;

use crate::protocol::envelope::Envelope;
use crate::protocol::event_id::EventId;
use crate::protocol::item::ItemType;

use super::decode::{self, DecodeError, Encoding};

/// The most bytes of a body, and of its event. An event may have 1 MiB; a little more is read so that the error can name its size.
pub const LONGEST: u64 = 2 * 1024 * 1024;

/// Why a store body is no event.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The body is empty: 400.
    #[error("the body is empty")]
    Empty,
    /// Neither JSON nor base64: 400.
    #[error("the body is neither a JSON object nor base64")]
    Neither,
    /// The zlib inside the base64 cannot be decoded: 400.
    #[error(transparent)]
    Decode(DecodeError),
    /// The body or the event in it is larger than the limit: 413.
    #[error("the event has more than {limit} bytes")]
    TooLarge {
        /// The limit in bytes.
        limit: u64,
    },
    /// The JSON is not UTF-8: 400.
    #[error("the event is not valid JSON: {0}")]
    Text(std::str::Utf8Error),
    /// The JSON is invalid: 400.
    #[error("the event is not valid JSON: {0}")]
    Json(serde_json::Error),
}

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(borrow, default)]
    event_id: Option<std::borrow::Cow<'a, str>>,
    #[serde(rename = "type", borrow, default)]
    kind: Option<std::borrow::Cow<'a, str>>,
}

/// The envelope of a store body. An event without an id gets a random one, because the answer names it. Memory is bounded by `limit` and
/// by [`LONGEST`].
pub fn envelope_of(body: Bytes, limit: u64) -> Result<Bytes, StoreError> {
    let limit = limit.min(LONGEST);
    if body.len() as u64 > limit {
        return Err(StoreError::TooLarge { limit });
    }
    let event = plain(body, limit)?;
    // The parser does not check that the text it skips is UTF-8, and no tracker takes JSON that is not.
    let text = std::str::from_utf8(&event).map_err(StoreError::Text)?;
    let fields: Event<'_> = serde_json::from_str(text).map_err(StoreError::Json)?;
    let id = fields.event_id.and_then(|id| id.parse().ok()).unwrap_or_else(EventId::random);
    let kind = match fields.kind.as_deref() {
        Some("transaction") => ItemType::Transaction,
        _ => ItemType::Event,
    };
    Ok(Envelope::of_one(id, &kind, &event))
}

fn plain(body: Bytes, limit: u64) -> Result<Bytes, StoreError> {
    match body.trim_ascii_start().first() {
        None => Err(StoreError::Empty),
        Some(b'{') => Ok(body),
        Some(_) => {
            let text: Vec<u8> = body.iter().copied().filter(|b| !b.is_ascii_whitespace()).collect();
            let packed = BASE64.decode(text).map_err(|_| StoreError::Neither)?;
            if packed.trim_ascii_start().first() == Some(&b'{') {
                return Ok(packed.into());
            }
            decode::decode(packed.into(), &[Encoding::Deflate], limit).map_err(|error| match error {
                DecodeError::TooLarge { limit } => StoreError::TooLarge { limit },
                other => StoreError::Decode(other),
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn a_json_event_keeps_its_bytes_and_its_id() {
        let event = br#" {"event_id":"9EC79C33ec9942ab8353589fcb2e04dc","a": 1.0}"#;
        let envelope = Envelope::parse(envelope_of(Bytes::from_static(event), 1000).unwrap()).unwrap();
        assert_eq!(envelope.event_id().unwrap().to_string(), "9ec79c33ec9942ab8353589fcb2e04dc");
        assert_eq!(envelope.payload(&envelope.items()[0]), &event[..]);
        assert_eq!(envelope.items()[0].kind, ItemType::Event);
    }

    #[test]
    fn base64_around_zlib_is_unpacked() {
        let mut zlib = flate2::write::ZlibEncoder::new(vec![], flate2::Compression::default());
        zlib.write_all(br#"{"type":"transaction"}"#).unwrap();
        let body = BASE64.encode(zlib.finish().unwrap());
        let envelope = Envelope::parse(envelope_of(body.into(), 1000).unwrap()).unwrap();
        assert_eq!(envelope.items()[0].kind, ItemType::Transaction);
        assert!(envelope.event_id().is_some());
    }

    #[test]
    fn base64_around_plain_json_is_unpacked() {
        let event = br#" {"type":"transaction"}"#;
        let envelope = Envelope::parse(envelope_of(BASE64.encode(event).into(), 1000).unwrap()).unwrap();
        assert_eq!(envelope.payload(&envelope.items()[0]), &event[..]);
    }

    #[test]
    fn any_other_body_is_refused() {
        assert!(matches!(envelope_of("{\"a\":12345}".into(), 10), Err(StoreError::TooLarge { limit: 10 })));
        let long = Bytes::from(vec![b' '; 3 << 20]);
        assert!(matches!(envelope_of(long, u64::MAX), Err(StoreError::TooLarge { limit: LONGEST })));
        assert!(matches!(envelope_of(Bytes::new(), 10), Err(StoreError::Empty)));
        assert!(matches!(envelope_of("hello!".into(), 10), Err(StoreError::Neither)));
        assert!(matches!(envelope_of("{\"a\":}".into(), 10), Err(StoreError::Json(_))));
        assert!(matches!(envelope_of(Bytes::from_static(b"{\"a\":\"\xb2\"}"), 10), Err(StoreError::Text(_))));
        assert!(matches!(envelope_of("aGVsbG8=".into(), 10), Err(StoreError::Decode(_))));
    }
}
