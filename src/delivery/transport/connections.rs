//! The connections to one upstream, kept between requests: the one client behind deliveries, questions and what is passed on.

use std::fmt;
use std::time::Duration;

use http::uri::Scheme;
use http::{Request, Response, StatusCode, header};
use http_body::Body;
use hyper::body::Incoming;
use hyper_util::client::legacy::connect::capture_connection;
use hyper_util::client::legacy::{Client, Error};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tower::BoxError;

use super::super::proxies::{self, Proxy};
use super::super::settings::Settings;
use super::chain;
use super::connector::{Connector, WANTS_USER};
use super::line::{Endless, MOST_BYTES, Meter};

/// How long an unused connection is kept: less than most servers do, so that few die under a request.
const POOL_IDLE: Duration = Duration::from_secs(20);
/// What a connection holds of a body that the upstream takes slowly, and the longest head of an answer.
const CONNECTION_BUFFER: usize = MOST_BYTES;

/// The connections to one upstream, for requests with bodies of one kind.
pub struct Connections<B> {
    client: Client<Connector, B>,
    max_age: Duration,
    proxy: proxies::Choice,
}

impl<B> Clone for Connections<B> {
    fn clone(&self) -> Self {
        Self { client: self.client.clone(), max_age: self.max_age, proxy: self.proxy.clone() }
    }
}

impl<B> fmt::Debug for Connections<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connections").field("max_age", &self.max_age).finish_non_exhaustive()
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum NoAnswer {
    /// No connection, or none that lasted until the end of the answer's head.
    #[error("{}", why(.0))]
    Failed(Error),
    /// The proxy answered in the upstream's place.
    #[error("by way of the proxy {0}: {WANTS_USER}")]
    Shut(Proxy),
}

impl<B> Connections<B>
where
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    /// None yet; at most `kept` are kept while they are not used.
    pub fn new(settings: &Settings, kept: usize) -> Self {
        let client = Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(POOL_IDLE)
            .pool_max_idle_per_host(kept)
            .http1_max_buf_size(CONNECTION_BUFFER)
            .build(Connector::new(settings));
        Self { client, max_age: settings.max_connection_age.get(), proxy: settings.proxy.clone() }
    }

    /// Sends a request and waits for the head of its answer. A connection that is too old by then carries no further one.
    ///
    /// # Errors
    ///
    /// When there is none, or one without an end.
    pub async fn request(&self, mut request: Request<B>) -> Result<Response<Incoming>, NoAnswer> {
        let connection = capture_connection(&mut request);
        // What goes through a tunnel is none of the proxy's business.
        let proxy = self.proxy.proxy(request.uri()).ok().flatten();
        let proxy = proxy.filter(|proxy| proxy.is_http() && request.uri().scheme() == Some(&Scheme::HTTP)).cloned();
        if let Some(authorization) = proxy.as_ref().and_then(Proxy::authorization) {
            request.headers_mut().insert(header::PROXY_AUTHORIZATION, authorization);
        }
        let response = self.client.request(request).await.map_err(NoAnswer::Failed)?;
        if let Some(meter) = response.extensions().get::<Meter>() {
            meter.renew();
            if meter.age() >= self.max_age {
                connection.connection_metadata().as_ref().inspect(|connection| connection.poison());
            }
        }
        match proxy {
            Some(proxy) if response.status() == StatusCode::PROXY_AUTHENTICATION_REQUIRED => Err(NoAnswer::Shut(proxy)),
            _ => Ok(response),
        }
    }
}

/// Lets the body of an answer have so many bytes. Whoever has read it renews the meter.
pub(super) fn grant(response: &Response<Incoming>, bytes: usize) -> Option<Meter> {
    let meter = response.extensions().get::<Meter>()?;
    meter.grant(bytes);
    Some(meter.clone())
}

/// Lets the body of an answer be of any length. Its connection must not be used again.
pub fn of_any_length(response: &Response<Incoming>) {
    if let Some(meter) = response.extensions().get::<Meter>() {
        meter.open();
    }
}

impl NoAnswer {
    /// Whether there was no connection to the upstream.
    pub fn is_unreached(&self) -> bool {
        match self {
            Self::Failed(error) => error.is_connect(),
            Self::Shut(_) => true,
        }
    }

    /// Whether the connection ended before anything of an answer came.
    pub(super) fn died_before_answer(&self) -> bool {
        let Self::Failed(error) = self else { return false };
        !error.is_connect()
            && http_error(error)
                .is_some_and(|e| e.is_incomplete_message() || e.is_closed() || e.is_canceled() || is_reset(e))
    }
}

fn why(error: &Error) -> String {
    // The client's own limit, in the words of ours.
    if http_error(error).is_some_and(hyper::Error::is_parse_too_large) {
        return Endless::Bytes.to_string();
    }
    chain(error)
}

fn http_error(error: &Error) -> Option<&hyper::Error> {
    std::error::Error::source(error).and_then(|source| source.downcast_ref())
}

fn is_reset(error: &hyper::Error) -> bool {
    use std::io::ErrorKind::{BrokenPipe, ConnectionReset};
    let io = std::error::Error::source(error).and_then(|source| source.downcast_ref::<std::io::Error>());
    io.is_some_and(|e| matches!(e.kind(), ConnectionReset | BrokenPipe))
}
