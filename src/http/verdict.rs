//! May we switch: the report's verdict in a sentence for the status page.
//!
//! Rule: a report reads the evidence of its whole time, and the page is looked at every few seconds, so an answer serves for a
//! minute, unless the primary or the upstreams change.

use std::time::Duration;

use maud::{Markup, html};
use tokio::sync::Mutex;

use crate::clock::Timestamp;

use super::report::{self, NoReport};
use super::state::{Admin, View};

/// How long an answer serves.
const SERVES: Duration = Duration::from_secs(60);

/// The answer that was given last.
pub(super) type Last = Mutex<Option<Known>>;

/// An answer, and what it depends on.
#[derive(Debug)]
pub(super) struct Known {
    at: Timestamp,
    primary: String,
    upstreams: Vec<String>,
    answer: Answer,
}

/// Whether another upstream may be made the primary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// The only candidate is judged: whether it is ready, and why in words.
    Judged {
        /// The candidate.
        candidate: String,
        /// Whether every criterion holds.
        ready: bool,
        /// The verdict.
        why: String,
    },
    /// There are several candidates, each with a report of its own.
    Several(Vec<String>),
    /// There is nothing to switch to.
    Alone,
    /// The journal cannot be read.
    Unknown(String),
}

/// The answer, not older than a minute.
pub(super) async fn of(admin: &Admin) -> Answer {
    let (now, view) = (admin.clock.now(), admin.view());
    let primary = view.routing.primary.to_string();
    let upstreams: Vec<String> = view.upstreams.keys().map(ToString::to_string).collect();
    // Whoever comes meanwhile waits for this answer, and makes no report of their own.
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

impl Answer {
    /// The answer on the first screen, with the way to the report that it rests on.
    pub(super) fn shown(&self) -> Markup {
        html! {
            @match self {
                Self::Judged { candidate, ready: true, why } => {
                    dd.good { b { "✔ Yes, to " (candidate) } } dd.muted { (reason(why)) " · " a href="report" { "See the report" } }
                }
                Self::Judged { why, .. } => {
                    dd.warn { b { "▲ Not yet" } } dd.muted { (reason(why)) " · " a href="report" { "See the report" } }
                }
                Self::Several(candidates) => {
                    dd { b { "See each report" } }
                    dd.muted { @for (at, name) in candidates.iter().enumerate() {
                        @if at > 0 { " · " } a href={ "report?candidate=" (name) } { (name) }
                    } }
                }
                Self::Alone => { dd { b { "Nothing to switch to" } } dd.muted { "there is one upstream" } }
                Self::Unknown(why) => { dd.warn { b { "▲ Not known" } } dd.muted { (why) } }
            }
        }
    }
}

/// The verdict without its first word, which the answer says already.
fn reason(verdict: &str) -> &str {
    verdict.split_once(": ").map_or(verdict, |(_, reason)| reason)
}
