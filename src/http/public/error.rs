//! Refusals as answers. Only here are errors mapped to a status, and to the JSON that Sentry's SDKs know,
//! `{"detail": "…", "causes": ["…"]}`.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde_json::json;

use crate::intake::crash::CrashError;
use crate::intake::decode::DecodeError;
use crate::intake::keyring::KeyError;
use crate::intake::legacy::StoreError;
use crate::intake::raw::RawError;
use crate::intake::submit::Refusal;
use crate::intake::unpack::UnpackError;
use crate::journal::JournalError;
use crate::protocol::auth::AuthError;
use crate::protocol::envelope::EnvelopeError;
use crate::protocol::rate_limits::{self, RateLimit};
use crate::telemetry::metrics::Refused;

use super::limit::BodyError;

/// The `Retry-After` of every 503, in seconds.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("30");

/// A refusal: the client's answer, and the reason under which it is counted.
#[derive(Debug)]
pub(super) struct ApiError {
    pub(super) status: StatusCode,
    pub(super) reason: Refused,
    pub(super) detail: String,
    /// The rate limits that caused the refusal; empty for other causes.
    limits: Vec<RateLimit>,
}

impl ApiError {
    pub(super) fn new(status: StatusCode, reason: Refused, detail: impl Into<String>) -> Self {
        Self { status, reason, detail: detail.into(), limits: vec![] }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = Json(json!({ "detail": self.detail, "causes": [] }));
        let mut response = (self.status, body).into_response();
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, RETRY_AFTER);
        }
        if let Ok(detail) = HeaderValue::try_from(&self.detail) {
            response.headers_mut().insert("x-sentry-error", detail);
        }
        tell_limits(&self.limits, &mut response);
        response.extensions_mut().insert(self.reason);
        response
    }
}

/// Adds rate limits to an answer: their categories on any status, and the longest wait on a 429 ("Rate Limiting"). Waits are cut to an
/// hour.
pub(super) fn tell_limits(limits: &[RateLimit], response: &mut Response) {
    let told = |limit: &RateLimit| limit.retry_after.min(rate_limits::LONGEST_KEPT);
    let Some(longest) = limits.iter().map(told).max() else { return };
    let limits: Vec<RateLimit> = limits
        .iter()
        .map(|limit| RateLimit { retry_after: told(limit), categories: limit.categories.clone() })
        .collect();
    let value = rate_limits::format(&limits, "project", "switchyard");
    if let Ok(value) = HeaderValue::try_from(value) {
        response.headers_mut().insert("x-sentry-rate-limits", value);
    }
    if response.status() == StatusCode::TOO_MANY_REQUESTS {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(rate_limits::whole_seconds(longest)));
    }
}

impl From<KeyError> for ApiError {
    fn from(error: KeyError) -> Self {
        let (status, reason) = match &error {
            KeyError::Unreadable(AuthError::Version) => (StatusCode::BAD_REQUEST, Refused::Malformed),
            KeyError::Unreadable(AuthError::InvalidKey) => (StatusCode::FORBIDDEN, Refused::UnknownProject),
            KeyError::Unreadable(_) | KeyError::Missing => (StatusCode::UNAUTHORIZED, Refused::Unauthenticated),
            KeyError::Unknown => (StatusCode::FORBIDDEN, Refused::UnknownProject),
            KeyError::ProjectId | KeyError::Dsn(_) => (StatusCode::BAD_REQUEST, Refused::Malformed),
            KeyError::Mismatch(_) => (StatusCode::BAD_REQUEST, Refused::Mismatch),
        };
        Self::new(status, reason, error.to_string())
    }
}

impl From<EnvelopeError> for ApiError {
    fn from(error: EnvelopeError) -> Self {
        let (status, reason) = if error.is_too_large() {
            (StatusCode::PAYLOAD_TOO_LARGE, Refused::TooLarge)
        } else {
            (StatusCode::BAD_REQUEST, Refused::Malformed)
        };
        Self::new(status, reason, error.to_string())
    }
}

impl From<JournalError> for ApiError {
    fn from(error: JournalError) -> Self {
        let reason = match &error {
            JournalError::Full(_) => Refused::JournalFull,
            JournalError::Share(_) => Refused::ProjectShare,
            JournalError::Failed(_) | JournalError::Repeated(_) | JournalError::LeaseLost | JournalError::Closed => {
                Refused::JournalFailed
            }
        };
        // Paths and sizes are for the log, not for clients.
        Self::new(StatusCode::SERVICE_UNAVAILABLE, reason, "the submission cannot be stored now")
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Key(error) => error.into(),
            Refusal::Envelope(error) => error.into(),
            Refusal::Limited(limits) => {
                let detail = "more was sent than may be: the limits say for how long";
                Self { limits, ..Self::new(StatusCode::TOO_MANY_REQUESTS, Refused::RateLimited, detail) }
            }
            Refusal::Journal(error) => error.into(),
        }
    }
}

impl From<DecodeError> for ApiError {
    fn from(error: DecodeError) -> Self {
        let (status, reason) = match &error {
            DecodeError::Unsupported(_) => (StatusCode::UNSUPPORTED_MEDIA_TYPE, Refused::Encoding),
            DecodeError::Malformed { .. } => (StatusCode::BAD_REQUEST, Refused::Malformed),
            DecodeError::TooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, Refused::TooLarge),
        };
        Self::new(status, reason, error.to_string())
    }
}

impl From<UnpackError> for ApiError {
    fn from(error: UnpackError) -> Self {
        match error {
            UnpackError::Decode(error) => error.into(),
            UnpackError::Journal(error) => error.into(),
        }
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Decode(error) => error.into(),
            StoreError::TooLarge { .. } => {
                Self::new(StatusCode::PAYLOAD_TOO_LARGE, Refused::TooLarge, error.to_string())
            }
            other => Self::new(StatusCode::BAD_REQUEST, Refused::Malformed, other.to_string()),
        }
    }
}

impl From<CrashError> for ApiError {
    fn from(error: CrashError) -> Self {
        let (status, reason) = match error {
            CrashError::Journal(error) => return error.into(),
            CrashError::Envelope(error) => return error.into(),
            CrashError::Body(why) => return broken_off(why),
            CrashError::Overloaded => (StatusCode::SERVICE_UNAVAILABLE, Refused::Overloaded),
            CrashError::TooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, Refused::TooLarge),
            CrashError::Multipart(_) | CrashError::Empty(_) | CrashError::NoMinidump | CrashError::Container(_) => {
                (StatusCode::BAD_REQUEST, Refused::Malformed)
            }
        };
        Self::new(status, reason, error.to_string())
    }
}

/// The refusal of a body that broke off, from the error that its stream of pieces gave.
fn broken_off(why: Box<dyn std::error::Error + Send + Sync>) -> ApiError {
    let why = match why.downcast::<BodyError>() {
        Ok(error) => return (*error).into(),
        Err(other) => other,
    };
    match why.downcast::<JournalError>() {
        Ok(error) => (*error).into(),
        Err(other) => ApiError::new(StatusCode::BAD_REQUEST, Refused::Malformed, other.to_string()),
    }
}

impl From<RawError> for ApiError {
    fn from(error: RawError) -> Self {
        let (status, reason) = match &error {
            RawError::Request(_) | RawError::Empty(_) | RawError::CheckIn(_) => {
                (StatusCode::BAD_REQUEST, Refused::Malformed)
            }
            RawError::ContentType { .. } => (StatusCode::UNSUPPORTED_MEDIA_TYPE, Refused::ContentType),
        };
        Self::new(status, reason, error.to_string())
    }
}

impl From<BodyError> for ApiError {
    fn from(error: BodyError) -> Self {
        let (status, reason) = match &error {
            BodyError::TooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, Refused::TooLarge),
            BodyError::Timeout => (StatusCode::REQUEST_TIMEOUT, Refused::Timeout),
            BodyError::Overloaded => (StatusCode::SERVICE_UNAVAILABLE, Refused::Overloaded),
            BodyError::Stopping => (StatusCode::SERVICE_UNAVAILABLE, Refused::Timeout),
            BodyError::Disconnected => (StatusCode::BAD_REQUEST, Refused::Disconnected),
        };
        Self::new(status, reason, error.to_string())
    }
}
