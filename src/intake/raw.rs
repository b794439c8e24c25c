//! The checks of requests that are no envelopes and are forwarded unchanged.
//!
//! Rule: only a request that no tracker would take is refused. The content of a report, a trace or a log is not looked at.

use std::borrow::Cow;

use serde::Deserialize;

use crate::journal::body::Body;
use crate::protocol::endpoint::{Endpoint, InvalidRequest, is_json};
use crate::protocol::event_id::EventId;

use super::identity::CheckInIdentity;

/// Why such a request is refused.
#[derive(Debug, thiserror::Error)]
pub enum RawError {
    /// The path or the query cannot be kept: 400.
    #[error(transparent)]
    Request(#[from] InvalidRequest),
    /// The request needs a body and has none: 400.
    #[error("the body is empty: a {0} is expected")]
    Empty(&'static str),
    /// The endpoint does not take the content type: 415.
    #[error("this {what} has the content type {found:?}, which is not understood")]
    ContentType {
        /// The name of what the endpoint takes.
        what: &'static str,
        /// The content type of the request.
        found: String,
    },
    /// The request is no valid check-in: 400.
    #[error("invalid check-in: {0}")]
    CheckIn(String),
}

/// Checks that the endpoint takes this content type, before the body is read.
pub fn check_content_type(endpoint: Endpoint, content_type: &str) -> Result<(), RawError> {
    if endpoint.takes(content_type) {
        return Ok(());
    }
    Err(RawError::ContentType { what: endpoint.what(), found: content_type.chars().take(80).collect() })
}

/// Checks that the body is not empty, if the endpoint needs one.
pub fn check_presence(endpoint: Endpoint, body: &Body) -> Result<(), RawError> {
    if body.is_empty() && !endpoint.may_be_empty() { Err(RawError::Empty(endpoint.what())) } else { Ok(()) }
}

/// Checks that the body, if it is JSON, otherwise the query, is a valid check-in: of these requests only check-ins are read. Returns the
/// identity that makes another request a repeat; `None` if it has none.
pub fn check_in(content_type: &str, query: &str, body: &[u8]) -> Result<Option<CheckInIdentity>, RawError> {
    let check_in = if is_json(content_type) { CheckIn::in_json(body) } else { CheckIn::in_query(query) };
    check_in.and_then(CheckIn::validate).map_err(RawError::CheckIn)
}

/// The fields of a check-in that Relay reads (getsentry/relay, `relay-server/src/endpoints/monitor.rs`). Any status is accepted, because
/// a newer tracker may know it.
#[derive(Deserialize, Default)]
struct CheckIn<'a> {
    #[serde(borrow, default)]
    status: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    check_in_id: Option<Cow<'a, str>>,
    #[serde(default)]
    duration: Option<f64>,
}

impl<'a> CheckIn<'a> {
    fn in_json(body: &'a [u8]) -> Result<Self, String> {
        serde_json::from_slice(body).map_err(|error| error.to_string())
    }

    fn in_query(query: &'a str) -> Result<Self, String> {
        let mut found = Self::default();
        for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
            match &*name {
                "status" => found.status = Some(value),
                "check_in_id" => found.check_in_id = Some(value),
                "duration" => {
                    let seconds = value.parse().map_err(|_| "duration is no number of seconds".to_owned())?;
                    found.duration = Some(seconds);
                }
                _ => {}
            }
        }
        Ok(found)
    }

    fn validate(self) -> Result<Option<CheckInIdentity>, String> {
        let status = self.status.filter(|status| !status.is_empty());
        let status = status.ok_or_else(|| "status is missing: ok, error or in_progress".to_owned())?;
        let id = self.check_in_id.map(|id| id.parse::<EventId>()).transpose();
        let id = id.map_err(|_| "check_in_id is no UUID".to_owned())?;
        if self.duration.is_some_and(|seconds| !seconds.is_finite() || seconds < 0.0) {
            return Err("duration is no number of seconds".to_owned());
        }
        Ok(id.and_then(|id| CheckInIdentity::new(id, &status)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "9ec79c33-ec99-42ab-8353-589fcb2e04dc";

    fn cron(content_type: &str, query: &str, body: &'static str) -> Result<Option<CheckInIdentity>, RawError> {
        check_in(content_type, query, body.as_bytes())
    }

    #[test]
    fn check_ins_are_read_from_the_query_or_from_json() {
        for query in
            ["status=ok", "status=in_progress&duration=1.5&environment=a", &format!("status=x&check_in_id={ID}")]
        {
            assert!(cron("", query, "").is_ok(), "{query}");
        }
        assert!(cron("application/json; charset=utf-8", "", "{\"status\":\"ok\",\"duration\":2,\"x\":{}}").is_ok());
    }

    #[test]
    fn malformed_check_ins_are_refused_and_say_why() {
        for (content_type, query, body, words) in [
            ("", "", "", "status"),
            ("", "status=", "", "status"),
            ("", "status=ok&check_in_id=7", "", "check_in_id"),
            ("", "status=ok&duration=long", "", "duration"),
            ("", "status=ok&duration=-1", "", "duration"),
            ("application/json", "status=ok", "", "EOF"),
            ("application/json", "", "{}", "status"),
            ("application/json", "", "{\"status\":\"ok\",\"check_in_id\":\"x\"}", "check_in_id"),
            ("application/json", "", "{\"status\":1}", "string"),
        ] {
            let error = cron(content_type, query, body).unwrap_err().to_string();
            assert!(error.contains(words), "{query} {body}: {error}");
        }
    }

    #[test]
    fn an_unknown_content_type_is_refused_with_the_name_of_what_is_taken() {
        let error = check_content_type(Endpoint::OtlpLogs, "text/plain").unwrap_err();
        let told = r#"this OTLP logs request has the content type "text/plain", which is not understood"#;
        assert_eq!(error.to_string(), told);
    }

    #[test]
    fn an_empty_body_is_refused_with_the_name_of_the_expected_one() {
        let nothing = Body::from(bytes::Bytes::new());
        let error = check_presence(Endpoint::Security, &nothing).unwrap_err();
        assert_eq!(error.to_string(), "the body is empty: a security report is expected");
        assert!(check_presence(Endpoint::OtlpLogs, &nothing).is_ok());
    }
}
