//! The body of a request on its way in.
//!
//! Rule: what follows a body that was not read to its end is no request, and is not taken for the beginning of one.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::body::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;

use super::phase::Phases;

/// A body, and the connection on which it comes.
pub(super) struct Received {
    body: Incoming,
    phases: Phases,
}

impl Received {
    pub(super) fn new(body: Incoming, phases: Phases) -> Self {
        Self { body, phases }
    }
}

impl HttpBody for Received {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if frame.is_none() || self.body.is_end_stream() {
            self.phases.body_ended();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
