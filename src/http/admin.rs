//! The admin listener: metrics, health, status, and switching the primary.
//!
//! Reading is free on loopback; from elsewhere, and for changes that a browser asks for, the token is needed.

use std::net::SocketAddr;

use axum::Json;
use axum::extract::{FromRequestParts, Query, State};
use axum::response::{IntoResponse, Response};
use http::request::Parts;
use http::{HeaderMap, StatusCode, header};
use serde::{Deserialize, Serialize};
use serde_json::json;
use subtle::ConstantTimeEq as _;
use tokio::sync::{mpsc, oneshot};

use crate::telemetry::report::Report;
use crate::units::Period;

use super::report::{self, NoReport};
use super::state::Admin;
use super::{letters, page, report_page, scrape};

/// An order to make another upstream the primary.
#[derive(Debug)]
pub struct SwitchOrder {
    /// The upstream that is to be the primary.
    pub to: String,
    /// Why, in the words of who orders it.
    pub reason: Option<String>,
    /// Who orders it.
    pub author: Option<String>,
    /// Whether whoever orders it edits the file; if not, the daemon does.
    pub announced: bool,
    /// Where the outcome goes.
    pub reply: oneshot::Sender<Result<(), SwitchRefusal>>,
}

/// Why an order was not carried out.
#[derive(Clone, Debug, thiserror::Error, Serialize)]
#[error("{detail}")]
pub struct SwitchRefusal {
    /// What is wrong and how to mend it.
    pub detail: String,
}

/// The way to whoever carries out orders.
pub type Control = mpsc::Sender<SwitchOrder>;

/// The body of `POST /api/primary`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SwitchBody {
    to: String,
    reason: Option<String>,
    author: Option<String>,
    #[serde(default)]
    announced: bool,
}

/// How many dead letters the page shows.
const LETTERS: usize = 10;
/// Longer reasons and names are cut.
const LONGEST_WORDS: usize = 500;

pub(super) async fn healthz() -> &'static str {
    "alive\n"
}

pub(super) async fn readyz(State(admin): State<Admin>) -> Response {
    match admin.readiness.not_ready() {
        None => "ready\n".into_response(),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response(),
    }
}

pub(super) async fn metrics(_: Reader, State(admin): State<Admin>) -> Response {
    let text = scrape::text(&admin).await;
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

pub(super) async fn status(_: Reader, State(admin): State<Admin>) -> Response {
    Json(scrape::status(&admin).await).into_response()
}

pub(super) async fn page(_: Reader, State(admin): State<Admin>) -> Response {
    let letters = letters::newest(&admin, LETTERS).await;
    html(page::render(&scrape::status(&admin).await, &letters))
}

/// What `/report` and `/api/report` may be asked.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ReportQuery {
    since: Option<Period>,
    candidate: Option<String>,
}

pub(super) async fn report(_: Reader, State(admin): State<Admin>, Query(query): Query<ReportQuery>) -> Response {
    make_report(&admin, &query).await.map_or_else(|why| no_report(&why), |report| Json(report).into_response())
}

pub(super) async fn report_page(_: Reader, State(admin): State<Admin>, Query(query): Query<ReportQuery>) -> Response {
    let report = make_report(&admin, &query).await;
    report.map_or_else(|why| no_report(&why), |report| html(report_page::render(&report)))
}

async fn make_report(admin: &Admin, query: &ReportQuery) -> Result<Report, NoReport> {
    let window = query.since.unwrap_or(admin.view.load().report.window);
    report::report(admin, admin.clock.now() - window.get(), query.candidate.as_deref()).await
}

fn no_report(why: &NoReport) -> Response {
    let status = match why {
        NoReport::Candidate(_) => StatusCode::BAD_REQUEST,
        NoReport::Journal(_) => StatusCode::SERVICE_UNAVAILABLE,
    };
    refuse(status, &why.to_string())
}

fn html(html: String) -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    (headers, html).into_response()
}

pub(super) async fn switch(_: Changer, State(admin): State<Admin>, Json(body): Json<SwitchBody>) -> Response {
    let cut = |text: Option<String>| text.map(|text| text.chars().take(LONGEST_WORDS).collect::<String>());
    let (reply, outcome) = oneshot::channel();
    let SwitchBody { to, reason, author, announced } = body;
    let order = SwitchOrder { to, reason: cut(reason), author: cut(author), announced, reply };
    let done = match admin.control.send(order).await {
        Ok(()) => outcome.await.ok(),
        Err(_) => None,
    };
    match done {
        Some(Ok(())) => Json(json!({ "primary": admin.view().routing.primary })).into_response(),
        Some(Err(refusal)) => (StatusCode::CONFLICT, Json(refusal)).into_response(),
        None => refuse(StatusCode::SERVICE_UNAVAILABLE, "shutting down"),
    }
}

/// Proof that the request may read.
pub(super) struct Reader;

/// Proof that the request may change something.
pub(super) struct Changer;

impl FromRequestParts<Admin> for Reader {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, admin: &Admin) -> Result<Self, Response> {
        if is_loopback(parts) || has_token(&parts.headers, admin) {
            return Ok(Self);
        }
        Err(refuse(StatusCode::UNAUTHORIZED, "from other machines the admin token is needed: Authorization: Bearer …"))
    }
}

impl FromRequestParts<Admin> for Changer {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, admin: &Admin) -> Result<Self, Response> {
        // A page from anywhere can make a browser on this machine send a POST; browsers always say that they are one.
        let is_browser = ["origin", "sec-fetch-site", "referer"].iter().any(|name| parts.headers.contains_key(*name));
        if has_token(&parts.headers, admin) || (is_loopback(parts) && !is_browser) {
            return Ok(Self);
        }
        Err(refuse(StatusCode::FORBIDDEN, "changes need the admin token: Authorization: Bearer …"))
    }
}

fn is_loopback(parts: &Parts) -> bool {
    parts.extensions.get::<SocketAddr>().is_some_and(|peer| peer.ip().to_canonical().is_loopback())
}

fn has_token(headers: &HeaderMap, admin: &Admin) -> bool {
    let sent = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let sent = sent.and_then(|value| value.strip_prefix("Bearer ")).map(str::trim);
    match (&admin.view.load().token, sent) {
        (Some(token), Some(sent)) => token.expose().as_bytes().ct_eq(sent.as_bytes()).into(),
        _ => false,
    }
}

pub(super) fn refuse(status: StatusCode, detail: &str) -> Response {
    (status, Json(json!({ "detail": detail }))).into_response()
}
