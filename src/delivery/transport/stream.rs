//! A large envelope, sent in pieces. The next piece is read when the connection has room for it, so that a slow upstream costs no memory.
//! It knows byte ranges, not their content.

use std::io;
use std::ops::Range;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::time::{Instant, timeout_at};

use crate::journal::body::Pieces;
use crate::tasks;

/// The size of a piece, in bytes.
const PIECE: u64 = 64 * 1024;

/// A large envelope on its way to an upstream. A clone begins anew and shares the time of the last progress.
pub(in crate::delivery) struct Stream {
    /// What is sent from memory: before the ranges, and after them.
    head: Bytes,
    tail: Bytes,
    pieces: Arc<dyn Pieces>,
    /// The ranges of the body that are sent.
    ranges: Arc<[Range<u64>]>,
    /// The position of the next range, and how many of its bytes were read.
    next: (usize, u64),
    reading: Option<BoxFuture<'static, io::Result<Bytes>>>,
    left: u64,
    progress: Progress,
}

/// The progress of a body on its way. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Progress(Arc<Mutex<Moved>>);

#[derive(Clone, Copy, Debug)]
struct Moved {
    /// When a connection last took a piece, or the request began.
    at: Instant,
    /// The bytes that no connection has taken yet.
    left: u64,
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stream").field("ranges", &self.ranges).field("left", &self.left).finish_non_exhaustive()
    }
}

impl Clone for Stream {
    fn clone(&self) -> Self {
        let (head, tail, pieces, ranges) =
            (self.head.clone(), self.tail.clone(), self.pieces.clone(), self.ranges.clone());
        let left = length(&head, &ranges, &tail);
        Self { head, tail, pieces, ranges, next: (0, 0), reading: None, left, progress: self.progress.clone() }
    }
}

fn length(head: &Bytes, ranges: &[Range<u64>], tail: &Bytes) -> u64 {
    (head.len() + tail.len()) as u64 + ranges.iter().map(|range| range.end - range.start).sum::<u64>()
}

impl Stream {
    /// Sends `head`, then these ranges of a body, then `tail`.
    pub(in crate::delivery) fn new(head: Bytes, pieces: Arc<dyn Pieces>, ranges: Vec<Range<u64>>, tail: Bytes) -> Self {
        let left = length(&head, &ranges, &tail);
        let progress = Progress(Arc::new(Mutex::new(Moved { at: Instant::now(), left })));
        Self { head, tail, pieces, ranges: ranges.into(), next: (0, 0), reading: None, left, progress }
    }

    /// The bytes still to be sent.
    pub(super) const fn left(&self) -> u64 {
        self.left
    }

    /// The progress of the envelope.
    pub(super) fn progress(&self) -> Progress {
        self.progress.clone()
    }

    /// The next piece, once it is read.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        let piece = match &mut self.reading {
            Some(reading) => {
                let piece = ready!(reading.as_mut().poll(cx));
                self.reading = None;
                piece
            }
            None if !self.head.is_empty() => Ok(std::mem::take(&mut self.head)),
            None => match self.next_range() {
                Some(range) => {
                    let pieces = Arc::clone(&self.pieces);
                    self.reading = Some(Box::pin(tasks::blocking(move || pieces.read(range))));
                    return self.poll_next(cx);
                }
                None if self.tail.is_empty() => return Poll::Ready(None),
                None => Ok(std::mem::take(&mut self.tail)),
            },
        };
        self.left -= piece.as_ref().map_or(0, |piece| piece.len() as u64);
        self.progress.note(self.left);
        Poll::Ready(Some(piece))
    }

    /// The range of the next piece in the body.
    fn next_range(&mut self) -> Option<Range<u64>> {
        loop {
            let (at, done) = self.next;
            let range = self.ranges.get(at)?;
            let start = range.start + done;
            if start < range.end {
                let end = range.end.min(start + PIECE);
                self.next.1 += end - start;
                return Some(start..end);
            }
            self.next = (at + 1, 0);
        }
    }
}

impl Progress {
    /// Waits for `exchange`. Returns `None` once a piece, or the answer after the last one, takes longer than `patience`.
    pub(super) async fn watch<T>(&self, exchange: impl Future<Output = T>, patience: Duration) -> Option<T> {
        let mut exchange = pin!(exchange);
        self.note(self.last().left);
        loop {
            let last = self.last().at;
            match timeout_at(last + patience, &mut exchange).await {
                Ok(done) => return Some(done),
                Err(_) if self.last().at == last => return None,
                Err(_) => {}
            }
        }
    }

    /// Whether a connection has taken all of the body.
    pub(super) fn is_done(&self) -> bool {
        self.last().left == 0
    }

    fn last(&self) -> Moved {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn note(&self, left: u64) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Moved { at: Instant::now(), left };
    }
}
