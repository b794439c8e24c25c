//! Facts of the past: hourly evidence, outages, losses not yet reported, switches of the primary.
//!
//! Invariants:
//!
//! - A change of an account ([`Posting`](crate::telemetry::ledger::Posting)) is committed in one transaction with its cause.
//! - A drop is listed as a loss until the transaction that appends its client report takes it off ([`losses`](super::losses)).
//! - Observations are kept for [`KEPT`](super::evidence::KEPT). A crash may lose the last ones ([`evidence`](super::evidence)).

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;

use super::evidence::{Evidence, Figures, Observation, Outage};
use super::log::Submission;
use super::losses::Loss;
use super::{Call, TargetId};

/// A switch of the primary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Switch {
    /// When it went live.
    pub at: Timestamp,
    /// The project, if only its primary changed.
    pub project: Option<Box<str>>,
    /// The primary before; `None` for the first one of a journal.
    pub from: Option<Box<str>>,
    /// The primary since.
    pub to: Box<str>,
    /// The reason, in the operator's words.
    pub reason: Option<Box<str>>,
    /// The operator, if known.
    pub author: Option<Box<str>>,
}

/// Records and reads facts.
pub trait Facts: Send + Sync {
    /// Keeps a switch of the primary.
    fn record_switch(&self, switch: Switch) -> Call<'_, ()>;

    /// The last `limit` switches, newest first.
    fn switches(&self, limit: usize) -> Call<'_, Vec<Switch>>;

    /// Adds what was observed since the last time to the evidence, and that the relay is alive.
    fn observe(&self, observation: Observation) -> Call<'_, ()>;

    /// What is kept of the time since the beginning of the hour in which `since` lies.
    fn evidence(&self, since: Timestamp) -> Call<'_, Evidence>;

    /// The outages that had not ended by `since`, newest first, at most `limit`.
    fn outages(&self, since: Timestamp, limit: usize) -> Call<'_, Vec<Outage>>;

    /// What is known of every target, at once.
    fn figures(&self) -> Call<'_, HashMap<TargetId, Figures>>;

    /// Counts losses that no record tells of: what was shed before there was one.
    fn lose(&self, losses: Vec<Loss>) -> Call<'_, ()>;

    /// What was lost for targets and has not been told them.
    fn losses(&self) -> Call<'_, Vec<Loss>>;

    /// Takes off what is told, and appends the report that tells it, both or neither; without a report it is forgotten. The
    /// report counts as nothing: its quantities are empty ([`losses`](super::losses)).
    fn report(&self, told: Vec<Loss>, report: Option<Submission>) -> Call<'_, ()>;
}
