//! Requests that went round in a circle: this relay sent them, to an upstream whose DSN leads back here by another name or through
//! another relay.
//!
//! A relay marks what it sends in `CDN-Loop` (RFC 8586), after the marks of the relays that it came through, and refuses what has its
//! own mark.

use http::{HeaderMap, HeaderName, StatusCode};

use crate::policy::routing::{MARK, Project};
use crate::telemetry::metrics::Refused;

use super::error::ApiError;
use super::state::Public;

pub(super) const CDN_LOOP: HeaderName = HeaderName::from_static("cdn-loop");
/// The most marks that are passed on, and the longest.
const MOST: (usize, usize) = (8, 64);

/// Refuses a request with a mark of this relay.
pub(super) fn check(public: &Public, headers: &HeaderMap) -> Result<(), ApiError> {
    if !headers.contains_key(CDN_LOOP) || marks(headers).next().is_none() {
        return Ok(());
    }
    let is_here = |own: String| marks(headers).any(|mark| mark == own);
    if public.intake.routing().projects.iter().any(|project| is_here(project.mark())) {
        let detail = "this relay sent the request itself: the DSN of one of its upstreams leads back to it";
        return Err(ApiError::new(StatusCode::LOOP_DETECTED, Refused::Loop, detail));
    }
    Ok(())
}

/// The marks of the relays that a request came through, as a list; `None` if there are none. Those of CDNs stay out: a CDN before the
/// upstream may be the one before us.
pub(super) fn via(headers: &HeaderMap) -> Option<Box<str>> {
    let marks: Vec<_> = marks(headers).collect();
    (!marks.is_empty()).then(|| marks.join(", ").into())
}

/// The marks of a request that is passed on to an upstream of `project`.
pub(super) fn onward(headers: &HeaderMap, project: &Project) -> String {
    marks(headers).chain([project.mark().as_str()]).collect::<Vec<_>>().join(", ")
}

fn marks(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let lines = headers.get_all(CDN_LOOP).iter().filter_map(|line| line.to_str().ok());
    let marks = lines.flat_map(|line| line.split(',')).filter_map(|word| word.split(';').next()).map(str::trim);
    marks.filter(|mark| mark.starts_with(MARK) && mark.len() <= MOST.1).take(MOST.0)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn only_marks_of_relays_are_read_and_a_few_of_them() {
        let mut headers = HeaderMap::new();
        assert_eq!(via(&headers), None);
        headers.append(CDN_LOOP, HeaderValue::from_static("cloudflare; loops=1,switchyard-a;v=1 , Fastly"));
        headers.append(CDN_LOOP, HeaderValue::from_static("switchyard-b"));
        assert_eq!(via(&headers).as_deref(), Some("switchyard-a, switchyard-b"));
        headers.append(
            CDN_LOOP,
            HeaderValue::from_static(
                "switchyard-c,switchyard-c,switchyard-c,switchyard-c,switchyard-c,switchyard-c,switchyard-c",
            ),
        );
        assert_eq!(marks(&headers).count(), MOST.0);
    }
}
