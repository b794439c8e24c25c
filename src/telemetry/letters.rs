//! Dead letters as they are shown: what `/api/dead-letters` answers and `switchyard dead-letters` prints. Plain data, one shape for
//! both.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;

/// A page of the list.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LetterPage {
    /// Newest first.
    pub dead_letters: Vec<LetterSummary>,
    /// The `before` of the next page, when there may be one.
    pub next: Option<u64>,
}

/// What an upstream refused for good, and how.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LetterSummary {
    /// Its number.
    pub id: u64,
    /// Who refused it.
    pub upstream: String,
    /// The project it was for.
    pub project: String,
    /// When it was refused.
    pub at: Timestamp,
    /// When it was accepted.
    pub accepted_at: Timestamp,
    /// `refused`, `poison`.
    pub reason: String,
    /// The HTTP status of the answer, if there was one.
    pub status: Option<u16>,
    /// The beginning of the answer's body.
    pub answer: String,
    /// Requests made.
    pub attempts: u32,
    /// The event id of the envelope.
    pub event_id: Option<String>,
    /// The size of the body.
    pub bytes: u64,
    /// What was refused, by category.
    pub quantities: BTreeMap<String, u64>,
}

/// One dead letter with what is in it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LetterDetail {
    /// What the list says of it.
    #[serde(flatten)]
    pub summary: LetterSummary,
    /// `User-Agent` of the client.
    pub user_agent: Option<String>,
    /// The envelope's header, keys hidden; nothing when it is no envelope.
    pub header: Option<serde_json::Value>,
    /// The items, or the body as one of them when it is no envelope.
    pub items: Vec<LetterItem>,
}

/// An item of a dead letter.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LetterItem {
    /// Whether it is among what was refused.
    pub refused: bool,
    /// Its header line.
    pub header: String,
    /// The size of its payload.
    pub bytes: u64,
    /// The beginning of its payload, what is no UTF-8 replaced.
    pub beginning: String,
    /// Whether there is more of it.
    pub cut: bool,
}

/// Which dead letters are meant: the ones named, and of all others those for which everything given holds.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LetterPick {
    /// By number.
    pub ids: Vec<u64>,
    /// Every one, unless `upstream` or `reason` say less.
    pub all: bool,
    /// Those of this upstream.
    pub upstream: Option<String>,
    /// Those with this reason.
    pub reason: Option<String>,
}

/// What became of those that were meant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LettersChanged {
    /// How many were retried or forgotten.
    pub changed: u64,
    /// How many of those meant are still there: older than `max_age`, or part of an envelope that is still under way.
    pub left: u64,
}
