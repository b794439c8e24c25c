//! Mending: the changes to an event that the operator allows so that the upstream can store it. A release that is too long for a GlitchTip
//! is cut, and a tag says so.
//!
//! Rule: the record stays as it was accepted. Only the request changes, and in its events only the release and the tag.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::journal::Record;
use crate::journal::body::Body;
use crate::protocol::envelope::{Envelope, Item};

use super::batch_poison::{self, LONGEST_RELEASE};
use super::members;
use super::rewrite::{self, Edit};

/// The tag that names what was changed.
pub const TAG: &str = "switchyard.mended";
const TAG_VALUE: &str = "release";

/// A change that the operator may allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mend {
    /// A release of more than 255 characters is cut.
    Release,
}

/// The record with its releases cut; `None` when none is too long, or the body is a large one.
pub(super) fn mended(record: &Record) -> Option<Record> {
    let Body::Memory(bytes) = &record.body else { return None };
    if !batch_poison::is_suspect(bytes) {
        return None;
    }
    let envelope = Envelope::parse(bytes.clone()).ok()?;
    let mut out = bytes[..envelope.header().len()].to_vec();
    let mut is_changed = false;
    for item in envelope.items() {
        let payload = envelope.payload(item);
        let mended = if item.is_event() { with_short_release(&payload) } else { None };
        is_changed |= mended.is_some();
        out.push(b'\n');
        out.extend(header(bytes, item, mended.as_deref())?);
        out.push(b'\n');
        out.extend_from_slice(mended.as_deref().unwrap_or(&payload));
    }
    out.push(b'\n');
    is_changed.then(|| Record { body: Body::from(Bytes::from(out)), ..Record::clone(record) })
}

/// The header line of an item, with the length of the new payload if there is one.
fn header(envelope: &Bytes, item: &Item, payload: Option<&[u8]>) -> Option<Vec<u8>> {
    let range = item.header();
    let line = envelope.get(usize::try_from(range.start).ok()?..usize::try_from(range.end).ok()?)?;
    let Some(payload) = payload else { return Some(line.to_vec()) };
    let mut header: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(line).ok()?;
    header.insert("length".to_owned(), payload.len().into());
    serde_json::to_vec(&header).ok()
}

/// The event with its release cut; `None` when it is not too long.
fn with_short_release(payload: &[u8]) -> Option<Vec<u8>> {
    let [written, tags] = members::last(payload, ["release", "tags"]).ok()?;
    let written = written?;
    let release: String = serde_json::from_str(written.get()).ok()?;
    let (end, _) = release.char_indices().nth(LONGEST_RELEASE)?;
    let mut edits = vec![(place(payload, written), serde_json::to_string(&release[..end]).ok()?)];
    edits.extend(tagged(payload, tags));
    edits.sort_by_key(|(range, _)| range.start);
    let edits: Vec<Edit<'_>> = edits.iter().map(|(range, text)| (range, text.as_str().into())).collect();
    Some(rewrite::apply(payload, &edits))
}

/// Where the tag goes, and the text to write there; `None` when the event's tags have a shape without room for it.
fn tagged(payload: &[u8], tags: Option<&RawValue>) -> Option<(Range<usize>, String)> {
    let (tags, member) = match tags {
        Some(tags) if tags.get() == "null" => {
            return Some((place(payload, tags), format!("{{\"{TAG}\":\"{TAG_VALUE}\"}}")));
        }
        None => {
            let start = payload.iter().position(|byte| *byte == b'{')? + 1;
            return Some((start..start, format!("\"tags\":{{\"{TAG}\":\"{TAG_VALUE}\"}},")));
        }
        Some(tags) if tags.get().starts_with('{') => (tags, format!("\"{TAG}\":\"{TAG_VALUE}\"")),
        Some(tags) if tags.get().starts_with('[') => (tags, format!("[\"{TAG}\",\"{TAG_VALUE}\"]")),
        Some(_) => return None,
    };
    let is_empty = tags.get()[1..tags.get().len() - 1].trim().is_empty();
    let start = place(payload, tags).start + 1;
    Some((start..start, if is_empty { member } else { member + "," }))
}

/// The range of a value in the payload that it was borrowed from.
fn place(payload: &[u8], value: &RawValue) -> Range<usize> {
    let start = value.get().as_ptr().addr() - payload.as_ptr().addr();
    start..start + value.get().len()
}

/// Replaces the claimed record by the mended one. Returns whether there was anything to mend.
pub(super) fn apply(mend: &[Mend], record: &mut Arc<Record>) -> bool {
    if !mend.contains(&Mend::Release) {
        return false;
    }
    match mended(record) {
        Some(mended) => {
            *record = Arc::new(mended);
            true
        }
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn cut(payload: &str) -> Option<Value> {
        with_short_release(payload.as_bytes()).map(|bytes| serde_json::from_slice(&bytes).expect("JSON"))
    }

    #[test]
    fn a_long_release_is_cut_at_a_character_and_tagged() {
        let (long, short) = ("é".repeat(300), "é".repeat(255));
        for (tags, expected) in [
            ("", json!({ TAG: "release" })),
            (",\"tags\":{ }", json!({ TAG: "release" })),
            (",\"tags\":{\"a\":\"b\"}", json!({ TAG: "release", "a": "b" })),
            (",\"tags\":[[\"a\",\"b\"]]", json!([[TAG, "release"], ["a", "b"]])),
            (",\"tags\":[]", json!([[TAG, "release"]])),
            (",\"tags\":null", json!({ TAG: "release" })),
            (",\"tags\":\"odd\"", json!("odd")),
        ] {
            let told = cut(&format!("{{\"message\":\"m\",\"release\" : \"{long}\"{tags},\"x\":1.50}}"));
            assert_eq!(told, Some(json!({ "message": "m", "release": short, "tags": expected, "x": 1.50 })), "{tags}");
        }
    }

    #[test]
    fn a_release_is_cut_in_any_spelling_and_the_last_of_two_counts() {
        let (long, short) = ("r".repeat(300), "r".repeat(255));
        let told = Some(json!({ "release": short, "tags": { TAG: "release", "a": "b" } }));
        let tags = "\"tags\":{\"a\":\"b\"}";
        assert_eq!(cut(&format!("{{\"\\u0072elease\":\"{long}\",{tags}}}")), told);
        assert_eq!(cut(&format!("{{\"release\":\"a\",{tags},\"release\":\"{long}\"}}")), told);
        assert_eq!(cut(&format!("{{\"release\":\"{long}\",\"tags\":[],{tags}}}")), told);
    }

    #[test]
    fn other_values_are_not_mended() {
        let long = "r".repeat(300);
        for payload in [
            format!("{{\"release\":\"{}\"}}", "é".repeat(255)),
            format!("{{\"contexts\":{{\"release\":\"{long}\"}}}}"),
            format!("{{\"release\":[\"{long}\"]}}"),
            format!("{{\"release\":\"{long}\",\"release\":\"a\"}}"),
            "no JSON".to_owned(),
        ] {
            assert_eq!(cut(&payload), None, "{payload}");
        }
    }
}
