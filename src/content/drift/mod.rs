//! The changes that trackers are known to make in an event: a table for each kind. A row forgives a difference at its place and nowhere
//! else.
//!
//! Rule: a row is here because a source says so or because it was seen, and it has a test. What a service would miss is no drift: an
//! exception, a frame or a tag that is gone is a difference whatever the reason.

mod glitchtip;
mod sentry;

use serde_json::Value;

pub(super) use glitchtip::GLITCHTIP;
pub(super) use sentry::SENTRY;

/// A step into a value.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step<'a> {
    /// A member of an object.
    Key(&'a str),
    /// An element of a list.
    Index(usize),
}

/// A row: one change that a tracker makes.
#[derive(Debug)]
pub struct Drift {
    /// The places, with `/` between steps, `*` for one step, and `**` for any number of steps at the end.
    pub at: &'static [&'static str],
    /// What the tracker changes.
    pub what: &'static str,
    /// The source of that knowledge.
    pub source: &'static str,
    may: fn(&Leaf<'_>) -> bool,
}

/// A place where two events differ.
#[derive(Debug)]
pub struct Leaf<'a> {
    pub(super) path: &'a [Step<'a>],
    pub(super) sent: &'a Value,
    pub(super) there: &'a Value,
}

impl Drift {
    /// Whether this row forgives the difference.
    pub(super) fn allows(&self, leaf: &Leaf<'_>) -> bool {
        self.at.iter().any(|pattern| is_at(pattern, leaf.path)) && (self.may)(leaf)
    }
}

fn is_at(pattern: &str, path: &[Step<'_>]) -> bool {
    let mut steps = path.iter();
    for part in pattern.split('/') {
        match (part, steps.next()) {
            ("**", _) => return true,
            (_, None) => return false,
            ("*", Some(_)) => {}
            (name, Some(Step::Key(key))) if name == *key => {}
            _ => return false,
        }
    }
    steps.next().is_none()
}

impl<'a> Leaf<'a> {
    fn key(&self, from_the_end: usize) -> &'a str {
        match self.path.iter().rev().nth(from_the_end) {
            Some(Step::Key(key)) => key,
            _ => "",
        }
    }

    fn texts(&self) -> Option<(&'a str, &'a str)> {
        Some((self.sent.as_str()?, self.there.as_str()?))
    }

    fn are(&self, may: impl FnOnce(&str, &str) -> bool) -> bool {
        self.texts().is_some_and(|(sent, there)| may(sent, there))
    }
}

const fn always(_: &Leaf<'_>) -> bool {
    true
}

fn added(leaf: &Leaf<'_>) -> bool {
    leaf.sent.is_null()
}

fn left_out(leaf: &Leaf<'_>) -> bool {
    leaf.there.is_null()
}

fn default_of_breadcrumb(leaf: &Leaf<'_>) -> bool {
    added(leaf) && matches!((leaf.key(0), leaf.there.as_str()), ("level", Some("info")) | ("type", Some("default")))
}

fn boolean_in_pythons_letters(leaf: &Leaf<'_>) -> bool {
    leaf.are(|sent, there| matches!(sent, "true" | "false") && sent.eq_ignore_ascii_case(there))
}

/// Whether both are the same as text: `5` and `"5"`.
fn same_as_text(leaf: &Leaf<'_>) -> bool {
    let text = |value: &Value| match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(_) | Value::Bool(_) => Some(value.to_string()),
        _ => None,
    };
    text(leaf.sent).is_some_and(|sent| text(leaf.there).is_some_and(|there| sent.eq_ignore_ascii_case(&there)))
}

fn address_of_the_sender(leaf: &Leaf<'_>) -> bool {
    leaf.sent.as_str() == Some("{{auto}}")
}

fn scrubbed(leaf: &Leaf<'_>) -> bool {
    let marks = ["[Filtered]", "[ip]", "[email]", "[creditcard]"];
    leaf.there.as_str().is_some_and(|there| marks.iter().any(|mark| there.contains(mark)))
}

/// Whether a URL became its path.
fn path_of_url(leaf: &Leaf<'_>) -> bool {
    leaf.are(|sent, there| {
        let Some((_, rest)) = ["file:", "http:", "https:", "applewebdata:"]
            .iter()
            .find_map(|scheme| sent.split_at_checked(scheme.len()).filter(|(start, _)| start == scheme))
        else {
            return false;
        };
        let path = rest.strip_prefix("//").map_or(rest, |rest| rest.find('/').map_or("", |at| &rest[at..]));
        path.split(['?', '#']).next() == Some(there)
    })
}

const OVERWRITTEN: &[&str] = &[
    "tags/environment",
    "tags/release",
    "tags/server_name",
    "tags/user.id",
    "tags/user.email",
    "tags/user.username",
    "tags/browser",
    "tags/browser.name",
    "tags/os.name",
    "tags/device",
];

/// None: Bugsink keeps the event as it was sent in `data`.
pub(super) const BUGSINK: &[Drift] = &[];
