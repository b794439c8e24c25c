//! An upstream whose answers never end, and its effect on clients and the other upstream.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::second::{self, Second};
use crate::support::eventually::eventually;
use crate::support::net;
use crate::support::relay::{Plan, Relay, SOON};
use crate::support::upstream::Upstream;

/// More bytes than the buffers of both sockets and the read part of one answer hold.
const BOUND: usize = 32 << 20;
/// The time for which an answer that is cut off keeps its place among the requests under way.
const PATIENCE: Duration = Duration::from_secs(2);
/// The default maximum of requests under way.
const AT_ONCE: usize = 8;
const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";

/// The form of an answer without an end.
#[derive(Clone, Copy)]
struct Endless {
    /// The beginning.
    start: &'static str,
    /// The part that repeats forever.
    more: &'static str,
    /// The size of TLS records in bytes; `None` without TLS.
    records: Option<usize>,
}

const CHUNKED: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";

/// An upstream that streams endless answers until `well` is set.
struct Streamer {
    port: u16,
    well: Arc<AtomicBool>,
    /// The most bytes that were written into one connection.
    most: Arc<AtomicUsize>,
    /// The number of endless answers that were cut off.
    cut: Arc<AtomicUsize>,
    authority: Option<TempDir>,
    _tasks: JoinSet<()>,
}

impl Streamer {
    async fn start(endless: Endless) -> Self {
        let port = net::free_port();
        let listener = TcpListener::bind(("127.0.0.1", port)).await.expect("a listener");
        let (well, most, cut) = <(Arc<AtomicBool>, Arc<AtomicUsize>, Arc<AtomicUsize>)>::default();
        let (acceptor, authority) = match endless.records {
            Some(_) => {
                let (acceptor, authority) = tls();
                (Some(acceptor), Some(authority))
            }
            None => (None, None),
        };
        let mut tasks = JoinSet::new();
        let (behaves, largest, cuts) = (Arc::clone(&well), Arc::clone(&most), Arc::clone(&cut));
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let Ok((stream, _)) = listener.accept().await else { continue };
                let (well, acceptor) = (Arc::clone(&behaves), acceptor.clone());
                let (most, cut) = (Arc::clone(&largest), Arc::clone(&cuts));
                connections.spawn(async move {
                    let written = connection(stream, acceptor, endless, &well).await;
                    most.fetch_max(written, Ordering::SeqCst);
                    cut.fetch_add(usize::from(written > 0), Ordering::SeqCst);
                });
            }
        });
        Self { port, well, most, cut, authority, _tasks: tasks }
    }

    fn dsn(&self, key: &str) -> String {
        match self.authority {
            Some(_) => format!("https://{key}@localhost:{}/7", self.port),
            None => format!("http://{key}@127.0.0.1:{}/7", self.port),
        }
    }
}

/// The server's side of TLS, and a folder with its certificate.
fn tls() -> (TlsAcceptor, TempDir) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let folder = TempDir::with_prefix("switchyard-").expect("a folder");
    std::fs::write(folder.path().join("ca.pem"), made.cert.pem()).expect("a file");
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .expect("a server's side");
    (TlsAcceptor::from(Arc::new(config)), folder)
}

async fn connection(stream: TcpStream, acceptor: Option<TlsAcceptor>, endless: Endless, well: &AtomicBool) -> usize {
    match acceptor {
        None => answers(stream, endless, well).await,
        Some(acceptor) => match acceptor.accept(stream).await {
            Ok(stream) => answers(stream, endless, well).await,
            Err(_) => 0,
        },
    }
}

/// Answers each request; returns the number of bytes written when the other side closes.
async fn answers(mut stream: impl AsyncRead + AsyncWrite + Unpin, endless: Endless, well: &AtomicBool) -> usize {
    let more = endless.more.repeat(if endless.records.is_some() { 1 } else { 4096 / endless.more.len() + 1 });
    let mut request = vec![0; 64 * 1024];
    loop {
        match stream.read(&mut request).await {
            Ok(0) | Err(_) => return 0,
            Ok(_) if well.load(Ordering::SeqCst) => {
                if stream.write_all(OK.as_bytes()).await.is_err() {
                    return 0;
                }
                continue;
            }
            Ok(_) => {}
        }
        let mut written = 0;
        if stream.write_all(endless.start.as_bytes()).await.is_err() {
            return 0;
        }
        loop {
            for record in more.as_bytes().chunks(endless.records.unwrap_or(usize::MAX)) {
                if stream.write_all(record).await.is_err() || stream.flush().await.is_err() {
                    return written;
                }
                written += record.len();
            }
        }
    }
}

/// A relay with the streamer and a good upstream.
async fn scene(endless: Endless) -> (Streamer, Upstream, Relay) {
    let (streamer, good) = (Streamer::start(endless).await, Upstream::start().await);
    let mut plan = Plan::new(&[("good", good.dsn("cafe", 7)), ("endless", streamer.dsn("cafe"))]);
    plan = plan.more(&second::project(&[("good", good.dsn("beef", 8)), ("endless", streamer.dsn("beef"))]));
    if let Some(authority) = &streamer.authority {
        plan = plan.variable("SSL_CERT_FILE", authority.path().join("ca.pem"));
    }
    (streamer, good, plan.start().await)
}

/// Fails unless an endless head is reported as an error, the connection closes, nobody else notices, and nothing is lost.
async fn no_head_goes_on_forever(what: &str, endless: Endless) {
    let (streamer, good, relay) = scene(endless).await;
    streamer.well.store(true, Ordering::SeqCst);
    let second = Second::of(&relay);
    let calm = second.events(100).await;
    relay.balanced(SOON).await;
    streamer.well.store(false, Ordering::SeqCst);
    relay.send_errors(1).await;
    let attacked = second.events(100).await;
    second::compare(what, &calm, &attacked);
    eventually("the request ends with an error that says why", SOON, async || {
        let error = relay.upstream("endless").await["last_error"].to_string();
        if error.contains("the answer's head did not end within") { Ok(()) } else { Err(error) }
    })
    .await;
    eventually("the connection is closed", SOON, async || match streamer.most.load(Ordering::SeqCst) {
        0 => Err("it goes on".to_owned()),
        most => Ok(most),
    })
    .await;
    let most = streamer.most.load(Ordering::SeqCst);
    assert!(most < BOUND, "{most} bytes were taken");
    eventually("the good upstream has everything", SOON, async || match good.taken_count() {
        201 => Ok(()),
        count => Err(format!("{count} of 201")),
    })
    .await;
    streamer.well.store(true, Ordering::SeqCst);
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn endless_early_hints_delay_nobody_else() {
    let more = "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n";
    no_head_goes_on_forever("endless early hints", Endless { start: "", more, records: None }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn endless_headers_delay_nobody_else() {
    let endless = Endless { start: "HTTP/1.1 200 OK\r\nx: ", more: "aaaaaaaaaaaaaaaa", records: None };
    no_head_goes_on_forever("an endless header", endless).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn early_hints_in_tls_records_of_one_byte_delay_nobody_else() {
    let more = "HTTP/1.1 103 Early Hints\r\n\r\n";
    no_head_goes_on_forever("one-byte records", Endless { start: "", more, records: Some(1) }).await;
}

/// Fails unless an endless body counts by its status and the connection closes. Its place stays taken for a while, which bounds the number
/// of such answers.
async fn no_body_goes_on_forever(what: &str, endless: Endless) {
    let (streamer, good, relay) = scene(endless).await;
    let second = Second::of(&relay);
    streamer.well.store(true, Ordering::SeqCst);
    let calm = second.events(100).await;
    relay.balanced(SOON).await;
    streamer.well.store(false, Ordering::SeqCst);
    let begun = Instant::now();
    let attacked = second.events(100).await;
    let cut = streamer.cut.load(Ordering::SeqCst) as u128;
    let at_most = AT_ONCE as u128 * (begun.elapsed().as_millis() / PATIENCE.as_millis() + 1);
    assert!(cut <= at_most, "{cut} answers were cut off, {at_most} at most find a place");
    streamer.well.store(true, Ordering::SeqCst);
    second::compare(what, &calm, &attacked);
    relay.balanced(SOON).await;
    let most = streamer.most.load(Ordering::SeqCst);
    assert!(most > 0 && most < BOUND, "{most} bytes were taken");
    assert_eq!(good.taken_count(), 200);
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn endless_chunks_of_one_byte_delay_nobody_else() {
    no_body_goes_on_forever("one-byte chunks", Endless { start: CHUNKED, more: "1\r\nx\r\n", records: None }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn endless_trailers_delay_nobody_else() {
    let start = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n";
    no_body_goes_on_forever("endless trailers", Endless { start, more: "x: y\r\n", records: None }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endless_body_in_tls_records_of_one_byte_delays_nobody_else() {
    let endless = Endless { start: CHUNKED, more: "1\r\nx\r\n", records: Some(1) };
    no_body_goes_on_forever("a body in one-byte records", endless).await;
}
