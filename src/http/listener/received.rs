//! The body of a request on its way in.
//!
//! Rule: what follows a body that was not read to its end is no request, and is not taken for the beginning of one. A body that is
//! not there a while after the daemon was told to stop breaks off with [`Stopping`], so that its client is answered.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::BoxError;
use axum::body::Bytes;
use futures_util::future::BoxFuture;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::sleep;

use super::phase::Phases;

/// How long a body may still take when stopping: less than the daemon waits for SDKs, so that there is time to answer them.
const PATIENCE: Duration = Duration::from_secs(6);

/// Why a body breaks off that did not come before the daemon stops.
#[derive(Debug, thiserror::Error)]
#[error("the daemon stops")]
pub(in crate::http) struct Stopping;

/// A body, and the connection on which it comes.
pub(super) struct Received {
    body: Incoming,
    phases: Phases,
    /// Ready when the body is too late. There is none as long as the body is not waited for.
    late: Option<BoxFuture<'static, ()>>,
}

impl Received {
    pub(super) fn new(body: Incoming, phases: Phases) -> Self {
        Self { body, phases, late: None }
    }

    /// Ready when the body is too late.
    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let late = self.late.get_or_insert_with(|| {
            let stop = self.phases.stopping().clone();
            Box::pin(async move {
                stop.cancelled().await;
                sleep(PATIENCE).await;
            })
        });
        late.as_mut().poll(cx)
    }
}

impl HttpBody for Received {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) else {
            ready!(self.poll_late(cx));
            return Poll::Ready(Some(Err(Stopping.into())));
        };
        if frame.is_none() || self.body.is_end_stream() {
            self.phases.body_ended();
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
