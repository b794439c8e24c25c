//! The bytes of a form on their way to its parser: a piece at a time, and never far ahead of what came out of it.
//!
//! The parser takes whatever is ready, and as much of a field's headers as is sent: without this a form without end would be
//! held in memory.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, TryStreamExt as _};
use multer::{Field, Multipart};

use super::workshop::{CrashError, Pieces};

/// The most bytes that the parser may hold: headers of fields, and pieces as they come from the network.
const AHEAD: usize = 1024 * 1024;

/// The stream that the parser reads.
pub(super) struct Paced {
    pieces: Pieces,
    ahead: Ahead,
    /// The last one has not been looked at yet.
    rests: bool,
}

/// How far the parser is ahead. Cheap to clone; clones share everything.
#[derive(Clone, Debug, Default)]
pub(super) struct Ahead(Arc<AtomicUsize>);

impl Ahead {
    /// The parser gave so many bytes.
    pub(super) fn passed(&self, bytes: usize) {
        let less = |ahead: usize| Some(ahead.saturating_sub(bytes));
        // It changes whatever it finds.
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).ok();
    }

    /// The parser came to the next field.
    pub(super) fn catch_up(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

impl Paced {
    pub(super) fn new(pieces: Pieces) -> (Self, Ahead) {
        let ahead = Ahead::default();
        (Self { pieces, ahead: ahead.clone(), rests: false }, ahead)
    }
}

impl Stream for Paced {
    type Item = Result<Bytes, Box<dyn std::error::Error + Send + Sync>>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if std::mem::take(&mut self.rests) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let next = std::task::ready!(self.pieces.poll_next_unpin(cx));
        if let Some(Ok(piece)) = &next {
            self.rests = true;
            if self.ahead.0.fetch_add(piece.len(), Ordering::Relaxed) + piece.len() > AHEAD + piece.len() {
                return Poll::Ready(Some(Err("the headers of a field are too long".into())));
            }
        }
        Poll::Ready(next)
    }
}

/// The parts of a form, and how far their parser is ahead of who reads them.
pub(super) fn parts(pieces: Pieces, boundary: &str) -> (Multipart<'static>, Ahead) {
    let (stream, ahead) = Paced::new(pieces);
    (Multipart::new(stream, boundary), ahead)
}

/// The contents of a part.
pub(super) fn field_chunks(
    field: Field<'static>,
    ahead: &Ahead,
) -> impl Stream<Item = Result<Bytes, CrashError>> + Unpin + Send + use<> {
    let ahead = ahead.clone();
    field.map_err(broken).inspect_ok(move |chunk| ahead.passed(chunk.len()))
}

/// What the parser of forms says. What the body said, it hands on.
pub(super) fn broken(error: multer::Error) -> CrashError {
    match error {
        multer::Error::StreamReadFailed(why) => match why.downcast() {
            Ok(error) => *error,
            Err(why) => CrashError::Body(why),
        },
        other => CrashError::Multipart(other.to_string()),
    }
}
