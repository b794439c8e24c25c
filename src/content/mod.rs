//! Whether a tracker holds what was sent to it: an event's payload as it was accepted, compared with the tracker's copy.
//!
//! Both are brought into one shape (`shape`, `copy`), walked side by side (`walk`), and what differs is forgiven only where a row
//! of `drift` says that this kind of tracker is known to change it. What is left is shown by `show`, which hides secrets.
//!
//! Rule: no network, no journal, no clock. Both sides may come from anybody: nothing here panics, every answer is bounded, and so is
//! the memory that their values take.

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
/// The largest payload that is compared.
pub const MAX_PAYLOAD: usize = 4 * 1024 * 1024;
/// The most memory that the values of a payload or of a copy may take.
const MAX_MEMORY: usize = 8 * 1024 * 1024;
/// The most differences that one comparison names.
pub const MAX_DIFFERENCES: usize = 50;

/// Whose copy it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// The event of GlitchTip's `GET /api/0/projects/{org}/{project}/events/{id}/`.
    Glitchtip,
    /// The same of Sentry, which has more in it.
    Sentry,
    /// The event of Bugsink's `GET /api/canonical/0/events/lookup/`, with the payload in `data`.
    Bugsink,
}

/// One field that is not there as it was sent.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Difference {
    /// Which one, as in `exception[1].frames[3].function`.
    pub field: Box<str>,
    /// What was sent: short, harmless to a terminal, secrets hidden.
    pub sent: Box<str>,
    /// What the tracker holds, likewise.
    pub there: Box<str>,
}

/// Why two events cannot be compared. Repeats nothing of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Unreadable {
    /// Nothing that is compared is this long.
    #[error("the event that was sent is over {MAX_PAYLOAD} bytes: it is not compared")]
    Long,
    /// The values of one of them would take too much memory.
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

/// Which fields of an error event the tracker does not hold as they were sent, [`MAX_DIFFERENCES`] at most.
///
/// # Errors
/// When one of the two is no event.
pub fn compare(kind: Kind, sent: &[u8], copy: &[u8]) -> Result<Vec<Difference>, Unreadable> {
    let sent = read(sent)?;
    let copy = json(copy)?.ok_or(Unreadable::Copy)?;
    let there = copy::shape(kind, &copy).ok_or(Unreadable::Copy)?;
    Ok(walk::differences(&shape::of_event(&sent), &there, drift(kind)))
}

/// The payload of an error event.
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

/// The values of a JSON text; `None` when it is none.
fn json(text: &[u8]) -> Result<Option<Value>, Unreadable> {
    if memory(text) > MAX_MEMORY { Err(Unreadable::Heavy) } else { Ok(serde_json::from_slice(text).ok()) }
}

/// About how much memory the values of a JSON text take: an object that is not empty takes that of eleven members, a list that of four.
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

/// What this kind of tracker is known to change in an event, and where that is known from.
pub const fn drift(kind: Kind) -> &'static [Drift] {
    match kind {
        Kind::Glitchtip => drift::GLITCHTIP,
        Kind::Sentry => drift::SENTRY,
        Kind::Bugsink => drift::BUGSINK,
    }
}
