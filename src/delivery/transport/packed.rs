//! An envelope from a file, compressed as it is sent. The next piece is read when the connection has room for it, so that the envelope
//! costs no more memory than an uncompressed one. Its length is not known before its end.

use std::io;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::future::BoxFuture;

use super::Stream;
use super::stream::Progress;
use crate::delivery::compress::{Compress, Press};
use crate::tasks;

/// A compressed envelope on its way. A clone begins anew.
pub(in crate::delivery) struct Packed {
    from: Stream,
    how: Compress,
    state: State,
}

enum State {
    /// Nothing has gone out.
    New,
    /// The press waits for the next piece.
    Between(Box<Press>),
    /// The press compresses a piece. It comes back unless that was the last piece.
    Pressing(BoxFuture<'static, io::Result<(Option<Box<Press>>, Bytes)>>),
    /// All has gone out.
    Done,
}

impl Packed {
    pub(in crate::delivery) const fn new(from: Stream, how: Compress) -> Self {
        Self { from, how, state: State::New }
    }

    /// The progress of the envelope.
    pub(super) fn progress(&self) -> Progress {
        self.from.progress()
    }

    /// Whether all has gone out.
    pub(super) const fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// The next compressed piece.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        loop {
            match std::mem::replace(&mut self.state, State::Done) {
                State::New => match Press::new(self.how) {
                    Ok(Some(press)) => self.state = State::Between(Box::new(press)),
                    Ok(None) => return Poll::Ready(None),
                    Err(error) => return Poll::Ready(Some(Err(error))),
                },
                State::Between(mut press) => {
                    let Poll::Ready(next) = self.from.poll_next(cx) else {
                        self.state = State::Between(press);
                        return Poll::Pending;
                    };
                    let next = next.transpose()?;
                    // What the press holds has not gone out.
                    self.from.progress().note(1);
                    self.state = State::Pressing(Box::pin(tasks::blocking(move || match next {
                        Some(piece) => press.write(&piece).map(|out| (Some(press), out)),
                        None => press.finish().map(|out| (None, out)),
                    })));
                }
                State::Pressing(mut pressing) => {
                    let Poll::Ready(pressed) = pressing.as_mut().poll(cx) else {
                        self.state = State::Pressing(pressing);
                        return Poll::Pending;
                    };
                    let (press, out) = pressed?;
                    if press.is_none() {
                        self.from.progress().note(0);
                    }
                    self.state = press.map_or(State::Done, State::Between);
                    if !out.is_empty() {
                        return Poll::Ready(Some(Ok(out)));
                    }
                }
                State::Done => return Poll::Ready(None),
            }
        }
    }
}

impl Clone for Packed {
    fn clone(&self) -> Self {
        Self::new(self.from.clone(), self.how)
    }
}

impl std::fmt::Debug for Packed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Packed").field("from", &self.from).field("how", &self.how).finish_non_exhaustive()
    }
}
