//! Who sent a request that is refused. What is told of it finds the service with the wrong DSN, and has no key.

use std::net::IpAddr;

use axum::response::{IntoResponse as _, Response};
use http::request::Parts;
use http::{HeaderMap, Uri, header};

use super::error::ApiError;
use super::peer;
use super::state::Public;

/// The most characters of a project's number, and of a client's name, that are told.
const LONGEST: (usize, usize) = (20, 100);

/// Who sent a request that is refused: in the extensions of its answer.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    /// The project's number in the path. Anything else there may be a key.
    pub(super) project: Option<String>,
    /// What the client calls itself.
    pub(super) name: Option<String>,
    pub(super) address: IpAddr,
}

impl Caller {
    fn of(public: &Public, parts: &Parts) -> Self {
        Self {
            project: project(&parts.uri),
            name: name(&parts.headers),
            address: peer::source(&parts.headers, peer::of(parts), &public.server.load().trusted_proxies),
        }
    }
}

/// The answer to a request that is refused, and who sent it.
pub(super) fn refuse(public: &Public, parts: &Parts, error: ApiError) -> Response {
    let mut response = error.into_response();
    response.extensions_mut().insert(Caller::of(public, parts));
    response
}

fn project(uri: &Uri) -> Option<String> {
    let id = uri.path().strip_prefix("/api/")?.split('/').next()?;
    let is_number = (1..=LONGEST.0).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| id.to_owned())
}

fn name(headers: &HeaderMap) -> Option<String> {
    let name = headers.get(header::USER_AGENT)?.to_str().ok()?;
    Some(name.chars().take(LONGEST.1).flat_map(char::escape_default).collect())
}
