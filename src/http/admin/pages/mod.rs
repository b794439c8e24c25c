//! The pages of the admin listener: the status page, the report, and their forms.

mod cards;
pub(super) mod changes;
mod chart;
pub(super) mod forms;
pub(super) mod layout;
mod may_switch;
mod report;
mod status;

use axum::extract::{Query, RawQuery, State};
use axum::response::{IntoResponse as _, Response};
use http::StatusCode;

use super::access::{ContentReader, Fields, Visitor};
use super::answer::html;
use super::lately::History;
use super::report::{NoReport, ReportQuery};
use super::state::Admin;
use super::{letters, scrape};
use forms::{Outcome, Viewer};

/// How many dead letters the page shows.
const LETTERS: usize = 10;

pub(super) async fn status_page(visitor: Visitor, State(admin): State<Admin>, RawQuery(query): RawQuery) -> Response {
    let letters = letters::newest(&admin, LETTERS).await;
    let outcome = Outcome::from_name(Fields::parse(query.unwrap_or_default().as_bytes()).get("done"));
    let has_token = admin.view.load().token.is_some();
    let viewer = Viewer { session: visitor.session, has_token, outcome };
    let status = scrape::status(&admin).await;
    let history = History::read(&admin, status.now - chart::SPAN).await;
    let tile = may_switch::tile(&admin, &status).await;
    html(status::render(&status, &history, &letters, (&viewer, &tile)))
}

pub(super) async fn report_page(
    _: Visitor,
    contents: Result<ContentReader, Response>,
    State(admin): State<Admin>,
    Query(query): Query<ReportQuery>,
) -> Response {
    match super::report::asked(&admin, &query, contents.is_ok()).await {
        Ok(report) => {
            let history = History::read(&admin, report.since).await;
            html(report::render(&report, &history))
        }
        Err(NoReport::Candidate(why)) => {
            let status = if query.names_one() { StatusCode::BAD_REQUEST } else { StatusCode::OK };
            (status, html(report::choice(&why, &super::report::candidates(&admin.view())))).into_response()
        }
        Err(why) => super::report::refusal(&why),
    }
}
