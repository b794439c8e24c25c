//! The section `[journal]` of the configuration.

use serde::{Deserialize, Serialize};

use crate::units::{ByteSize, Period};

/// The section `[journal]` of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The database file; two more, with `-wal` and `-shm` at their end, and a `.lock` stand beside it while it is open, and a
    /// folder with `-bodies` at its end for bodies over 1 MiB.
    pub path: std::path::PathBuf,
    /// What an acknowledged record survives.
    pub sync: Sync,
    /// The most the journal may take of the disk.
    pub max_size: ByteSize,
    /// With less free than this on the disk, the journal takes no more of it: what is new needs room within its file.
    pub min_free_disk: ByteSize,
    /// How long a record stays after all its targets settled it.
    pub retain: Period,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            path: "data/journal.db".into(),
            sync: Sync::Full,
            max_size: ByteSize::mib(1024),
            min_free_disk: ByteSize::mib(256),
            retain: Period::secs(24 * 3600),
        }
    }
}

/// What an acknowledged record survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Sync {
    /// A loss of power.
    Full,
    /// A crash of the process; a loss of power may take the last moments.
    Normal,
}
