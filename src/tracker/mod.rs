//! The APIs that tell what trackers store: the questions, and the meaning of the answers. No network here.
//!
//! | file | API |
//! | --- | --- |
//! | `sentry` | GlitchTip's and Sentry's |
//! | `bugsink` | Bugsink's |
//!
//! Rules: an answer is as hostile as any input. Only the requested members of its JSON are kept in memory. A 200 counts only as JSON that
//! names what was asked for. A 404 means "not stored" only if the project is known to be the right one, because a wrong name is answered
//! with 404 as well. Anything else is trouble, and says nothing about the event. A new tracker is a file here and a line of `dialect` in
//! `delivery/asking.rs`.

use std::fmt;
use std::time::Duration;

use http::{HeaderMap, StatusCode, header};
use serde::Deserialize;

use json::Member;

use crate::clock::Timestamp;
use crate::protocol::event_id::EventId;

pub mod bugsink;
mod json;
pub mod sentry;
#[cfg(test)]
mod tests;

/// The longest wait for a tracker's limit.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);
/// The wait for a limit that names no time.
const USUAL_WAIT: Duration = Duration::from_secs(30);

/// A project as a tracker knows it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct There {
    /// The address of the tracker, without a slash at its end.
    pub address: Box<str>,
    /// `organization/project`, where the tracker's API wants that.
    pub name: Box<str>,
    /// The number at the end of its DSN.
    pub number: Box<str>,
}

impl fmt::Display for There {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.name.is_empty() { write!(f, "project {}", self.number) } else { f.write_str(&self.name) }
    }
}

/// An answer of a tracker's API.
#[derive(Clone, Copy, Debug)]
pub struct Answer<'a> {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: &'a HeaderMap,
    /// The body, which has at most as many bytes as the caller reads.
    pub body: &'a [u8],
}

impl<'a> Answer<'a> {
    /// Parses the body, which is JSON, into the members that `T` names.
    fn read<T: Deserialize<'a>>(&self) -> Result<T, Trouble> {
        serde_json::from_slice(self.body).map_err(|_| Trouble::Strange(self.described()))
    }

    /// The `detail` of a JSON body, which a tracker's 404 has; `None` for a 404 of anything else.
    fn detail(&self) -> Option<String> {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Body<'a> {
            #[serde(borrow)]
            detail: Member<'a>,
        }
        self.read::<Body<'_>>().ok()?.detail.text()
    }

    fn described(&self) -> String {
        let kind =
            self.headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or("no content type");
        let kind: String = kind.chars().filter(|c| !c.is_control()).take(60).collect();
        format!("{} with {kind}", self.status)
    }

    /// The meaning of any answer but a 200, or a tracker's own 404.
    fn trouble(&self) -> Trouble {
        match self.status.as_u16() {
            401 => Trouble::Refused(
                "it does not take the token (401): make one in the tracker and write it at `token` in the api section".into(),
            ),
            403 => Trouble::Refused(
                "the token may not read events (403): it needs the scope event:read, of a member of the project's organization".into(),
            ),
            429 => Trouble::Limited(self.wait()),
            408 | 500..=599 => Trouble::Unreachable(format!("it answers {}", self.status)),
            300..=399 => Trouble::Strange(format!("{}, a redirect: is `url` in the api section right?", self.status)),
            404 => Trouble::Strange(format!("{}: is `url` in the api section right?", self.described())),
            _ => Trouble::Strange(self.described()),
        }
    }

    fn wait(&self) -> Duration {
        let number = |name: &str| self.headers.get(name)?.to_str().ok()?.trim().parse::<f64>().ok();
        let seconds = number("retry-after").and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        seconds.unwrap_or(USUAL_WAIT).min(LONGEST_WAIT)
    }
}

/// Why a tracker did not answer the question.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Trouble {
    /// It does not answer, or answers that it cannot.
    #[error("it cannot be reached: {0}")]
    Unreachable(String),
    /// It limits how often it is asked, for this long.
    #[error("it limits how often it is asked, for {0:?}")]
    Limited(Duration),
    /// It refuses the token or the project; with the remedy.
    #[error("{0}")]
    Refused(String),
    /// The answer is not one of its API.
    #[error("the answer is not one of its API: {0}")]
    Strange(String),
}

impl Trouble {
    /// Whether only this project is refused, so that others may be asked for.
    pub const fn is_refusal(&self) -> bool {
        matches!(self, Self::Refused(_))
    }
}

/// The position in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// The question for the next page.
    path: String,
    /// The questions for the lists after it.
    then: Vec<String>,
}

/// A page of a list of events.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// The events, with the time that the tracker has for each.
    pub ids: Vec<(EventId, Option<Timestamp>)>,
    /// The cursor of the next page; `None` at the end.
    pub next: Option<Cursor>,
    /// Whether the page shows that the project is the right one.
    confirms: bool,
}

impl Page {
    /// Whether the page shows that the project is the right one.
    pub const fn confirms(&self) -> bool {
        self.confirms
    }
}

/// Whether an answer shows that a project is the one of its DSN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confirmed {
    /// It does.
    Yes,
    /// This answer cannot tell.
    CannotTell,
}

/// The API dialect of one kind of tracker. Paths begin with a slash and are relative to the API's address.
pub trait Dialect: Send + Sync + fmt::Debug {
    /// Whether a project is named `organization/project`.
    fn wants_a_name(&self) -> bool;

    /// The path of one event.
    fn event(&self, there: &There, id: EventId) -> String;

    /// Whether the answer is the tracker's copy of the event. If not, the tracker has none, provided that the project is the right one.
    ///
    /// # Errors
    ///
    /// When the answer says nothing about the event.
    fn read_event(&self, there: &There, id: EventId, answer: &Answer<'_>) -> Result<bool, Trouble>;

    /// Whether its lists have the newest events first.
    fn is_sorted(&self) -> bool;

    /// The path of a page of events; of the first page if `from` is `None`.
    fn page(&self, there: &There, from: Option<&Cursor>) -> String;

    /// The events of a page.
    ///
    /// # Errors
    ///
    /// When the answer is no list.
    fn read_page(&self, there: &There, from: Option<&Cursor>, answer: &Answer<'_>) -> Result<Page, Trouble>;

    /// The paths whose answers may show that the project is the right one, best first.
    fn confirmations(&self, there: &There) -> Vec<String>;

    /// Reads the answer to one of the [`confirmations`](Self::confirmations).
    ///
    /// # Errors
    ///
    /// When the project is not the right one, or the tracker cannot be asked.
    fn read_confirmation(&self, there: &There, answer: &Answer<'_>) -> Result<Confirmed, Trouble>;
}
