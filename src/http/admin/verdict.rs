//! The answer to "May we switch?" on the status page: the report's verdict in a sentence.

use maud::{Markup, html};
use tokio::sync::Mutex;

use crate::clock::Timestamp;

/// The last answer.
pub(super) type Last = Mutex<Option<Known>>;

/// An answer, and what it depends on.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) at: Timestamp,
    pub(super) primary: String,
    pub(super) upstreams: Vec<String>,
    pub(super) answer: Answer,
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

impl Answer {
    /// The answer on the first screen, with a link to the report that it rests on.
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

/// The verdict without the part before the colon, which the answer says already.
fn reason(verdict: &str) -> &str {
    verdict.split_once(": ").map_or(verdict, |(_, reason)| reason)
}
