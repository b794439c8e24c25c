//! The disk under the journal: how much of it is free, and whether the journal's files are still the ones that are open.
//!
//! Rule: a file that is removed or replaced while it is open still takes commits, and a restart would begin without them. So nothing new is
//! acknowledged then. The backlog is still delivered. Once the file is back, new submissions are taken again.

use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::journal::{JournalError, Settings};
use crate::units::ByteSize;

use super::space::durable;

/// How long an answer of the system counts.
const FRESH: Duration = Duration::from_millis(250);

/// The disk under the journal, asked at most four times a second.
#[derive(Debug)]
pub(super) struct Disk {
    folder: PathBuf,
    least: u64,
    opened: Vec<Opened>,
    seen: Mutex<Option<Seen>>,
}

/// A file as it was opened, by its device and inode.
#[derive(Debug)]
struct Opened {
    path: PathBuf,
    id: (u64, u64),
}

/// The system's answer.
#[derive(Clone, Copy, Debug)]
struct Seen {
    at: Instant,
    /// Free bytes; [`u64::MAX`] when the disk cannot be asked.
    free: u64,
    /// The index of an opened file that is gone.
    gone: Option<usize>,
}

impl Disk {
    /// The disk under a journal whose files are open.
    pub(super) fn new(settings: &Settings) -> Self {
        let folder = match settings.path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        let opened = durable(&settings.path).into_iter().filter_map(Opened::of).collect();
        Self { folder, least: settings.min_free_disk.get(), opened, seen: Mutex::new(None) }
    }

    /// Free bytes; [`u64::MAX`] when the disk cannot be asked.
    pub(super) fn free(&self) -> u64 {
        self.seen().free
    }

    /// `Failed` when a file of the journal is gone. `Full` when `bytes` more would leave less than `min_free_disk`. A disk that cannot be
    /// asked counts as having room: a write will tell.
    pub(super) fn check(&self, bytes: u64) -> Result<(), JournalError> {
        let Seen { free, gone, .. } = self.seen();
        if let Some(file) = gone.and_then(|gone| self.opened.get(gone)) {
            return Err(JournalError::Failed(file.is_gone()));
        }
        if free.saturating_sub(bytes) >= self.least {
            return Ok(());
        }
        let (free, least) = (ByteSize::bytes(free), ByteSize::bytes(self.least));
        Err(JournalError::Full(format!("the disk has {free} left, min_free_disk is {least}")))
    }

    fn seen(&self) -> Seen {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        match *seen {
            Some(fresh) if fresh.at.elapsed() < FRESH => fresh,
            before => *seen.insert(self.look(before.and_then(|before| before.gone))),
        }
    }

    /// Asks the system, and logs when a file is gone, and when all are back.
    fn look(&self, was_gone: Option<usize>) -> Seen {
        let free = rustix::fs::statvfs(&self.folder).map_or(u64::MAX, |fs| fs.f_bavail * fs.f_frsize);
        let gone = self.opened.iter().position(|file| !file.is_there());
        match gone.and_then(|gone| self.opened.get(gone)) {
            Some(file) if was_gone.is_none() => tracing::error!("the journal fails: {}", file.is_gone()),
            None if was_gone.is_some() => tracing::info!("the journal's files are back: submissions are taken again"),
            _ => {}
        }
        Seen { at: Instant::now(), free, gone }
    }
}

impl Opened {
    fn of(path: PathBuf) -> Option<Self> {
        let id = id(&path).ok()?;
        Some(Self { path, id })
    }

    /// Whether the path still leads to this file. An error other than a missing file counts as yes: the next write will tell.
    fn is_there(&self) -> bool {
        match id(&self.path) {
            Ok(found) => found == self.id,
            Err(error) => !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory),
        }
    }

    fn is_gone(&self) -> String {
        format!(
            "{} was removed or replaced while the relay has it open. Nothing new is taken, because a restart would lose it; what waits is \
             delivered. Put the file back, or restart the relay once its backlog is 0",
            self.path.display()
        )
    }
}

/// The device and the inode number of a file.
fn id(path: &Path) -> std::io::Result<(u64, u64)> {
    std::fs::metadata(path).map(|meta| (meta.dev(), meta.ino()))
}
