//! The admin listener: metrics, health, status, and switching the primary.
//!
//! Who may do what is told by [`access`](super::access); what a page changes, [`changes`](super::changes) asks for here.

use axum::Json;
use axum::extract::{Query, RawQuery, State};
use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::{mpsc, oneshot};

use crate::telemetry::report::{ContentReport, Report};
use crate::units::Period;

use super::access::{Changer, ContentReader, Fields, Reader, Visitor};
use super::forms::{Outcome, Viewer};
use super::lately::History;
use super::report::{self, NoReport};
use super::state::Admin;
use super::{chart, exposition, letters, page, report_page, scrape, verdict};

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
    pub(super) to: String,
    pub(super) reason: Option<String>,
    pub(super) author: Option<String>,
    #[serde(default)]
    pub(super) announced: bool,
}

/// Why something cannot be done: the status and the words.
pub(super) type Refused = (StatusCode, String);

/// How many dead letters the page shows.
const LETTERS: usize = 10;
/// Longer reasons and names are cut.
pub(super) const LONGEST_WORDS: usize = 500;

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
    let text = exposition::text(&admin).await;
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

pub(super) async fn status(_: Reader, State(admin): State<Admin>) -> Response {
    Json(scrape::status(&admin).await).into_response()
}

pub(super) async fn page(visitor: Visitor, State(admin): State<Admin>, RawQuery(query): RawQuery) -> Response {
    let letters = letters::newest(&admin, LETTERS).await;
    let outcome = Outcome::read(Fields::parse(query.unwrap_or_default().as_bytes()).get("done"));
    let has_token = admin.view.load().token.is_some();
    let viewer = Viewer { session: visitor.session, has_token, outcome };
    let status = scrape::status(&admin).await;
    let history = History::read(&admin, status.now - chart::SPAN).await;
    let verdict = verdict::of(&admin).await;
    html(page::render(&status, &history, &letters, (&viewer, &verdict)))
}

/// What `/report` and `/api/report` may be asked.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ReportQuery {
    since: Option<Period>,
    candidate: Option<String>,
}

pub(super) async fn report(
    _: Reader,
    contents: Result<ContentReader, Response>,
    State(admin): State<Admin>,
    Query(query): Query<ReportQuery>,
) -> Response {
    make_report(&admin, &query, contents.is_ok())
        .await
        .map_or_else(|why| no_report(&why), |report| Json(report).into_response())
}

pub(super) async fn report_page(
    _: Visitor,
    contents: Result<ContentReader, Response>,
    State(admin): State<Admin>,
    Query(query): Query<ReportQuery>,
) -> Response {
    match make_report(&admin, &query, contents.is_ok()).await {
        Ok(report) => {
            let history = History::read(&admin, report.since).await;
            html(report_page::render(&report, &history))
        }
        Err(why) => no_report(&why),
    }
}

/// `with_values`: whether who asks may read what is in events.
async fn make_report(admin: &Admin, query: &ReportQuery, with_values: bool) -> Result<Report, NoReport> {
    let window = query.since.unwrap_or(admin.view.load().report.window);
    let mut report = report::report(admin, admin.clock.now() - window.get(), query.candidate.as_deref()).await?;
    if !with_values {
        let verifications = report.upstreams.iter_mut().filter_map(|upstream| upstream.verification.as_mut());
        verifications.filter_map(|own| own.content.as_mut()).for_each(ContentReport::hide_values);
    }
    Ok(report)
}

fn no_report(why: &NoReport) -> Response {
    let status = match why {
        NoReport::Candidate(_) => StatusCode::BAD_REQUEST,
        NoReport::Journal(_) => StatusCode::SERVICE_UNAVAILABLE,
    };
    refuse(status, &why.to_string())
}

pub(super) fn html(html: String) -> Response {
    ([(header::CONTENT_TYPE, "text/html; charset=utf-8")], html).into_response()
}

pub(super) async fn switch(_: Changer, State(admin): State<Admin>, Json(body): Json<SwitchBody>) -> Response {
    match order(&admin, body).await {
        Ok(()) => Json(json!({ "primary": admin.view().routing.primary })).into_response(),
        Err((status, why)) => refuse(status, &why),
    }
}

/// Has a switch carried out: it is live when this returns, unless it is only announced.
pub(super) async fn order(admin: &Admin, body: SwitchBody) -> Result<(), Refused> {
    let cut = |text: Option<String>| text.map(|text| text.chars().take(LONGEST_WORDS).collect::<String>());
    let (reply, outcome) = oneshot::channel();
    let SwitchBody { to, reason, author, announced } = body;
    let order = SwitchOrder { to, reason: cut(reason), author: cut(author), announced, reply };
    let done = match admin.control.send(order).await {
        Ok(()) => outcome.await.ok(),
        Err(_) => None,
    };
    let done = done.ok_or_else(|| (StatusCode::SERVICE_UNAVAILABLE, "shutting down".to_owned()))?;
    done.map_err(|refusal| (StatusCode::CONFLICT, refusal.detail))
}

pub(super) fn refuse(status: StatusCode, detail: &str) -> Response {
    (status, Json(json!({ "detail": detail }))).into_response()
}
