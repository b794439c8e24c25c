//! A scripted upstream: it answers as told, remembers every request, and fails the test on requests that no relay may send.
//!
//! A probe, an envelope without items, is answered like an event and counted separately.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::machines::Machine;

/// The answer to a request.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    /// 200, as Sentry answers.
    Ok,
    /// This status with these headers and this body.
    Status(u16, Vec<(&'static str, String)>, String),
    /// Never answer.
    Hang,
    /// Close the connection without an answer.
    Close,
    /// 200, after a while.
    Slow(Duration),
    /// Another answer, once the token is cancelled.
    Held(CancellationToken, Box<Self>),
}

impl Reply {
    /// A status without headers and body.
    pub(crate) fn status(code: u16) -> Self {
        Self::Status(code, vec![], String::new())
    }

    /// A status with one header and no body.
    pub(crate) fn with_header(code: u16, name: &'static str, value: &str) -> Self {
        Self::Status(code, vec![(name, value.to_owned())], String::new())
    }

    /// Whether the answer says that the request was taken.
    fn takes(&self) -> bool {
        match self {
            Self::Ok | Self::Slow(_) => true,
            Self::Status(code, ..) => (200..300).contains(code),
            Self::Hang | Self::Close => false,
            Self::Held(_, reply) => reply.takes(),
        }
    }
}

/// A request as it arrived.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) query: Option<String>,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// Whether the request was answered with 2xx.
    pub(crate) taken: bool,
    /// The time of arrival.
    pub(crate) at: tokio::time::Instant,
}

impl Seen {
    /// The envelope's header, parsed.
    pub(crate) fn header(&self) -> serde_json::Value {
        let line = self.body.split(|b| *b == b'\n').next().unwrap_or_default();
        serde_json::from_slice(line).expect("an envelope header")
    }

    /// The event id of the envelope's header; empty when it has none.
    pub(crate) fn event_id(&self) -> String {
        self.header()["event_id"].as_str().unwrap_or_default().to_owned()
    }

    /// The bytes after the envelope's header line.
    pub(crate) fn items(&self) -> &[u8] {
        let end = self.body.iter().position(|b| *b == b'\n').map_or(self.body.len(), |n| n + 1);
        &self.body[end..]
    }
}

type Rule = Box<dyn Fn(&Seen) -> Option<Reply> + Send>;

#[derive(Default)]
struct Script {
    seen: Vec<Seen>,
    next: VecDeque<Reply>,
    rule: Option<Rule>,
    always: Option<Reply>,
    questions: usize,
}

/// Whether the request is a probe: an envelope without items.
fn is_question(seen: &Seen) -> bool {
    seen.body == "{}\n"
}

/// A running upstream.
pub(crate) struct Upstream {
    address: SocketAddr,
    script: Arc<Mutex<Script>>,
    /// Cancelled to take the upstream off the network.
    life: CancellationToken,
    tasks: JoinSet<()>,
    /// The machine of the upstream; `None` when it runs here.
    machine: Option<Machine>,
}

impl Upstream {
    /// Starts an upstream that answers everything with 200.
    pub(crate) async fn start() -> Self {
        Self::start_on(Ipv4Addr::LOCALHOST.into()).await
    }

    /// Like [`start`](Self::start), listening on this address only.
    pub(crate) async fn start_on(address: IpAddr) -> Self {
        Self::start_at((address, super::net::free_port()).into()).await
    }

    /// Like [`start`](Self::start), on a machine of its own.
    pub(crate) fn start_in(machine: Machine) -> Self {
        let listening = machine.within(|| Self::start_on(machine.address.into()).now_or_never());
        let mut upstream = listening.expect("it listens at once");
        upstream.machine = Some(machine);
        upstream
    }

    /// The machine on which the upstream runs.
    pub(crate) fn machine(&self) -> &Machine {
        self.machine.as_ref().expect("an upstream on a machine of its own")
    }

    /// Like [`start`](Self::start), at this address and port.
    pub(crate) async fn start_at(address: SocketAddr) -> Self {
        let (life, tasks) = (CancellationToken::new(), JoinSet::new());
        let mut upstream = Self { address, script: Arc::default(), life, tasks, machine: None };
        upstream.listen().await;
        upstream
    }

    /// `host:port`.
    pub(crate) fn address(&self) -> String {
        self.address.to_string()
    }

    /// The port on which the upstream listens.
    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    /// The DSN of a project here; `key` need not be hexadecimal.
    pub(crate) fn dsn(&self, key: &str, project: u64) -> String {
        format!("http://{key}@{}/{project}", self.address)
    }

    /// Sets the answer to every request that no rule and no queued reply decides.
    pub(crate) fn always(&self, reply: Reply) {
        self.lock().always = Some(reply);
    }

    /// Queues answers for the next requests, one each.
    pub(crate) fn then(&self, replies: impl IntoIterator<Item = Reply>) {
        self.lock().next.extend(replies);
    }

    /// Sets a rule: a request for which it returns a reply gets that reply.
    pub(crate) fn when(&self, rule: impl Fn(&Seen) -> Option<Reply> + Send + 'static) {
        self.lock().rule = Some(Box::new(rule));
    }

    /// Every request that arrived, except for probes.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.lock().seen.clone()
    }

    /// The number of probes.
    pub(crate) fn questions(&self) -> usize {
        self.lock().questions
    }

    /// The requests that were answered with 2xx.
    pub(crate) fn taken(&self) -> Vec<Seen> {
        self.seen().into_iter().filter(|seen| seen.taken).collect()
    }

    /// The event ids of the taken requests, in the order of arrival.
    pub(crate) fn taken_ids(&self) -> Vec<String> {
        self.lock().seen.iter().filter(|seen| seen.taken).map(Seen::event_id).collect()
    }

    /// The number of taken requests.
    pub(crate) fn taken_count(&self) -> usize {
        self.lock().seen.iter().filter(|seen| seen.taken).count()
    }

    /// Takes the upstream off the network: it refuses connections, and open ones end.
    pub(crate) async fn go_down(&mut self) {
        self.life.cancel();
        self.tasks.shutdown().await;
    }

    /// Brings the upstream back at the same address.
    pub(crate) async fn come_back(&mut self) {
        self.life = CancellationToken::new();
        self.listen().await;
    }

    async fn listen(&mut self) {
        let listener = TcpListener::bind(self.address).await.expect("the upstream's address");
        let (script, life) = (Arc::clone(&self.script), self.life.clone());
        self.tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let accepted = tokio::select! {
                    () = life.cancelled() => break,
                    accepted = listener.accept() => accepted,
                };
                let Ok((stream, _)) = accepted else { continue };
                let script = Arc::clone(&script);
                connections.spawn(async move {
                    let service = service_fn(move |request| answer(Arc::clone(&script), request));
                    drop(http1::Builder::new().serve_connection(TokioIo::new(stream), service).await);
                });
            }
            connections.shutdown().await;
        });
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Script> {
        self.script.lock().expect("no test panics while holding the script")
    }
}

/// An error for hyper that closes the connection without an answer.
#[derive(Debug)]
struct Closed;

impl std::fmt::Display for Closed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("closed by the script")
    }
}

impl std::error::Error for Closed {}

async fn answer(script: Arc<Mutex<Script>>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Closed> {
    let (parts, body) = request.into_parts();
    let Ok(body) = body.collect().await.map(http_body_util::Collected::to_bytes) else { return Err(Closed) };
    let (path, query) = (parts.uri.path().to_owned(), parts.uri.query().map(str::to_owned));
    let at = tokio::time::Instant::now();
    let (method, headers) = (parts.method, parts.headers);
    let mut seen = Seen { method, path, query, headers, body, taken: false, at };
    let reply = {
        let mut script = script.lock().expect("no test panics while holding the script");
        let is_question = is_question(&seen);
        let by_rule = script.rule.as_ref().and_then(|rule| rule(&seen));
        let mut next = || if is_question { script.next.front().cloned() } else { script.next.pop_front() };
        let reply = by_rule.or_else(&mut next).or_else(|| script.always.clone()).unwrap_or(Reply::Ok);
        seen.taken = reply.takes();
        if is_question {
            script.questions += 1;
        } else {
            script.seen.push(seen.clone());
        }
        reply
    };
    let reply = match reply {
        Reply::Held(word, reply) => {
            word.cancelled().await;
            *reply
        }
        reply => reply,
    };
    let ok = || Response::new(Full::from(r#"{"id":"0"}"#));
    match reply {
        Reply::Ok => Ok(ok()),
        Reply::Close => Err(Closed),
        Reply::Hang | Reply::Held(..) => std::future::pending().await,
        Reply::Slow(wait) => {
            tokio::time::sleep(wait).await;
            Ok(ok())
        }
        Reply::Status(code, headers, text) => {
            let mut response = Response::new(Full::from(text));
            *response.status_mut() = StatusCode::from_u16(code).expect("a status");
            for (name, value) in headers {
                response.headers_mut().insert(name, value.parse().expect("a header value"));
            }
            Ok(response)
        }
    }
}
