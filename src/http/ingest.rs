//! The requests of SDKs: from HTTP to a submission, and back to an answer.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, StatusCode, header};
use prometheus::HistogramTimer;
use serde_json::json;
use url::form_urlencoded;

use crate::intake::decode::{self, BUFFERED, DecodeError};
use crate::intake::legacy;
use crate::intake::submit::{Entrance, Receipt};
use crate::journal::Client;
use crate::protocol::auth::{self, AuthError, Credentials};
use crate::tasks;

use super::body::Held;
use super::error::{ApiError, tell_limits};
use super::peer::client;
use super::receive::receive;
use super::state::Public;

/// The project a request was for, for the counts: in the extensions of its answer.
#[derive(Clone, Debug)]
pub(super) struct ForProject(pub(super) Arc<str>);

/// Bodies of up to this many encoded bytes are decoded where they are read; larger ones on a thread of their own.
pub(super) const DECODED_INLINE: usize = 128 * 1024;

/// A transparent image of one pixel: what a page gets for an event that it sent as one (getsentry/relay,
/// `relay-server/src/endpoints/store.rs`).
const PIXEL: &[u8] = b"GIF89a\x01\x00\x01\x00\x00\xff\x00,\x00\x00\x00\x00\x01\x00\x01\x00\x00\x02\x00;";

/// `POST /api/{project}/envelope/`
pub(super) async fn envelope(State(public): State<Arc<Public>>, id: ProjectId, request: Request) -> Response {
    take_in(&public, Some(&project(id)), request, Form::Envelope).await
}

/// `POST /api/{project}/store/`
pub(super) async fn store(State(public): State<Arc<Public>>, id: ProjectId, request: Request) -> Response {
    take_in(&public, Some(&project(id)), request, Form::Event).await
}

/// `POST /api/store/`: the key alone says for which project.
pub(super) async fn store_without_project(State(public): State<Arc<Public>>, request: Request) -> Response {
    take_in(&public, None, request, Form::Event).await
}

/// `POST` to the tunnel's path: only the envelope says for which project it is. What the request carries besides belongs to the
/// site that it passed through.
pub(super) async fn tunnel(State(public): State<Arc<Public>>, mut request: Request) -> Response {
    for name in ["x-sentry-auth", "authorization"] {
        request.headers_mut().remove(name);
    }
    *request.uri_mut() = request.uri().path().parse().unwrap_or_default();
    take_in(&public, None, request, Form::Envelope).await
}

type ProjectId = Result<Path<String>, PathRejection>;

/// The project id in the path. One that is no text at all is no number either, and refused like any other.
fn project(id: ProjectId) -> String {
    id.map_or_else(|_| String::new(), |Path(id)| id)
}

/// What a body is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Envelope,
    /// One event, unless its content type says that it is an envelope.
    Event,
}

async fn take_in(public: &Public, id: Option<&str>, request: Request, form: Form) -> Response {
    let Visit { entrance, parts, body, pass } = match admit(public, id, None, request).await {
        Ok(visit) => visit,
        Err(refusal) => return refusal,
    };
    let taken = submit(public, entrance, &parts, body, form).await;
    pass.end(taken.map(|receipt| (receipt.project.clone(), answer(&receipt))))
}

/// `GET /api/{project}/store/`: the event is in the query, the answer an image for a page to show.
pub(super) async fn pixel(State(public): State<Arc<Public>>, id: ProjectId, request: Request) -> Response {
    picture(&public, Some(&project(id)), request).await
}

/// `GET /api/store/`
pub(super) async fn pixel_without_project(State(public): State<Arc<Public>>, request: Request) -> Response {
    picture(&public, None, request).await
}

async fn picture(public: &Public, id: Option<&str>, request: Request) -> Response {
    let Visit { entrance, parts, pass, .. } = match admit(public, id, None, request).await {
        Ok(visit) => visit,
        Err(refusal) => return refusal,
    };
    let taken = submit_query(public, entrance, &parts).await;
    pass.end(taken.map(|receipt| (receipt.project, ([(header::CONTENT_TYPE, "image/gif")], PIXEL).into_response())))
}

async fn submit_query(public: &Public, entrance: Entrance, parts: &Parts) -> Result<Receipt, ApiError> {
    let mut fields = form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes());
    let event = fields.find(|(name, _)| name == "sentry_data").map(|(_, data)| data.into_owned());
    let envelope = legacy::envelope_of(event.unwrap_or_default().into(), public.room.limit().0)?;
    Ok(public.intake.submit(entrance, sender(public, parts), envelope.into()).await?)
}

/// A request that was let in.
pub(super) struct Visit {
    pub(super) entrance: Entrance,
    pub(super) parts: Parts,
    pub(super) body: Body,
    pub(super) pass: Pass,
}

/// What must be given back at the end of a visit, for the counts.
pub(super) struct Pass {
    project: Option<Arc<str>>,
    timer: HistogramTimer,
}

/// Lets a request in by its credentials; refuses it after reading its body away. `key` is the one in its path.
pub(super) async fn admit(
    public: &Public,
    id: Option<&str>,
    key: Option<&str>,
    request: Request,
) -> Result<Visit, Response> {
    let timer = public.metrics.accept_duration_seconds.start_timer();
    let (parts, mut body) = request.into_parts();
    match authenticate(public, id, key, &parts) {
        Ok(entrance) => {
            let pass = Pass { project: entrance.project().cloned(), timer };
            Ok(Visit { entrance, parts, body, pass })
        }
        Err(error) => {
            // Who asks before sending sends nothing of what is refused.
            if !parts.headers.contains_key(header::EXPECT) {
                drain(&mut body, public).await;
            }
            timer.stop_and_discard();
            Err(error.into_response())
        }
    }
}

impl Pass {
    /// The answer: what was taken in for a project, or the refusal.
    pub(super) fn end(self, taken: Result<(Arc<str>, Response), ApiError>) -> Response {
        let (project, mut response) = match taken {
            Ok((project, response)) => (Some(project), response),
            Err(error) => (self.project, error.into_response()),
        };
        if let Some(project) = project {
            response.extensions_mut().insert(ForProject(project));
        }
        self.timer.observe_duration();
        response
    }
}

fn authenticate(public: &Public, id: Option<&str>, key: Option<&str>, parts: &Parts) -> Result<Entrance, ApiError> {
    Ok(public.intake.authenticate(id, credentials(parts, key))?)
}

/// What a request says of itself; `key` is the one in its path.
pub(super) fn credentials(parts: &Parts, key: Option<&str>) -> Result<Option<Credentials>, AuthError> {
    let values = |name: &str| {
        let all: Vec<&str> = parts.headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).collect();
        all.into_iter()
    };
    auth::find(values("x-sentry-auth"), values("authorization"), parts.uri.query(), key)
}

async fn submit(
    public: &Public,
    entrance: Entrance,
    parts: &Parts,
    body: Body,
    form: Form,
) -> Result<Receipt, ApiError> {
    let mut held = Held::default();
    let body = match form {
        Form::Event if !says_envelope(&parts.headers) => {
            let body = read(public, parts, body, &mut held).await?;
            legacy::envelope_of(body, public.room.limit().0)?.into()
        }
        _ => receive(public, body, encodings(&parts.headers)?, &mut held).await?,
    };
    Ok(public.intake.submit(entrance, sender(public, parts), body).await?)
}

/// Reads and decodes a body that is never large; `held` is the room it takes.
pub(super) async fn read(public: &Public, parts: &Parts, body: Body, held: &mut Held) -> Result<Bytes, ApiError> {
    let encodings = encodings(&parts.headers)?;
    let body = public.room.read(body, held).await?;
    if encodings.is_empty() { Ok(body) } else { decode(public, body, encodings, held).await }
}

/// What upstreams are told of the sender of a request.
pub(super) fn sender(public: &Public, parts: &Parts) -> Client {
    client(&parts.headers, peer(parts), &public.trusted.load())
}

/// The encodings of a body, in the order in which they were applied.
pub(super) fn encodings(headers: &HeaderMap) -> Result<Vec<decode::Encoding>, DecodeError> {
    let unreadable = |_| DecodeError::Unsupported("of unreadable name".to_owned());
    let lines = headers.get_all(header::CONTENT_ENCODING).iter().map(|line| line.to_str().map_err(unreadable));
    // Several lines are one list (RFC 9110, section 5.3), with one limit.
    decode::encodings(&lines.collect::<Result<Vec<_>, _>>()?.join(","))
}

/// Decodes in memory: where it is quick, and elsewhere where it is not.
pub(super) async fn decode(
    public: &Public,
    body: Bytes,
    encodings: Vec<decode::Encoding>,
    held: &mut Held,
) -> Result<Bytes, ApiError> {
    let (limit, _) = public.room.limit();
    if body.len() <= DECODED_INLINE {
        match decode::decode(body.clone(), &encodings, limit.min(BUFFERED)) {
            Err(DecodeError::TooLarge { .. }) if limit > BUFFERED => {}
            done => {
                let text = done?;
                public.room.extend(held, (body.len() + text.len()) as u64).await?;
                return Ok(text);
            }
        }
    }
    // A decompressor may take a window of many MiB: few at a time.
    let _turn = public.room.turn().await;
    let (packed, list) = (body.clone(), encodings.clone());
    let size = tasks::blocking(move || decode::size(&packed[..], &list, limit)).await?;
    public.room.extend(held, body.len() as u64 + size).await?;
    Ok(tasks::blocking(move || decode::decode(body, &encodings, size)).await?)
}

fn says_envelope(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    kind.trim_start().to_ascii_lowercase().starts_with("application/x-sentry-envelope")
}

/// Who is at the other end of the connection.
pub(super) fn peer(parts: &Parts) -> IpAddr {
    parts.extensions.get::<SocketAddr>().map_or(IpAddr::from([127, 0, 0, 1]), SocketAddr::ip)
}

/// Reads away the body of a request that is refused, within the limits of one that is not: an answer that comes before the
/// body was sent is not read by every SDK.
pub(super) async fn drain(body: &mut Body, public: &Public) {
    drop(public.room.discard(body).await);
}

fn answer(receipt: &Receipt) -> Response {
    let body = match receipt.event_id {
        Some(id) => json!({ "id": id }),
        None => json!({}),
    };
    let mut response = (StatusCode::OK, Json(body)).into_response();
    tell_limits(&receipt.limits, &mut response);
    response
}
