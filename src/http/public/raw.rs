//! Requests that are no envelopes: security and NEL reports, check-ins by URL, OTLP, log drains. They are stored as they came, and sent
//! as such requests to each upstream.
//!
//! Check-ins are never answered with 429: the job that sends them would take that for a failure of its own (getsentry/relay,
//! `relay-server/src/endpoints/monitor.rs`).

use std::sync::Arc;

use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use http::request::Parts;
use http::{HeaderMap, Method, StatusCode, header};

use crate::intake::raw;
use crate::intake::submit::{Entrance, Receipt};
use crate::protocol::endpoint::{Endpoint, RawRequest, is_json};

use super::body::Incoming;
use super::error::ApiError;
use super::ingest::{Terms, Visit, admit, encodings, sender, share};
use super::limit::Limit;
use super::receive::{receive, whole};
use super::state::Public;

/// The longest header value in bytes; longer ones are left out, because values are kept with every record.
const LONGEST_VALUE: usize = 512;

/// Takes in a request to one of the endpoints.
pub(super) async fn take_in(public: Arc<Public>, endpoint: Endpoint, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    // The route has both.
    let (id, tail) = path.strip_prefix("/api/").and_then(|rest| rest.split_once('/')).unwrap_or_default();
    let kept = RawRequest::new(endpoint, request.method() == Method::GET, tail, request.uri().query());
    let (key, terms) = (RawRequest::key(endpoint, tail), terms(&public, endpoint));
    let Visit { entrance, parts, body, pass } = match admit(&public, Some(id), key, terms, request).await {
        Ok(visit) => visit,
        Err(refusal) => return refusal,
    };
    let content_type = content_type(&parts.headers).to_owned();
    let taken = match kept {
        Ok(request) => submit(&public, endpoint, request, &content_type, entrance, &parts, body).await,
        Err(error) => Err(raw::RawError::from(error).into()),
    };
    pass.end(&public, &parts, taken.map(|receipt| (receipt.project, answer(endpoint, &content_type))))
}

fn terms(public: &Public, endpoint: Endpoint) -> Terms {
    let limit = Limit::one(endpoint.limit(), endpoint.what()).or(public.room.max_body());
    let limit = if endpoint == Endpoint::Cron { limit.or(public.room.whole()) } else { limit };
    Terms { limit, may_name_project: false }
}

async fn submit(
    public: &Public,
    endpoint: Endpoint,
    mut request: RawRequest,
    content_type: &str,
    entrance: Entrance,
    parts: &Parts,
    body: Incoming,
) -> Result<Receipt, ApiError> {
    raw::check_content_type(endpoint, content_type)?;
    let mut held = share(public, &entrance, parts);
    let mut body = receive(public, body, encodings(&parts.headers)?, None, &mut held).await?;
    raw::check_presence(endpoint, &body)?;
    let mut identity = None;
    if endpoint == Endpoint::Cron {
        let bytes = whole(public, body, &mut held).await?;
        identity = raw::check_in(content_type, &request.query, &bytes)?;
        body = bytes.into();
    }
    request.headers = kept_headers(endpoint, &parts.headers);
    let mut client = sender(public, parts);
    client.request = Some(request.into());
    let quantities = endpoint.quantities(body.len());
    Ok(public.intake.submit_raw(entrance, client, quantities, identity, body).await?)
}

fn content_type(headers: &HeaderMap) -> &str {
    headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

fn kept_headers(endpoint: Endpoint, headers: &HeaderMap) -> Vec<(Box<str>, Box<str>)> {
    let value = |name: &&str| headers.get(*name)?.to_str().ok().filter(|value| value.len() <= LONGEST_VALUE);
    endpoint.headers().iter().filter_map(|name| Some(((*name).into(), value(name)?.into()))).collect()
}

/// The answer that each endpoint's clients expect. OTLP clients want a response message in their own encoding; an empty one says that
/// all was taken (OpenTelemetry's "OTLP Specification", "Full Success").
fn answer(endpoint: Endpoint, content_type: &str) -> Response {
    match endpoint {
        Endpoint::Cron => StatusCode::ACCEPTED.into_response(),
        Endpoint::OtlpTraces | Endpoint::OtlpLogs | Endpoint::OtlpMetrics if is_json(content_type) => {
            ([(header::CONTENT_TYPE, "application/json")], "{}").into_response()
        }
        Endpoint::OtlpTraces | Endpoint::OtlpLogs | Endpoint::OtlpMetrics => {
            ([(header::CONTENT_TYPE, "application/x-protobuf")], "").into_response()
        }
        _ => StatusCode::OK.into_response(),
    }
}
