//! The connections to one upstream, kept between requests: the client of deliveries, questions and requests that are passed on.

use std::fmt;
use std::time::Duration;

use http::uri::{PathAndQuery, Scheme};
use http::{HeaderValue, Request, Response, StatusCode, Uri, header};
use http_body::Body;
use hyper::body::Incoming;
use tower::BoxError;

use super::super::proxies::{self, Proxy};
use super::super::settings::Settings;
use super::chain;
use super::connector::{Connector, WANTS_USER};
use super::line::{Endless, Meter};
use super::pool::{NoConnection, Pool};

/// The connections to one upstream, for requests with one type of body.
pub struct Connections<B> {
    pool: Pool<B>,
    max_age: Duration,
    proxy: proxies::Choice,
}

impl<B> Clone for Connections<B> {
    fn clone(&self) -> Self {
        Self { pool: self.pool.clone(), max_age: self.max_age, proxy: self.proxy.clone() }
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
    /// There was no connection, or it ended before the head of the answer did.
    #[error("{}", why(.0))]
    Failed(Failure),
    /// The proxy answered in the upstream's place.
    #[error("by way of the proxy {0}: {WANTS_USER}")]
    Shut(Proxy),
}

/// The step of an exchange that failed.
#[derive(Debug)]
pub struct Failure(Step);

#[derive(Debug, thiserror::Error)]
enum Step {
    #[error(transparent)]
    Connect(NoConnection),
    #[error("no answer")]
    Send(#[source] hyper::Error),
}

impl<B> Connections<B>
where
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    /// Makes an empty pool; it keeps at most `kept` unused connections.
    pub fn new(settings: &Settings, kept: usize) -> Self {
        let pool = Pool::new(Connector::new(settings), kept);
        Self { pool, max_age: settings.max_connection_age.get(), proxy: settings.proxy.clone() }
    }

    /// Sends a request and waits for the head of its answer. A connection that is older than the maximum by then is not used again.
    ///
    /// # Errors
    ///
    /// When there is no answer, or its head has no end.
    pub async fn request(&self, request: Request<B>) -> Result<Response<Incoming>, NoAnswer> {
        let (mut response, meter) = self.request_metered(Box::new(request)).await?;
        if let Some(meter) = meter {
            response.extensions_mut().insert(meter);
        }
        Ok(response)
    }

    /// As [`Connections::request`], with the meter of the connection.
    pub(super) async fn request_metered(
        &self,
        mut request: Box<Request<B>>,
    ) -> Result<(Response<Incoming>, Option<Meter>), NoAnswer> {
        // A proxy does not see what goes through a tunnel.
        let proxy = self.proxy.proxy(request.uri()).ok().flatten();
        let proxy = proxy.filter(|proxy| proxy.is_http() && request.uri().scheme() == Some(&Scheme::HTTP)).cloned();
        if let Some(authorization) = proxy.as_ref().and_then(Proxy::authorization) {
            request.headers_mut().insert(header::PROXY_AUTHORIZATION, authorization);
        }
        let answer = self.exchange(request).await.map_err(|step| NoAnswer::Failed(Failure(step)))?;
        match proxy {
            Some(proxy) if answer.0.status() == StatusCode::PROXY_AUTHENTICATION_REQUIRED => Err(NoAnswer::Shut(proxy)),
            _ => Ok(answer),
        }
    }

    /// Sends a request over a waiting connection, or over a new one. If a waiting connection closes before it begins to send, takes
    /// another.
    async fn exchange(&self, mut request: Box<Request<B>>) -> Result<(Response<Incoming>, Option<Meter>), Step> {
        let uri = request.uri().clone();
        if !request.headers().contains_key(header::HOST) {
            request.headers_mut().insert(header::HOST, host(&uri));
        }
        loop {
            let waiting = self.pool.waiting(&uri);
            let is_new = waiting.is_none();
            let mut open = match waiting {
                Some(open) => open,
                None => Box::pin(self.pool.connect(&uri)).await.map_err(Step::Connect)?,
            };
            // A proxy needs the whole address.
            *request.uri_mut() = if open.is_proxied { uri.clone() } else { path_of(&uri) };
            let mut error = match open.sender.try_send_request(*request).await {
                Ok(response) => {
                    let meter = open.meter.clone().inspect(Meter::renew);
                    if meter.as_ref().is_none_or(|meter| meter.age() < self.max_age) {
                        self.pool.put(open);
                    }
                    return Ok((response, meter));
                }
                Err(error) => error,
            };
            match error.take_message() {
                Some(unsent) if !is_new => *request = unsent,
                _ => return Err(Step::Send(error.into_error())),
            }
        }
    }
}

fn host(uri: &Uri) -> HeaderValue {
    let (name, port) = (uri.host().unwrap_or_default(), uri.port_u16());
    let usual = if uri.scheme() == Some(&Scheme::HTTPS) { 443 } else { 80 };
    let host = match port.filter(|port| *port != usual) {
        Some(port) => HeaderValue::try_from(format!("{name}:{port}")),
        None => HeaderValue::try_from(name),
    };
    // The host of an address is a valid header value.
    host.unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// The address without its scheme and host.
fn path_of(uri: &Uri) -> Uri {
    Uri::from(uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/")))
}

/// Allows an answer's body of any length. The connection must not be used again.
pub fn of_any_length(response: &Response<Incoming>) {
    if let Some(meter) = response.extensions().get::<Meter>() {
        meter.open();
    }
}

impl NoAnswer {
    /// Whether there was no connection to the upstream.
    pub fn is_unreached(&self) -> bool {
        match self {
            Self::Failed(Failure(step)) => !matches!(step, Step::Send(_) | Step::Connect(NoConnection::Handshake(_))),
            Self::Shut(_) => true,
        }
    }

    /// Whether the connection ended before anything of an answer came.
    pub(super) fn died_before_answer(&self) -> bool {
        let Self::Failed(Failure(step)) = self else { return false };
        http_error(step).is_some_and(|e| e.is_incomplete_message() || e.is_closed() || e.is_canceled() || is_reset(e))
    }
}

fn why(Failure(step): &Failure) -> String {
    // The client's own limit, in the words of this relay's limit.
    if http_error(step).is_some_and(hyper::Error::is_parse_too_large) {
        return Endless::Bytes.to_string();
    }
    chain(step)
}

const fn http_error(step: &Step) -> Option<&hyper::Error> {
    match step {
        Step::Send(error) | Step::Connect(NoConnection::Handshake(error)) => Some(error),
        Step::Connect(_) => None,
    }
}

fn is_reset(error: &hyper::Error) -> bool {
    use std::io::ErrorKind::{BrokenPipe, ConnectionReset};
    let io = std::error::Error::source(error).and_then(|source| source.downcast_ref::<std::io::Error>());
    io.is_some_and(|e| matches!(e.kind(), ConnectionReset | BrokenPipe))
}
