//! A pool of connections to one upstream: those that wait for their next request, and the way to new ones.
//!
//! Rule: the connection that was used last is used next. A connection that is known to be closed by the other end is never used, and one
//! that is unused for a while is closed.

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

/// How long an unused connection is kept: less than most servers keep it, so that few die under a request.
const IDLE: Duration = Duration::from_secs(20);
/// The buffer of a connection in bytes: for a body that the upstream takes slowly, and for the longest head of an answer.
const BUFFER: usize = MOST_BYTES;

/// The address that a connection leads to.
type Place = (Scheme, Authority);

/// A connection that can take a request.
#[derive(Debug)]
pub(super) struct Open<B> {
    pub(super) sender: http1::SendRequest<B>,
    pub(super) meter: Option<Meter>,
    /// Whether the other end is a proxy that takes requests to any address.
    pub(super) is_proxied: bool,
    place: Place,
}

impl<B> Open<B> {
    fn leads_to(&self, scheme: &Scheme, authority: &Authority) -> bool {
        // Most often the spelling is the same, which is faster to compare than letters of any case.
        self.place.0 == *scheme && (self.place.1.as_str() == authority.as_str() || self.place.1 == *authority)
    }
}

/// The waiting connections, and the way to new ones. Clones share them.
pub(super) struct Pool<B> {
    connector: Connector,
    idle: Arc<Mutex<Idle<B>>>,
    kept: usize,
}

/// The waiting connections and since when they wait; the one that was used last is at the end.
struct Idle<B> {
    all: Vec<(Open<B>, Instant)>,
    /// Whether a task closes those that wait too long.
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
    /// Makes an empty pool; at most `kept` connections wait in it.
    pub(super) fn new(connector: Connector, kept: usize) -> Self {
        let idle = Idle { all: vec![], is_watched: false };
        Self { connector, idle: Arc::new(Mutex::new(idle)), kept }
    }

    /// Takes a waiting connection to that address, if there is one.
    pub(super) fn waiting(&self, uri: &Uri) -> Option<Open<B>> {
        let (scheme, authority) = (uri.scheme()?, uri.authority()?);
        let mut idle = lock(&self.idle);
        // A connection whose last answer is still being read is not ready yet.
        let at = idle.all.iter().rposition(|(open, since)| {
            open.sender.is_ready() && since.elapsed() < IDLE && open.leads_to(scheme, authority)
        })?;
        Some(idle.all.remove(at).0)
    }

    /// Makes a connection to that address.
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

    /// Lets a connection wait for its next request. Whoever got its last answer reads the rest of it.
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

/// Closes connections that wait too long, until nobody is left to use the pool.
async fn close_unused<B: Send + 'static>(idle: Weak<Mutex<Idle<B>>>) {
    loop {
        tokio::time::sleep(IDLE).await;
        let Some(idle) = idle.upgrade() else { return };
        lock(&idle).all.retain(|(open, since)| !open.sender.is_closed() && since.elapsed() < IDLE);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No holder of the lock panics.
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
