//! Requests that only a tracker can answer go to the primary: the crash-report dialog, and the API that sentry-cli speaks.
//!
//! Bodies pass in both directions as they come, and redirects are handed back. These requests never enter the journal or the accounts.
//! A primary that hangs holds a few places of its own and nothing else (getsentry/relay, `relay-server/src/endpoints/forward.rs`).

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use http::request::Parts;
use http::{HeaderValue, Method, StatusCode, Uri};
use http_body::{Body as _, SizeHint};
use hyper::body::Incoming as Answer;

mod destination;
mod headers;
pub(super) mod places;
mod stream;

use destination::{Destination, NoDestination};
use places::{Manner, Place, failed};
use stream::{Fault, Progress, Upload};

use crate::delivery::transport::{NoAnswer, of_any_length};
use crate::intake::keyring::KeyError;
use crate::journal;
use crate::tasks::Tasks;
use crate::telemetry::metrics::Refused;

use super::body::Incoming;
use super::caller::refuse;
use super::circle;
use super::error::ApiError;
use super::ingest;
use super::limit::{BodyError, Limit};
use super::peer;
use super::receive::receive;
use super::room::{Held, Owner};
use super::state::Public;

const MIB: u64 = 1024 * 1024;

/// Passes a request on that no endpoint of ours takes.
pub(super) async fn forward(State(public): State<Arc<Public>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    pass_on(&public, &parts, body).await.unwrap_or_else(|mut error| {
        if error.reason.is_for_want_of_room() {
            // It was no submission, so nothing is lost.
            error.reason = Refused::ProxyOverloaded;
        }
        refuse(&public, &parts, error)
    })
}

async fn pass_on(public: &Public, parts: &Parts, body: Body) -> Result<Response, ApiError> {
    let path = parts.uri.path();
    let credentials = || ingest::credentials(public, parts, None);
    let routing = public.intake.routing();
    circle::check(public, &parts.headers)?;
    let destination = destination::find(&routing, path, parts.uri.query(), credentials)?;
    if matches!(parts.method, Method::CONNECT | Method::TRACE) {
        return Err(ApiError::new(StatusCode::METHOD_NOT_ALLOWED, Refused::Method, "this method is not passed on"));
    }
    let limit = limit(path);
    if body.size_hint().lower() > limit.bytes() {
        return Err(BodyError::too_large(limit).into());
    }
    let client = ingest::source(public, parts);
    let place = public.proxy.place(client)?;
    let Manner { connections, patience, own } = public.proxy.manner(&destination.upstream)?;
    let mut held = Held::of(Owner::Client(client));
    let (body, length) = outgoing(public, parts, body, limit, &mut held).await?;
    let progress = Arc::new(Progress::new());
    let body = Upload::new(body, length, limit.bytes(), Arc::clone(&progress));
    let client = peer::client(&parts.headers, peer::of(parts), &public.server.load().trusted_proxies);
    let mut headers = headers::to_upstream(&parts.headers, client.forwarded_for.as_deref(), destination.rekey.as_ref());
    let marks = routing.projects.first().map(|project| circle::onward(&parts.headers, project));
    headers.extend(marks.and_then(|marks| Some((circle::CDN_LOOP, HeaderValue::try_from(marks).ok()?))));
    own.apply(&mut headers);
    let Destination { url, upstream, .. } = destination;
    let mut request = http::Request::new(body);
    *request.uri_mut() = Uri::try_from(url.as_str()).map_err(|_| failed("the primary has no such address"))?;
    (*request.method_mut(), *request.headers_mut()) = (parts.method.clone(), headers);
    let answer = tokio::select! {
        answer = connections.request(request) => answer,
        fault = progress.stalled(patience) => return Err(faulty(fault, limit)),
    };
    match answer {
        // We never ask for another protocol.
        Ok(answer) if answer.status() == StatusCode::SWITCHING_PROTOCOLS => {
            Err(failed("the primary changes the protocol unasked"))
        }
        Ok(answer) => Ok(answered(answer, patience, place, &public.proxy.tasks)),
        Err(error) => Err(match progress.fault() {
            Some(fault) => faulty(fault, limit),
            None => unanswered(public, &upstream, &error),
        }),
    }
}

/// The most bytes of a body on its way to `path` (getsentry/relay, `relay-server/src/endpoints/forward.rs`).
fn limit(path: &str) -> Limit {
    let mib = match path.strip_prefix("/api/0/").and_then(|below| below.trim_end_matches('/').rsplit('/').next()) {
        Some("chunk-upload") => 100,
        Some("files" | "dsyms") => 40,
        _ => 20,
    };
    Limit::endpoint(mib * MIB)
}

/// The body to pass on as it comes, and its length if known. An encoded body is received and decoded first, and `content-encoding` is
/// not passed on, because few trackers know all encodings.
async fn outgoing(
    public: &Public,
    parts: &Parts,
    body: Body,
    limit: Limit,
    held: &mut Held,
) -> Result<(Body, SizeHint), ApiError> {
    let encodings = ingest::encodings(&parts.headers)?;
    if encodings.is_empty() {
        let length = body.size_hint();
        return Ok((body, length));
    }
    let body = receive(public, Incoming::new(body, limit), encodings, None, held).await?;
    let length = SizeHint::with_exact(body.len());
    Ok(match body {
        journal::body::Body::Memory(bytes) => (bytes.into(), length),
        file => (Body::from_stream(file.pieces()), length),
    })
}

fn answered(answer: http::Response<Answer>, patience: Duration, place: Place, tasks: &Tasks) -> Response {
    of_any_length(&answer);
    let (head, body) = answer.into_parts();
    let body = if body.is_end_stream() { Body::empty() } else { stream::download(body, patience, place, tasks) };
    let mut response = Response::new(body);
    *response.status_mut() = head.status;
    *response.headers_mut() = headers::to_client(&head.headers);
    response
}

/// The refusal when no answer came. The cause is for the log, not for clients.
fn unanswered(public: &Public, upstream: &str, error: &NoAnswer) -> ApiError {
    let failure = failed("the primary cannot be reached");
    if let Some(line) = public.damper.admit(&(failure.reason, upstream.into())) {
        let suppressed = line.suppressed;
        let message = "a request could not be passed on to the primary";
        tracing::warn!(upstream.name = upstream, %error, suppressed, "{message}");
    }
    failure
}

fn faulty(fault: Fault, limit: Limit) -> ApiError {
    match fault {
        Fault::TooLarge => BodyError::too_large(limit).into(),
        Fault::ClientSilent => BodyError::Timeout.into(),
        Fault::UpstreamSilent => timed_out(),
        Fault::Stopping => BodyError::Stopping.into(),
        Fault::Broken => BodyError::Disconnected.into(),
    }
}

fn timed_out() -> ApiError {
    ApiError::new(StatusCode::GATEWAY_TIMEOUT, Refused::UpstreamTimeout, "the primary does not answer in time")
}

impl From<NoDestination> for ApiError {
    fn from(error: NoDestination) -> Self {
        let (status, reason) = match &error {
            NoDestination::Nowhere => (StatusCode::NOT_FOUND, Refused::NoSuchRoute),
            NoDestination::Leaves | NoDestination::Spelling(_) => (StatusCode::BAD_REQUEST, Refused::Malformed),
            NoDestination::UnknownDsn => (StatusCode::NOT_FOUND, Refused::UnknownProject),
            NoDestination::UnknownKey => (StatusCode::FORBIDDEN, Refused::UnknownProject),
            NoDestination::Unreadable(error) => return KeyError::from(*error).into(),
            NoDestination::NoAddress => (StatusCode::BAD_GATEWAY, Refused::UpstreamFailed),
        };
        Self::new(status, reason, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uploads_have_larger_limits_than_the_rest() {
        for (path, mib) in [
            ("/api/0/organizations/shop/chunk-upload/", 100),
            ("/api/0/organizations/shop/chunk-upload", 100),
            ("/api/0/projects/shop/web/releases/1.0/files/", 40),
            ("/api/0/projects/shop/web/files/dsyms/", 40),
            ("/api/0/organizations/shop/releases/", 20),
            ("/api/1/chunk-upload/", 20),
            ("/api/embed/error-page/", 20),
        ] {
            assert_eq!(limit(path).bytes(), mib * MIB, "{path}");
        }
    }
}
