//! Compares an event's payload as it was accepted with a tracker's copy: does the tracker hold what was sent?
//!
//! Both are brought into one shape (`shape`, `copy`) and walked side by side (`walk`). A difference is forgiven only where a row of `drift`
//! says that this kind of tracker is known to make it. The remaining differences are shown by `show`, which hides secrets.
//!
//! Rule: no network, no journal, no clock. Both sides may be hostile: nothing here panics, and every answer and the memory of all values
//! are bounded.

mod copy;
mod drift;
mod fingerprint;
mod shape;
mod show;
#[cfg(test)]
mod tests;
mod walk;

use serde_json::{Map, Value};

pub use drift::{Drift, Leaf};
pub use fingerprint::fingerprint;

/// The parts of an event that are compared.
pub const PARTS: [&str; 11] = [
    "exception",
    "breadcrumbs",
    "tags",
    "user",
    "release",
    "environment",
    "level",
    "timestamp",
    "message",
    "extra",
    "contexts",
];
/// The largest payload that is compared, in bytes.
pub const MAX_PAYLOAD: usize = 4 * 1024 * 1024;
/// The most memory for the values of a payload or a copy, in bytes.
const MAX_MEMORY: usize = 8 * 1024 * 1024;
/// The most differences that one comparison names.
pub const MAX_DIFFERENCES: usize = 50;

/// The tracker that a copy is from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// The event of GlitchTip's `GET /api/0/projects/{org}/{project}/events/{id}/`.
    Glitchtip,
    /// The same event of Sentry, which has more members.
    Sentry,
    /// The event of Bugsink's `GET /api/canonical/0/events/lookup/`, with the payload in `data`.
    Bugsink,
}

/// A field that the tracker does not hold as it was sent.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Difference {
    /// The field, as in `exception[1].frames[3].function`.
    pub field: Box<str>,
    /// What was sent: short, harmless to a terminal, secrets hidden.
    pub sent: Box<str>,
    /// What the tracker holds, likewise.
    pub there: Box<str>,
}

/// Why two events cannot be compared. Repeats no part of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Unreadable {
    /// The payload is longer than any that is compared.
    #[error("the event that was sent is over {MAX_PAYLOAD} bytes: it is not compared")]
    Long,
    /// The values of an event would take too much memory.
    #[error("the event has so many values that it is not compared")]
    Heavy,
    /// The payload is no JSON object.
    #[error("the event that was sent is no JSON object")]
    Sent,
    /// It is a transaction or another kind of event.
    #[error("what was sent is no error event")]
    NoError,
    /// The copy has no event in it.
    #[error("the tracker's copy is no event in the form of its API")]
    Copy,
}

/// The fields of an error event that the tracker does not hold as they were sent, [`MAX_DIFFERENCES`] at most.
///
/// # Errors
/// When one of the two is no event, or is too large.
pub fn compare(kind: Kind, sent: &[u8], copy: &[u8]) -> Result<Vec<Difference>, Unreadable> {
    let sent = read(sent)?;
    let copy = json(copy)?.ok_or(Unreadable::Copy)?;
    let there = copy::shape(kind, &copy).ok_or(Unreadable::Copy)?;
    Ok(walk::differences(&shape::of_event(&sent), &there, drift(kind)))
}

/// Parses the payload of an error event.
fn read(sent: &[u8]) -> Result<Map<String, Value>, Unreadable> {
    if sent.len() > MAX_PAYLOAD {
        return Err(Unreadable::Long);
    }
    let Some(Value::Object(sent)) = json(sent)? else { return Err(Unreadable::Sent) };
    match sent.get("type").and_then(Value::as_str) {
        Some("transaction" | "feedback") => Err(Unreadable::NoError),
        _ => Ok(sent),
    }
}

/// Parses a JSON text; `None` when it is invalid.
fn json(text: &[u8]) -> Result<Option<Value>, Unreadable> {
    if memory(text) > MAX_MEMORY { Err(Unreadable::Heavy) } else { Ok(serde_json::from_slice(text).ok()) }
}

/// The estimated memory of a JSON text's values: an object that is not empty takes as much as eleven members, a list as much as four.
fn memory(text: &[u8]) -> usize {
    let (mut memory, mut is_quoted, mut is_escaped) = (text.len(), false, false);
    for byte in text {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = true,
            b'"' => is_quoted = !is_quoted,
            b'{' if !is_quoted => memory += 640,
            b'[' | b',' if !is_quoted => memory += 128,
            _ => {}
        }
    }
    memory
}

/// The differences that this kind of tracker is known to make, with their sources.
pub const fn drift(kind: Kind) -> &'static [Drift] {
    match kind {
        Kind::Glitchtip => drift::GLITCHTIP,
        Kind::Sentry => drift::SENTRY,
        Kind::Bugsink => drift::BUGSINK,
    }
}
