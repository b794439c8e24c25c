//! The journal in the status: its size, the projects that take it up, and the relays that share it.

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;

/// The room of the journal.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct JournalStatus {
    /// The size of its files on disk, in bytes.
    pub size_bytes: u64,
    /// The free bytes of that disk; `None` if unknown.
    pub disk_free_bytes: Option<u64>,
    /// The share of each project, largest first.
    #[serde(default)]
    pub projects: Vec<ShareStatus>,
    /// The relays that share the journal, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub relays: Vec<RelayStatus>,
    /// The standbys of the journal's server.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub standbys: Vec<StandbyStatus>,
}

/// A relay that shares the journal.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RelayStatus {
    /// The relay's name.
    pub name: String,
    /// The version that it runs.
    pub version: String,
    /// When it started.
    pub started_at: Timestamp,
    /// Whether it is alive.
    pub alive: bool,
    /// Whether it is the one that gives this status.
    pub own: bool,
    /// The number of envelopes that it has leased, counted once for each upstream.
    pub leases: u64,
    /// The number of envelopes that are only on its machine until the journal takes them.
    pub spilled: u64,
    /// Their size in bytes.
    pub spilled_bytes: u64,
    /// Whether it leads: one relay does the common chores.
    #[serde(default)]
    pub leads: bool,
    /// The tables and keys in which its configuration file differs from the common configuration.
    #[serde(default)]
    pub differs: Vec<String>,
}

/// A server that replicates the journal's.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StandbyStatus {
    /// The standby's name.
    pub name: String,
    /// Its replication lag; `None` if unknown.
    pub lag_seconds: Option<f64>,
}

/// The share of a project in the journal.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ShareStatus {
    /// The project's name.
    pub name: String,
    /// The size of its envelopes in bytes: waiting, retained and dead letters.
    pub bytes: u64,
    /// The part that no other project may take, in bytes; `None` for a single project, which has all of the room.
    pub part_bytes: Option<u64>,
}

impl ShareStatus {
    /// Whether the project takes more than its part.
    pub fn is_beyond(&self) -> bool {
        self.part_bytes.is_some_and(|part| self.bytes > part)
    }
}

impl JournalStatus {
    /// The projects with the largest shares, at most five; none with a single project.
    pub fn fillers(&self) -> impl Iterator<Item = &ShareStatus> {
        self.projects.iter().filter(|share| share.part_bytes.is_some() && share.bytes > 0).take(5)
    }
}
