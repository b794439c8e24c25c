//! Events that make a GlitchTip 5 lose the whole batch they are stored with, up to a hundred events of any project, all of them
//! answered with 200 (glitchtip-backend, `apps/event_ingest/process_event.py`: one insert for all).
//!
//! Rule: each goes alone ([`crate::policy::apart`]), unless `spare_batches` is off or its API says version 6, which takes them. Most events are found harmless
//! without being read as JSON.

use std::borrow::Cow;

use memchr::memmem;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::protocol::event_id::EventId;
use crate::protocol::item::ItemType;

/// A release may have so many characters: its column's width.
pub(super) const LONGEST_RELEASE: usize = 255;
const RELEASE: &[u8] = b"\"release\"";

/// What is wrong with an event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cause {
    /// Its release is too long for the column.
    Release,
    /// A transaction has no `trace_id` that is a UUID.
    Trace,
}

impl Cause {
    /// In words, of an event.
    pub const fn why(self) -> &'static str {
        match self {
            Self::Release => "its release has more than 255 characters",
            Self::Trace => "it has no contexts.trace with a trace_id that is a UUID",
        }
    }

    /// What to do about it.
    pub const fn remedy(self) -> &'static str {
        match self {
            Self::Release => "shorten `release` in the service, or write mend = [\"release\"]",
            Self::Trace => "give the service's transactions a trace_id, as the SDKs do",
        }
    }
}

/// The part of an event that matters here. Anything of another type is left as it is: it is refused, not stored.
#[derive(Deserialize)]
struct Event<'a> {
    #[serde(borrow)]
    release: Option<&'a RawValue>,
    #[serde(borrow)]
    contexts: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Contexts<'a> {
    #[serde(borrow)]
    trace: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Trace<'a> {
    #[serde(borrow)]
    trace_id: Option<&'a RawValue>,
}

/// Whether somewhere in these bytes a release stands that may be too long: worth reading them.
pub(super) fn is_suspect(bytes: &[u8]) -> bool {
    memmem::find_iter(bytes, RELEASE).any(|at| {
        let rest = bytes[at + RELEASE.len()..].trim_ascii_start();
        let Some(value) = rest.strip_prefix(b":").map(<[u8]>::trim_ascii_start) else { return false };
        let Some(text) = value.strip_prefix(b"\"") else { return false };
        let end = memchr::memchr_iter(b'"', text).find(|end| *end == 0 || text[end - 1] != b'\\');
        end.is_none_or(|end| end > LONGEST_RELEASE)
    })
}

/// Why the item cannot be stored; `None` when nothing speaks against it.
pub(super) fn why(kind: &ItemType, payload: &[u8]) -> Option<Cause> {
    if !matches!(kind, ItemType::Event | ItemType::Transaction) {
        return None;
    }
    let event: Event<'_> = serde_json::from_slice(payload).ok()?;
    let release = event.release.and_then(text);
    if release.is_some_and(|release| release.chars().count() > LONGEST_RELEASE) {
        return Some(Cause::Release);
    }
    if *kind == ItemType::Transaction && !has_trace(event.contexts) {
        return Some(Cause::Trace);
    }
    None
}

fn has_trace(contexts: Option<&RawValue>) -> bool {
    let trace = contexts.and_then(|raw| serde_json::from_str::<Contexts<'_>>(raw.get()).ok()?.trace);
    let id = trace.and_then(|raw| text(serde_json::from_str::<Trace<'_>>(raw.get()).ok()?.trace_id?));
    id.is_some_and(|id| id.parse::<EventId>().is_ok())
}

fn text(raw: &RawValue) -> Option<Cow<'_, str>> {
    serde_json::from_str(raw.get()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn release(length: usize) -> String {
        format!("{{\"release\" : \"{}\",\"x\":\"{}\"}}", "é".repeat(length), "y".repeat(300))
    }

    #[test]
    fn a_release_may_have_255_characters() {
        assert_eq!(why(&ItemType::Event, release(255).as_bytes()), None);
        assert!(why(&ItemType::Event, release(256).as_bytes()).is_some());
        assert!(is_suspect(release(256).as_bytes()));
        assert!(!is_suspect(release(20).as_bytes()), "not worth reading");
        assert!(is_suspect(
            br#"{"release":"a\"#.iter().chain(&[b'"'; 1]).chain(&[b'y'; 300]).copied().collect::<Vec<_>>().as_slice()
        ));
        assert!(!is_suspect(b"\"release\"") && !is_suspect(b"\"release\":null"));
        assert_eq!(why(&ItemType::Attachment, release(256).as_bytes()), None);
    }

    #[test]
    fn a_transaction_needs_a_trace_with_a_uuid() {
        let judged = |payload: &str| why(&ItemType::Transaction, payload.as_bytes());
        for good in ["5b8efff798038103d269b633813fc60c", "5b8efff7-9803-8103-d269-b633813fc60c"] {
            assert_eq!(judged(&format!("{{\"contexts\":{{\"trace\":{{\"trace_id\":\"{good}\"}}}}}}")), None);
        }
        for bad in
            ["{}", "{\"contexts\":{}}", "{\"contexts\":null}", "{\"contexts\":{\"trace\":{\"trace_id\":\"short\"}}}"]
        {
            assert!(judged(bad).is_some(), "{bad}");
        }
        assert_eq!(why(&ItemType::Event, b"{}"), None);
        assert_eq!(judged("no JSON"), None, "refused, not stored");
    }
}
