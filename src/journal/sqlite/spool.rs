//! The folder of large bodies.
//!
//! Rule: files of no record are removed when their last handle is dropped, and after a crash by the next start. The folder knows nothing of
//! what is in a body.

use std::collections::HashSet;
use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::journal::body::Body;
use crate::journal::{JournalError, Sync};
use crate::tasks;
use crate::telemetry::log::{self, Line};

use super::file::{BodyFile, Reservation};
use super::private::{BODIES, beside};

/// The folder of large bodies.
#[derive(Debug)]
pub(super) struct Spool {
    folder: PathBuf,
    /// Whether files must survive a loss of power.
    pub(super) durable: bool,
    /// Bytes taken by files, those being written included.
    taken: Arc<AtomicU64>,
}

impl Spool {
    /// Opens the folder beside the database at `journal`, or makes it. It is readable for its owner only.
    pub(super) fn open(journal: &Path, sync: Sync) -> io::Result<Self> {
        let spool = Self { folder: beside(journal, BODIES), durable: sync == Sync::Full, taken: Arc::default() };
        match DirBuilder::new().mode(0o700).create(&spool.folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        if let Some(parent) = spool.folder.parent().filter(|parent| spool.durable && !parent.as_os_str().is_empty()) {
            File::open(parent)?.sync_all()?;
        }
        Ok(spool)
    }

    /// Removes every file that no record names. `bytes` is what the others take.
    pub(super) fn clear(&self, named: &HashSet<String>, bytes: u64) -> io::Result<()> {
        let mut removed = 0_u64;
        for entry in std::fs::read_dir(&self.folder)? {
            let entry = entry?;
            if !entry.file_name().to_str().is_some_and(|name| named.contains(name)) {
                std::fs::remove_file(entry.path())?;
                removed += 1;
            }
        }
        if removed > 0 {
            let message = "bodies that no record names are removed";
            tracing::info!(path = %self.folder.display(), count = removed, "{message}");
        }
        self.taken.store(bytes, Ordering::Relaxed);
        Ok(())
    }

    /// Bytes taken by files.
    pub(super) fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    pub(super) fn take(&self, owner: Option<&Arc<AtomicU64>>, bytes: u64) -> Reservation {
        Reservation::take(&self.taken, owner, bytes)
    }

    /// The file of a record.
    pub(super) fn file(&self, name: &str, len: u64) -> BodyFile {
        BodyFile::of_record(self.folder.join(name), len)
    }

    /// Removes the file of a record that is gone.
    pub(super) fn remove(&self, name: &str, len: u64) {
        let path = self.folder.join(name);
        if let Err(error) = std::fs::remove_file(&path)
            && let Some(Line { suppressed }) = log::admit("file of a record stays", "")
        {
            let message = "the file of a record that is gone cannot be removed";
            tracing::warn!(%error, path = %path.display(), suppressed, "{message}");
        }
        self.taken.fetch_sub(len, Ordering::Relaxed);
    }

    /// Creates a new file.
    pub(super) fn create(&self) -> io::Result<BodyFile> {
        let path = self.folder.join(uuid::Uuid::new_v4().simple().to_string());
        File::options().write(true).create_new(true).mode(0o600).open(&path)?;
        Ok(BodyFile::begun(path))
    }

    /// Makes the names of the files in the folder durable.
    pub(super) fn sync_folder(&self) -> io::Result<()> {
        File::open(&self.folder)?.sync_all()
    }

    /// Syncs the file of a body and the folder to the disk, if the journal must survive a loss of power.
    pub(super) async fn sync(&self, body: &Body) -> Result<(), JournalError> {
        if BodyFile::of(body).is_none() {
            return Err(JournalError::Failed("the body is another journal's".into()));
        }
        if !self.durable {
            return Ok(());
        }
        let (body, folder) = (body.clone(), self.folder.clone());
        let synced = tasks::blocking(move || {
            if let Some(file) = BodyFile::of(&body) {
                file.open()?.sync_all()?;
            }
            File::open(folder)?.sync_all()
        });
        synced.await.map_err(|error| failure(&error))
    }
}

/// The error that a caller gets for an error of the file system.
pub(super) fn failure(error: &io::Error) -> JournalError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            JournalError::Full(format!("a large body cannot be written: {error}"))
        }
        _ => JournalError::Failed(format!("the file of a large body: {error}")),
    }
}
