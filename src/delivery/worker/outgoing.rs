//! Sends a request: compressed if that is wanted, and uncompressed if the upstream refuses the encoding.
//!
//! Rule: a compressed envelope counts as refused only if the upstream refuses it uncompressed as well.

use std::sync::Arc;
use std::time::Duration;

use http::{Request, header};

use crate::delivery::compress::{Compress, Packs};
use crate::delivery::settings::Settings;
use crate::delivery::transport::{Again, Contents, Packed, Parcel, Reply, SendError, Transport};
use crate::journal::Claim;
use crate::policy::verdict::Verdict;
use crate::protocol::answer::Expected;
use crate::protocol::dsn::Dsn;

use super::Worker;

/// How one request is sent.
pub(super) struct Outgoing {
    transport: Arc<Transport>,
    packs: Packs,
    how: Compress,
    /// Whether the upstream takes a body without `Content-Length`.
    without_length: bool,
    patience: Duration,
    expected: Expected,
}

impl Worker {
    /// How a claim is sent. A record that is no envelope is sent as it came.
    pub(super) fn outgoing(&self, claim: &Claim, settings: &Settings, to: &Dsn) -> Outgoing {
        let wanted = Some(settings.compression(to)).filter(|how| self.declined != Some(*how));
        let how = wanted.filter(|_| claim.record.client.request.is_none()).unwrap_or(Compress::None);
        Outgoing {
            transport: Arc::clone(&self.transport),
            packs: self.around.packs.clone(),
            how,
            without_length: !self.quirks().wants_length,
            patience: settings.timeout.get(),
            expected: expected(claim, settings),
        }
    }
}

/// The answer of an upstream that has taken a claim. For a request that is no envelope each endpoint has its own: nothing, text, protobuf.
fn expected(claim: &Claim, settings: &Settings) -> Expected {
    claim.record.client.request.as_ref().map_or(settings.kind.answers(), |_| Expected::Anything)
}

impl Outgoing {
    /// Sends a request and waits for the answer. Also returns the encoding if the upstream refused it and took the same uncompressed.
    /// `again` makes the request once more.
    pub(super) async fn send(&self, parcel: Parcel, again: Again<'_>) -> (Result<Reply, SendError>, Option<Compress>) {
        if self.how == Compress::None {
            return (self.send_once(parcel, again).await, None);
        }
        // Boxed, because most requests need none of it.
        Box::pin(self.send_packed(parcel)).await
    }

    async fn send_packed(&self, parcel: Parcel) -> (Result<Reply, SendError>, Option<Compress>) {
        let Some(packed) = self.packed(parcel.clone()).await else {
            return (self.send_twice(parcel).await, None);
        };
        let first = self.send_twice(packed).await;
        if !first.as_ref().is_ok_and(may_be_the_encoding) {
            return (first, None);
        }
        let second = self.send_twice(parcel).await;
        let is_taken = second.as_ref().is_ok_and(|reply| reply.verdict() == Verdict::Delivered);
        (second, is_taken.then_some(self.how))
    }

    async fn send_twice(&self, parcel: Parcel) -> Result<Reply, SendError> {
        let mut copy = Some(parcel.clone());
        self.send_once(parcel, &mut || copy.take()).await
    }

    async fn send_once(&self, parcel: Parcel, again: Again<'_>) -> Result<Reply, SendError> {
        Ok(self.transport.send(parcel, self.patience, again).await?.judged(self.expected))
    }

    async fn packed(&self, parcel: Parcel) -> Option<Parcel> {
        let (mut head, body) = parcel.into_parts();
        let body = match body {
            Contents::Pieces([line, rest, _]) => Contents::Pieces(self.packs.pack(line, rest, self.how).await?),
            Contents::Stream(stream) if self.without_length => Contents::Packed(Packed::new(stream, self.how)),
            Contents::Stream(_) | Contents::Packed(_) => return None,
        };
        head.headers.insert(header::CONTENT_ENCODING, self.how.header());
        Some(Box::new(Request::from_parts(head, body)))
    }
}

/// Whether the answer may be about the encoding, and not about the envelope: refused for good, or 411 for a missing length.
fn may_be_the_encoding(reply: &Reply) -> bool {
    reply.status.as_u16() == 411 || reply.verdict() == Verdict::Refused
}
