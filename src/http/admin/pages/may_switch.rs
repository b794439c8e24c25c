//! Asks the report whether another upstream may be made the primary, and remembers the answer.
//!
//! Rule: a report reads the evidence of its whole time, and the page is loaded every few seconds, so an answer is kept for a minute,
//! unless the primary or the upstreams change.

use std::time::Duration;

use crate::clock::Timestamp;
use crate::http::admin::report::{self, NoReport};
use crate::http::admin::state::{Admin, View};
use crate::http::admin::verdict::{Answer, Known};

/// How long an answer is kept.
const SERVES: Duration = Duration::from_secs(60);

/// The answer, not older than a minute.
pub(super) async fn answer(admin: &Admin) -> Answer {
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
