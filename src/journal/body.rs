//! Bodies: a small one is in memory, a large one is in the backend's storage.
//!
//! Rule: reading a large body blocks. Asynchronous code reads it through [`tasks::blocking`].

use std::any::Any;
use std::fmt;
use std::io::{self, BufRead, Read};
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use bytes::{Buf as _, Bytes};
use futures_util::{Stream, stream};

use crate::protocol::envelope::{Envelope, EnvelopeError, Item, Outline, Scanner};
use crate::tasks;

/// The largest body that is kept in memory, in bytes.
pub const IN_MEMORY: usize = 1 << 20;
/// The size of the first read of a large body, and of later ones, in bytes.
const FIRST_PIECE: u64 = 4 << 10;
const PIECE: u64 = 64 << 10;
/// The most bytes of event payloads that a large body caches. An event has 1 MiB at most, and few envelopes have two.
const EVENTS: u64 = 4 << 20;

/// The bytes of a submission.
#[derive(Clone, Debug)]
pub enum Body {
    /// In memory.
    Memory(Bytes),
    /// In the backend's storage.
    Large(Arc<LargeBody>),
}

/// Why a body has no outline.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// It is not an envelope.
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

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The number of its bytes in memory.
    pub fn in_memory(&self) -> usize {
        match self {
            Self::Memory(bytes) => bytes.len(),
            Self::Large(_) => 0,
        }
    }

    /// The envelope's header line and the positions of its items. A large body is read once for it; the result is cached.
    pub fn outline(&self) -> Result<Outline, Unreadable> {
        match self {
            Self::Memory(bytes) => Ok(Envelope::parse(bytes.clone())?.into_outline()),
            Self::Large(large) => large.outline(),
        }
    }

    /// Whether [`Body::outline`] returns without reading storage.
    pub fn is_at_hand(&self) -> bool {
        match self {
            Self::Memory(_) => true,
            Self::Large(large) => large.outline.get().is_some(),
        }
    }

    /// The payload of an item. Blocks, and reads the payload into memory, if the body is large: only for payloads known to be small.
    pub fn payload(&self, item: &Item) -> io::Result<Bytes> {
        self.piece(item.payload())
    }

    /// Reads and caches the payloads of a large body's events, so that [`Body::event`] returns them. Blocks.
    pub fn read_events(&self) -> Result<(), Unreadable> {
        let Self::Large(large) = self else { return Ok(()) };
        if large.events.get().is_none() {
            drop(large.events.set(large.scan_events()?));
        }
        Ok(())
    }

    /// The payload of an event, if it is in memory or was [read](Self::read_events).
    pub fn event(&self, item: &Item) -> Option<Bytes> {
        match self {
            Self::Memory(_) => self.payload(item).ok(),
            Self::Large(large) => {
                let mut events = large.events.get()?.iter();
                events.find(|(start, _)| *start == item.payload().start).map(|(_, payload)| payload.clone())
            }
        }
    }

    /// The bytes of a range. Blocks, and reads them into memory, if the body is large.
    pub fn piece(&self, range: Range<u64>) -> io::Result<Bytes> {
        match self {
            Self::Memory(bytes) => Ok(bytes.slice(range.start as usize..range.end as usize)),
            Self::Large(large) => large.open()?.read(range),
        }
    }

    /// The body in pieces of up to 64 KiB, each read when it is polled for.
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

    /// A reader from the beginning.
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
    /// Cached event payloads, each with its offset.
    events: OnceLock<Vec<(u64, Bytes)>>,
}

/// The backend's handle on the bytes of a large body. It is dropped with the last handle on the body; the bytes are removed then,
/// unless a record has taken them over.
pub trait Source: Any + Send + Sync + fmt::Debug {
    /// Opens it for reading. Blocks.
    fn open(&self) -> io::Result<Box<dyn Pieces>>;
}

/// An open body.
pub trait Pieces: Send + Sync + fmt::Debug {
    /// The bytes of a range. Blocks.
    fn read(&self, range: Range<u64>) -> io::Result<Bytes>;
}

impl LargeBody {
    /// A body of `len` bytes.
    pub fn new(len: u64, source: impl Source) -> Self {
        Self { len, source: Box::new(source), outline: OnceLock::new(), events: OnceLock::new() }
    }

    /// The source as the backend's own type.
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

    /// Reads the header lines and skips payloads of known length.
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
