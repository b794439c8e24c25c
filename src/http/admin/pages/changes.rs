//! The actions of the pages' forms: sign in and out, switch the primary, retry and discard dead letters, cancel a backfill, and send
//! missing events again.
//!
//! Rule: each calls the same functions as the API, and ends with the status page and a sentence on the outcome.

use std::net::IpAddr;

use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse as _, Redirect, Response};
use http::{HeaderValue, StatusCode, header};

use crate::clock::Timestamp;
use crate::http::admin::access::{COOKIE, Change, Fields, Form, Visitor};
use crate::http::admin::answer::Refused;
use crate::http::admin::backfill;
use crate::http::admin::letters;
use crate::http::admin::order::{self, SwitchBody};
use crate::http::admin::report;
use crate::http::admin::scrape;
use crate::http::admin::session::{LIFE, SignInError};
use crate::http::admin::state::Admin;
use crate::http::admin::verify;
use crate::protocol::rate_limits::whole_seconds;
use crate::telemetry::letters::LetterPick;

use super::forms::{self, Outcome};

pub(in crate::http::admin) async fn sign_in_page(State(admin): State<Admin>) -> Response {
    forms::sign_in(StatusCode::OK, admin.view.load().token.is_some(), None)
}

pub(in crate::http::admin) async fn sign_in(State(admin): State<Admin>, form: Form) -> Response {
    let view = admin.view.load();
    let Some(token) = &view.token else { return forms::sign_in(StatusCode::FORBIDDEN, false, None) };
    match admin.sessions.begin(form.fields.get("token"), token, admin.clock.uptime()) {
        Ok(session) => {
            tracing::info!(peer.ip = %form.peer, "somebody signed in on the status page");
            with_cookie(&session, LIFE.as_secs(), form.is_secure, Redirect::to("./").into_response())
        }
        Err(error) => not_signed_in(error, form.peer),
    }
}

fn not_signed_in(error: SignInError, peer: IpAddr) -> Response {
    match error {
        SignInError::Wrong => {
            tracing::warn!(peer.ip = %peer, "a wrong token was given on the status page");
            forms::sign_in(StatusCode::UNAUTHORIZED, true, Some("That is not the token of this relay."))
        }
        SignInError::TooMany(wait) => {
            let seconds = whole_seconds(wait);
            let why = format!("Too many wrong tokens were given. Nobody can sign in for {seconds} seconds.");
            let mut response = forms::sign_in(StatusCode::TOO_MANY_REQUESTS, true, Some(&why));
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
            response
        }
        SignInError::NoKey => {
            let why = "The system gives no random numbers: nobody can sign in now.";
            forms::sign_in(StatusCode::SERVICE_UNAVAILABLE, true, Some(why))
        }
    }
}

pub(in crate::http::admin) async fn sign_out(State(admin): State<Admin>, change: Change) -> Response {
    admin.sessions.end(&change.session, admin.clock.uptime());
    with_cookie("", 0, false, Redirect::to("./").into_response())
}

fn with_cookie(value: &str, seconds: u64, is_secure: bool, mut response: Response) -> Response {
    let secure = if is_secure { "; Secure" } else { "" };
    // Without a path the cookie is for the folder of the page, as the browser sees it, and for no other site behind the same proxy.
    let cookie = format!("{COOKIE}={value}; Max-Age={seconds}; HttpOnly; SameSite=Strict{secure}");
    if let Ok(cookie) = HeaderValue::try_from(cookie) {
        response.headers_mut().insert(header::SET_COOKIE, cookie);
    }
    response
}

/// Redirects to the status page with the outcome of a change, or shows why it failed.
fn done(outcome: Result<Outcome, Refused>) -> Response {
    match outcome {
        Ok(outcome) => Redirect::to(&format!("./?done={}", outcome.name())).into_response(),
        Err((status, why)) => forms::failed(status, &why),
    }
}

pub(in crate::http::admin) async fn switch_page(
    visitor: Visitor,
    State(admin): State<Admin>,
    RawQuery(query): RawQuery,
) -> Response {
    let Some(session) = visitor.session else { return asked_to_sign_in(&admin) };
    let to = Fields::parse(query.unwrap_or_default().as_bytes());
    let (status, view) = (scrape::status(&admin).await, admin.view.load_full());
    match status.upstreams.iter().find(|upstream| upstream.name == to.get("to") && upstream.role != "removed") {
        Some(upstream) if upstream.role == "primary" => done(Ok(Outcome::Unchanged)),
        Some(upstream) => {
            let since = admin.clock.now() - view.report.window.get();
            let verdict = report::judged(&admin, since, Some(&upstream.name)).await.ok();
            forms::switch(&session, &status, (&view, verdict.as_ref()), upstream)
        }
        None => forms::failed(StatusCode::NOT_FOUND, "There is no such upstream in the configuration."),
    }
}

fn asked_to_sign_in(admin: &Admin) -> Response {
    forms::sign_in(StatusCode::UNAUTHORIZED, admin.view.load().token.is_some(), None)
}

pub(in crate::http::admin) async fn switch(State(admin): State<Admin>, change: Change) -> Response {
    let (to, reason) = (change.fields.get("to"), change.fields.get("reason"));
    if *admin.view.load().routing.primary == *to {
        return done(Ok(Outcome::Unchanged));
    }
    let reason = Some(reason).filter(|reason| !reason.is_empty()).map(str::to_owned);
    let author = Some(format!("status page, {}", change.peer));
    let body = SwitchBody { to: to.to_owned(), reason, author, announced: false };
    done(order::send(&admin.control, body).await.map(|()| Outcome::Switched))
}

pub(in crate::http::admin) async fn retry(State(admin): State<Admin>, change: Change) -> Response {
    change_letter(&admin, &change.fields, true).await
}

pub(in crate::http::admin) async fn discard(State(admin): State<Admin>, change: Change) -> Response {
    change_letter(&admin, &change.fields, false).await
}

async fn change_letter(admin: &Admin, fields: &Fields, retry: bool) -> Response {
    let pick = |id| LetterPick { ids: vec![id], ..LetterPick::default() };
    let changed = match number(fields) {
        Ok(id) => letters::change(admin, &pick(id), retry).await,
        Err(refused) => Err(refused),
    };
    done(changed.map(|changed| match (changed.changed, retry) {
        (0, _) => Outcome::Left,
        (_, true) => Outcome::Retried,
        (_, false) => Outcome::Discarded,
    }))
}

/// The number of the dead letter in the fields.
fn number(fields: &Fields) -> Result<u64, Refused> {
    fields.get("id").parse().map_err(|_| (StatusCode::BAD_REQUEST, "That is no number of a dead letter.".to_owned()))
}

pub(in crate::http::admin) async fn discard_page(
    visitor: Visitor,
    State(admin): State<Admin>,
    RawQuery(query): RawQuery,
) -> Response {
    let Some(session) = visitor.session else { return asked_to_sign_in(&admin) };
    let letter = match number(&Fields::parse(query.unwrap_or_default().as_bytes())) {
        Ok(id) => letters::one(&admin, id).await,
        Err(refused) => Err(refused),
    };
    match letter {
        Ok(letter) => forms::discard(&session, &letter),
        Err((status, why)) => forms::failed(status, &why),
    }
}

pub(in crate::http::admin) async fn cancel_backfill(State(admin): State<Admin>, change: Change) -> Response {
    done(backfill::stop(&admin, change.fields.get("upstream")).await.map(|_| Outcome::Cancelled))
}

/// Sends all missing events again that the journal still retains.
pub(in crate::http::admin) async fn repair(State(admin): State<Admin>, change: Change) -> Response {
    let sent = verify::send_again(&admin, change.fields.get("upstream"), Timestamp::default(), false).await;
    done(sent.map(|_| Outcome::Repaired))
}
