//! Feeds the bytes of a form to its parser, one piece at a time and never far ahead of the output.
//!
//! The parser reads whatever is ready, and all headers of a field at once. Without this bound it would hold an endless form in memory.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, TryStreamExt as _};
use multer::{Field, Multipart};

use super::workshop::{CrashError, Pieces};

/// The most bytes that the parser may hold before it gets another piece: the headers of a field, and pieces from the network.
const AHEAD: usize = 1024 * 1024;

/// The stream that the parser reads.
pub(super) struct Paced {
    pieces: Pieces,
    ahead: Ahead,
    /// Whether a piece was just handed over. The next poll is pending once, so that the parser handles that piece first.
    rests: bool,
}

/// The number of bytes that the parser took and did not return yet. Cheap to clone; clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Ahead(Arc<AtomicUsize>);

impl Ahead {
    /// Records that the parser returned so many bytes of a field.
    pub(super) fn passed(&self, bytes: usize) {
        let less = |ahead: usize| Some(ahead.saturating_sub(bytes));
        // The closure never returns `None`, so the update cannot fail.
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).ok();
    }

    /// Records that the parser reached the next field.
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

/// The parser of a form, and the count of the bytes that it is ahead.
pub(super) fn parts(pieces: Pieces, boundary: &str) -> (Multipart<'static>, Ahead) {
    let (stream, ahead) = Paced::new(pieces);
    (Multipart::new(stream, boundary), ahead)
}

/// The content of a field.
pub(super) fn field_chunks(
    field: Field<'static>,
    ahead: &Ahead,
) -> impl Stream<Item = Result<Bytes, CrashError>> + Unpin + Send + use<> {
    let ahead = ahead.clone();
    field.map_err(broken).inspect_ok(move |chunk| ahead.passed(chunk.len()))
}

/// Converts an error of the parser. An error of the body below it is returned unchanged.
pub(super) fn broken(error: multer::Error) -> CrashError {
    match error {
        multer::Error::StreamReadFailed(why) => match why.downcast() {
            Ok(error) => *error,
            Err(why) => CrashError::Body(why),
        },
        other => CrashError::Multipart(other.to_string()),
    }
}
