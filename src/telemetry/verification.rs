//! Whether a tracker stores what it took, in the words of status, page and API.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::units::Period;

use super::numbers;

/// How many of the error events that an upstream took it also stores: stored + missing + lost + unknown = delivered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerificationStatus {
    /// Error events that it answered with 2xx.
    pub delivered: u64,
    /// Found there.
    pub stored: u64,
    /// Not found by more than one look, and neither sent again nor given up since.
    pub missing: u64,
    /// Missing until they were sent again, given up as dead letters, or could be kept no longer.
    pub lost: u64,
    /// Not looked for yet, or nobody can say.
    pub unknown: u64,
    /// Of those unknown, how many were not found at the first look and are looked for again.
    #[serde(default)]
    pub looking: u64,
    /// When the tracker last answered a look.
    pub last_look_at: Option<Timestamp>,
    /// When the oldest event was accepted that is not looked for yet, while the looks lag behind.
    #[serde(default)]
    pub behind_since: Option<Timestamp>,
    /// Why the tracker cannot be asked, with the remedy.
    pub trouble: Option<String>,
    /// Since when.
    #[serde(default)]
    pub trouble_since: Option<Timestamp>,
    /// What comparing stored events with what was sent showed in the last 24 hours; `None` where that is turned off.
    #[serde(default)]
    pub content: Option<ContentStatus>,
}

/// How many stored events were compared with what was sent, and how many of them differ.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContentStatus {
    /// Events compared.
    pub compared: u64,
    /// Those of which a field is not there as it was sent.
    pub differing: u64,
    /// Of those that differ, how many do so in accepted fields alone.
    #[serde(default)]
    pub accepted: u64,
    /// The same by project.
    pub projects: BTreeMap<String, ContentCount>,
}

/// The events of one project that were compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContentCount {
    /// Events compared.
    pub compared: u64,
    /// Those that differ.
    pub differing: u64,
    /// Of those that differ, how many do so in accepted fields alone.
    #[serde(default)]
    pub accepted: u64,
}

impl ContentStatus {
    /// Whether an event differs in a field that is not accepted.
    pub const fn is_bad(&self) -> bool {
        self.differing > self.accepted
    }

    /// What was found, in a line.
    pub fn told(&self) -> String {
        let differ = differ(self.differing, self.accepted);
        match self.compared {
            0 => "no stored event was compared with what was sent in the last 24 hours".to_owned(),
            n => format!("{} compared with what was sent in the last 24 hours, {differ}", numbers::some(n, "event")),
        }
    }
}

/// How many differ, in words, and how many of them in accepted fields alone.
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
    /// How it stands, in a line.
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

/// An order to look for events, some at a time.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VerifyOrder {
    /// The upstream.
    pub upstream: String,
    /// Only events accepted then or later.
    pub since: Timestamp,
    /// Only those behind this record.
    #[serde(default)]
    pub after: u64,
}

/// An order to look once more for events that a look did not find.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgainOrder {
    /// The upstream.
    pub upstream: String,
    /// The record behind which that look began.
    pub after: u64,
    /// The ids of the events: no more than that look can have missed.
    pub events: Vec<String>,
}

/// What became of events that a look did not find.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct LookedAgain {
    /// By id. One that is left out is to be asked for again.
    pub found: BTreeMap<String, Again>,
    /// Why nobody can say anything, with the remedy.
    pub trouble: Option<String>,
}

/// What became of an event that a look did not find.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Again {
    /// It is stored by now.
    Stored,
    /// It was not found again.
    NotFound,
    /// It was found missing since, and is sent again, or was given up.
    TakenUp,
    /// Nobody can say.
    Unknown,
}

/// What was found of some events.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Verified {
    /// How many are stored.
    pub stored: u64,
    /// Events that were not found, and are looked for again.
    pub absent: Vec<NotFound>,
    /// Events that are missing.
    pub missing: Vec<NotFound>,
    /// How many nobody can say anything of.
    pub unknown: u64,
    /// How many were taken so recently that it is too early to look.
    #[serde(default)]
    pub recent: u64,
    /// Why nobody can say anything, with the remedy.
    pub trouble: Option<String>,
    /// The record behind which to go on; absent when there are no more.
    pub next: Option<u64>,
    /// How long to wait before those that were not found are looked for again, in seconds.
    #[serde(default)]
    pub look_again_after: f64,
}

/// An event that a tracker took and that was not found there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotFound {
    /// Its id.
    pub event_id: String,
    /// The project.
    pub project: String,
    /// When it was accepted.
    pub accepted_at: Timestamp,
    /// How often it was sent again.
    pub repairs: u32,
}

/// An order to send missing events again.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RepairOrder {
    /// The upstream.
    pub upstream: String,
    /// How far back.
    pub since: Period,
    /// Counts, and sends nothing.
    #[serde(default)]
    pub dry_run: bool,
}

/// What is sent again.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Repaired {
    /// The upstream.
    pub upstream: String,
    /// How many events are missing.
    pub missing: u64,
    /// How many of them are sent again now.
    pub sent_again: u64,
    /// Some of them, the newest first.
    pub events: Vec<NotFound>,
}

/// A field of an event that was compared and is not there as it was sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Differing {
    /// The event's id.
    pub event_id: String,
    /// The project.
    pub project: String,
    /// When it was compared.
    pub compared_at: Timestamp,
    /// The field, and both values.
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
    /// Why it is not known.
    pub why: Option<String>,
    /// What is not there as it was sent.
    pub differences: Vec<FieldDifference>,
}

/// A field that is not there as it was sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldDifference {
    /// Which one.
    pub field: String,
    /// What was sent: short, secrets hidden.
    pub sent: String,
    /// What the tracker holds, likewise.
    pub there: String,
}
