//! What trackers store, asked of their APIs: which questions there are, and what the answers mean. No network here.
//!
//! | file | API |
//! | --- | --- |
//! | `sentry` | GlitchTip's and Sentry's |
//! | `bugsink` | Bugsink's |
//!
//! Rules: an answer is as hostile as any input. Of its JSON only what it was asked for is kept in memory, whatever else is in it. A 200
//! counts only as JSON that names what was asked for. A 404 means "not stored"
//! only when the project is known to be the right one, because a wrong name is answered with 404 as well. Anything else is
//! trouble, and says nothing of the event. A new tracker is a file here and a line of `dialect` in `delivery/asking.rs`.

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

/// The longest wait that a tracker's limit is heeded for; it is asked again then.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);
/// The wait when a tracker limits without saying for how long.
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
    /// The header.
    pub headers: &'a HeaderMap,
    /// The body; what is longer than the bound is no answer at all.
    pub body: &'a [u8],
}

impl<'a> Answer<'a> {
    /// What a form names of the body, which is JSON.
    fn read<T: Deserialize<'a>>(&self) -> Result<T, Trouble> {
        serde_json::from_slice(self.body).map_err(|_| Trouble::Strange(self.described()))
    }

    /// What a 404 says in JSON, as trackers do; `None` for a 404 of somebody else's.
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

    /// What any answer but a 200 and a 404 means.
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

/// Why a tracker said nothing of what it was asked.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Trouble {
    /// It does not answer, or says that it cannot.
    #[error("it cannot be reached: {0}")]
    Unreachable(String),
    /// It wants fewer questions for so long.
    #[error("it limits how often it is asked, for {0:?}")]
    Limited(Duration),
    /// It refuses the token or the project, with what to do about it.
    #[error("{0}")]
    Refused(String),
    /// The answer is none of its API's.
    #[error("the answer is not one of its API: {0}")]
    Strange(String),
}

impl Trouble {
    /// Whether only what was asked for is refused, and other projects may be asked for.
    pub const fn is_refusal(&self) -> bool {
        matches!(self, Self::Refused(_))
    }
}

/// Where a list goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// The next question.
    path: String,
    /// Lists that come after it.
    then: Vec<String>,
}

/// A page of a list of events.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// The events, with the time that the tracker has for each.
    pub ids: Vec<(EventId, Option<Timestamp>)>,
    /// Where it goes on; `None` when this is the end.
    pub next: Option<Cursor>,
    /// Whether it shows that the project is the right one.
    confirms: bool,
}

impl Page {
    /// Whether it shows that the project is the right one.
    pub const fn confirms(&self) -> bool {
        self.confirms
    }
}

/// What an answer says of whether a project is the one that its DSN means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confirmed {
    /// It is.
    Yes,
    /// That cannot be told by this answer.
    CannotTell,
}

/// How one kind of tracker is asked. Paths begin with a slash and are below the API's address.
pub trait Dialect: Send + Sync + fmt::Debug {
    /// Whether a project is named `organization/project`.
    fn wants_a_name(&self) -> bool;

    /// Asks for one event.
    fn event(&self, there: &There, id: EventId) -> String;

    /// Whether the answer is the tracker's copy; if not, it has none, if the project is the right one.
    ///
    /// # Errors
    ///
    /// When the answer says nothing of the event.
    fn read_event(&self, there: &There, id: EventId, answer: &Answer<'_>) -> Result<bool, Trouble>;

    /// Whether its list has the newest events first.
    fn is_sorted(&self) -> bool;

    /// Asks for the newest events.
    fn page(&self, there: &There, from: Option<&Cursor>) -> String;

    /// The events of a page.
    ///
    /// # Errors
    ///
    /// When the answer is no list.
    fn read_page(&self, there: &There, from: Option<&Cursor>, answer: &Answer<'_>) -> Result<Page, Trouble>;

    /// Questions of which any may show that the project is the right one, the best first; none where each answer shows it.
    fn confirmations(&self, there: &There) -> Vec<String>;

    /// What the answer to one of them shows.
    ///
    /// # Errors
    ///
    /// When the project is not the right one, or the tracker cannot be asked.
    fn read_confirmation(&self, there: &There, answer: &Answer<'_>) -> Result<Confirmed, Trouble>;
}
