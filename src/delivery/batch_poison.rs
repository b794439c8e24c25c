//! Events that make a GlitchTip 5 lose the whole batch that they are stored with: up to a hundred events of any project, each answered with
//! 200 (glitchtip-backend, `apps/event_ingest/process_event.py`: one insert for all).
//!
//! Rules: each such event is sent alone ([`crate::policy::apart`]), unless `spare_batches` is off or the tracker's API says version 6,
//! which takes it. Most events are found harmless without parsing JSON. Parsing follows GlitchTip: of repeated names the last one counts.
//! An event that may be such an event, and that only GlitchTip's more lenient parser understands, counts as one.

use std::borrow::Cow;

use memchr::memmem;
use serde_json::value::RawValue;

use crate::protocol::event_id::EventId;
use crate::protocol::item::ItemType;

use super::members;

/// The most characters of a release: the width of its column.
pub(super) const LONGEST_RELEASE: usize = 255;
const RELEASE: &[u8] = b"\"release\"";
/// How an escape of an ASCII letter begins. No SDK writes one, but a name may be spelled with it.
const LETTER: [&[u8]; 2] = [b"\\u006", b"\\u007"];

/// What is wrong with an event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cause {
    /// Its release is too long for the column.
    Release,
    /// A transaction has no `trace_id` that is a UUID.
    Trace,
    /// It may be one of these, and cannot be parsed here.
    Unreadable,
}

impl Cause {
    /// The cause in words.
    pub const fn why(self) -> &'static str {
        match self {
            Self::Release => "its release has more than 255 characters",
            Self::Trace => "it has no contexts.trace with a trace_id that is a UUID",
            Self::Unreadable => "it is no JSON that everybody reads, and may hold what cannot be stored",
        }
    }

    /// What to do about it.
    pub const fn remedy(self) -> &'static str {
        match self {
            Self::Release => "shorten `release` in the service, or write mend = [\"release\"]",
            Self::Trace => "give the service's transactions a trace_id, as the SDKs do",
            Self::Unreadable => "have the service write JSON without NaN, Infinity and halves of characters",
        }
    }
}

/// Whether these bytes may hold a release that is too long, and are worth parsing.
pub(super) fn is_suspect(bytes: &[u8]) -> bool {
    LETTER.iter().any(|escape| memmem::find(bytes, escape).is_some()) || has_long_release(bytes)
}

fn has_long_release(bytes: &[u8]) -> bool {
    memmem::find_iter(bytes, RELEASE).any(|at| {
        let rest = bytes[at + RELEASE.len()..].trim_ascii_start();
        let Some(value) = rest.strip_prefix(b":").map(<[u8]>::trim_ascii_start) else { return false };
        let Some(text) = value.strip_prefix(b"\"") else { return false };
        let end = memchr::memchr_iter(b'"', text).find(|end| *end == 0 || text[end - 1] != b'\\');
        end.is_none_or(|end| end > LONGEST_RELEASE)
    })
}

/// Why the tracker cannot store the item; `None` when nothing speaks against it.
pub(super) fn why(kind: &ItemType, payload: &[u8]) -> Option<Cause> {
    if !matches!(kind, ItemType::Event | ItemType::Transaction) {
        return None;
    }
    let is_transaction = *kind == ItemType::Transaction;
    let Ok([release, contexts]) = members::last(payload, ["release", "contexts"]) else {
        // Every reader refuses a payload that is no object, and stores none of it.
        let may_be = payload.trim_ascii_start().starts_with(b"{") && (is_transaction || is_suspect(payload));
        return may_be.then_some(Cause::Unreadable);
    };
    if let Some(cause) = release.and_then(why_release) {
        return Some(cause);
    }
    (is_transaction && !has_trace(contexts)).then_some(Cause::Trace)
}

/// Why the tracker cannot store the release. A release of another type is refused, not stored, and harms no batch.
fn why_release(release: &RawValue) -> Option<Cause> {
    match text(release) {
        Some(text) => (text.chars().count() > LONGEST_RELEASE).then_some(Cause::Release),
        None => release.get().starts_with('"').then_some(Cause::Unreadable),
    }
}

fn has_trace(contexts: Option<&RawValue>) -> bool {
    let id = contexts.and_then(|raw| member(raw, "trace")).and_then(|raw| member(raw, "trace_id")).and_then(text);
    id.is_some_and(|id| id.parse::<EventId>().is_ok())
}

fn member<'a>(raw: &'a RawValue, name: &str) -> Option<&'a RawValue> {
    let [value] = members::last(raw.get().as_bytes(), [name]).ok()?;
    value
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

    const TRACE: &str = r#"{"trace":{"trace_id":"5b8efff798038103d269b633813fc60c"}}"#;

    #[test]
    fn a_name_is_known_in_any_spelling_and_the_last_of_two_counts() {
        let long = "r".repeat(300);
        let judged = |kind, payload: &str| {
            let cause = why(&kind, payload.as_bytes());
            assert!(is_suspect(payload.as_bytes()) || cause.is_none() || kind == ItemType::Transaction, "{payload}");
            cause
        };
        for name in ["\\u0072elease", "relea\\u0073e", "\\u0072\\u0065\\u006c\\u0065\\u0061\\u0073\\u0065"] {
            assert_eq!(judged(ItemType::Event, &format!("{{\"{name}\":\"{long}\"}}")), Some(Cause::Release), "{name}");
        }
        assert_eq!(
            judged(ItemType::Event, &format!("{{\"release\":\"a\",\"release\":\"{long}\"}}")),
            Some(Cause::Release)
        );
        assert_eq!(judged(ItemType::Event, &format!("{{\"release\":\"{long}\",\"release\":\"a\"}}")), None);
        assert!(!is_suspect(r#"{"release":"1.0","message":"\u00e9"}"#.as_bytes()), "usual escapes");
        for (contexts, cause) in [
            (format!("\"contexts\":{TRACE},\"contexts\":{{}}"), Some(Cause::Trace)),
            (format!("\"contexts\":{{}},\"contexts\":{TRACE}"), None),
            (format!("\"contexts\":{{\"trace\":{{}},{}", &TRACE[1..]), None),
            (
                r#""contexts":{"trace":{"trace_id":"5b8efff798038103d269b633813fc60c","trace_id":1}}"#.to_owned(),
                Some(Cause::Trace),
            ),
        ] {
            assert_eq!(judged(ItemType::Transaction, &format!("{{{contexts}}}")), cause, "{contexts}");
        }
    }

    #[test]
    fn an_unreadable_event_that_may_be_poison_counts_as_poison() {
        let long = "r".repeat(300);
        for payload in [
            format!("{{\"extra\":NaN,\"release\":\"{long}\"}}"),
            format!("{{\"release\":\"{long}\\ud800\"}}"),
            format!("{{\"\\ud800\":1,\"release\":\"{long}\"}}"),
        ] {
            assert_eq!(why(&ItemType::Event, payload.as_bytes()), Some(Cause::Unreadable), "{payload}");
            assert!(is_suspect(payload.as_bytes()));
        }
        let not_a_number = format!("{{\"extra\":NaN,\"contexts\":{TRACE}}}");
        assert_eq!(why(&ItemType::Transaction, not_a_number.as_bytes()), Some(Cause::Unreadable));
        assert_eq!(why(&ItemType::Event, b"{\"extra\":NaN,\"release\":\"1.0\"}"), None);
        assert_eq!(why(&ItemType::Event, format!("[\"release\":\"{long}\"]").as_bytes()), None);
    }
}
