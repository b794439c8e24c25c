//! The disk under the journal.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::journal::{JournalError, Settings};
use crate::units::ByteSize;

/// How long an answer of the system is believed.
const FRESH: Duration = Duration::from_millis(250);

/// The disk under the journal, asked at most four times a second.
#[derive(Debug)]
pub(super) struct Disk {
    folder: PathBuf,
    least: u64,
    seen: Mutex<Option<(Instant, u64)>>,
}

impl Disk {
    pub(super) fn new(settings: &Settings) -> Self {
        let folder = match settings.path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        Self { folder, least: settings.min_free_disk.get(), seen: Mutex::new(None) }
    }

    /// Bytes free; the greatest number when the disk cannot be asked.
    pub(super) fn free(&self) -> u64 {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        match *seen {
            Some((at, free)) if at.elapsed() < FRESH => free,
            _ => {
                let free = rustix::fs::statvfs(&self.folder).map_or(u64::MAX, |fs| fs.f_bavail * fs.f_frsize);
                *seen = Some((Instant::now(), free));
                free
            }
        }
    }

    /// `Full` when less would be free than must be after `bytes` more are written. A disk that cannot be asked is taken for
    /// roomy: writing will tell.
    pub(super) fn check(&self, bytes: u64) -> Result<(), JournalError> {
        let free = self.free();
        if free.saturating_sub(bytes) >= self.least {
            return Ok(());
        }
        let (free, least) = (ByteSize::bytes(free), ByteSize::bytes(self.least));
        Err(JournalError::Full(format!("the disk has {free} left, min_free_disk is {least}")))
    }
}
