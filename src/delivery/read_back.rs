//! Whether a tracker stored an event that it took, asked of its API: the section `[upstreams.NAME.canary]` of the configuration.
//!
//! GlitchTip and Sentry answer `GET /api/0/projects/{org}/{project}/events/{event_id}/` to a bearer token: 404 until the event is
//! stored, then 200 (Sentry's "Retrieve an Event for a Project"; GlitchTip's 200 to an envelope means no more than that it is queued).
//!
//! Rule: the token goes to the configured address and nowhere else, with the upstream's own headers; of an answer only the status is read.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use tokio::time::{Instant, sleep};
use url::Url;

use crate::protocol::event_id::EventId;
use crate::units::Secret;

use super::settings;
use super::transport::{Contents, Parcel, Transport};

/// How long after an answer it is asked again.
const EACH: Duration = Duration::from_secs(1);

/// The section `[upstreams.NAME.canary]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Where the event is asked for: what stands before its id.
    pub read_back: Address,
    /// What lets us ask.
    #[serde(skip_serializing)]
    pub token: Secret,
}

/// The beginning of the addresses of a project's events, with a slash at its end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Address(String);

impl Address {
    /// The address of an event. The slash at its end is required by GlitchTip.
    fn of(&self, id: &str) -> Option<Uri> {
        format!("{}{id}/", self.0).parse().ok()
    }
}

/// Why a text is no such address. Does not repeat it: it may hold a password.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("this is no address of events: write one as in \"http://127.0.0.1:8080/api/0/projects/ORG/PROJECT/events/\"")]
pub struct InvalidAddress;

impl FromStr for Address {
    type Err = InvalidAddress;
    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        let url = Url::parse(text).map_err(|_| InvalidAddress)?;
        let is_bare = url.username().is_empty() && url.password().is_none();
        let is_plain = is_bare && url.query().is_none() && url.fragment().is_none();
        if !is_plain || !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
            return Err(InvalidAddress);
        }
        let address = Self(format!("{}/", url.as_str().trim_end_matches('/')));
        address.of("0").map(|_| address.clone()).ok_or(InvalidAddress)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl Serialize for Address {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The header with the token; `None` when it has characters that no header may have.
pub fn authorization(token: &Secret) -> Option<HeaderValue> {
    let mut value = HeaderValue::try_from(format!("Bearer {}", token.expose())).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// Asks for an event until it is there, no longer than `until`; `upstream` is how it is reached. The error is the last answer.
pub async fn seek(
    settings: &Settings,
    upstream: &Arc<settings::Settings>,
    id: EventId,
    until: Instant,
) -> Result<(), String> {
    let mut question = question(settings, id).ok_or("it cannot be asked for with this token")?;
    upstream.headers.apply(&mut question.headers);
    let transport = Transport::new(upstream);
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let (passes, why) = match transport.status(question.clone(), left).await {
            Ok(StatusCode::OK) => return Ok(()),
            Ok(status) => (may_pass(status), status.to_string()),
            Err(error) => (true, error.to_string()),
        };
        if !passes || Instant::now() + EACH >= until {
            return Err(why);
        }
        sleep(EACH).await;
    }
}

/// Whether another answer may come of asking again: the event is not there yet, or the tracker has trouble.
fn may_pass(status: StatusCode) -> bool {
    matches!(status.as_u16(), 404 | 408 | 429 | 500..=599)
}

fn question(settings: &Settings, id: EventId) -> Option<Parcel> {
    let mut headers = HeaderMap::new();
    headers.insert(header::AUTHORIZATION, authorization(&settings.token)?);
    headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
    let name = concat!("switchyard/", env!("CARGO_PKG_VERSION"));
    headers.insert(header::USER_AGENT, HeaderValue::from_static(name));
    let body = Contents::Pieces(Default::default());
    Some(Parcel { method: Method::GET, uri: settings.read_back.of(&id.to_string())?, headers, body })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_ends_with_a_slash_and_has_neither_user_nor_query() {
        for text in ["http://h:8080/api/0/projects/o/p/events", "http://h:8080/api/0/projects/o/p/events/"] {
            let address: Address = text.parse().unwrap();
            assert_eq!(address.to_string(), "http://h:8080/api/0/projects/o/p/events/");
            let of_event = address.of("0af1").unwrap().to_string();
            assert_eq!(of_event, "http://h:8080/api/0/projects/o/p/events/0af1/");
        }
        for text in ["", "events/", "ftp://h/events/", "http://u@h/", "http://u:p@h/", "http://h/?a=b", "http://h/#a"] {
            assert_eq!(text.parse::<Address>(), Err(InvalidAddress), "{text}");
        }
    }

    #[test]
    fn a_token_is_in_no_debug_form() {
        let header = authorization(&Secret::new("hunter2".into())).unwrap();
        assert!(!format!("{header:?}").contains("hunter2"));
        assert_eq!(authorization(&Secret::new("hunter2\n".into())), None);
    }
}
