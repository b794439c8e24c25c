//! Backfills as they are asked for and shown: `/api/backfill`, `switchyard backfill`, the status. Plain data, one shape for all.

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::units::Period;

/// A backfill to be.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackfillOrder {
    /// The upstream that is to get what it was not meant to get.
    pub upstream: String,
    /// How far back.
    pub since: Period,
    /// Of this project only.
    #[serde(default)]
    pub project: Option<String>,
    /// Count, and change nothing.
    #[serde(default)]
    pub dry_run: bool,
}

/// The end of a backfill.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackfillEnd {
    /// The upstream whose backfill it is.
    pub upstream: String,
}

/// How a backfill stands.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BackfillStatus {
    /// Who gets it.
    pub upstream: String,
    /// Of which projects.
    pub projects: Vec<String>,
    /// What was accepted then or later.
    pub since: Timestamp,
    /// `running`, `done`, `cancelled`; `planned` when it was only counted.
    pub state: String,
    /// Envelopes found when it began.
    pub found: u64,
    /// Envelopes handed to the upstream's queue so far.
    pub taken: u64,
    /// The bytes of what was found, where it was only just counted.
    #[serde(default)]
    pub bytes: Option<u64>,
    /// When it began.
    pub started_at: Timestamp,
    /// When it came to its end.
    pub ended_at: Option<Timestamp>,
    /// Why it does not reach as far back as was asked.
    #[serde(default)]
    pub note: Option<String>,
}

/// The last backfill of each upstream.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Backfills {
    /// By upstream.
    pub backfills: Vec<BackfillStatus>,
}
