//! The parts of the pages for changes, without scripts: sign-in, buttons, confirmations and outcomes.
//!
//! Rule: addresses are relative, and all pages are on one level, so that they work under any path of a proxy. Only signed-in viewers see
//! forms for changes; each form that changes something carries the form token of the session. The status page shows nothing of a request
//! again: an outcome is one of a few sentences, with figures from the status. Nothing is changed here.

use axum::response::{IntoResponse as _, Response};
use http::StatusCode;
use maud::{Markup, html};

use crate::http::admin::answer;
use crate::http::admin::denied::Denied;
use crate::http::admin::order::LONGEST_WORDS;
use crate::http::admin::session::Session;
use crate::http::admin::state::View;
use crate::policy::routing::Project;
use crate::telemetry::letters::LetterSummary;
use crate::telemetry::report::Report;
use crate::telemetry::status::{Status, UpstreamStatus};
use crate::telemetry::words;
use crate::vocabulary::vocabulary;

use super::layout::document;

/// How long the page shows the outcome of a change, in seconds.
const SHOWN: u32 = 20;

/// The viewer of the status page, and the outcome of the change before.
pub(super) struct Viewer {
    /// The session, if the viewer is signed in.
    pub(super) session: Option<Session>,
    /// Whether there is a token to sign in with.
    pub(super) has_token: bool,
    /// The outcome of the change that led to the page.
    pub(super) outcome: Option<Outcome>,
}

vocabulary! {
    /// The outcome of a change, by its name in the address of the page.
    pub(super) enum Outcome {
        Switched = "switched",
        Unchanged = "unchanged",
        Retried = "retried",
        Left = "left",
        Discarded = "discarded",
        Cancelled = "cancelled",
        Repaired = "repaired",
    }
}

impl Outcome {
    fn sentence(self, status: &Status) -> String {
        let before =
            status.switches.iter().find(|switch| switch.project.is_none()).and_then(|last| last.from.as_deref());
        match (self, before) {
            (Self::Switched, Some(before)) => {
                format!("Done: {} is the primary. The way back is to make {before} the primary again.", status.primary)
            }
            (Self::Switched, None) => format!("Done: {} is the primary.", status.primary),
            (Self::Unchanged, _) => format!("Nothing was changed: {} is the primary already.", status.primary),
            (Self::Retried, _) => "Done: that dead letter will be sent again.".to_owned(),
            (Self::Left, _) => {
                "Nothing was changed: that dead letter is older than max_age of its upstream, or its envelope is still being sent."
                    .to_owned()
            }
            (Self::Discarded, _) => "Done: that dead letter is forgotten.".to_owned(),
            (Self::Cancelled, _) => "Done: the backfill has ended. What it had handed over is still delivered.".to_owned(),
            (Self::Repaired, _) => "Done: what is missing and still retained is sent again, and looked for again.".to_owned(),
        }
    }
}

impl Viewer {
    /// Makes the browser reload the page. Without scripts that is seldom, because unfolded parts fold again. An outcome disappears after
    /// [`SHOWN`].
    pub(super) fn refresh(&self) -> Markup {
        html! {
            @if self.is_live() { noscript { meta http-equiv="refresh" content="60"; } }
            @else { meta http-equiv="refresh" content={ (SHOWN) "; url=./" }; }
        }
    }

    /// Whether the page may keep itself up to date.
    pub(super) const fn is_live(&self) -> bool {
        self.outcome.is_none()
    }

    /// The outcome of a change, the sign-in, and the buttons for changes.
    pub(super) fn bar(&self, status: &Status) -> Markup {
        let shadows = status.upstreams.iter().filter(|upstream| upstream.role == "shadow");
        html! {
            @if let Some(outcome) = self.outcome { div.banner role="status" { (outcome.sentence(status)) } }
            nav {
                @match &self.session {
                    Some(session) => {
                        @for shadow in shadows {
                            form action="switch" { button name="to" value=(shadow.name) { "Make " b { (shadow.name) } " the primary" } }
                        }
                        form.end method="post" action="logout" { (sealed(session)) button { "Sign out" } }
                    }
                    None if self.has_token => span { a href="login" { "Sign in" } " to change something." },
                    None => span.muted {
                        "To change something from here, write a long " code { "token = \"…\"" } " under " code { "[admin]" }
                        " in the configuration file. It is live within a second, and you can sign in with it."
                    },
                }
            }
        }
    }

    /// The heading of the column of buttons in a table.
    pub(super) fn heading(&self) -> Markup {
        html! { @if self.session.is_some() { th { "Action" } } }
    }

    /// The buttons for a dead letter.
    pub(super) fn letter(&self, letter: &LetterSummary) -> Markup {
        html! {
            @if let Some(session) = &self.session {
                td.act {
                    form method="post" action="retry" {
                        (sealed(session)) button name="id" value=(letter.id) { "Retry" }
                    }
                    form action="discard" { button name="id" value=(letter.id) { "Discard…" } }
                }
            }
        }
    }

    /// The button for events that an upstream took and does not store.
    pub(super) fn repair(&self, upstream: &UpstreamStatus) -> Markup {
        let missing = upstream.verification.as_ref().map_or(0, |own| own.missing);
        html! {
            @if let Some(session) = self.session.as_ref().filter(|_| missing > 0) {
                form method="post" action="repair" {
                    (sealed(session))
                    button name="upstream" value=(upstream.name) { "Send the " (missing) " missing again" }
                }
            }
        }
    }

    /// The button for a running backfill.
    pub(super) fn backfill(&self, upstream: &str, state: &str) -> Markup {
        html! {
            @if let Some(session) = &self.session {
                td.act {
                    @if state == "running" {
                        form method="post" action="cancel" {
                            (sealed(session)) button name="upstream" value=(upstream) { "Cancel" }
                        }
                    }
                }
            }
        }
    }
}

/// The hidden field with the form token of a session.
fn sealed(session: &Session) -> Markup {
    html! { input type="hidden" name="csrf" value=(session.form_token); }
}

/// A page that does not reload by itself.
fn page(status: StatusCode, title: &str, body: &Markup) -> Response {
    let body = html! { body.narrow { main { h1 { (title) } (body) } } };
    (status, answer::html(document(&format!("Switchyard: {title}"), &Markup::default(), &body))).into_response()
}

/// The sign-in page; `wrong` says why the last try failed.
pub(in crate::http::admin) fn sign_in(status: StatusCode, has_token: bool, wrong: Option<&str>) -> Response {
    let body = html! {
        @if let Some(wrong) = wrong { div.banner.bad role="alert" { (wrong) } }
        @if has_token {
            p { "With the " code { "token" } " that stands under " code { "[admin]" } " in the configuration of this relay. It lasts for twelve hours." }
            form.tall method="post" action="login" {
                input type="text" name="username" value="switchyard" autocomplete="username" hidden;
                label { "Token" input type="password" name="token" required autofocus autocomplete="current-password"; }
                button { "Sign in" }
            }
        } @else {
            p {
                "There is no token to sign in with. Write one under " code { "[admin]" } " in the configuration file, as in "
                code { "token = \"${SWITCHYARD_ADMIN_TOKEN}\"" } "; the running daemon takes it over."
            }
        }
    };
    page(status, "Sign in", &body)
}

/// The page for a form that is not accepted.
pub(in crate::http::admin) fn denied(why: Denied) -> Response {
    let body = html! {
        div.banner.bad role="alert" { (why) }
        p { "Nothing was changed." }
        p { @if why == Denied::SignedOut { a href="login" { "Sign in" } " · " } a href="./" { "To the status page" } }
    };
    page(why.status(), "Not accepted", &body)
}

/// The page for a change that could not be made.
pub(super) fn failed(status: StatusCode, why: &str) -> Response {
    let body = html! {
        div.banner.bad role="alert" { (why) }
        p { a href="./" { "To the status page" } }
    };
    page(status, "Nothing was changed", &body)
}

/// The page with the consequences of making `to` the primary, and the button for it.
pub(super) fn switch(
    session: &Session,
    status: &Status,
    (view, verdict): (&View, Option<&Report>),
    to: &UpstreamStatus,
) -> Response {
    let title = format!("Make {} the primary", to.name);
    let body = html! {
        @match status.way_back().filter(|back| back.name == to.name) {
            Some(back) => (of_way_back(back)),
            None => (of_report(verdict)),
        }
        (readiness(view, to))
        ul { (consequences(status, view, &to.name)) }
        form.tall method="post" action="switch" {
            (sealed(session))
            input type="hidden" name="to" value=(to.name);
            label { "Reason, for the history" input type="text" name="reason" maxlength=(LONGEST_WORDS) autofocus autocomplete="off"; }
            div { button.main { (title) } " " a href="./" { "Leave it as it is" } }
        }
    };
    page(StatusCode::OK, &title, &body)
}

/// In place of a verdict: who goes back wants no candidate.
fn of_way_back(to: &UpstreamStatus) -> Markup {
    html! {
        p {
            "The last switch came from " b { (to.name) } ": this is the way back. It needs no verdict. "
            a href={ "report?candidate=" (to.name) } { "See the report" }
        }
    }
}

/// The report's verdict on the upstream, and the criteria that do not hold.
fn of_report(report: Option<&Report>) -> Markup {
    html! {
        @match report {
            Some(report) => {
                div.banner.good[report.ready].warn[!report.ready] {
                    b { (report.verdict) }
                    @for criterion in report.criteria.iter().filter(|criterion| !criterion.passed) {
                        br; (criterion.name) ": " (criterion.found)
                    }
                }
                p { a href={ "report?candidate=" (report.candidate) } { "See the report" } }
            }
            None => div.banner.warn { "Nobody knows whether it is ready: there is no report now." }
        }
    }
}

/// The reasons against the switch.
fn readiness(view: &View, to: &UpstreamStatus) -> Markup {
    let unknown = follow(view).filter(|project| !project.dsns.contains_key(to.name.as_str()));
    let unknown: Vec<&str> = unknown.map(|project| &*project.name).collect();
    html! {
        @if to.state != "up" {
            div.banner.warn {
                (to.name) " is " (to.state) " now."
                @if let Some(error) = &to.last_error { " At " (error.at.in_words()) ": " (error.what) }
            }
        }
        @if to.backlog.envelopes > 0 { p { "Waiting for it now: " (words::some(to.backlog.envelopes, "envelope")) "." } }
        @if !unknown.is_empty() {
            div.banner.bad { "It will be refused: no DSN at " (to.name) " is configured for " (unknown.join(", ")) "." }
        }
    }
}

/// The projects that have no primary of their own.
fn follow(view: &View) -> impl Iterator<Item = &Project> {
    view.routing.projects.iter().map(AsRef::as_ref).filter(|project| project.primary.is_none())
}

fn consequences(status: &Status, view: &View, to: &str) -> Markup {
    let (from, routing) = (&status.primary, &view.routing);
    let (mirrored, alone): (Vec<&Project>, Vec<&Project>) =
        follow(view).partition(|project| project.mirror.unwrap_or(routing.mirror));
    let own = routing.projects.iter().filter_map(|project| Some((&project.name, project.primary.as_ref()?)));
    let own: Vec<String> = own.map(|(name, primary)| format!("{name} ({primary})")).collect();
    html! {
        li {
            "From then on " b { (to) } " gets everything that comes for " (names(&follow(view).collect::<Vec<_>>()))
            ", whole, and answers what only a tracker can answer."
        }
        @if !mirrored.is_empty() {
            li {
                b { (from) } ", the primary now, goes on receiving what comes for " (names(&mirrored))
                @if let Some(spared) = view.spared.get(from.as_str()) { ". As a shadow it gets: " (spared) }
                "."
            }
        }
        @if !alone.is_empty() {
            li {
                "Mirror is off for " (names(&alone)) ": " b { (from) } " gets nothing new of it. To send it later what it misses, use "
                code { "switchyard backfill " (from) } ", as far back as " code { "retain" } " reaches."
            }
        }
        @if !own.is_empty() { li { "Not moved, because they have a primary of their own: " (own.join(", ")) "." } }
        li { "The line " code { "primary" } " in " code { (status.config.path) } " is changed, and nothing else in it. It is live at once; no service restarts." }
        li { "To undo it, make " b { (from) } " the primary again: here, or with " code { "switchyard switch " (from) } "." }
    }
}

fn names(projects: &[&Project]) -> String {
    projects.iter().map(|project| &*project.name).collect::<Vec<_>>().join(", ")
}

/// The page with the consequences of discarding a dead letter, and the button for it.
pub(super) fn discard(session: &Session, letter: &LetterSummary) -> Response {
    let body = html! {
        p {
            (letter.upstream) " did not take it, at " (letter.at.in_words()) ", for the project " (letter.project) ": " (letter.reason)
            @if let Some(status) = letter.status { ", " (status) } "."
        }
        @if !letter.answer.is_empty() { div.banner { (letter.answer.chars().take(LONGEST_WORDS).collect::<String>()) } }
        p { "A discarded dead letter is gone for good. " code { "switchyard dead-letters export " (letter.id) } " keeps a copy." }
        form.tall method="post" action="discard" {
            (sealed(session))
            div { button.drop name="id" value=(letter.id) { "Discard it" } " " a href="./" { "Keep it" } }
        }
    };
    page(StatusCode::OK, &format!("Discard dead letter {}", letter.id), &body)
}
