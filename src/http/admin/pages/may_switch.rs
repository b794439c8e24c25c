//! Asks the report whether another upstream may be made the primary, and remembers the answer. After a switch nobody asks: the way back
//! needs no verdict.
//!
//! Rule: a report reads the evidence of its whole time, and the page is loaded every few seconds, so an answer is kept for a minute,
//! unless the primary or the upstreams change.

use std::time::Duration;

use maud::{Markup, html};

use crate::clock::Timestamp;
use crate::http::admin::report::{self, NoReport};
use crate::http::admin::state::{Admin, View};
use crate::http::admin::verdict::{Answer, Known};
use crate::telemetry::status::{Status, UpstreamStatus};
use crate::telemetry::words;

use super::cards;
use super::layout::tone;

/// How long an answer is kept.
const SERVES: Duration = Duration::from_secs(60);

/// The tile of the first screen: the way back while there is one, else whether another upstream may be made the primary.
pub(super) async fn tile(admin: &Admin, status: &Status) -> Markup {
    match status.way_back() {
        Some(upstream) => way_back(status, upstream),
        None => html! { div.may { dt { "May we switch?" } (answer(admin).await.shown()) } },
    }
}

fn way_back(status: &Status, upstream: &UpstreamStatus) -> Markup {
    let waits = match upstream.backlog.envelopes {
        _ if status.unread.is_some() => "what waits for it is not known".to_owned(),
        0 => "nothing waits for it".to_owned(),
        n => words::those(n, "envelope", "waits for it", "wait for it"),
    };
    html! {
        div.may {
            dt { "The way back" }
            dd class=(tone(upstream)) { b { (cards::sign(upstream)) " " (upstream.name) } }
            dd.muted {
                (cards::state(upstream)) ", " (waits)
                @if !status.mirror { ", the mirror is off: it gets nothing new" }
                " · " a href={ "report?candidate=" (upstream.name) } { "See the report" }
            }
        }
    }
}

/// The answer, not older than a minute.
async fn answer(admin: &Admin) -> Answer {
    let (now, view) = (admin.clock.now(), admin.view());
    let primary = view.routing.primary.to_string();
    let upstreams: Vec<String> = view.upstreams.keys().map(ToString::to_string).collect();
    // A request that comes meanwhile waits for this answer, and makes no report of its own.
    let mut last = admin.verdict.lock().await;
    if let Some(known) = &*last {
        let is_fresh = known.at <= now && now.since(known.at) < SERVES;
        if is_fresh && known.primary == primary && known.upstreams == upstreams {
            return known.answer.clone();
        }
    }
    let answer = judge(admin, &view, now).await;
    *last = Some(Known { at: now, primary, upstreams, answer: answer.clone() });
    answer
}

async fn judge(admin: &Admin, view: &View, now: Timestamp) -> Answer {
    let primary = &view.routing.primary;
    let others: Vec<String> = view.upstreams.keys().filter(|name| *name != primary).map(ToString::to_string).collect();
    match others.as_slice() {
        [] => return Answer::Alone,
        [_] => {}
        _ => return Answer::Several(others),
    }
    match report::judged(admin, now - view.report.window.get(), None).await {
        Ok(report) => Answer::Judged { candidate: report.candidate, ready: report.ready, why: report.verdict },
        Err(NoReport::Candidate(_)) => Answer::Alone,
        Err(error @ NoReport::Journal(_)) => Answer::Unknown(error.to_string()),
    }
}
