//! The connections to one upstream that wait for their next request, and how new ones come about.
//!
//! Rule: the connection that was used last is used next. One that the other end has closed is never used, as far as that is known,
//! and one that was not used for a while is closed.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use http::uri::{Authority, Scheme};
use http::{Extensions, Uri};
use http_body::Body;
use hyper::client::conn::http1;
use hyper::rt::Executor as _;
use hyper_util::client::legacy::connect::Connection as _;
use hyper_util::rt::TokioExecutor;
use tokio::time::Instant;
use tower::{BoxError, Service as _};

use super::connector::Connector;
use super::line::{MOST_BYTES, Meter};

/// How long an unused connection is kept: less than most servers do, so that few die under a request.
const IDLE: Duration = Duration::from_secs(20);
/// What a connection holds of a body that the upstream takes slowly, and the longest head of an answer.
const BUFFER: usize = MOST_BYTES;

/// Where connections lead.
type Place = (Scheme, Authority);

/// A connection that can be asked.
#[derive(Debug)]
pub(super) struct Open<B> {
    pub(super) sender: http1::SendRequest<B>,
    pub(super) meter: Option<Meter>,
    /// Whether the other end is a proxy that takes requests for anybody.
    pub(super) is_proxied: bool,
    place: Place,
}

impl<B> Open<B> {
    fn leads_to(&self, scheme: &Scheme, authority: &Authority) -> bool {
        // Most often it is written the same, which is quicker to see than that it differs in capitals alone.
        self.place.0 == *scheme && (self.place.1.as_str() == authority.as_str() || self.place.1 == *authority)
    }
}

/// The connections that wait, and the way to new ones. Clones share them.
pub(super) struct Pool<B> {
    connector: Connector,
    idle: Arc<Mutex<Idle<B>>>,
    kept: usize,
}

/// The connections that wait, and since when, the one that was used last at the end.
struct Idle<B> {
    all: Vec<(Open<B>, Instant)>,
    /// Whether somebody closes those that wait too long.
    is_watched: bool,
}

impl<B> Clone for Pool<B> {
    fn clone(&self) -> Self {
        Self { connector: self.connector.clone(), idle: Arc::clone(&self.idle), kept: self.kept }
    }
}

impl<B> Pool<B>
where
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    /// None yet; at most `kept` wait.
    pub(super) fn new(connector: Connector, kept: usize) -> Self {
        let idle = Idle { all: vec![], is_watched: false };
        Self { connector, idle: Arc::new(Mutex::new(idle)), kept }
    }

    /// One that waits for a request to that address, if there is one.
    pub(super) fn waiting(&self, uri: &Uri) -> Option<Open<B>> {
        let (scheme, authority) = (uri.scheme()?, uri.authority()?);
        let mut idle = lock(&self.idle);
        // One whose last answer is still being read is not ready yet.
        let at = idle.all.iter().rposition(|(open, since)| {
            open.sender.is_ready() && since.elapsed() < IDLE && open.leads_to(scheme, authority)
        })?;
        Some(idle.all.remove(at).0)
    }

    /// A new one to that address.
    pub(super) async fn connect(&self, uri: &Uri) -> Result<Open<B>, NoConnection> {
        let (scheme, authority) = uri.scheme().cloned().zip(uri.authority().cloned()).ok_or(NoConnection::NoAddress)?;
        let to = Uri::builder().scheme(scheme.clone()).authority(authority.clone()).path_and_query("/").build();
        let to = to.map_err(|_| NoConnection::NoAddress)?;
        let mut connector = self.connector.clone();
        std::future::poll_fn(|cx| connector.poll_ready(cx)).await.map_err(NoConnection::Connect)?;
        let stream = connector.call(to).await.map_err(NoConnection::Connect)?;
        let connected = stream.connected();
        let mut extras = Extensions::new();
        connected.get_extras(&mut extras);
        let (mut sender, connection) =
            http1::Builder::new().max_buf_size(BUFFER).handshake(stream).await.map_err(NoConnection::Handshake)?;
        TokioExecutor::new().execute(async move {
            if let Err(error) = connection.await {
                tracing::trace!(%error, "a connection to an upstream ended");
            }
        });
        sender.ready().await.map_err(NoConnection::Handshake)?;
        let (meter, is_proxied) = (extras.remove(), connected.is_proxied());
        Ok(Open { sender, meter, is_proxied, place: (scheme, authority) })
    }

    /// Lets one wait for its next request. What is left to read of its last answer is read by whoever got it.
    pub(super) fn put(&self, open: Open<B>) {
        if self.kept == 0 || open.sender.is_closed() {
            return;
        }
        let mut idle = lock(&self.idle);
        if idle.all.len() >= self.kept {
            idle.all.retain(|(open, _)| !open.sender.is_closed());
        }
        if idle.all.len() >= self.kept {
            idle.all.remove(0);
        }
        if !std::mem::replace(&mut idle.is_watched, true) {
            TokioExecutor::new().execute(close_unused(Arc::downgrade(&self.idle)));
        }
        idle.all.push((open, Instant::now()));
    }
}

/// Closes what waits too long, until nobody is left to use the connections.
async fn close_unused<B: Send + 'static>(idle: Weak<Mutex<Idle<B>>>) {
    loop {
        tokio::time::sleep(IDLE).await;
        let Some(idle) = idle.upgrade() else { return };
        lock(&idle).all.retain(|(open, since)| !open.sender.is_closed() && since.elapsed() < IDLE);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while holding it.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoConnection {
    #[error("the address has no host")]
    NoAddress,
    #[error("no connection")]
    Connect(#[source] BoxError),
    #[error("no connection")]
    Handshake(#[source] hyper::Error),
}
