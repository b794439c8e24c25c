//! The file of a large body, and the room that it takes.
//!
//! Rule: a file is deleted with its last handle, unless a record has taken it over. Then it is removed with the record.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::{Bytes, BytesMut};

use crate::journal::body::{Body, LargeBody, Pieces, Source};
use crate::tasks;
use crate::telemetry::log::{self, Line};

/// A body in a file.
#[derive(Debug)]
pub(super) struct BodyFile {
    path: PathBuf,
    len: u64,
    room: Reservation,
    /// Whether a record has taken it over.
    kept: AtomicBool,
}

impl BodyFile {
    /// A file that is being written.
    pub(super) fn begun(path: PathBuf) -> Self {
        Self { path, len: 0, room: Reservation::default(), kept: AtomicBool::new(false) }
    }

    /// The file of a record. The journal counts its room.
    pub(super) fn of_record(path: PathBuf, len: u64) -> Self {
        let mut file = Self::begun(path);
        (file.len, file.kept) = (len, AtomicBool::new(true));
        file
    }

    /// The file of a body; `None` if the body is in memory.
    pub(super) fn of(body: &Body) -> Option<&Self> {
        let Body::Large(large) = body else { return None };
        large.source()
    }

    /// Makes a body of the file.
    pub(super) fn into_body(self) -> Body {
        Body::Large(Arc::new(LargeBody::new(self.len, self)))
    }

    /// Its length in bytes.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Its path.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Its name in the folder.
    pub(super) fn name(&self) -> &str {
        self.path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
    }

    /// The room taken for it.
    pub(super) fn room(&mut self) -> &mut Reservation {
        &mut self.room
    }

    pub(super) fn grow(&mut self, bytes: u64) {
        self.len += bytes;
    }

    /// Stops counting its room for its owner, because its record is about to count it.
    pub(super) fn leave_owner(&self) {
        self.room.leave_owner();
    }

    /// Gives the file to a record. The journal counts its room from now on.
    pub(super) fn keep(&self) {
        self.kept.store(true, Ordering::Release);
    }

    /// Opens it for reading. Fails if its length is not what was written.
    pub(super) fn open(&self) -> io::Result<File> {
        let file = File::open(&self.path)?;
        match file.metadata()?.len() {
            found if found == self.len => Ok(file),
            found => Err(io::Error::other(format!("it has {found} bytes in place of {}", self.len))),
        }
    }
}

impl Source for BodyFile {
    fn open(&self) -> io::Result<Box<dyn Pieces>> {
        Ok(Box::new(Self::open(self)?))
    }
}

impl Pieces for File {
    fn read(&self, range: Range<u64>) -> io::Result<Bytes> {
        let mut piece = BytesMut::zeroed(usize::try_from(range.end - range.start).unwrap_or(usize::MAX));
        self.read_exact_at(&mut piece, range.start)?;
        Ok(piece.freeze())
    }
}

impl Drop for BodyFile {
    fn drop(&mut self) {
        if *self.kept.get_mut() {
            self.room.hand_over();
            return;
        }
        let (path, room) = (std::mem::take(&mut self.path), std::mem::take(&mut self.room));
        tasks::aside(move || {
            if let Err(error) = std::fs::remove_file(&path)
                && let Some(Line { suppressed }) = log::admit("file stays", "")
            {
                let message = "a file that nobody needs cannot be removed; the next start does it";
                tracing::warn!(%error, path = %path.display(), suppressed, "{message}");
            }
            drop(room);
        });
    }
}

/// Room taken on the disk for files. It is given back when dropped.
#[derive(Debug, Default)]
pub(super) struct Reservation {
    taken: Arc<AtomicU64>,
    bytes: u64,
    /// The count of the project that the room is for, and whether the room still counts there.
    owner: Option<Arc<AtomicU64>>,
    is_counted: AtomicBool,
}

impl Reservation {
    /// Takes `bytes`: adds them to the count `taken`, and to that of the `owner` if there is one.
    pub(super) fn take(taken: &Arc<AtomicU64>, owner: Option<&Arc<AtomicU64>>, bytes: u64) -> Self {
        taken.fetch_add(bytes, Ordering::Relaxed);
        if let Some(owner) = owner {
            owner.fetch_add(bytes, Ordering::Relaxed);
        }
        Self { taken: Arc::clone(taken), bytes, owner: owner.cloned(), is_counted: AtomicBool::new(true) }
    }

    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Adds a reservation with the same count and owner.
    pub(super) fn add(&mut self, mut other: Self) {
        self.taken = Arc::clone(&other.taken);
        self.owner = other.owner.take();
        self.is_counted = AtomicBool::new(true);
        self.bytes += std::mem::take(&mut other.bytes);
    }

    /// Gives back the bytes beyond `bytes`.
    pub(super) fn shrink(&mut self, bytes: u64) {
        let surplus = self.bytes.saturating_sub(bytes);
        self.taken.fetch_sub(surplus, Ordering::Relaxed);
        if let Some(owner) = self.owner.as_ref().filter(|_| *self.is_counted.get_mut()) {
            owner.fetch_sub(surplus, Ordering::Relaxed);
        }
        self.bytes -= surplus;
    }

    /// Stops counting the room for its owner: from now on the record counts it.
    fn leave_owner(&self) {
        if let Some(owner) = self.owner.as_ref().filter(|_| self.is_counted.swap(false, Ordering::AcqRel)) {
            owner.fetch_sub(self.bytes, Ordering::Relaxed);
        }
    }

    /// Leaves the room taken: it is given back when the record's file is removed.
    fn hand_over(&mut self) {
        self.bytes = 0;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.shrink(0);
    }
}
