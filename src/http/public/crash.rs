//! Crash reports, and files sent separately from their events: minidumps, Unreal's crashes, attachments. They become envelopes on the
//! way in, so that every upstream stores the event under the id that the client was told.
//!
//! Minidumps and Unreal's crashes are never answered with 429: crash reporters would send them again and again
//! (getsentry/relay, `relay-server/src/endpoints/minidump.rs`).

use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt as _, TryStreamExt as _};
use http::request::Parts;
use http::{HeaderMap, StatusCode, header};
use tokio::sync::Mutex;
use url::form_urlencoded;

use crate::intake::crash::{self, FormKind, Pieces, Workshop};
use crate::intake::submit::{Entrance, Receipt, Refusal};
use crate::journal::JournalError;
use crate::journal::body::Body;
use crate::protocol::event_id::EventId;
use crate::telemetry::metrics::Refused;

use super::body::Incoming;
use super::error::ApiError;
use super::ingest::{Terms, Visit, admit, encodings, sender, share};
use super::receive::receive;
use super::room::Held;
use super::state::Public;

/// The most room, in bytes, that a form or file takes on its way: for the beginning of a body, a piece of a file, the form's data.
const IN_PASSING: u64 = 2 * 1024 * 1024;

/// `POST /api/{project}/minidump/`: a form, or the minidump itself.
pub(super) async fn minidump(State(public): State<Arc<Public>>, path: Segments, request: Request) -> Response {
    let [project, _] = segments(path);
    take_in(&public, &project, None, request, What::Minidump).await
}

/// `POST /api/{project}/unreal/{key}/`
pub(super) async fn unreal(State(public): State<Arc<Public>>, path: Segments, request: Request) -> Response {
    let [project, key] = segments(path);
    take_in(&public, &project, Some(&key), request, What::Unreal).await
}

/// `POST /api/{project}/events/{event_id}/attachments/`
pub(super) async fn attachments(State(public): State<Arc<Public>>, path: Segments, request: Request) -> Response {
    let [project, id] = segments(path);
    take_in(&public, &project, None, request, What::Attachments(id.parse().ok())).await
}

type Segments = Result<Path<Vec<(String, String)>>, PathRejection>;

/// The two parameters of a path; empty where one is missing, and both empty if the path is no UTF-8, which then belongs to no project.
fn segments(path: Segments) -> [String; 2] {
    let mut values = path.map(|Path(pairs)| pairs).unwrap_or_default().into_iter().map(|(_, value)| value);
    [values.next().unwrap_or_default(), values.next().unwrap_or_default()]
}

/// What the body of a request is.
#[derive(Clone, Copy)]
enum What {
    Minidump,
    Unreal,
    /// Files for this event; `None` when the path names none.
    Attachments(Option<EventId>),
}

async fn take_in(public: &Public, id: &str, key: Option<&str>, request: Request, what: What) -> Response {
    // The request itself must name its project: nothing is written before that is checked.
    let terms = Terms { limit: public.room.max_body(), may_name_project: false };
    let Visit { entrance, parts, body, pass } = match admit(public, Some(id), key, terms, request).await {
        Ok(visit) => visit,
        Err(refusal) => return refusal,
    };
    let taken = submit(public, entrance, &parts, body, what).await;
    pass.end(public, &parts, taken.map(|receipt| (Arc::clone(&receipt.project), answer(what, &receipt))))
}

async fn submit(
    public: &Public,
    entrance: Entrance,
    parts: &Parts,
    body: Incoming,
    what: What,
) -> Result<Receipt, ApiError> {
    // Shared with the stream of pieces, which extends it, and held until the envelope is taken in.
    let held = Arc::new(Mutex::new(share(public, &entrance, parts)));
    let (id, envelope) = envelope(public, parts, body, what, &held).await?;
    let project = entrance.project().cloned();
    match (public.intake.submit(entrance, sender(public, parts), envelope).await, project) {
        (Err(Refusal::Limited(_)), Some(project)) if !matches!(what, What::Attachments(_)) => {
            Ok(Receipt { event_id: Some(id), project, limits: vec![] })
        }
        (taken, _) => Ok(taken?),
    }
}

async fn envelope(
    public: &Public,
    parts: &Parts,
    body: Incoming,
    what: What,
    held: &Arc<Mutex<Held>>,
) -> Result<(EventId, Body), ApiError> {
    let (owner, project) = {
        let held = held.lock().await;
        (held.owner().cloned(), held.project())
    };
    let (journal, turns) = (Arc::clone(public.intake.journal()), public.room.turns());
    let workshop = Workshop { journal, project, owner, turns };
    let boundary = boundary(&parts.headers);
    let form = match (what, &boundary) {
        (What::Attachments(None), _) => return Err(malformed("the event id in the path is no event id")),
        (What::Attachments(_), None) => return Err(malformed("a multipart form with a boundary is expected")),
        (What::Attachments(Some(id)), Some(boundary)) => Some((boundary, FormKind::Attachments(id))),
        (What::Minidump, Some(boundary)) => Some((boundary, FormKind::Minidump)),
        (What::Minidump, None) | (What::Unreal, _) => None,
    };
    let pieces = pieces(public, parts, body, held).await?;
    Ok(match form {
        Some((boundary, kind)) => crash::of_form(&workshop, pieces, boundary, kind).await?,
        None if matches!(what, What::Unreal) => crash::of_unreal(&workshop, pieces, user(parts).as_deref()).await?,
        None => crash::of_minidump(&workshop, pieces).await?,
    })
}

/// The body as it comes. An encoded body is received and decoded first.
async fn pieces(public: &Public, parts: &Parts, body: Incoming, held: &Arc<Mutex<Held>>) -> Result<Pieces, ApiError> {
    let (encodings, most) = (encodings(&parts.headers)?, IN_PASSING.min(public.room.whole().bytes()));
    if encodings.is_empty() {
        return Ok(body.pieces(public.room.clone(), Arc::clone(held), most).map_err(Into::into).boxed());
    }
    let mut held = held.lock().await;
    let body = receive(public, body, encodings, None, &mut held).await?;
    public.room.extend(&mut held, body.in_memory() as u64 + most.min(body.len())).await?;
    let unreadable = |error| JournalError::Failed(format!("the file of a body cannot be read: {error}")).into();
    Ok(body.pieces().map_err(unreadable).boxed())
}

/// The boundary of a multipart form; `None` if the body is no such form.
fn boundary(headers: &HeaderMap) -> Option<String> {
    let content_type = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    multer::parse_boundary(content_type).ok()
}

/// `UserID` of the query, which names the user, the Epic account and the machine.
fn user(parts: &Parts) -> Option<String> {
    let mut fields = form_urlencoded::parse(parts.uri.query()?.as_bytes());
    fields.find(|(name, _)| name == "UserID").map(|(_, value)| value.into_owned())
}

fn malformed(detail: &str) -> ApiError {
    ApiError::new(StatusCode::BAD_REQUEST, Refused::Malformed, detail)
}

/// The answer. Crash reporters want the id as text, with hyphens.
fn answer(what: What, receipt: &Receipt) -> Response {
    match what {
        What::Attachments(_) => StatusCode::CREATED.into_response(),
        What::Minidump | What::Unreal => receipt.event_id.map(EventId::hyphenated).unwrap_or_default().into_response(),
    }
}
