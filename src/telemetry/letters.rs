//! Dead letters as they are shown: `/api/dead-letters` returns them and `switchyard dead-letters` prints them. Plain data, the same for
//! both.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;

/// A page of the list.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LetterPage {
    /// The dead letters, newest first.
    pub dead_letters: Vec<LetterSummary>,
    /// The `before` of the next page; `None` after the last one.
    pub next: Option<u64>,
}

/// A summary of a dead letter.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LetterSummary {
    /// The number of the dead letter.
    pub id: u64,
    /// The upstream that refused it.
    pub upstream: String,
    /// The project it was for.
    pub project: String,
    /// When it was refused.
    pub at: Timestamp,
    /// When it was accepted.
    pub accepted_at: Timestamp,
    /// `refused` or `poison`.
    pub reason: String,
    /// The HTTP status of the answer; `None` if there was none.
    pub status: Option<u16>,
    /// The beginning of the answer's body.
    pub answer: String,
    /// The number of requests made.
    pub attempts: u32,
    /// The event id of the envelope.
    pub event_id: Option<String>,
    /// The size of the body in bytes.
    pub bytes: u64,
    /// The refused quantities, by category.
    pub quantities: BTreeMap<String, u64>,
}

impl LetterSummary {
    /// The refused quantities in words. A canary alone has none: no account counts it.
    pub fn what(&self) -> String {
        let all: Vec<String> = self.quantities.iter().map(|(category, n)| format!("{category} {n}")).collect();
        if all.is_empty() { "canary".to_owned() } else { all.join(", ") }
    }
}

/// A dead letter with its content.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LetterDetail {
    /// The summary, as in the list.
    #[serde(flatten)]
    pub summary: LetterSummary,
    /// `User-Agent` of the client.
    pub user_agent: Option<String>,
    /// The envelope's header with its keys hidden; `None` if it is no envelope.
    pub header: Option<serde_json::Value>,
    /// The items; for a request that is no envelope, its body as one item.
    pub items: Vec<LetterItem>,
}

/// An item of a dead letter.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LetterItem {
    /// Whether it is one of the refused items.
    pub refused: bool,
    /// The header line.
    pub header: String,
    /// The size of the payload in bytes.
    pub bytes: u64,
    /// The beginning of the payload, invalid UTF-8 replaced.
    pub beginning: String,
    /// Whether the payload is longer than that.
    pub cut: bool,
}

/// A selection of dead letters: those that match every field given.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LetterPick {
    /// The numbers of dead letters; empty for any number.
    pub ids: Vec<u64>,
    /// Whether to select all dead letters. It must be set if no other field is given.
    pub all: bool,
    /// The upstream that refused them.
    pub upstream: Option<String>,
    /// The reason of the refusal.
    pub reason: Option<String>,
}

/// The result of an order for selected dead letters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LettersChanged {
    /// The number that were retried or discarded.
    pub changed: u64,
    /// The number of selected ones that are left: older than `max_age`, or part of an envelope that is still under way.
    pub left: u64,
}
