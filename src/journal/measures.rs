//! Measures of a journal: the room it takes, the relays and standbys on it, and the statistics of its storage.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Timestamp;

use super::{Share, TargetId};

/// The primary upstreams, whose backlog is never evicted when room is short.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Primaries {
    /// The primary of projects without one of their own.
    pub everywhere: Option<TargetId>,
    /// The projects with their own primary, by name.
    pub own: HashMap<Arc<str>, TargetId>,
}

impl Primaries {
    /// The primary of a project.
    pub fn of(&self, project: &str) -> Option<TargetId> {
        self.own.get(project).copied().or(self.everywhere)
    }
}

/// The measures of a journal at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Measures {
    /// The room taken.
    pub space: Space,
    /// The room each project takes, largest first: the configured projects, and others that still have records.
    pub shares: Vec<Share>,
    /// Statistics of the storage since it was opened.
    pub stats: Stats,
    /// The relays that share the journal, by name; empty for a journal in a file.
    pub nodes: Vec<Node>,
    /// The standbys of its database server, if our role may see them.
    pub standbys: Vec<Standby>,
}

/// A relay that shares the journal: its last start. One that is gone is told of for a day, unless it left in order and left nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// When it started.
    pub started_at: Timestamp,
    /// Whether its heartbeat is recent.
    pub is_alive: bool,
    /// Whether it is the relay that was asked.
    pub is_own: bool,
    /// Its leases at all targets.
    pub leases: u64,
    /// Submissions that are spilled on its machine until the journal takes them.
    pub spilled: u64,
    /// The size of the spilled submissions in bytes.
    pub spilled_bytes: u64,
    /// Whether it is the leader, which does the chores of all.
    pub leads: bool,
    /// The options in which its configuration file differs from the common part.
    pub differs: Vec<String>,
}

/// A standby of the journal's database server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standby {
    /// Its name.
    pub name: String,
    /// Its replication lag, if known.
    pub lag: Option<Duration>,
}

/// The room of a journal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Space {
    /// Bytes in use by records, their bodies and their accounts.
    pub used: u64,
    /// Bytes of the files on disk: the database, its log as it stands, and large bodies.
    pub files: u64,
    /// Bytes free on that disk, if known.
    pub disk_free: Option<u64>,
}

/// Statistics of the storage since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Stats {
    /// A histogram of commit times: one count per bound of [`Stats::BOUNDS`], and one for longer commits.
    pub commits: [u64; Stats::BOUNDS.len() + 1],
    /// The sum of commit times.
    pub commit_time: Duration,
    /// Failures of the storage.
    pub errors: u64,
    /// Records that could not be read and were set aside.
    pub set_aside: u64,
}

impl Stats {
    /// The upper bounds of the histogram, in seconds.
    pub const BOUNDS: [f64; 11] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5];

    /// For backends: the class of a commit that took so long.
    pub(super) fn class(took: Duration) -> usize {
        Self::BOUNDS.iter().position(|bound| took.as_secs_f64() <= *bound).unwrap_or(Self::BOUNDS.len())
    }
}
