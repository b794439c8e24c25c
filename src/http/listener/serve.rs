//! The accept loop: hyper-util serves each connection, HTTP/1.1 or HTTP/2, with TLS or without, until it ends or the daemon stops.
//!
//! A request whose body is complete is answered whatever becomes of its connection: a short process hangs up at once, and has
//! sent it all the same. Nobody is reset: when stopping, what already waits in the listen queue is still served, requests under
//! way are finished, connections that are kept or new are served for a moment more, and idle ones are closed in the orderly way.

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use futures_util::future::{BoxFuture, Either};
use http::{HeaderValue, Request, Response, Version, header};
use hyper::body::{Body as _, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rustix::net::SocketFlags;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::http::settings::Server;
use crate::tasks::Tasks;
use crate::telemetry::log::{self, Line};

use super::cut_short::CutShort;
use super::doors::{self, Doors, Inside, Place};
use super::network::Network;
use super::phase::{Followed, Phase, Phases};
use super::proxied::NoHeader;
use super::received::Received;
use super::sent::Sent;
use super::socket::Socket;
use super::tls::{Certificate, HANDSHAKE};
use super::window::{self, Taking, Window};

/// How long the headers of a request may take.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection may be idle between requests, if no option sets it.
const KEEP_ALIVE: Duration = Duration::from_secs(90);
/// For how long clients are still served and let in when stopping: a request may be on its way, and is not sent again.
const GRACE: Duration = Duration::from_millis(500);
/// How long a new connection is waited for when stopping: its first request is most likely on its way.
const FIRST_REQUEST: Duration = Duration::from_secs(1);
/// The time between two checks of a connection's timeouts.
const WATCH: Duration = Duration::from_secs(3);
/// The most streams of one HTTP/2 connection, and the most of its requests that are handled to the end if their streams go.
const MAX_STREAMS: u32 = 64;
/// How long a TLS handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client may read nothing of an answer.
const DEAF_TIMEOUT: Duration = Duration::from_secs(60);

/// Answers the requests of a listener.
pub(in crate::http) trait App: Clone + Send + Sync + 'static {
    /// Answers one request of `peer`.
    fn answer(&self, peer: SocketAddr, request: Request<Body>) -> impl Future<Output = Response<Body>> + Send;

    /// The limits of connections; while no place is free, connections wait in the listen queue.
    fn doors(&self) -> &Doors;

    /// Takes room for this many unread bytes of a connection of this client. By default nothing is counted.
    fn room(&self, _client: IpAddr, _bytes: u64) -> Taking {
        Box::pin(std::future::ready(Some(Box::new(()) as window::Room)))
    }

    /// The options for clients; `None` if there are none.
    fn server(&self) -> Option<Arc<Server>> {
        None
    }

    /// The certificate of new connections; `None` for plain HTTP.
    fn certificate(&self) -> Option<Arc<Certificate>> {
        None
    }

    /// Reports a connection that ended without a request to answer.
    fn cut_short(&self, _why: CutShort) {}
}

/// Serves connections of `listener` until told to stop.
pub(in crate::http) async fn serve(listener: TcpListener, app: impl App, clock: Clock, tasks: Tasks) {
    let stop = tasks.stopping().clone();
    // While connections are still served, new ones are let in: a client that is refused does not send again.
    let mut told = std::pin::pin!(async {
        stop.cancelled().await;
        if !app.doors().is_empty() {
            tokio::time::sleep(GRACE).await;
        }
    });
    loop {
        let accepted = tokio::select! {
            biased;
            () = told.as_mut() => break,
            accepted = accept(&listener, app.doors()) => accepted,
        };
        tasks.spawn_detached(connection(accepted, app.clone(), clock.clone(), tasks.clone()));
    }
    // Closing the listener would reset the connections that wait in its queue.
    for accepted in std::iter::from_fn(|| accept_waiting(&listener, app.doors())) {
        tasks.spawn_detached(connection(accepted, app.clone(), clock.clone(), tasks.clone()));
    }
}

type Accepted = (TcpStream, SocketAddr, Place);

/// The bytes of a connection, behind TLS where there is any.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// Answers a request of a connection. It and [`Stream`] are behind pointers so that HTTP is compiled once, and not for each listener
/// with TLS and without.
type Answering = Box<dyn Fn(Request<Body>) -> BoxFuture<'static, Response<Body>> + Send + Sync>;

async fn accept(listener: &TcpListener, doors: &Doors) -> Accepted {
    let place = doors.place().await;
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => return (stream, peer, place.taken()),
            Err(error) => {
                // Most likely there are no more file descriptors: those in use come free again.
                if let Some(Line { suppressed }) = log::admit("accept", "") {
                    tracing::warn!(%error, suppressed, "a connection could not be accepted");
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Accepts a connection that waits in the kernel's queue now. The runtime is not asked: it may not have heard of the last ones yet.
fn accept_waiting(listener: &TcpListener, doors: &Doors) -> Option<Accepted> {
    let place = doors.place_now()?;
    loop {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        // The address comes with the socket: a client that has left has none any more, but may have sent a request.
        let (stream, peer) = rustix::net::acceptfrom_with(listener, flags).ok()?;
        let Some(peer) = peer.and_then(|peer| SocketAddr::try_from(peer).ok()) else { continue };
        return Some((TcpStream::from_std(stream.into()).ok()?, peer, place.taken()));
    }
}

async fn connection((stream, peer, _place): Accepted, app: impl App, clock: Clock, tasks: Tasks) {
    // Answers are small and complete; Nagle's algorithm would only delay them.
    drop(stream.set_nodelay(true));
    let socket = Socket::new(stream, clock.clone());
    // The connection counts for its address until it is closed.
    let mut inside = None;
    let cut_short = match served(&socket, peer, (&app, &mut inside), clock, tasks).await {
        Ok(ended) => ended,
        Err(why) => {
            socket.say(why.answer().as_bytes());
            Some(why)
        }
    };
    if let Some(why) = cut_short {
        app.cut_short(why);
    }
    // Who has too many connections, or gives way, must not keep another place for the time that a proper end takes.
    if cut_short != Some(CutShort::TooManyConnections) && !app.doors().is_crowded() {
        socket.close().await;
    }
}

/// Lets a connection in and serves it until it ends. `Ok` holds why it was cut short if no answer is due any more; an error is to be
/// answered.
async fn served(
    socket: &Socket,
    peer: SocketAddr,
    (app, inside): (&impl App, &mut Option<Inside>),
    clock: Clock,
    tasks: Tasks,
) -> Result<Option<CutShort>, CutShort> {
    let (server, stop) = (app.server(), tasks.stopping());
    let Some((client, counted)) = entry(socket, peer, app.doors(), server.as_deref(), stop).await? else {
        return Ok(None);
    };
    *inside = counted;
    let keep_alive = server.map_or(KEEP_ALIVE, |server| server.keep_alive.get());
    let doors = (app.doors(), keep_alive);
    let Some(first) = beginning(socket, app.certificate().is_some(), doors, stop).await? else { return Ok(None) };
    // On the heap, and only then: a connection on which no request came yet costs a socket and no buffers.
    Ok(Box::pin(speak(first, socket, client, app.clone(), (clock, keep_alive), tasks)).await)
}

/// Returns the client of a connection, and what counts it at the doors. `None` if a trusted proxy leaves without a word, or the daemon
/// stops.
async fn entry(
    socket: &Socket,
    peer: SocketAddr,
    doors: &Doors,
    server: Option<&Server>,
    stop: &CancellationToken,
) -> Result<Option<(SocketAddr, Option<Inside>)>, CutShort> {
    let Some(server) = server else { return Ok(Some((peer, None))) };
    let is_trusted = |address: SocketAddr| Network::any_contains(&server.trusted_proxies, address.ip());
    let mut client = peer;
    if server.proxy_protocol && is_trusted(peer) {
        let header = tokio::select! {
            header = socket.proxy_header() => header,
            () = tokio::time::sleep(HEAD_TIMEOUT) => Some(Err(NoHeader)),
            () = soon_after(stop) => None,
        };
        match header {
            Some(Ok(header)) => client = header.client.unwrap_or(peer),
            Some(Err(NoHeader)) => return Err(CutShort::NoProxyHeader),
            None => return Ok(None),
        }
    }
    if client.ip().to_canonical().is_loopback() || is_trusted(client) {
        return Ok(Some((client, None)));
    }
    let inside = doors.enter(client.ip(), server.max_connections_per_address.get());
    inside.map(|inside| Some((client, Some(inside)))).ok_or(CutShort::TooManyConnections)
}

/// Waits for the beginning of a connection and, without TLS, for the head of its first request, at most [`HEAD_TIMEOUT`]. Returns the
/// first byte; `None` if nothing comes in time, and no answer is due.
async fn beginning(
    socket: &Socket,
    is_tls: bool,
    (doors, keep_alive): (&Doors, Duration),
    stop: &CancellationToken,
) -> Result<Option<u8>, CutShort> {
    let beginning = tokio::select! {
        beginning = socket.beginning() => beginning,
        () = doors.outstayed(keep_alive) => None,
        () = soon_after(stop) => None,
    };
    let Some(beginning) = beginning else { return Ok(None) };
    let mut whole = Some(beginning);
    if !beginning.is_whole && !is_tls && beginning.first != HANDSHAKE {
        whole = tokio::select! {
            whole = socket.whole_beginning() => whole,
            () = tokio::time::sleep(HEAD_TIMEOUT) => return Err(CutShort::Stalled),
            () = soon_after(stop) => whole,
        };
    }
    match whole {
        Some(beginning) if beginning.is_proxied => Err(CutShort::StrayProxyHeader),
        whole => Ok(whole.map(|whole| whole.first)),
    }
}

/// Waits until [`FIRST_REQUEST`] after the daemon was told to stop.
async fn soon_after(stop: &CancellationToken) {
    stop.cancelled().await;
    tokio::time::sleep(FIRST_REQUEST).await;
}

/// Serves a connection, with TLS if there is a certificate.
async fn speak(
    first: u8,
    socket: &Socket,
    peer: SocketAddr,
    app: impl App,
    times: (Clock, Duration),
    tasks: Tasks,
) -> Option<CutShort> {
    let Some(certificate) = app.certificate() else {
        let cut_short =
            requests(Box::new(socket.clone()), (socket, app.doors()), answers(&app, peer), times, tasks).await;
        return cut_short.inspect(|why| {
            if !why.is_answered() {
                socket.say(why.answer().as_bytes())
            }
        });
    };
    if first != HANDSHAKE {
        socket.say(CutShort::NoTls.answer().as_bytes());
        return Some(CutShort::NoTls);
    }
    let handshake = tokio::time::timeout(HANDSHAKE_TIMEOUT, certificate.accept(socket.clone()));
    let shaken = tokio::select! {
        shaken = handshake => shaken.ok()?,
        () = soon_after(tasks.stopping()) => return None,
    };
    match shaken {
        Ok(stream) => requests(Box::new(stream), (socket, app.doors()), answers(&app, peer), times, tasks).await,
        Err(error) => {
            // Scanners, and clients that do not trust the certificate, are too many for a warning each.
            tracing::debug!(%error, "a TLS handshake failed");
            None
        }
    }
}

/// The time to close. A connection is not closed while a request is likely to be on its way: hyper would not even read what has
/// arrived, and its client would lose a request that nobody refused.
async fn told_to_close(stop: &CancellationToken, phases: &Phases) {
    stop.cancelled().await;
    let asked = tokio::time::timeout(FIRST_REQUEST, phases.first_request());
    drop(tokio::join!(tokio::time::sleep(GRACE), asked));
}

/// Returns the window of a connection, and the function that answers its requests.
fn answers(app: &impl App, peer: SocketAddr) -> (Window, Answering) {
    let (asked, client) = (app.clone(), doors::client(peer.ip()));
    let window = Window::new(move || asked.room(client, window::OF_CONNECTION.into()));
    let app = app.clone();
    let answering: Answering = Box::new(move |request| {
        let app = app.clone();
        // On the heap: it is large, and a connection that waits for its next request has none.
        Box::pin(async move { app.answer(peer, request).await })
    });
    (window, answering)
}

/// Serves the requests that come in `stream`, until the connection ends.
async fn requests(
    stream: Box<dyn Stream>,
    (socket, doors): (&Socket, &Doors),
    (window, answering): (Window, Answering),
    (clock, keep_alive): (Clock, Duration),
    tasks: Tasks,
) -> Option<CutShort> {
    let phases = Phases::new(clock.clone(), tasks.stopping().clone());
    let streams = Arc::new(Semaphore::new(MAX_STREAMS as usize));
    let service = service_fn(|request: Request<Incoming>| {
        let under_way = phases.request_began(!request.body().is_end_stream());
        // A connection of HTTP/1.1 stays until its request is answered; one of HTTP/2 does not, and forgets streams that are reset.
        let is_http2 = request.version() == Version::HTTP_2;
        let stream = is_http2.then(|| Arc::clone(&streams).try_acquire_owned().ok()).flatten();
        // A request beyond the limit ends with its stream.
        let is_to_end = stream.is_some();
        let place = (stream, is_http2.then(|| window.request()));
        let answer = answering(request.map(|body| Body::new(Received::new(body, phases.clone()))));
        let answer = async move {
            let mut answer = answer.await;
            if !is_http2 && under_way.is_last() {
                answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            drop(place);
            Ok::<_, std::convert::Infallible>(answer.map(|body| Sent::new(body, under_way)))
        };
        if is_to_end { Either::Right(tasks.to_its_end(answer)) } else { Either::Left(answer) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(None).max_buf_size(64 * 1024).half_close(true);
    let mut http2 = builder.http2();
    http2.timer(TokioTimer::new()).max_concurrent_streams(MAX_STREAMS).keep_alive_interval(keep_alive);
    http2.initial_stream_window_size(window::OF_STREAM).initial_connection_window_size(window::OF_CONNECTION);
    let followed = TokioIo::new(Followed::new(stream, phases.clone(), window.clone()));
    let mut told = std::pin::pin!(told_to_close(tasks.stopping(), &phases));
    let mut http = std::pin::pin!(builder.serve_connection(followed, service));
    let mut closing = false;
    loop {
        tokio::select! {
            // The end of a connection is reported only if it was cut short. Requests are counted where they are answered.
            ended = http.as_mut() => {
                let crowded = || window.found_no_room().then_some(CutShort::NoRoom);
                let endless = phases.has_endless_line().then_some(CutShort::EndlessLine);
                return endless.or_else(crowded).or_else(|| CutShort::of_error(ended.err()?.downcast_ref()?));
            }
            () = told.as_mut(), if !closing => {
                closing = true;
                http.as_mut().graceful_shutdown();
            }
            () = tokio::time::sleep(doors.patience(WATCH)) => {
                window.close_unused();
                match phases.phase() {
                    Phase::Head(since) if clock.now().since(since) >= HEAD_TIMEOUT => return Some(CutShort::Stalled),
                    _ if socket.blocked_for() >= doors.patience(DEAF_TIMEOUT) => return None,
                    // What is left of an answer waits for the client.
                    _ if !socket.blocked_for().is_zero() => {}
                    Phase::Idle(since) if clock.now().since(since) >= doors.patience(keep_alive) => return None,
                    _ => {}
                }
            }
        }
    }
}
