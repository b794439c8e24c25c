//! From what goes of a claimed record to a request: the envelope, addressed to the upstream, and its headers.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::clock::Timestamp;
use crate::journal::{Claim, Client};
use crate::protocol::dsn::Dsn;
use crate::protocol::envelope::Envelope;

use super::load::Load;
use super::rewrite::rewrite;
use super::transport::{ENVELOPE, Parcel};

const X_SENTRY_AUTH: HeaderName = HeaderName::from_static("x-sentry-auth");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_SENTRY_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-sentry-forwarded-for");

/// The request for an upstream's DSN.
pub(super) fn pack(claim: &Claim, load: &Load, dsn: &Dsn, now: Timestamp) -> Parcel {
    let record = &claim.record;
    let dwell = now.since(record.accepted_at);
    let (line, rest) = if load.is_whole() {
        rewrite(&record.body, dsn, dwell, None)
    } else {
        rewrite(&selection(&record.body, &load.send.items), dsn, dwell, load.event_id)
    };
    Parcel { uri: dsn.envelope_uri().clone(), headers: headers(dsn, &record.client), body: [line, rest] }
}

fn selection(body: &Bytes, items: &[u16]) -> Bytes {
    Envelope::parse(body.clone()).map_or_else(|_| body.clone(), |envelope| envelope.in_order(items))
}

/// One form of authentication, the client's own name and origin, and its address twice: Sentry's edge overwrites the first.
/// Nothing else of the client's: no cookies.
fn headers(dsn: &Dsn, client: &Client) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(8);
    headers.insert(header::CONTENT_TYPE, ENVELOPE);
    let name = client.sentry_client.as_deref().unwrap_or(concat!("switchyard/", env!("CARGO_PKG_VERSION")));
    let auth = format!("Sentry sentry_version=7, sentry_client={name}, sentry_key={}", dsn.public_key());
    let mut set = |name: HeaderName, value: Option<&str>| {
        if let Some(Ok(value)) = value.map(HeaderValue::try_from) {
            headers.insert(name, value);
        }
    };
    set(X_SENTRY_AUTH, Some(&auth));
    set(header::USER_AGENT, client.user_agent.as_deref());
    set(header::ORIGIN, client.origin.as_deref());
    set(X_FORWARDED_FOR, client.forwarded_for.as_deref());
    set(X_SENTRY_FORWARDED_FOR, client.forwarded_for.as_deref());
    headers
}
