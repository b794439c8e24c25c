//! The accept loop: hyper-util serves each connection, HTTP/1.1 or HTTP/2 without TLS, until it ends or the daemon stops.
//!
//! Nobody is reset: when stopping, what already waits in the listen queue is still served, requests under way are finished,
//! and idle connections are closed in the orderly way.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use futures_util::FutureExt as _;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::tasks::Tasks;

use super::socket::{Phase, Socket};

/// Connections open at once on one listener; the next ones wait in the listen queue.
const MAX_CONNECTIONS: usize = 16_384;
/// How long the headers of a request may take.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection may be idle between requests.
const IDLE_TIMEOUT: Duration = Duration::from_secs(90);
/// How long a new connection is waited for when stopping: its first request is most likely on its way.
const FIRST_REQUEST: Duration = Duration::from_secs(1);
/// How often a connection is looked at for both.
const WATCH: Duration = Duration::from_secs(3);

const REQUEST_TIMEOUT: &[u8] = b"HTTP/1.1 408 Request Timeout\r\ncontent-type: application/json\r\n\
    access-control-allow-origin: *\r\nconnection: close\r\ncontent-length: 83\r\n\r\n\
    {\"detail\":\"the request's headers did not arrive within 10 seconds\",\"causes\":[]}\r\n\r\n\r\n";

/// What answers the requests of a listener.
pub(super) trait App: Clone + Send + Sync + 'static {
    /// Answers one request of `peer`.
    fn answer(&self, peer: SocketAddr, request: Request<Body>) -> impl Future<Output = Response<Body>> + Send;

    /// Told of a connection whose request headers never ended.
    fn stalled(&self) {}
}

/// Serves connections of `listener` until told to stop.
pub(super) async fn serve(listener: TcpListener, app: impl App, clock: Clock, tasks: Tasks) {
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let stop = tasks.stopping().clone();
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            accepted = accept(&listener, &room) => accepted,
        };
        tasks.spawn_detached(connection(accepted, app.clone(), clock.clone(), stop.clone()));
    }
    // Whoever connected before the listener closes must not be reset by its closing.
    while let Some(accepted) = accept(&listener, &room).now_or_never() {
        tasks.spawn_detached(connection(accepted, app.clone(), clock.clone(), stop.clone()));
    }
}

type Accepted = (TcpStream, SocketAddr, tokio::sync::OwnedSemaphorePermit);

async fn accept(listener: &TcpListener, room: &Arc<Semaphore>) -> Accepted {
    let place = Arc::clone(room).acquire_owned().await.expect("the semaphore is never closed");
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => return (stream, peer, place),
            Err(error) => {
                // Out of file descriptors, most likely: those in use come free again.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// The time to close. A connection is not closed on which nothing was asked yet: hyper would not even read what has arrived,
/// and its client would lose a request that nobody refused.
async fn told_to_close(stop: &CancellationToken, socket: &Socket) {
    stop.cancelled().await;
    drop(tokio::time::timeout(FIRST_REQUEST, socket.first_request()).await);
}

async fn connection((stream, peer, _place): Accepted, app: impl App, clock: Clock, stop: CancellationToken) {
    // Answers are small and complete; waiting for more of them helps nobody.
    drop(stream.set_nodelay(true));
    let socket = Socket::new(stream, clock.clone());
    let service = service_fn(|request: Request<Incoming>| {
        socket.request_began();
        let (app, socket) = (app.clone(), socket.clone());
        async move {
            let answer = app.answer(peer, request.map(Body::new)).await;
            socket.request_ended();
            Ok::<_, std::convert::Infallible>(answer)
        }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(None).max_buf_size(64 * 1024);
    builder.http2().timer(TokioTimer::new()).max_concurrent_streams(64).keep_alive_interval(IDLE_TIMEOUT);
    let stalled = {
        let mut told = std::pin::pin!(told_to_close(&stop, &socket));
        let mut http = std::pin::pin!(builder.serve_connection(TokioIo::new(socket.clone()), service));
        let mut closing = false;
        loop {
            tokio::select! {
                // How a connection ends is the client's business; requests are counted where they are answered.
                _ = http.as_mut() => break false,
                () = told.as_mut(), if !closing => {
                    closing = true;
                    http.as_mut().graceful_shutdown();
                }
                () = tokio::time::sleep(WATCH) => match socket.phase() {
                    Phase::Head(since) if clock.now().since(since) >= HEAD_TIMEOUT => break true,
                    Phase::Idle(since) if clock.now().since(since) >= IDLE_TIMEOUT => break false,
                    _ => {}
                },
            }
        }
    };
    if stalled {
        app.stalled();
        socket.say(REQUEST_TIMEOUT);
    }
    socket.close().await;
}
