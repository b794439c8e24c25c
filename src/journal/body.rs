//! Bodies: small ones in memory, large ones where the backend has put them, so that they cost disk and not memory.
//!
//! Rule: reading a large one blocks: from asynchronous code through [`tasks::blocking`].

use std::any::Any;
use std::fmt;
use std::io::{self, BufRead, Read};
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use bytes::{Buf as _, Bytes};
use futures_util::{Stream, stream};

use crate::protocol::envelope::{Envelope, EnvelopeError, Item, Outline, Scanner};
use crate::tasks;

/// Larger bodies are not kept in memory.
pub const IN_MEMORY: usize = 1 << 20;
/// What is read of a large one at once, to begin with and later.
const FIRST_PIECE: u64 = 4 << 10;
const PIECE: u64 = 64 << 10;
/// So much of what the events in a large one say is remembered: each has 1 MiB at most, and hardly an envelope has two.
const EVENTS: u64 = 4 << 20;

/// The bytes of a submission.
#[derive(Clone, Debug)]
pub enum Body {
    /// In memory.
    Memory(Bytes),
    /// Where the backend has put it.
    Large(Arc<LargeBody>),
}

/// Why a body's outline cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// It is no envelope.
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
    /// Its bytes cannot be read.
    #[error("the file of the body cannot be read: {0}")]
    Io(#[from] io::Error),
}

impl Body {
    /// Its length in bytes.
    pub fn len(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
            Self::Large(large) => large.len,
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
            Self::Large(_) => 0,
        }
    }

    /// The envelope's header line and where its items lie. Of a large one it is read once and remembered.
    pub fn outline(&self) -> Result<Outline, Unreadable> {
        match self {
            Self::Memory(bytes) => Ok(Envelope::parse(bytes.clone())?.into_outline()),
            Self::Large(large) => large.outline(),
        }
    }

    /// Whether [`Body::outline`] answers without reading anything.
    pub fn is_at_hand(&self) -> bool {
        match self {
            Self::Memory(_) => true,
            Self::Large(large) => large.outline.get().is_some(),
        }
    }

    /// The payload of an item, read into memory when it is not there: of what is known to be small. Blocks then.
    pub fn payload(&self, item: &Item) -> io::Result<Bytes> {
        self.piece(item.payload())
    }

    /// Reads what the events in it say, and remembers that of a large one. Blocks.
    pub fn read_events(&self) -> Result<(), Unreadable> {
        let Self::Large(large) = self else { return Ok(()) };
        if large.events.get().is_none() {
            drop(large.events.set(large.scan_events()?));
        }
        Ok(())
    }

    /// What an event in it says, if that is in memory, or was [read](Self::read_events).
    pub fn event(&self, item: &Item) -> Option<Bytes> {
        match self {
            Self::Memory(_) => self.payload(item).ok(),
            Self::Large(large) => {
                let mut events = large.events.get()?.iter();
                events.find(|(start, _)| *start == item.payload().start).map(|(_, payload)| payload.clone())
            }
        }
    }

    /// The bytes of a range within it, read into memory when it is not there. Blocks then.
    pub fn piece(&self, range: Range<u64>) -> io::Result<Bytes> {
        match self {
            Self::Memory(bytes) => Ok(bytes.slice(range.start as usize..range.end as usize)),
            Self::Large(large) => large.open()?.read(range),
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
                Self::Large(_) => {
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
            Self::Large(large) => Box::new(Reading { pieces: large.open()?, rest: 0..large.len, piece: Bytes::new() }),
        })
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self::Memory(bytes)
    }
}

/// A body that is not in memory.
#[derive(Debug)]
pub struct LargeBody {
    len: u64,
    source: Box<dyn Source>,
    outline: OnceLock<Outline>,
    /// What its events say, by where they begin.
    events: OnceLock<Vec<(u64, Bytes)>>,
}

/// Where the bytes of a large body are: only the backend knows. It is dropped with the last handle on the body; the bytes go then if
/// no record has taken them over.
pub trait Source: Any + Send + Sync + fmt::Debug {
    /// Opens it for reading. Blocks.
    fn open(&self) -> io::Result<Box<dyn Pieces>>;
}

/// An open body.
pub trait Pieces: Send + Sync + fmt::Debug {
    /// The bytes of a range within it. Blocks.
    fn read(&self, range: Range<u64>) -> io::Result<Bytes>;
}

impl LargeBody {
    /// A body of so many bytes.
    pub fn new(len: u64, source: impl Source) -> Self {
        Self { len, source: Box::new(source), outline: OnceLock::new(), events: OnceLock::new() }
    }

    /// Where its bytes are: the backend's own type, for the backend.
    pub fn source<T: Source>(&self) -> Option<&T> {
        let source: &dyn Any = &*self.source;
        source.downcast_ref()
    }

    /// Opens it for reading. Blocks.
    pub fn open(&self) -> io::Result<Box<dyn Pieces>> {
        self.source.open()
    }

    fn outline(&self) -> Result<Outline, Unreadable> {
        if let Some(outline) = self.outline.get() {
            return Ok(outline.clone());
        }
        let outline = self.scan()?;
        Ok(self.outline.get_or_init(|| outline).clone())
    }

    fn scan_events(&self) -> Result<Vec<(u64, Bytes)>, Unreadable> {
        let (outline, pieces, mut left) = (self.outline()?, self.open()?, EVENTS);
        let mut events = Vec::new();
        for payload in outline.items().iter().filter(|item| item.kind.is_event()).map(Item::payload) {
            let Some(rest) = left.checked_sub(payload.end - payload.start) else { break };
            left = rest;
            events.push((payload.start, pieces.read(payload)?));
        }
        Ok(events)
    }

    /// Reads the header lines; payloads whose length is known are passed over.
    fn scan(&self) -> Result<Outline, Unreadable> {
        let (pieces, mut scanner, mut at) = (self.open()?, Scanner::new(), 0);
        while at < self.len {
            let payload = scanner.payload_left().min(self.len - at);
            scanner.skip(payload);
            at += payload;
            let size = if at == 0 { FIRST_PIECE } else { PIECE };
            let piece = pieces.read(at..self.len.min(at + size))?;
            scanner.push(&piece)?;
            at += piece.len() as u64;
        }
        Ok(scanner.finish()?)
    }
}

/// Reads a large body from its beginning, a piece at a time.
#[derive(Debug)]
struct Reading {
    pieces: Box<dyn Pieces>,
    rest: Range<u64>,
    piece: Bytes,
}

impl BufRead for Reading {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.piece.is_empty() && !self.rest.is_empty() {
            let end = self.rest.end.min(self.rest.start + PIECE);
            self.piece = self.pieces.read(self.rest.start..end)?;
            self.rest.start = end;
        }
        Ok(&self.piece)
    }

    fn consume(&mut self, amount: usize) {
        self.piece.advance(amount);
    }
}

impl Read for Reading {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.fill_buf()?.read(into)?;
        self.consume(read);
        Ok(read)
    }
}
