//! The daemon's only HTTP client to upstreams: hyper with a pool of its own and rustls. It knows requests and answers, not what they mean.
//!
//! Rule: whatever the upstream does, an answer costs a bounded number of bytes, reads and pieces.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use crate::policy::verdict::Verdict;
use crate::protocol::answer::{self, Expected};

use super::settings::Settings;

mod connections;
mod connector;
mod line;
mod localhost;
mod packed;
mod pool;
mod stream;
pub mod tls;
pub use connections::{Connections, NoAnswer, of_any_length};
use line::Meter;
pub(super) use packed::Packed;
pub(super) use stream::Stream;

/// The timeout of an answer's body after its head.
const ANSWER_PATIENCE: Duration = Duration::from_secs(2);
/// The most bytes of an answer that are read; a connection with a longer one is given up.
const MAX_ANSWER: usize = 32 * 1024;
/// The most pieces of an answer that are read. A piece may be one byte.
const MAX_PIECES: usize = 256;
const RATE_LIMITS: HeaderName = HeaderName::from_static("x-sentry-rate-limits");
/// The most bytes of an answer that are kept for errors and dead letters.
pub(super) const KEPT_ANSWER: usize = 2 * 1024;

/// A request to an upstream. It is boxed because it moves often.
pub(super) type Parcel = Box<Request<Contents>>;

/// Makes the request once more.
pub(super) type Again<'a> = &'a mut (dyn FnMut() -> Option<Parcel> + Send);

/// The body of a request.
#[derive(Clone, Debug)]
pub(super) enum Contents {
    /// The pieces of a body: the header line of an envelope, the rest, and the end if it is compressed; or the body of another request in
    /// the first piece.
    Pieces([Bytes; 3]),
    /// A large body, read as it is sent.
    Stream(Stream),
    /// A large body, compressed as it is sent.
    Packed(Packed),
}

/// The parts of an upstream's answer that are used.
#[derive(Clone, Debug)]
pub(super) struct Reply {
    pub(super) status: StatusCode,
    /// The lines of `X-Sentry-Rate-Limits`.
    pub(super) rate_limits: Vec<String>,
    pub(super) retry_after: Option<String>,
    /// The beginning of the body, as text.
    pub(super) text: String,
    /// Whether its type is `text/html`.
    is_html: bool,
    /// Whether something else than the tracker says that it took the request.
    pub(super) is_foreign: bool,
}

impl Reply {
    /// The status and the text in few words.
    pub(super) fn gist(&self) -> String {
        match answer::gist(&self.text) {
            text if !self.is_foreign => format!("{} {text}", self.status),
            text if text.is_empty() => format!("{}, and an empty page, as no tracker answers", self.status),
            text => format!("{}, and not as a tracker answers: {text}", self.status),
        }
    }

    /// The verdict of this answer to an envelope.
    pub(super) fn verdict(&self) -> Verdict {
        Verdict::of(self.status, &self.text, self.is_foreign)
    }

    /// The verdict of this answer to another request.
    pub(super) fn verdict_of_other(&self) -> Verdict {
        Verdict::of_other(self.status, &self.text, self.is_foreign)
    }

    /// Judges whether the tracker gave the answer.
    pub(super) fn judged(mut self, expected: Expected) -> Self {
        self.is_foreign = match self.status {
            StatusCode::CONFLICT => Expected::Anything.excludes(&self.text, self.is_html),
            status => status.is_success() && expected.excludes(&self.text, self.is_html),
        };
        self
    }
}

/// Why there is no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum SendError {
    /// There was no answer for this long; for a large body, no progress either.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    #[error("{0}")]
    Network(String),
}

/// The connections for deliveries to one upstream.
#[derive(Clone, Debug)]
pub(super) struct Transport {
    settings: Arc<Settings>,
    connections: Connections<Contents>,
}

impl Transport {
    pub(super) fn new(settings: &Arc<Settings>) -> Self {
        let connections = Connections::new(settings, settings.max_in_flight.get().into());
        Self { settings: Arc::clone(settings), connections }
    }

    /// Whether the settings were loaded again since. Names may have moved, and files may have been renewed.
    pub(super) fn is_outdated(&self, settings: &Arc<Settings>) -> bool {
        !Arc::ptr_eq(&self.settings, settings)
    }

    /// The settings that it was made by.
    pub(super) const fn settings(&self) -> &Arc<Settings> {
        &self.settings
    }

    /// Sends a request and waits for the whole answer. If the connection dies before any answer, sends once more at once what `again`
    /// makes: servers close idle connections without notice (GlitchTip's default one after each answer), and a tracker drops a repeat by
    /// its event id. A body that is not in memory is sent again unchanged.
    ///
    /// `patience` is for all of it; for a large body it is for each piece, and for the answer after the last one.
    pub(super) async fn send(&self, parcel: Parcel, patience: Duration, again: Again<'_>) -> Result<Reply, SendError> {
        Ok(read(self.exchange(parcel, patience, again).await?.0).await)
    }

    /// Sends a request and waits for an answer of at most `most` bytes; `None` in place of a body that is longer, or does not end in time.
    pub(super) async fn fetch(
        &self,
        parcel: Parcel,
        patience: Duration,
        most: usize,
    ) -> Result<(StatusCode, HeaderMap, Option<Vec<u8>>), SendError> {
        let until = Instant::now() + patience;
        let mut copy = Some(parcel.clone());
        let (response, meter) = self.exchange(parcel, patience, &mut || copy.take()).await?;
        // The meter is renewed once the body is read.
        meter.as_ref().inspect(|meter| meter.grant(most));
        let (head, body) = response.into_parts();
        let body = timeout_at(until, Limited::new(body, most).collect()).await;
        if let Some(meter) = meter {
            meter.renew();
        }
        let body = body.ok().and_then(Result::ok).map(|body| body.to_bytes().into());
        Ok((head.status, head.headers, body))
    }

    async fn exchange(
        &self,
        parcel: Parcel,
        patience: Duration,
        again: Again<'_>,
    ) -> Result<(Response<Incoming>, Option<Meter>), SendError> {
        let (progress, copy) = match parcel.body() {
            Contents::Pieces(_) => (None, None),
            Contents::Stream(stream) => (Some(stream.progress()), Some(parcel.clone())),
            Contents::Packed(packed) => (Some(packed.progress()), Some(parcel.clone())),
        };
        let exchange = async {
            let mut response = self.connections.request_metered(parcel).await;
            if response.as_ref().is_err_and(NoAnswer::died_before_answer)
                && let Some(parcel) = copy.or_else(again)
            {
                response = Box::pin(self.connections.request_metered(parcel)).await;
            }
            response.map_err(|error| SendError::Network(error.to_string()))
        };
        let exchange = std::pin::pin!(exchange);
        let response = match &progress {
            None => timeout(patience, exchange).await.ok(),
            Some(progress) => progress.watch(exchange, patience).await,
        };
        let (response, meter) = response.unwrap_or(Err(SendError::Timeout(patience)))?;
        // No upstream stores an envelope that it has not read.
        if response.status().is_success() && progress.is_some_and(|progress| !progress.is_done()) {
            return Err(SendError::Network(format!("it answered {} before it had the envelope", response.status())));
        }
        Ok((response, meter))
    }
}

/// Makes a request of its parts.
pub(super) fn parcel(method: Method, uri: Uri, headers: HeaderMap, body: Contents) -> Parcel {
    let mut request = Box::new(Request::new(body));
    (*request.method_mut(), *request.uri_mut(), *request.headers_mut()) = (method, uri, headers);
    request
}

/// Reads the used parts of an answer. If the answer is not read to its end, the request counts as under way until [`ANSWER_PATIENCE`] is
/// over, so that a server whose answers never end costs few connections, not one for each envelope.
async fn read(response: Response<Incoming>) -> Reply {
    let (head, mut body) = response.into_parts();
    let mut text = Vec::new();
    let mut total = 0;
    let mut is_whole = false;
    let until = Instant::now() + ANSWER_PATIENCE;
    // The status is what counts: an answer whose body breaks off or does not end is still an answer.
    for _ in 0..MAX_PIECES {
        let next = timeout_at(until, body.frame()).await;
        is_whole = matches!(next, Ok(None));
        let Ok(Some(Ok(frame))) = next else { break };
        let Ok(data) = frame.into_data() else { continue };
        total += data.len();
        text.extend_from_slice(&data[..data.len().min(KEPT_ANSWER - text.len())]);
        if total > MAX_ANSWER {
            break;
        }
    }
    drop(body);
    if !is_whole {
        sleep_until(until).await;
    }
    let lines = head.headers.get_all(RATE_LIMITS).iter();
    Reply {
        status: head.status,
        rate_limits: lines.filter_map(|line| line.to_str().ok()).map(str::to_owned).collect(),
        retry_after: head.headers.get(header::RETRY_AFTER).and_then(|v| v.to_str().ok()).map(str::to_owned),
        text: String::from_utf8_lossy(&text).into_owned(),
        is_html: head.headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"text/html")),
        is_foreign: false,
    }
}

/// An error with its causes, in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    // `openssl req -x509` marks a certificate as an authority, and rustls has no words for a server with such a one.
    text.replace("Other(OtherError(CaUsedAsEndEntity))", "a self-signed certificate, or one of an authority")
}

impl Body for Contents {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let next = match &mut *self {
            Self::Pieces(pieces) => {
                let next = pieces.iter_mut().find(|piece| !piece.is_empty()).map(std::mem::take);
                Poll::Ready(next.map(Ok))
            }
            Self::Stream(stream) => stream.poll_next(cx),
            Self::Packed(packed) => packed.poll_next(cx),
        };
        next.map_ok(Frame::data)
    }

    fn is_end_stream(&self) -> bool {
        self.left() == Some(0)
    }

    fn size_hint(&self) -> SizeHint {
        self.left().map_or_else(SizeHint::new, SizeHint::with_exact)
    }
}

impl Contents {
    /// The bytes still to be sent; `None` while that is not known.
    fn left(&self) -> Option<u64> {
        match self {
            Self::Pieces(pieces) => Some(pieces.iter().map(|piece| piece.len() as u64).sum()),
            Self::Stream(stream) => Some(stream.left()),
            Self::Packed(packed) => packed.is_done().then_some(0),
        }
    }
}

/// The content type of an envelope.
pub(super) const ENVELOPE: HeaderValue = HeaderValue::from_static("application/x-sentry-envelope");
