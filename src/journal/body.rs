//! Bodies: small ones in memory and in the database, large ones in a file each, so that they cost disk and not memory.
//!
//! Rule: a file is deleted with the last handle on it, unless a record has taken it over; then it goes when that record goes.
//! Reading a file blocks: from asynchronous code through [`tasks::blocking`].

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::{Buf as _, Bytes, BytesMut};
use futures_util::{Stream, stream};

use crate::protocol::envelope::{Envelope, EnvelopeError, Item, Outline, Scanner};
use crate::tasks;
use crate::telemetry::log::{self, Line};

/// Larger bodies go through a file.
pub const IN_MEMORY: usize = 1 << 20;
/// What is read of a file at once, to begin with and later.
const FIRST_PIECE: u64 = 4 << 10;
const PIECE: u64 = 64 << 10;

/// The bytes of a submission.
#[derive(Clone, Debug)]
pub enum Body {
    /// In memory.
    Memory(Bytes),
    /// In a file.
    File(Arc<BodyFile>),
}

/// Why a body's outline cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// It is no envelope.
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
    /// Its file cannot be read.
    #[error("the file of the body cannot be read: {0}")]
    File(#[from] io::Error),
}

impl Body {
    /// Its length in bytes.
    pub fn len(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
            Self::File(file) => file.len,
        }
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes of it that are held in memory.
    pub fn in_memory(&self) -> usize {
        match self {
            Self::Memory(bytes) => bytes.len(),
            Self::File(_) => 0,
        }
    }

    /// The envelope's header line and where its items lie. Of a file it is read once and remembered.
    pub fn outline(&self) -> Result<Outline, Unreadable> {
        match self {
            Self::Memory(bytes) => Ok(Envelope::parse(bytes.clone())?.into_outline()),
            Self::File(file) => file.outline(),
        }
    }

    /// Whether [`Body::outline`] answers without reading a file.
    pub fn is_at_hand(&self) -> bool {
        match self {
            Self::Memory(_) => true,
            Self::File(file) => file.outline.get().is_some(),
        }
    }

    /// The payload of an item, read into memory when it is in a file: of what is known to be small.
    pub fn payload(&self, item: &Item) -> io::Result<Bytes> {
        self.piece(item.payload())
    }

    /// The bytes of a range within it, read into memory when it is in a file.
    pub fn piece(&self, range: Range<u64>) -> io::Result<Bytes> {
        match self {
            Self::Memory(bytes) => Ok(bytes.slice(range.start as usize..range.end as usize)),
            Self::File(file) => read_piece(&file.open()?, range),
        }
    }

    /// Piece by piece, each read when it is asked for.
    pub fn pieces(self) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
        stream::try_unfold((self, 0), |(body, at)| async move {
            let end = body.len().min(at + PIECE);
            if at == end {
                return Ok(None);
            }
            let piece = match &body {
                Self::Memory(_) => body.piece(at..end)?,
                Self::File(_) => {
                    let body = body.clone();
                    tasks::blocking(move || body.piece(at..end)).await?
                }
            };
            Ok(Some((piece, (body, end))))
        })
    }

    /// Reads it from the beginning.
    pub fn reader(&self) -> io::Result<Box<dyn BufRead + Send>> {
        Ok(match self {
            Self::Memory(bytes) => Box::new(bytes.clone().reader()),
            Self::File(file) => Box::new(BufReader::with_capacity(PIECE as usize, file.open()?)),
        })
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self::Memory(bytes)
    }
}

/// A body in a file.
#[derive(Debug)]
pub struct BodyFile {
    path: PathBuf,
    len: u64,
    room: Reservation,
    /// A record has it.
    kept: AtomicBool,
    outline: OnceLock<Outline>,
}

impl BodyFile {
    /// A file that is being written.
    pub(super) fn begun(path: PathBuf) -> Self {
        Self { path, len: 0, room: Reservation::default(), kept: AtomicBool::new(false), outline: OnceLock::new() }
    }

    /// The file of a record, whose room the journal knows of.
    pub(super) fn of_record(path: PathBuf, len: u64) -> Self {
        let mut file = Self::begun(path);
        (file.len, file.kept) = (len, AtomicBool::new(true));
        file
    }

    /// Its length in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Where it is.
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

    /// Its record is about to have it, and is what counts as somebody's.
    pub(super) fn leave_owner(&self) {
        self.room.leave_owner();
    }

    /// A record has it from now on, and the journal its room.
    pub(super) fn keep(&self) {
        self.kept.store(true, Ordering::Release);
    }

    /// Opens it for reading; a file of another length than was written is none.
    pub fn open(&self) -> io::Result<File> {
        let file = File::open(&self.path)?;
        match file.metadata()?.len() {
            found if found == self.len => Ok(file),
            found => Err(io::Error::other(format!("it has {found} bytes in place of {}", self.len))),
        }
    }

    fn outline(&self) -> Result<Outline, Unreadable> {
        if let Some(outline) = self.outline.get() {
            return Ok(outline.clone());
        }
        let outline = self.scan()?;
        Ok(self.outline.get_or_init(|| outline).clone())
    }

    /// Reads the header lines; payloads whose length is known are passed over.
    fn scan(&self) -> Result<Outline, Unreadable> {
        let (file, mut scanner, mut at) = (self.open()?, Scanner::new(), 0);
        while at < self.len {
            let payload = scanner.payload_left().min(self.len - at);
            scanner.skip(payload);
            at += payload;
            let size = if at == 0 { FIRST_PIECE } else { PIECE };
            let piece = read_piece(&file, at..self.len.min(at + size))?;
            scanner.push(&piece)?;
            at += piece.len() as u64;
        }
        Ok(scanner.finish()?)
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

/// Reads a piece of a file.
pub fn read_piece(file: &File, range: Range<u64>) -> io::Result<Bytes> {
    let mut piece = BytesMut::zeroed(usize::try_from(range.end - range.start).unwrap_or(usize::MAX));
    file.read_exact_at(&mut piece, range.start)?;
    Ok(piece.freeze())
}

/// Room taken on the disk for files; given back when dropped.
#[derive(Debug, Default)]
pub struct Reservation {
    taken: Arc<AtomicU64>,
    bytes: u64,
    /// What counts the room of whom it is for, and whether it still counts this there.
    owner: Option<Arc<AtomicU64>>,
    is_counted: AtomicBool,
}

impl Reservation {
    /// Takes `bytes` of what `taken` counts, and `owner`, if it is somebody's.
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

    /// Adds another one of the same count and owner.
    pub(super) fn add(&mut self, mut other: Self) {
        self.taken = Arc::clone(&other.taken);
        self.owner = other.owner.take();
        self.is_counted = AtomicBool::new(true);
        self.bytes += std::mem::take(&mut other.bytes);
    }

    /// Gives back what is more than `bytes`.
    pub(super) fn shrink(&mut self, bytes: u64) {
        let surplus = self.bytes.saturating_sub(bytes);
        self.taken.fetch_sub(surplus, Ordering::Relaxed);
        if let Some(owner) = self.owner.as_ref().filter(|_| *self.is_counted.get_mut()) {
            owner.fetch_sub(surplus, Ordering::Relaxed);
        }
        self.bytes -= surplus;
    }

    /// Counts it as its owner's no longer: the record counts, of which it is a part from now on.
    fn leave_owner(&self) {
        if let Some(owner) = self.owner.as_ref().filter(|_| self.is_counted.swap(false, Ordering::AcqRel)) {
            owner.fetch_sub(self.bytes, Ordering::Relaxed);
        }
    }

    /// Leaves the room taken: somebody else gives it back.
    fn hand_over(&mut self) {
        self.bytes = 0;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.shrink(0);
    }
}
