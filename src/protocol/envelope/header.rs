//! The first line of an envelope: the values that a relay needs, and where they are, so that it can replace them and leave the rest of
//! the line untouched.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use serde::de::{Deserializer as _, Error as _, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::plain;
pub(super) use super::spans::Fields;
pub use super::spans::HeaderSpans;
use crate::protocol::event_id::EventId;

impl HeaderSpans {
    /// Finds the values in a header line that was accepted earlier.
    pub fn locate(line: &[u8]) -> Result<Self, String> {
        read(line).map(|(spans, _)| spans)
    }
}

/// Reads the line, which must be one JSON object.
pub(super) fn read(line: &[u8]) -> Result<(HeaderSpans, Fields), String> {
    let text = std::str::from_utf8(line).map_err(|e| e.to_string())?;
    plain::read(text).map_or_else(|| parse(text), Ok)
}

/// Reads a line in any spelling of JSON.
pub(super) fn parse(text: &str) -> Result<(HeaderSpans, Fields), String> {
    let mut json = serde_json::Deserializer::from_str(text);
    let found = json.deserialize_map(HeaderVisitor { line: text }).map_err(|e| e.to_string())?;
    json.end().map_err(|e| e.to_string())?;
    Ok(found)
}

struct HeaderVisitor<'a> {
    line: &'a str,
}

impl<'de> Visitor<'de> for HeaderVisitor<'de> {
    type Value = (HeaderSpans, Fields);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let (mut spans, mut fields) = (HeaderSpans::default(), Fields::default());
        while let Some(key) = map.next_key::<Key<'de>>()? {
            match &*key.0 {
                "event_id" => {
                    let raw: &RawValue = map.next_value()?;
                    fields.event_id = event_id(raw)?;
                    // Of several, the last one counts.
                    spans.event_id = Some(span_of(self.line, raw));
                }
                "dsn" => once(&mut spans.dsn, "dsn", span_of(self.line, map.next_value()?))?,
                // Sentry refuses an envelope with two values of sent_at.
                "sent_at" => once(&mut spans.sent_at, "sent_at", span_of(self.line, map.next_value()?))?,
                "trace" => {
                    let raw: &RawValue = map.next_value()?;
                    let inner = trace_key(raw).map_err(A::Error::custom)?;
                    once(
                        &mut spans.trace_public_key,
                        "trace",
                        inner.map(|key| span_of(self.line, key)).unwrap_or_default(),
                    )?;
                }
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        // A trace without a public key has an empty range. A null cannot be replaced.
        let replaceable = |span: &Range<usize>| self.line.as_bytes().get(span.start) == Some(&b'"');
        let HeaderSpans { dsn, sent_at, trace_public_key, event_id } = &mut spans;
        for span in [dsn, sent_at, trace_public_key, event_id] {
            *span = span.take().filter(replaceable).filter(|span| !span.is_empty());
            if let Some(span) = span {
                readable(&self.line[span.clone()]).map_err(A::Error::custom)?;
            }
        }
        Ok((spans, fields))
    }
}

/// Checks a string that the parser skipped: an escape in it may stand for no character. Such a string is an error and does not count as
/// missing.
fn readable(string: &str) -> Result<(), serde_json::Error> {
    if string.contains('\\') { serde_json::from_str::<Cow<'_, str>>(string).map(drop) } else { Ok(()) }
}

fn once<E: serde::de::Error>(slot: &mut Option<Range<usize>>, name: &'static str, span: Range<usize>) -> Result<(), E> {
    match slot.replace(span) {
        Some(_) => Err(E::duplicate_field(name)),
        None => Ok(()),
    }
}

fn event_id<E: serde::de::Error>(raw: &RawValue) -> Result<Option<EventId>, E> {
    let text: Option<Cow<'_, str>> = serde_json::from_str(raw.get()).map_err(E::custom)?;
    text.map(|text| text.parse().map_err(E::custom)).transpose()
}

/// The raw value of `public_key` in the object `raw`; `None` if `raw` is no object.
fn trace_key(raw: &RawValue) -> Result<Option<&RawValue>, serde_json::Error> {
    #[derive(serde::Deserialize)]
    struct Trace<'a> {
        #[serde(borrow)]
        public_key: Option<&'a RawValue>,
    }
    if !raw.get().starts_with('{') {
        return Ok(None);
    }
    Ok(serde_json::from_str::<Trace<'_>>(raw.get())?.public_key)
}

/// The range of `raw` in `line`, of which it is a part.
fn span_of(line: &str, raw: &RawValue) -> Range<usize> {
    let start = raw.get().as_ptr().addr() - line.as_ptr().addr();
    start..start + raw.get().len()
}

/// A key, borrowed from the line unless it has escapes.
struct Key<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> serde::Deserialize<'de> for Key<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyVisitor;
        impl<'de> Visitor<'de> for KeyVisitor {
            type Value = Key<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Borrowed(text)))
            }
            fn visit_str<E>(self, text: &str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(KeyVisitor)
    }
}
