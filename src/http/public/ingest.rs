//! The requests of SDKs: turns HTTP into a submission, and its receipt into an answer.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use prometheus::HistogramTimer;
use url::form_urlencoded;

use crate::intake::decode::{self, DecodeError};
use crate::intake::keyring::KeyError;
use crate::intake::legacy::{self, StoreError};
use crate::intake::submit::{Entrance, Receipt};
use crate::journal::Client;
use crate::protocol::auth::{self, AuthError, Credentials};
use crate::tasks;

use super::body::Incoming;
use super::caller::refuse;
use super::circle;
use super::error::{ApiError, tell_limits};
use super::limit::{BodyError, Limit};
use super::peer::{self, client};
use super::receive::{DECODED_INLINE, receive, whole};
use super::room::{Held, Owner, SMALL};
use super::state::Public;

/// The project of a request, kept in the extensions of its answer for the counts.
#[derive(Clone, Debug)]
pub(super) struct ForProject(pub(super) Arc<str>);

const X_SENTRY_AUTH: HeaderName = HeaderName::from_static("x-sentry-auth");

/// A transparent image of one pixel: the answer to an event that a page sends by loading an image (getsentry/relay,
/// `relay-server/src/endpoints/store.rs`).
const PIXEL: &[u8] = b"GIF89a\x01\x00\x01\x00\x00\xff\x00,\x00\x00\x00\x00\x01\x00\x01\x00\x00\x02\x00;";

/// `POST /api/{project}/envelope/`
pub(super) async fn envelope(State(public): State<Arc<Public>>, id: ProjectId, request: Request) -> Response {
    take_in(&public, Some(&project(id)), request, Form::Envelope).await
}

/// As [`envelope`], for a request that bypasses the router; `id` is from its path. Also returns the project, if known.
pub(super) async fn envelope_for(public: &Public, id: &str, request: Request) -> (Response, Option<Arc<str>>) {
    taken_in(public, Some(id), request, Form::Envelope).await
}

/// `POST /api/{project}/store/`
pub(super) async fn store(State(public): State<Arc<Public>>, id: ProjectId, request: Request) -> Response {
    take_in(&public, Some(&project(id)), request, Form::Event).await
}

/// `POST /api/store/`: only the key names the project.
pub(super) async fn store_without_project(State(public): State<Arc<Public>>, request: Request) -> Response {
    take_in(&public, None, request, Form::Event).await
}

/// `POST` to the tunnel's path: only the envelope names the project. Credentials in the headers, and the query, belong to the site
/// that the request passed through, and are removed.
pub(super) async fn tunnel(State(public): State<Arc<Public>>, mut request: Request) -> Response {
    for name in ["x-sentry-auth", "authorization"] {
        request.headers_mut().remove(name);
    }
    *request.uri_mut() = request.uri().path().parse().unwrap_or_default();
    take_in(&public, None, request, Form::Envelope).await
}

type ProjectId = Result<Path<String>, PathRejection>;

/// The project id in the path; empty if it is no UTF-8, and then refused as any other that is no number.
fn project(id: ProjectId) -> String {
    id.map_or_else(|_| String::new(), |Path(id)| id)
}

/// The form of a body.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Envelope,
    /// One event, unless its content type says that it is an envelope.
    Event,
}

impl Form {
    fn of(self, headers: &HeaderMap) -> Self {
        if says_envelope(headers) { Self::Envelope } else { self }
    }

    fn terms(self, public: &Public) -> Terms {
        match self {
            Self::Envelope => Terms { limit: public.room.max_body(), may_name_project: true },
            Self::Event => Terms { limit: longest_event(public), may_name_project: false },
        }
    }
}

/// The size limit for the body of one event.
fn longest_event(public: &Public) -> Limit {
    Limit::event().or(public.room.max_body()).or(public.room.whole())
}

async fn take_in(public: &Public, id: Option<&str>, request: Request, form: Form) -> Response {
    let (mut response, project) = taken_in(public, id, request, form).await;
    note_project(&mut response, project);
    response
}

/// Takes a submission in; returns the answer and the project, if known.
async fn taken_in(public: &Public, id: Option<&str>, request: Request, form: Form) -> (Response, Option<Arc<str>>) {
    let form = form.of(request.headers());
    let Visit { entrance, parts, body, pass } = match admit(public, id, None, form.terms(public), request).await {
        Ok(visit) => visit,
        Err(refusal) => return (refusal, None),
    };
    let taken = submit(public, entrance, &parts, body, form).await;
    pass.close(public, &parts, taken.map(|receipt| (receipt.project.clone(), answer(&receipt))))
}

/// `GET /api/{project}/store/`: the event is in the query, and the answer is an image for a page to show.
pub(super) async fn pixel(State(public): State<Arc<Public>>, id: ProjectId, request: Request) -> Response {
    picture(&public, Some(&project(id)), request).await
}

/// `GET /api/store/`
pub(super) async fn pixel_without_project(State(public): State<Arc<Public>>, request: Request) -> Response {
    picture(&public, None, request).await
}

async fn picture(public: &Public, id: Option<&str>, request: Request) -> Response {
    let terms = Form::Event.terms(public);
    let Visit { entrance, parts, pass, .. } = match admit(public, id, None, terms, request).await {
        Ok(visit) => visit,
        Err(refusal) => return refusal,
    };
    let taken = submit_query(public, entrance, &parts).await;
    let image = || ([(header::CONTENT_TYPE, "image/gif")], PIXEL).into_response();
    pass.end(public, &parts, taken.map(|receipt| (receipt.project, image())))
}

async fn submit_query(public: &Public, entrance: Entrance, parts: &Parts) -> Result<Receipt, ApiError> {
    let mut fields = form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes());
    let event = fields.find(|(name, _)| name == "sentry_data").map(|(_, data)| data.into_owned());
    let mut held = share(public, &entrance, parts);
    let envelope = stored(public, event.unwrap_or_default().into(), &mut held).await?;
    Ok(public.intake.submit(entrance, sender(public, parts), envelope.into()).await?)
}

/// The rules of a route, known before a body is read.
#[derive(Clone, Copy)]
pub(super) struct Terms {
    /// The size limit of the body.
    pub(super) limit: Limit,
    /// Whether the body may name the project when the request does not.
    pub(super) may_name_project: bool,
}

/// A request that was admitted.
pub(super) struct Visit {
    pub(super) entrance: Entrance,
    pub(super) parts: Parts,
    pub(super) body: Incoming,
    pub(super) pass: Pass,
}

/// What the metrics need at the end of a request: its project and its timer.
pub(super) struct Pass {
    project: Option<Arc<str>>,
    timer: HistogramTimer,
}

/// Admits a request by its credentials; `key` is the key in its path. Reads and discards the body of a refused request.
pub(super) async fn admit(
    public: &Public,
    id: Option<&str>,
    key: Option<&str>,
    terms: Terms,
    request: Request,
) -> Result<Visit, Response> {
    let timer = public.metrics.accept_duration_seconds.start_timer();
    let (parts, body) = request.into_parts();
    let body = Incoming::new(body, terms.limit);
    let entrance = authenticate(public, id, key, &parts).and_then(|entrance| match entrance {
        Entrance::Envelope { .. } if !terms.may_name_project => Err(KeyError::Missing.into()),
        entrance => Ok(entrance),
    });
    match entrance {
        Ok(entrance) => {
            let pass = Pass { project: entrance.project().cloned(), timer };
            Ok(Visit { entrance, parts, body, pass })
        }
        Err(error) => {
            // Not every SDK reads an answer that comes before it has sent the body. A client that sends `Expect` waits for the answer,
            // and does not send a refused body.
            if !parts.headers.contains_key(header::EXPECT) {
                body.discard().await;
            }
            timer.stop_and_discard();
            Err(refuse(public, &parts, error))
        }
    }
}

/// What came of a request that was let in: for whom it was taken, and the answer.
type Taken = Result<(Arc<str>, Response), ApiError>;

impl Pass {
    /// The answer: what was taken in for a project, or the refusal of a request.
    pub(super) fn end(self, public: &Public, parts: &Parts, taken: Taken) -> Response {
        let (mut response, project) = self.close(public, parts, taken);
        note_project(&mut response, project);
        response
    }

    /// The same, with the project beside the answer.
    fn close(self, public: &Public, parts: &Parts, taken: Taken) -> (Response, Option<Arc<str>>) {
        self.timer.observe_duration();
        match taken {
            Ok((project, response)) => (response, Some(project)),
            Err(error) => (refuse(public, parts, error), self.project),
        }
    }
}

fn note_project(response: &mut Response, project: Option<Arc<str>>) {
    if let Some(project) = project {
        response.extensions_mut().insert(ForProject(project));
    }
}

fn authenticate(public: &Public, id: Option<&str>, key: Option<&str>, parts: &Parts) -> Result<Entrance, ApiError> {
    circle::check(public, &parts.headers)?;
    Ok(public.intake.authenticate(id, credentials(public, parts, key))?)
}

/// The credentials of a request, from its headers, its query, and `key`, the key in its path.
pub(super) fn credentials(public: &Public, parts: &Parts, key: Option<&str>) -> Result<Option<Credentials>, AuthError> {
    let values = |name| parts.headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    let is_ours = |key: &str| public.intake.knows_key(key);
    auth::find(values(X_SENTRY_AUTH), values(header::AUTHORIZATION), parts.uri.query(), key, is_ours)
}

async fn submit(
    public: &Public,
    entrance: Entrance,
    parts: &Parts,
    body: Incoming,
    form: Form,
) -> Result<Receipt, ApiError> {
    let mut held = share(public, &entrance, parts);
    let envelope_of = (form == Form::Envelope).then_some(&entrance);
    let mut body = receive(public, body, encodings(&parts.headers)?, envelope_of, &mut held).await?;
    if form == Form::Event {
        let event = whole(public, body, &mut held).await?;
        body = stored(public, event, &mut held).await?.into();
    }
    Ok(public.intake.submit(entrance, sender(public, parts), body).await?)
}

/// Wraps a stored event in an envelope, and extends `held` before. It first tries with room for a small event: a packed event is seldom
/// larger.
async fn stored(public: &Public, event: Bytes, held: &mut Held) -> Result<Bytes, ApiError> {
    let limit = longest_event(public);
    let mut most = limit.bytes().min(SMALL);
    loop {
        public.room.extend(held, most).await?;
        let event = event.clone();
        let made = if event.len() > DECODED_INLINE {
            tasks::blocking(move || legacy::envelope_of(event, most)).await
        } else {
            legacy::envelope_of(event, most)
        };
        match made {
            Err(StoreError::TooLarge { .. }) if most < limit.bytes() => most = limit.bytes(),
            Err(StoreError::TooLarge { .. }) => return Err(BodyError::TooLarge { what: "event", limit }.into()),
            made => {
                let envelope = made?;
                held.shrink(envelope.len() as u64);
                return Ok(envelope);
            }
        }
    }
}

/// The sender of a request, as upstreams are told.
pub(super) fn sender(public: &Public, parts: &Parts) -> Client {
    client(&parts.headers, peer::of(parts), &public.server.load().trusted_proxies)
}

/// Empty room for a body, from the share of its project, or of its client while the project is unknown. A single configured project
/// shares with nobody.
pub(super) fn share(public: &Public, entrance: &Entrance, parts: &Parts) -> Held {
    match entrance.project() {
        Some(project) if public.intake.routing().projects.len() == 1 => Held::of_the_only(Arc::clone(project)),
        Some(project) => Held::of(Owner::Project(Arc::clone(project))),
        None => Held::of(Owner::Client(source(public, parts))),
    }
}

/// The client whose share of room and places a request takes.
pub(super) fn source(public: &Public, parts: &Parts) -> IpAddr {
    peer::source(&parts.headers, peer::of(parts), &public.server.load().trusted_proxies)
}

/// The encodings of a body, in the order in which they are undone: the last applied first.
pub(super) fn encodings(headers: &HeaderMap) -> Result<Vec<decode::Encoding>, DecodeError> {
    if !headers.contains_key(header::CONTENT_ENCODING) {
        return Ok(vec![]);
    }
    let unreadable = |_| DecodeError::Unsupported("of unreadable name".to_owned());
    let lines = headers.get_all(header::CONTENT_ENCODING).iter().map(|line| line.to_str().map_err(unreadable));
    // Several lines are one list (RFC 9110, section 5.3), with one limit.
    decode::encodings(&lines.collect::<Result<Vec<_>, _>>()?.join(","))
}

fn says_envelope(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let (kind, envelope) = (kind.trim_start().as_bytes(), b"application/x-sentry-envelope");
    kind.get(..envelope.len()).is_some_and(|kind| kind.eq_ignore_ascii_case(envelope))
}

fn answer(receipt: &Receipt) -> Response {
    let body = receipt.event_id.map_or_else(|| "{}".to_owned(), |id| ["{\"id\":\"", &id.to_string(), "\"}"].concat());
    let mut response = Response::new(body.into());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    tell_limits(&receipt.limits, &mut response);
    response
}
