//! Large bodies: a body over [`IN_MEMORY`] is written to the journal while it arrives, in bounded memory.
//!
//! Invariants:
//!
//! - Every written byte counts as room taken ([`Storage`](super::Storage)), by the project if it is known. If it is not, nothing that the
//!   journal keeps gives way for it.
//! - When the [append](super::Log::append) of its record returns, a body is as durable as the record. It is removed with the record.
//! - A body that is dropped before its end, or that no record takes over, is removed: when it is dropped, or at the next start.
//! - This file does not look into bodies.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use super::body::{Body, IN_MEMORY};
use super::{Call, Journal, JournalError};

/// The size of one write, in bytes, unless memory is short.
const STEP: usize = 256 << 10;

/// Stores large bodies.
pub trait Bodies: Send + Sync {
    /// Begins one, for a project if it is known for which.
    fn begin(self: Arc<Self>, project: Option<Arc<str>>) -> Call<'static, Box<dyn Draft>>;
}

/// A large body that is being written, by a [`BodyWriter`].
pub trait Draft: Send + Sync + fmt::Debug {
    /// Appends bytes; gives the buffer back, empty. [`JournalError::Full`] when there is no room for them.
    fn append(&mut self, bytes: Vec<u8>) -> Call<'_, Vec<u8>>;

    /// Writes over bytes that were written at `at`: never beyond what was appended.
    fn overwrite(&mut self, at: u64, bytes: Vec<u8>) -> Call<'_, ()>;

    /// The body.
    fn finish(self: Box<Self>) -> Call<'static, Body>;
}

/// A body while it arrives: in memory up to [`IN_MEMORY`], then in the journal except for the last 256 KiB.
/// Dropping it before [`BodyWriter::finish`] removes it.
#[derive(Debug)]
pub struct BodyWriter {
    journal: Arc<dyn Journal>,
    /// The project, if it is known.
    project: Option<Arc<str>>,
    buffer: Vec<u8>,
    draft: Option<Box<dyn Draft>>,
    /// Bytes that the draft holds.
    written: u64,
    /// The most bytes that stay in memory.
    keep: usize,
    /// The size of one write, in bytes.
    step: usize,
    /// Whether every write so far was completed: false during a write, and after one that failed.
    whole: bool,
}

impl BodyWriter {
    /// Begins a body; `project` is `None` while it is not known yet.
    pub fn new(journal: Arc<dyn Journal>, project: Option<Arc<str>>) -> Self {
        let (keep, step) = (IN_MEMORY, STEP);
        Self { journal, project, buffer: Vec::new(), draft: None, written: 0, keep, step, whole: true }
    }

    /// Limits what stays in memory to `bytes`.
    #[must_use]
    pub fn beyond(self, bytes: u64) -> Self {
        Self { keep: usize::try_from(bytes).unwrap_or(IN_MEMORY).min(IN_MEMORY), ..self }
    }

    /// Sets the size of one write, 256 KiB at most.
    #[must_use]
    pub fn in_steps_of(self, bytes: u64) -> Self {
        Self { step: usize::try_from(bytes).unwrap_or(STEP).clamp(1, STEP), ..self }
    }

    /// Bytes written so far.
    pub fn len(&self) -> u64 {
        self.buffer.len() as u64 + self.written
    }

    /// Whether nothing was written yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
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

    /// Overwrites bytes at the offset `at`: an item's length, for example, that is known only after its payload.
    pub async fn overwrite(&mut self, at: u64, bytes: &[u8]) -> Result<(), JournalError> {
        if self.draft.is_some() {
            self.flush().await?;
        }
        let outside = || JournalError::Failed("bytes outside of a body cannot be overwritten".into());
        let end = at.checked_add(bytes.len() as u64).filter(|end| *end <= self.len()).ok_or_else(outside)?;
        match &mut self.draft {
            Some(draft) => draft.overwrite(at, bytes.to_vec()).await,
            None => {
                self.buffer[at as usize..end as usize].copy_from_slice(bytes);
                Ok(())
            }
        }
    }

    /// Completes the body.
    pub async fn finish(mut self) -> Result<Body, JournalError> {
        if self.draft.is_some() {
            self.flush().await?;
        }
        match self.draft {
            None => Ok(Body::Memory(Bytes::from(self.buffer))),
            Some(draft) => draft.finish().await,
        }
    }

    /// Hands the buffer to the draft, and begins one if there is none.
    async fn flush(&mut self) -> Result<(), JournalError> {
        if !std::mem::take(&mut self.whole) {
            return Err(JournalError::Failed("a part of the body was not written".into()));
        }
        let draft = match &mut self.draft {
            Some(draft) => draft,
            None => self.draft.insert(Arc::clone(&self.journal).begin(self.project.clone()).await?),
        };
        let bytes = self.buffer.len() as u64;
        self.buffer = draft.append(std::mem::take(&mut self.buffer)).await?;
        self.buffer.shrink_to(self.step);
        self.written += bytes;
        self.whole = true;
        Ok(())
    }
}
