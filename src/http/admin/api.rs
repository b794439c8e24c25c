//! The API of the admin listener: metrics, health, status, the report, and switching the primary. Dead letters, backfills and
//! verification have their own modules.
//!
//! The table in [`routes`](super::routes) says who may ask.

use axum::Json;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use serde_json::json;

use super::access::ContentReader;
use super::answer::refuse;
use super::order::{self, SwitchBody};
use super::report::{self, ReportQuery};
use super::state::Admin;
use super::{exposition, scrape};

pub(super) async fn healthz() -> &'static str {
    "alive\n"
}

pub(super) async fn readyz(State(admin): State<Admin>) -> Response {
    match admin.readiness.not_ready().await {
        None => "ready\n".into_response(),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response(),
    }
}

pub(super) async fn metrics(State(admin): State<Admin>) -> Response {
    let text = exposition::text(&admin).await;
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

pub(super) async fn status(State(admin): State<Admin>) -> Response {
    Json(scrape::status(&admin).await).into_response()
}

pub(super) async fn report(
    contents: Result<ContentReader, Response>,
    State(admin): State<Admin>,
    Query(query): Query<ReportQuery>,
) -> Response {
    report::asked(&admin, &query, contents.is_ok())
        .await
        .map_or_else(|why| report::refusal(&why), |report| Json(report).into_response())
}

pub(super) async fn switch(State(admin): State<Admin>, Json(body): Json<SwitchBody>) -> Response {
    match order::send(&admin.control, body).await {
        Ok(()) => Json(json!({ "primary": admin.view().routing.primary })).into_response(),
        Err((status, why)) => refuse(status, &why),
    }
}
