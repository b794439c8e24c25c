//! Backfills as they are ordered and shown: `/api/backfill`, `switchyard backfill`, the status. Plain data, the same for all.

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::units::Period;

/// An order to backfill.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackfillOrder {
    /// The upstream that is to get records that were withheld from it.
    pub upstream: String,
    /// How far back it reaches.
    pub since: Period,
    /// The only project of it; `None` for all.
    #[serde(default)]
    pub project: Option<String>,
    /// Whether to count only, and change nothing.
    #[serde(default)]
    pub dry_run: bool,
}

/// An order to end a backfill.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackfillEnd {
    /// The upstream of the backfill.
    pub upstream: String,
}

/// The state of a backfill.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BackfillStatus {
    /// The upstream that gets it.
    pub upstream: String,
    /// The projects of its records.
    pub projects: Vec<String>,
    /// Records accepted at this time or later belong to it.
    pub since: Timestamp,
    /// `running`, `done`, `cancelled`, or `planned` when it was only counted.
    pub state: String,
    /// The number of envelopes found when it began.
    pub found: u64,
    /// The number of envelopes handed to the upstream's queue so far.
    pub taken: u64,
    /// The size of the envelopes found, in bytes; `None` unless they were just counted.
    #[serde(default)]
    pub bytes: Option<u64>,
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// Why it does not reach as far back as was ordered.
    #[serde(default)]
    pub note: Option<String>,
}

/// The last backfill of each upstream.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Backfills {
    /// By upstream.
    pub backfills: Vec<BackfillStatus>,
}
