//! The common answers of the admin listener: a refusal, a page.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use serde_json::json;

/// Why a request is refused: the status and the reason in words.
pub(super) type Refused = (StatusCode, String);

pub(super) fn refuse(status: StatusCode, detail: &str) -> Response {
    (status, Json(json!({ "detail": detail }))).into_response()
}

pub(super) fn html(html: String) -> Response {
    ([(header::CONTENT_TYPE, "text/html; charset=utf-8")], html).into_response()
}
