//! What a journal says of itself: the room that it takes, and what its storage did. And what it is told about room.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Timestamp;

use super::{Share, TargetId};

/// Whose backlog never gives way when room is short.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Primaries {
    /// The primary of projects that have none of their own.
    pub everywhere: Option<TargetId>,
    /// Projects by name, each with its own primary.
    pub own: HashMap<Arc<str>, TargetId>,
}

impl Primaries {
    /// The primary of a project.
    pub fn of(&self, project: &str) -> Option<TargetId> {
        self.own.get(project).copied().or(self.everywhere)
    }
}

/// What a journal tells of itself, at once.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Measures {
    /// Room taken.
    pub space: Space,
    /// What each project takes of it, the most first: those of the split, and those that still have something.
    pub shares: Vec<Share>,
    /// What the storage did so far.
    pub stats: Stats,
    /// The relays that share it, by name: none of a journal that is of one machine.
    pub nodes: Vec<Node>,
    /// The standbys of its server, as far as we may see them.
    pub standbys: Vec<Standby>,
}

/// A relay that shares the journal: its last start. One that is gone is told of for a day, unless it left in order and left nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// The version that runs there.
    pub version: String,
    /// When it started.
    pub started_at: Timestamp,
    /// Whether it has said lately that it lives.
    pub is_alive: bool,
    /// Whether it is the one that tells this.
    pub is_own: bool,
    /// What it has in hand, of all targets: a record counts once for each.
    pub leases: u64,
    /// Submissions that are kept on its machine alone, until the journal takes them.
    pub spilled: u64,
    /// The bytes of these.
    pub spilled_bytes: u64,
    /// Whether it does the chores of all.
    pub leads: bool,
    /// By which names its file differs from what all relays have in common.
    pub differs: Vec<String>,
}

/// A server that follows the journal's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standby {
    /// Its name.
    pub name: String,
    /// How far it is behind, when known.
    pub lag: Option<Duration>,
}

/// How much room the journal takes and has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Space {
    /// Bytes in use by records, their bodies and their accounts.
    pub used: u64,
    /// Bytes of the files on disk: the database, its log as it stands, and large bodies.
    pub files: u64,
    /// Bytes free on that disk, when known.
    pub disk_free: Option<u64>,
}

/// What the storage did since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Stats {
    /// Commits by how long they took: one count per bound of [`Stats::BOUNDS`], the last for those above all of them.
    pub commits: [u64; Stats::BOUNDS.len() + 1],
    /// How long they took together.
    pub commit_time: Duration,
    /// Failures of the storage.
    pub errors: u64,
    /// Records that could not be read and were set aside.
    pub set_aside: u64,
}

impl Stats {
    /// Upper bounds of the classes of commits, in seconds.
    pub const BOUNDS: [f64; 11] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5];

    /// For backends: the class of a commit that took so long.
    pub(super) fn class(took: Duration) -> usize {
        Self::BOUNDS.iter().position(|bound| took.as_secs_f64() <= *bound).unwrap_or(Self::BOUNDS.len())
    }
}
