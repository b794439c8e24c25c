//! A stand-in upstream: takes what SDKs and relays send, answers like Sentry, and remembers what arrived.
//!
//! For `switchyard sink` and `switchyard demo`. It keeps a bounded log and nothing on disk, and makes all received text safe to print.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::Notify;

use crate::clock::{Clock, Timestamp};
use crate::intake::decode;
use crate::intake::legacy;
use crate::printable;
use crate::protocol::auth;
use crate::protocol::category::Category;
use crate::protocol::envelope::{Envelope, Item};
use crate::protocol::event_id::EventId;
use crate::protocol::item::ItemType;
use crate::protocol::rate_limits::{self, RateLimit};
use crate::tasks::{self, Tasks};
use crate::units::ByteSize;

use super::listener::doors::Doors;
use super::listener::serve::{App, serve};
use super::public::body::Incoming;
use super::public::limit::Limit;
use super::public::room::{Held, Room};

/// The largest body, as sent and as decoded: the default of a relay, and more for what a relay adds.
const MAX_BODY: ByteSize = ByteSize::mib(208);
/// The room for all bodies in memory: the largest body fits beside the quarter for small ones.
const MAX_INFLIGHT: ByteSize = ByteSize::mib(288);
/// The most arrivals that are remembered; the oldest are dropped first.
const REMEMBERED: usize = 10_000;
/// The most characters of a text that are kept.
const SUMMARY: usize = 160;
/// The wait that a 429 asks for.
const COOLDOWN: Duration = Duration::from_secs(60);

/// How a sink answers.
#[derive(Clone, Copy, Debug)]
pub struct Behaviour {
    /// The status of every answer to a well-formed submission.
    pub status: StatusCode,
    /// How long the sink waits before it answers.
    pub delay: Duration,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self { status: StatusCode::OK, delay: Duration::ZERO }
    }
}

/// One item that arrived.
#[derive(Clone, Debug, Serialize)]
pub struct Arrival {
    /// When it arrived.
    pub at: Timestamp,
    /// The sink's name.
    pub sink: Arc<str>,
    /// The project in the path.
    pub project: String,
    /// The item's type.
    #[serde(rename = "type")]
    pub kind: String,
    /// The event id of the envelope, 32 hex digits.
    pub event_id: Option<String>,
    /// The payload's size.
    pub bytes: usize,
    /// A text about the item, if its payload has one: exception, message, transaction, monitor.
    pub summary: Option<String>,
    /// The status of the answer.
    pub answer: u16,
}

/// A stand-in upstream. Cheap to clone; clones are the same sink.
#[derive(Clone, Debug)]
pub struct Sink {
    name: Arc<str>,
    clock: Clock,
    room: Room,
    log: Arc<Mutex<Log>>,
    stirred: Arc<Notify>,
    behaviour: Behaviour,
    doors: Doors,
}

#[derive(Debug, Default)]
struct Log {
    arrivals: VecDeque<Arrival>,
    /// The number of all arrivals, forgotten ones included.
    total: u64,
}

impl Sink {
    /// A sink without arrivals.
    pub fn new(name: &str, behaviour: Behaviour, clock: Clock) -> Self {
        let room = Room::new(MAX_BODY, MAX_INFLIGHT);
        Self {
            name: name.into(),
            clock,
            room,
            log: Arc::default(),
            stirred: Arc::default(),
            behaviour,
            doors: Doors::of_relays(),
        }
    }

    /// Serves connections of `listener` until `tasks` are told to stop. A clone can be served after that.
    pub async fn serve(self, listener: TcpListener, tasks: Tasks) {
        let clock = self.clock.clone();
        serve(listener, self, clock, tasks).await;
    }

    /// The remembered arrivals after the first `seen`, and the number of all arrivals.
    pub fn since(&self, seen: u64) -> (Vec<Arrival>, u64) {
        let log = self.lock();
        let new = usize::try_from(log.total.saturating_sub(seen)).unwrap_or(usize::MAX);
        let skip = log.arrivals.len().saturating_sub(new);
        (log.arrivals.iter().skip(skip).cloned().collect(), log.total)
    }

    /// Waits for an arrival since the last call.
    pub async fn changed(&self) {
        self.stirred.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remember(&self, arrivals: Vec<Arrival>) {
        let mut log = self.lock();
        log.total += arrivals.len() as u64;
        log.arrivals.extend(arrivals);
        let excess = log.arrivals.len().saturating_sub(REMEMBERED);
        log.arrivals.drain(..excess);
        drop(log);
        self.stirred.notify_one();
    }

    async fn take(&self, request: Request<Body>) -> Result<Response, (StatusCode, String)> {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path().trim_matches('/').to_owned();
        let (project, endpoint) = match path.split('/').collect::<Vec<_>>()[..] {
            ["api", project, endpoint @ ("envelope" | "store")] => (project, endpoint),
            ["api", project, "integration", endpoint, ..] => return Ok(self.take_other(project, endpoint, body).await),
            ["api", project, endpoint @ ("security" | "csp-report" | "nel" | "cron" | "otlp"), ..] => {
                return Ok(self.take_other(project, endpoint, body).await);
            }
            _ => {
                return Err((StatusCode::NOT_FOUND, "this sink takes what SDKs send below /api/{project}/".to_owned()));
            }
        };
        if parts.method != Method::POST {
            return Err((StatusCode::METHOD_NOT_ALLOWED, "only POST is taken".to_owned()));
        }
        let bad = |error: &dyn std::error::Error| (StatusCode::BAD_REQUEST, error.to_string());
        // Held until the answer is made, because it bounds the bodies in memory.
        let mut held = Held::default();
        let body = incoming(body).whole(&self.room, &mut held).await;
        let body = body.map_err(|error| (StatusCode::PAYLOAD_TOO_LARGE, error.to_string()))?;
        let encodings = text(&parts.headers, header::CONTENT_ENCODING.as_str()).unwrap_or_default();
        let encodings = decode::encodings(encodings).map_err(|error| bad(&error))?;
        let body = tasks::blocking(move || decode::decode(body, &encodings, MAX_BODY.get())).await;
        let mut body = body.map_err(|error| bad(&error))?;
        if endpoint == "store" {
            body = legacy::envelope_of(body, MAX_BODY.get()).map_err(|error| bad(&error))?;
        }
        let envelope = Envelope::parse(body).map_err(|error| bad(&error))?;
        let sent = [text(&parts.headers, "x-sentry-auth"), text(&parts.headers, "authorization")];
        let found = auth::find(sent[0].into_iter(), sent[1].into_iter(), parts.uri.query(), None, |_| true);
        let found = found.map_err(|error| (StatusCode::UNAUTHORIZED, error.to_string()))?;
        if found.is_none() && envelope.dsn().is_none() {
            return Err((StatusCode::UNAUTHORIZED, "missing authentication".to_owned()));
        }
        tokio::time::sleep(self.behaviour.delay).await;
        self.remember(self.arrivals(project, &envelope));
        Ok(self.answer(envelope.event_id()))
    }

    /// Takes a request that is no envelope, and remembers it by its endpoint's name.
    async fn take_other(&self, project: &str, endpoint: &str, body: Body) -> Response {
        let body = incoming(body).whole(&self.room, &mut Held::default()).await;
        let arrival = Arrival {
            at: self.clock.now(),
            sink: Arc::clone(&self.name),
            project: project.to_owned(),
            kind: harmless(endpoint),
            event_id: None,
            bytes: body.map_or(0, |body| body.len()),
            summary: None,
            answer: self.behaviour.status.as_u16(),
        };
        tokio::time::sleep(self.behaviour.delay).await;
        self.remember(vec![arrival]);
        self.answer(None)
    }

    fn arrivals(&self, project: &str, envelope: &Envelope) -> Vec<Arrival> {
        let row = |item: &Item| {
            let payload = envelope.payload(item);
            Arrival {
                at: self.clock.now(),
                sink: Arc::clone(&self.name),
                project: project.to_owned(),
                kind: harmless(item.kind.name()),
                event_id: envelope.event_id().map(|id| id.to_string()),
                bytes: payload.len(),
                summary: summary(&item.kind, &payload).map(|text| harmless(&text)),
                answer: self.behaviour.status.as_u16(),
            }
        };
        envelope.items().iter().map(row).collect()
    }

    fn answer(&self, event_id: Option<EventId>) -> Response {
        let status = self.behaviour.status;
        if status.is_success() {
            let body = event_id.map_or(json!({}), |id| json!({ "id": id }));
            return (status, Json(body)).into_response();
        }
        let mut response = (status, Json(json!({ "detail": "told to answer so", "causes": [] }))).into_response();
        if status == StatusCode::TOO_MANY_REQUESTS {
            let limits = [RateLimit { retry_after: COOLDOWN, categories: None::<Vec<Category>> }];
            let limits = rate_limits::format(&limits, "organization", "quota_exceeded");
            for (name, value) in [("retry-after", COOLDOWN.as_secs().to_string()), ("x-sentry-rate-limits", limits)] {
                if let Ok(value) = value.parse() {
                    response.headers_mut().insert(name, value);
                }
            }
        }
        response
    }
}

impl App for Sink {
    fn doors(&self) -> &Doors {
        &self.doors
    }

    async fn answer(&self, _: SocketAddr, request: Request<Body>) -> Response {
        match self.take(request).await {
            Ok(response) => response,
            Err((status, detail)) => (status, Json(json!({ "detail": detail, "causes": [] }))).into_response(),
        }
    }
}

fn text<'a>(headers: &'a http::HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// A text about an item, from its payload; `None` if the payload has none.
fn summary(kind: &ItemType, payload: &Bytes) -> Option<String> {
    if !matches!(kind, ItemType::Event | ItemType::Transaction | ItemType::CheckIn | ItemType::Feedback) {
        return None;
    }
    let payload: Value = serde_json::from_slice(payload).ok()?;
    let word = |path: &str| payload.pointer(path).and_then(Value::as_str);
    match kind {
        ItemType::CheckIn => Some(format!("{} {}", word("/monitor_slug")?, word("/status")?)),
        ItemType::Transaction => word("/transaction").map(str::to_owned),
        ItemType::Feedback => word("/contexts/feedback/message").map(str::to_owned),
        _ => exception(&payload).or_else(|| {
            let places = ["/logentry/formatted", "/logentry/message", "/message", "/message/formatted"];
            places.into_iter().find_map(word).map(str::to_owned)
        }),
    }
}

/// Type and value of the last exception in the chain, which is the one that was seen.
fn exception(payload: &Value) -> Option<String> {
    let values = payload.pointer("/exception/values").or_else(|| payload.get("exception"))?;
    let last = values.as_array()?.last()?;
    let word = |name: &str| last.get(name).and_then(Value::as_str);
    match (word("type"), word("value")) {
        (Some(kind), Some(value)) => Some(format!("{kind}: {value}")),
        (one, other) => one.or(other).map(str::to_owned),
    }
}

/// A text that is safe to print to a terminal, cut to [`SUMMARY`] characters.
fn harmless(text: &str) -> String {
    printable::in_a_line(text).take(SUMMARY).collect()
}

/// A body with the sink's limit.
fn incoming(body: Body) -> Incoming {
    Incoming::new(body, Limit::endpoint(MAX_BODY.get()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sink(behaviour: Behaviour) -> Sink {
        Sink::new("test", behaviour, Clock::system())
    }

    async fn answer(sink: &Sink, path: &str, key: Option<&str>, body: impl Into<Body>) -> (StatusCode, Response) {
        let mut request = Request::post(path);
        if let Some(key) = key {
            request = request.header("x-sentry-auth", format!("Sentry sentry_key={key}"));
        }
        let peer = ([127, 0, 0, 1], 1).into();
        let response = App::answer(sink, peer, request.body(body.into()).unwrap()).await;
        (response.status(), response)
    }

    const EVENT: &str = "{\"event_id\":\"9ec79c33ec9942ab8353589fcb2e04dc\"}\n{\"type\":\"event\"}\n{\"exception\":{\"values\":[{\"type\":\"E\",\"value\":\"no\\u001b[2J\"}]}}";

    #[tokio::test]
    async fn an_event_is_taken_and_summarised() {
        let sink = sink(Behaviour::default());
        assert_eq!(answer(&sink, "/api/7/envelope/", Some("k"), EVENT).await.0, StatusCode::OK);
        let (arrivals, total) = sink.since(0);
        assert_eq!((arrivals.len(), total), (1, 1));
        assert_eq!(arrivals[0].summary.as_deref(), Some("E: no [2J"));
        assert_eq!((arrivals[0].project.as_str(), arrivals[0].kind.as_str()), ("7", "event"));
        assert!(sink.since(1).0.is_empty());
    }

    #[tokio::test]
    async fn requests_that_sentry_refuses_are_refused() {
        let sink = sink(Behaviour::default());
        assert_eq!(answer(&sink, "/api/7/envelope/", None, EVENT).await.0, StatusCode::UNAUTHORIZED);
        assert_eq!(answer(&sink, "/api/7/envelope/", Some("k"), "nonsense").await.0, StatusCode::BAD_REQUEST);
        assert_eq!(answer(&sink, "/elsewhere", Some("k"), EVENT).await.0, StatusCode::NOT_FOUND);
        assert_eq!(sink.since(0).1, 0);
    }

    #[tokio::test]
    async fn a_legacy_event_is_taken_too() {
        let sink = sink(Behaviour::default());
        let event = "{\"event_id\":\"9ec79c33ec9942ab8353589fcb2e04dc\",\"message\":\"old\"}";
        assert_eq!(answer(&sink, "/api/7/store/", Some("k"), event).await.0, StatusCode::OK);
        assert_eq!(sink.since(0).0[0].summary.as_deref(), Some("old"));
    }

    #[tokio::test]
    async fn a_request_that_is_no_envelope_is_remembered_by_its_endpoint() {
        let sink = sink(Behaviour::default());
        for (path, kind) in [("/api/7/cron/nightly/k/", "cron"), ("/api/7/integration/vercel/logs", "vercel")] {
            assert_eq!(answer(&sink, path, None, "{}").await.0, StatusCode::OK);
            let (arrivals, _) = sink.since(0);
            let last = arrivals.last().unwrap();
            assert_eq!((last.kind.as_str(), last.bytes), (kind, 2));
        }
    }

    #[tokio::test]
    async fn the_largest_default_body_of_a_relay_is_taken() {
        let sink = sink(Behaviour::default());
        let attachment = 200 << 20;
        let head = format!("{{}}\n{{\"type\":\"attachment\",\"length\":{attachment}}}\n");
        let body = [head.into_bytes(), vec![b'x'; attachment]].concat();
        assert_eq!(answer(&sink, "/api/7/envelope/", Some("k"), body).await.0, StatusCode::OK);
        assert_eq!(sink.since(0).0[0].bytes, attachment);
    }

    #[tokio::test]
    async fn a_429_says_for_how_long() {
        let sink = sink(Behaviour { status: StatusCode::TOO_MANY_REQUESTS, delay: Duration::ZERO });
        let (status, response) = answer(&sink, "/api/7/envelope/", Some("k"), EVENT).await;
        assert_eq!(status, StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(response.headers()["x-sentry-rate-limits"], "60::organization:quota_exceeded");
    }

    #[tokio::test]
    async fn the_log_is_bounded_and_counts_all_arrivals() {
        let sink = sink(Behaviour::default());
        for _ in 0..3 {
            let envelope = Envelope::parse(Bytes::from_static(EVENT.as_bytes())).unwrap();
            sink.remember(vec![sink.arrivals("1", &envelope).remove(0); REMEMBERED / 2]);
        }
        let (arrivals, total) = sink.since(0);
        assert_eq!((arrivals.len() as u64, total), (REMEMBERED as u64, REMEMBERED as u64 * 3 / 2));
    }
}
