//! An upstream for large envelopes: it records the length and hash of what arrives and keeps no bytes. It can be slow.

use std::hash::{DefaultHasher, Hasher as _};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// The bytes read of each envelope while the gate is closed.
const BEFORE_THE_GATE: u64 = 1 << 20;

/// The length and hash of one envelope.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Measured {
    pub(crate) length: u64,
    pub(crate) hash: u64,
}

impl Measured {
    /// The measure of these bytes.
    pub(crate) fn of(pieces: &[&[u8]]) -> Self {
        let (mut hasher, mut length) = (DefaultHasher::new(), 0);
        for piece in pieces {
            hasher.write(piece);
            length += piece.len() as u64;
        }
        Self { length, hash: hasher.finish() }
    }
}

#[derive(Debug)]
struct Shared {
    open: watch::Receiver<bool>,
    /// The pause after each MiB.
    rest: Duration,
    begun: Mutex<usize>,
    taken: Mutex<Vec<Measured>>,
}

/// A running upstream.
pub(crate) struct Meter {
    port: u16,
    gate: watch::Sender<bool>,
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

impl Meter {
    /// Starts an upstream that reads as fast as bytes come.
    pub(crate) async fn start() -> Self {
        Self::resting(Duration::ZERO).await
    }

    /// Starts an upstream that pauses after each MiB.
    pub(crate) async fn resting(rest: Duration) -> Self {
        let port = super::net::free_port();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.expect("a free port");
        let (gate, open) = watch::channel(true);
        let shared = Arc::new(Shared { open, rest, begun: Mutex::default(), taken: Mutex::default() });
        let mut tasks = JoinSet::new();
        let serving = Arc::clone(&shared);
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let shared = Arc::clone(&serving);
                let service = service_fn(move |request| answer(Arc::clone(&shared), request));
                connections.spawn(async move {
                    drop(http1::Builder::new().serve_connection(TokioIo::new(stream), service).await);
                });
            }
        });
        Self { port, gate, shared, _tasks: tasks }
    }

    /// The DSN of a project here.
    pub(crate) fn dsn(&self) -> String {
        format!("http://cafe@127.0.0.1:{}/7", self.port)
    }

    /// Opens or closes the gate. While it is closed, the upstream stops reading after the first MiB of each envelope.
    pub(crate) fn set_open(&self, open: bool) {
        self.gate.send_replace(open);
    }

    /// The number of requests that have begun.
    pub(crate) fn begun(&self) -> usize {
        *self.shared.begun.lock().expect("whole")
    }

    /// The measures of the taken envelopes, smallest first.
    pub(crate) fn taken(&self) -> Vec<Measured> {
        let mut taken = self.shared.taken.lock().expect("whole").clone();
        taken.sort();
        taken
    }
}

async fn answer(shared: Arc<Shared>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
    *shared.begun.lock().expect("whole") += 1;
    let announced = request.headers().get("content-length").and_then(|n| n.to_str().ok()?.parse().ok());
    let (mut body, mut hasher, mut length) = (request.into_body(), DefaultHasher::new(), 0_u64);
    let mut open = shared.open.clone();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        hasher.write(&data);
        let mib = length >> 20;
        length += data.len() as u64;
        if length > BEFORE_THE_GATE {
            // An error means that the test has dropped the gate.
            drop(open.wait_for(|open| *open).await);
        }
        if length >> 20 > mib {
            tokio::time::sleep(shared.rest).await;
        }
    }
    assert_eq!(announced, Some(length), "the length is announced");
    shared.taken.lock().expect("whole").push(Measured { length, hash: hasher.finish() });
    Ok(Response::new(Full::from(r#"{"id":"0"}"#)))
}
