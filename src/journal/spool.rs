//! The folder of large bodies, and how they get there: written as they come, in bounded memory.
//!
//! Rule: a file counts against the journal's room before its bytes are written, and is open only while they are: a body that
//! comes slowly keeps no file open. Files of no record are removed: by whoever drops them, and after a crash by the next start.
//! Knows nothing of what is in a body.

use std::collections::HashSet;
use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use super::body::{Body, BodyFile, IN_MEMORY, Reservation};
use super::{Journal, JournalError, Sync};
use crate::tasks;
use crate::telemetry::log::{self, Line};

/// What is written at once, unless there is no memory for that.
const STEP: usize = 256 << 10;
/// The least room taken at once.
const ROOM_STEP: u64 = 1 << 20;
/// So many bytes of a file are brought to disk while it is still growing: syncing all of it at its end would hold up the
/// commits of others.
const SYNC_STEP: u64 = 8 << 20;

/// The folder of large bodies.
#[derive(Debug)]
pub struct Spool {
    folder: PathBuf,
    /// Whether files are to survive a loss of power.
    durable: bool,
    /// Bytes taken by files, those being written included.
    taken: Arc<AtomicU64>,
}

impl Spool {
    /// The folder beside the database at `journal`, made when there is none. Readable for its owner only.
    pub(super) fn open(journal: &Path, sync: Sync) -> io::Result<Self> {
        let mut folder = journal.as_os_str().to_owned();
        folder.push("-bodies");
        let spool = Self { folder: folder.into(), durable: sync == Sync::Full, taken: Arc::default() };
        match DirBuilder::new().mode(0o700).create(&spool.folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        if let Some(parent) = spool.folder.parent().filter(|parent| spool.durable && !parent.as_os_str().is_empty()) {
            File::open(parent)?.sync_all()?;
        }
        Ok(spool)
    }

    /// Removes every file that no record names, and counts the others.
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
            let message = "bodies that were never acknowledged are removed";
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

    fn create(&self) -> io::Result<BodyFile> {
        let path = self.folder.join(uuid::Uuid::new_v4().simple().to_string());
        File::options().write(true).create_new(true).mode(0o600).open(&path)?;
        Ok(BodyFile::begun(path))
    }

    /// Makes a file as durable as the journal is to be.
    pub(super) async fn sync(&self, body: &Arc<BodyFile>) -> Result<(), JournalError> {
        if !self.durable {
            return Ok(());
        }
        let (body, folder) = (Arc::clone(body), self.folder.clone());
        let synced = tasks::blocking(move || {
            body.open()?.sync_all()?;
            File::open(folder)?.sync_all()
        });
        synced.await.map_err(|error| failure(&error))
    }
}

/// A body on its way: in memory until it is larger than [`IN_MEMORY`], then in a file, of which 256 KiB are in memory.
/// Dropped before its end it leaves nothing behind.
#[derive(Debug)]
pub struct BodyWriter {
    journal: Arc<dyn Journal>,
    /// For whom it is, as far as known.
    project: Option<Arc<str>>,
    buffer: Vec<u8>,
    draft: Option<Draft>,
    /// The most that stays in memory.
    keep: usize,
    /// What is written at once.
    step: usize,
    /// Nothing was lost on the way: false while a write is under way, and after one that failed.
    whole: bool,
}

#[derive(Debug)]
struct Draft {
    body: BodyFile,
    unsynced: u64,
}

impl BodyWriter {
    /// Begins a body for that journal, and for a project, if it is known for which.
    pub fn new(journal: Arc<dyn Journal>, project: Option<Arc<str>>) -> Self {
        Self { journal, project, buffer: Vec::new(), draft: None, keep: IN_MEMORY, step: STEP, whole: true }
    }

    /// Goes through a file already beyond `bytes`.
    #[must_use]
    pub fn beyond(self, bytes: u64) -> Self {
        Self { keep: usize::try_from(bytes).unwrap_or(IN_MEMORY).min(IN_MEMORY), ..self }
    }

    /// Writes `bytes` at once, 256 KiB at most.
    #[must_use]
    pub fn in_steps_of(self, bytes: u64) -> Self {
        Self { step: usize::try_from(bytes).unwrap_or(STEP).clamp(1, STEP), ..self }
    }

    /// Bytes written so far.
    pub fn len(&self) -> u64 {
        self.buffer.len() as u64 + self.draft.as_ref().map_or(0, |draft| draft.body.len())
    }

    /// Whether nothing was written yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether it is in a file, and what it takes of the memory no longer grows.
    pub const fn is_in_file(&self) -> bool {
        self.draft.is_some()
    }

    /// Appends bytes. [`JournalError::Full`] when the journal has no room for them. After an error, and after a call that was
    /// not brought to its end, the body cannot be finished.
    pub async fn write(&mut self, mut bytes: &[u8]) -> Result<(), JournalError> {
        let fits = self.draft.is_none() && self.buffer.len() + bytes.len() <= self.keep;
        if fits {
            self.buffer.extend_from_slice(bytes);
            return Ok(());
        }
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(self.step.saturating_sub(self.buffer.len())));
            self.buffer.extend_from_slice(now);
            bytes = later;
            if self.buffer.len() >= self.step {
                self.flush().await?;
            }
        }
        Ok(())
    }

    /// Writes over what was written at `at`, as when the length of an item is known only after its payload.
    pub async fn overwrite(&mut self, at: u64, bytes: &[u8]) -> Result<(), JournalError> {
        if self.draft.is_some() {
            self.flush().await?;
        }
        let outside = || JournalError::Failed("bytes outside of a body cannot be overwritten".into());
        let end = at.checked_add(bytes.len() as u64).filter(|end| *end <= self.len()).ok_or_else(outside)?;
        match &self.draft {
            Some(draft) => {
                let (path, bytes) = (draft.body.path().to_owned(), bytes.to_vec());
                let written = tasks::blocking(move || to_write(&path)?.write_all_at(&bytes, at));
                written.await.map_err(|error| failure(&error))
            }
            None => {
                self.buffer[at as usize..end as usize].copy_from_slice(bytes);
                Ok(())
            }
        }
    }

    /// The body.
    pub async fn finish(mut self) -> Result<Body, JournalError> {
        if self.draft.is_some() {
            self.flush().await?;
        }
        let Some(mut draft) = self.draft else { return Ok(Body::Memory(Bytes::from(self.buffer))) };
        let len = draft.body.len();
        draft.body.room().shrink(len);
        Ok(Body::File(Arc::new(draft.body)))
    }

    /// Writes the buffer to the file, which is made when there is none.
    async fn flush(&mut self) -> Result<(), JournalError> {
        if !std::mem::take(&mut self.whole) {
            return Err(JournalError::Failed("a part of the body was not written".into()));
        }
        let spool = Arc::clone(self.journal.spool());
        let (durable, bytes) = (spool.durable, self.buffer.len() as u64);
        if self.draft.is_none() {
            let body = tasks::blocking(move || spool.create()).await.map_err(|error| failure(&error))?;
            self.draft = Some(Draft { body, unsynced: 0 });
        }
        let Some(draft) = &mut self.draft else { return Ok(()) };
        let has = draft.body.room().bytes();
        if draft.body.len() + bytes > has {
            draft.body.room().add(self.journal.make_room(self.project.clone(), bytes.max(ROOM_STEP)).await?);
        }
        draft.unsynced += bytes;
        let sync = durable && draft.unsynced >= SYNC_STEP;
        let (path, at) = (draft.body.path().to_owned(), draft.body.len());
        let (mut buffer, step) = (std::mem::take(&mut self.buffer), self.step);
        let written = tasks::blocking(move || {
            let file = to_write(&path)?;
            file.write_all_at(&buffer, at)?;
            if sync {
                file.sync_data()?;
            }
            buffer.clear();
            buffer.shrink_to(step);
            Ok(buffer)
        });
        self.buffer = written.await.map_err(|error: io::Error| failure(&error))?;
        draft.body.grow(bytes);
        if sync {
            draft.unsynced = 0;
        }
        self.whole = true;
        Ok(())
    }
}

fn to_write(path: &Path) -> io::Result<File> {
    File::options().write(true).open(path)
}

/// What an error of the file system is for the caller.
fn failure(error: &io::Error) -> JournalError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            JournalError::Full(format!("a large body cannot be written: {error}"))
        }
        _ => JournalError::Failed(format!("the file of a large body: {error}")),
    }
}
