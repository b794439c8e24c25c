//! The journal in the status: its room and whose it is, and who shares it.

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;

/// The journal's room.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct JournalStatus {
    /// Bytes of its files on disk.
    pub size_bytes: u64,
    /// Bytes free on that disk, when known.
    pub disk_free_bytes: Option<u64>,
    /// What each project takes of it, the most first.
    #[serde(default)]
    pub projects: Vec<ShareStatus>,
    /// The relays that share it, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub relays: Vec<RelayStatus>,
    /// The standbys of its server.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub standbys: Vec<StandbyStatus>,
}

/// A relay that shares the journal.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RelayStatus {
    /// Its name.
    pub name: String,
    /// The version that runs there.
    pub version: String,
    /// When it started.
    pub started_at: Timestamp,
    /// Whether it lives.
    pub alive: bool,
    /// Whether it is the one that tells this status.
    pub own: bool,
    /// Envelopes that it has in hand, counted once for each upstream.
    pub leases: u64,
    /// Envelopes that are kept on its machine alone, until the journal takes them.
    pub spilled: u64,
    /// The bytes of these.
    pub spilled_bytes: u64,
    /// Whether it does the chores of all.
    #[serde(default)]
    pub leads: bool,
    /// The tables and keys in which its file differs from what all relays have in common.
    #[serde(default)]
    pub differs: Vec<String>,
}

/// A server that follows the journal's.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StandbyStatus {
    /// Its name.
    pub name: String,
    /// How far it is behind, when known.
    pub lag_seconds: Option<f64>,
}

/// What a project takes of the journal.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ShareStatus {
    /// Its name.
    pub name: String,
    /// Bytes of its envelopes: those that wait, those that are retained, and those of dead letters.
    pub bytes: u64,
    /// The part that is kept for it whatever others send; `None` for the only project, which has all of the room.
    pub part_bytes: Option<u64>,
}

impl ShareStatus {
    /// Whether it takes of the common half.
    pub fn is_beyond(&self) -> bool {
        self.part_bytes.is_some_and(|part| self.bytes > part)
    }
}

impl JournalStatus {
    /// Who fills it: no more than a few, when there are several.
    pub fn fillers(&self) -> impl Iterator<Item = &ShareStatus> {
        self.projects.iter().filter(|share| share.part_bytes.is_some() && share.bytes > 0).take(5)
    }
}
