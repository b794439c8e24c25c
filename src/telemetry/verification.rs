//! Whether a tracker stores what it took: plain data for status, page and API.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::units::Period;

use super::numbers;

/// The state of the error events that an upstream took: stored + missing + lost + unknown = delivered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerificationStatus {
    /// Error events that it answered with 2xx.
    pub delivered: u64,
    /// Found there.
    pub stored: u64,
    /// Not found at several looks, and neither sent again nor given up since.
    pub missing: u64,
    /// Missing until they were sent again, given up as dead letters, or could no longer be kept.
    pub lost: u64,
    /// Not looked for yet, or of unknown state.
    pub unknown: u64,
    /// The part of the unknown events that were not found at the first look and are looked for again.
    #[serde(default)]
    pub looking: u64,
    /// When the tracker last answered a look.
    pub last_look_at: Option<Timestamp>,
    /// When the oldest event that was not looked for yet was accepted; `None` unless the looks lag behind.
    #[serde(default)]
    pub behind_since: Option<Timestamp>,
    /// Why the tracker's API cannot be asked, with the remedy.
    pub trouble: Option<String>,
    /// Since when it cannot be asked.
    #[serde(default)]
    pub trouble_since: Option<Timestamp>,
    /// The comparison of stored events with what was sent, in the last 24 hours; `None` if it is turned off.
    #[serde(default)]
    pub content: Option<ContentStatus>,
}

/// The number of stored events that were compared with what was sent, and the number that differ.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContentStatus {
    /// The number of events compared.
    pub compared: u64,
    /// The number of those with a field that differs from what was sent.
    pub differing: u64,
    /// The number of differing events that differ in accepted fields alone.
    #[serde(default)]
    pub accepted: u64,
    /// The same numbers by project.
    pub projects: BTreeMap<String, ContentCount>,
}

/// The comparisons of one project.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContentCount {
    /// The number of events compared.
    pub compared: u64,
    /// The number that differ.
    pub differing: u64,
    /// The number of differing events that differ in accepted fields alone.
    #[serde(default)]
    pub accepted: u64,
}

impl ContentStatus {
    /// Whether an event differs in a field that is not accepted.
    pub const fn is_bad(&self) -> bool {
        self.differing > self.accepted
    }

    /// The result in one line.
    pub fn told(&self) -> String {
        let differ = differ(self.differing, self.accepted);
        match self.compared {
            0 => "no stored event was compared with what was sent in the last 24 hours".to_owned(),
            n => format!("{} compared with what was sent in the last 24 hours, {differ}", numbers::some(n, "event")),
        }
    }
}

/// The number of differing events in words, and how many of them differ in accepted fields alone.
pub fn differ(differing: u64, accepted: u64) -> String {
    let accepted = match accepted {
        0 => String::new(),
        n if n < differing => format!(", {n} of them in accepted fields alone"),
        _ => ", in accepted fields alone".to_owned(),
    };
    match differing {
        0 => "none differs".to_owned(),
        1 => format!("1 differs{accepted}"),
        n => format!("{n} differ{accepted}"),
    }
}

impl VerificationStatus {
    /// The state in one line.
    pub fn told(&self) -> String {
        let Self { delivered, stored, missing, lost, unknown, .. } = self;
        let mut parts = vec![format!("{stored} of {delivered} error events found there")];
        if *missing > 0 {
            parts.push(format!("{missing} missing"));
        }
        if *lost > 0 {
            parts.push(format!("{lost} were lost there and sent again or given up"));
        }
        if *unknown > 0 {
            parts.push(format!("{unknown} not known yet"));
        }
        parts.join(", ")
    }
}

/// An order to look for events, a few at a time.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VerifyOrder {
    /// The upstream.
    pub upstream: String,
    /// Only events accepted then or later.
    pub since: Timestamp,
    /// Only events after this record.
    #[serde(default)]
    pub after: u64,
}

/// An order to look once more for events that a look did not find.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgainOrder {
    /// The upstream.
    pub upstream: String,
    /// The record after which that look began.
    pub after: u64,
    /// The ids of the events, at most as many as one look covers.
    pub events: Vec<String>,
}

/// The result for events that an earlier look did not find.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct LookedAgain {
    /// The result by event id. An id that is left out must be asked for again.
    pub found: BTreeMap<String, Again>,
    /// Why nothing is known, with the remedy.
    pub trouble: Option<String>,
}

/// The state of an event that an earlier look did not find.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Again {
    /// It is stored by now.
    Stored,
    /// It was not found again.
    NotFound,
    /// It was found missing since, and was sent again or given up.
    TakenUp,
    /// Its state is unknown.
    Unknown,
}

/// The result of a look for some events.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Verified {
    /// The number of stored events.
    pub stored: u64,
    /// Events that were not found and are looked for again.
    pub absent: Vec<NotFound>,
    /// Events that are missing.
    pub missing: Vec<NotFound>,
    /// The number of events of unknown state.
    pub unknown: u64,
    /// The number of events that were taken too recently to be looked for.
    #[serde(default)]
    pub recent: u64,
    /// Why nothing is known, with the remedy.
    pub trouble: Option<String>,
    /// The record after which to continue; `None` if there are no more.
    pub next: Option<u64>,
    /// The wait before the events that were not found are looked for again, in seconds.
    #[serde(default)]
    pub look_again_after: f64,
}

/// An event that a tracker took, and that was not found there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotFound {
    /// The event's id.
    pub event_id: String,
    /// The project.
    pub project: String,
    /// When it was accepted.
    pub accepted_at: Timestamp,
    /// The number of times that it was sent again.
    pub repairs: u32,
}

/// An order to send missing events again.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RepairOrder {
    /// The upstream.
    pub upstream: String,
    /// How far back to repair.
    pub since: Period,
    /// Whether to count only, and send nothing.
    #[serde(default)]
    pub dry_run: bool,
}

/// The result of an order to send missing events again.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Repaired {
    /// The upstream.
    pub upstream: String,
    /// The number of missing events.
    pub missing: u64,
    /// The number of them that are sent again now.
    pub sent_again: u64,
    /// Some of them, newest first.
    pub events: Vec<NotFound>,
}

/// A difference in an event that was compared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Differing {
    /// The event's id.
    pub event_id: String,
    /// The project.
    pub project: String,
    /// When it was compared.
    pub compared_at: Timestamp,
    /// The field and both values.
    #[serde(flatten)]
    pub difference: FieldDifference,
}

/// An order to show an event as it was sent beside the tracker's copy.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CompareOrder {
    /// The upstream.
    pub upstream: String,
    /// The event's id.
    pub event_id: String,
}

/// An event as it was sent beside the tracker's copy.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Compared {
    /// The upstream.
    pub upstream: String,
    /// The event's id.
    pub event_id: String,
    /// The project, where the journal retains the event.
    pub project: Option<String>,
    /// `stored`, `not_stored` or `unknown`.
    pub state: String,
    /// Why the state is unknown.
    pub why: Option<String>,
    /// The fields that differ from what was sent.
    pub differences: Vec<FieldDifference>,
}

/// A field that differs from what was sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldDifference {
    /// The field's name.
    pub field: String,
    /// The value that was sent: short, with secrets hidden.
    pub sent: String,
    /// The value that the tracker holds: short, with secrets hidden.
    pub there: String,
}
