//! GlitchTip's and Sentry's API: `/api/0/projects/{organization}/{project}/events/` (Sentry's "Retrieve an Event for a Project" and
//! "List a Project's Error Events"; GlitchTip 5.2 run, its answers in `fixtures/tracker-api`).
//!
//! GlitchTip answers a wrong project with 404 for an event and with an empty list, so an empty list shows nothing. What shows that the
//! name means the project of the DSN is the number in its own resource (scope `project:read`), or that of any listed event.

use http::StatusCode;
use serde_json::Value;

use crate::clock::Timestamp;
use crate::protocol::event_id::EventId;

use super::{Answer, Confirmed, Cursor, Dialect, Page, There, Trouble};

/// The dialect.
#[derive(Clone, Copy, Debug)]
pub struct Sentry;

/// The most events of a page that are looked at.
const MOST: usize = 1000;
/// A longer cursor is none of theirs.
const LONGEST_CURSOR: usize = 500;

fn project(there: &There) -> String {
    format!("/api/0/projects/{}/", there.name)
}

/// Whether a number or a text is the project's number.
fn is_number(value: &Value, there: &There) -> bool {
    match value {
        Value::String(text) => **text == *there.number,
        Value::Number(number) => number.to_string() == *there.number,
        _ => false,
    }
}

/// Whether an event belongs to the project of the DSN. Sentry leaves the number out of some answers.
fn belongs(event: &Value, there: &There) -> Result<bool, Trouble> {
    match event.get("projectID").filter(|number| !number.is_null()) {
        None => Ok(false),
        Some(number) if is_number(number, there) => Ok(true),
        Some(number) => Err(wrong_number(there, number)),
    }
}

fn wrong_number(there: &There, number: &Value) -> Trouble {
    let shown: String = number.to_string().chars().take(20).collect();
    Trouble::Refused(format!(
        "{} is project {shown} there, and the DSN is of project {}: correct `project` beside the DSN",
        there.name, there.number
    ))
}

/// The first two numbers of a version.
pub type Version = (u16, u16);

/// Asks a GlitchTip for its settings, which it shows to anybody.
pub const SETTINGS: &str = "/api/settings/";

/// The version in a GlitchTip's settings. `None`: it does not say, as a build of one's own does not.
///
/// glitchtip-backend, `glitchtip/api/api.py`: `version` is what its image was built with, as in `6.1.3`. `GET /api/0/` says "0" of any.
pub fn version(answer: &Answer<'_>) -> Option<Version> {
    let body = (answer.status == StatusCode::OK).then(|| answer.json().ok()).flatten()?;
    let said = body.get("version")?.as_str()?;
    let mut numbers = said.trim_start_matches('v').splitn(3, '.').map(|number| {
        let digits: String = number.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().ok()
    });
    let (major, minor) = (numbers.next()??, numbers.next()??);
    (major > 0).then_some((major, minor))
}

impl Dialect for Sentry {
    fn wants_a_name(&self) -> bool {
        true
    }

    fn event(&self, there: &There, id: EventId) -> String {
        format!("{}events/{id}/", project(there))
    }

    fn read_event(&self, there: &There, id: EventId, answer: &Answer<'_>) -> Result<Option<Value>, Trouble> {
        match answer.status {
            StatusCode::OK => {
                let event = answer.json()?;
                let named = event.get("eventID").or_else(|| event.get("id")).and_then(Value::as_str);
                if named.and_then(|named| named.parse().ok()) != Some(id) {
                    return Err(Trouble::Strange("200 with another event than the one asked for".into()));
                }
                belongs(&event, there)?;
                Ok(Some(event))
            }
            StatusCode::NOT_FOUND if answer.detail().is_some() => Ok(None),
            _ => Err(answer.trouble()),
        }
    }

    fn is_sorted(&self) -> bool {
        true
    }

    fn page(&self, there: &There, from: Option<&Cursor>) -> String {
        from.map_or_else(|| format!("{}events/?limit=100", project(there)), |cursor| cursor.path.clone())
    }

    fn read_page(&self, there: &There, _: Option<&Cursor>, answer: &Answer<'_>) -> Result<Page, Trouble> {
        if answer.status != StatusCode::OK {
            return Err(answer.trouble());
        }
        let Value::Array(events) = answer.json()? else {
            return Err(Trouble::Strange("200 with no list of events".into()));
        };
        let mut page = Page::default();
        for event in events.iter().take(MOST) {
            page.confirms |= belongs(event, there)?;
            let text = |key: &str| event.get(key).and_then(Value::as_str);
            let Some(id) = text("eventID").or_else(|| text("id")).and_then(|id| id.parse().ok()) else { continue };
            page.ids.push((id, text("dateCreated").and_then(|at| at.parse::<Timestamp>().ok())));
        }
        let links = answer.headers.get_all(http::header::LINK).iter().filter_map(|link| link.to_str().ok());
        let path = |cursor: String| format!("{}events/?limit=100&cursor={cursor}", project(there));
        page.next = links.filter_map(next).next().map(|cursor| Cursor { path: path(cursor), then: vec![] });
        Ok(page)
    }

    fn confirmations(&self, there: &There) -> Vec<String> {
        vec![project(there), format!("{}events/?limit=1", project(there))]
    }

    fn read_confirmation(&self, there: &There, answer: &Answer<'_>) -> Result<Confirmed, Trouble> {
        match (answer.status, answer.json()) {
            (StatusCode::OK, Ok(Value::Array(_))) => {
                let page = self.read_page(there, None, answer)?;
                Ok(if page.confirms { Confirmed::Yes } else { Confirmed::CannotTell })
            }
            (StatusCode::OK, Ok(own)) => match own.get("id") {
                Some(number) if is_number(number, there) => Ok(Confirmed::Yes),
                Some(number) => Err(wrong_number(there, number)),
                None => Err(Trouble::Strange("200 with no project".into())),
            },
            (StatusCode::NOT_FOUND, Ok(_)) => Err(Trouble::Refused(format!(
                "it knows no project {} (404), or the token's owner is no member of it: write `project = \"organization/project\"` \
                 beside the DSN, as in the address of its page",
                there.name
            ))),
            // A token with event:read alone may not read projects.
            (StatusCode::FORBIDDEN, _) => Ok(Confirmed::CannotTell),
            _ => Err(answer.trouble()),
        }
    }
}

/// The cursor of the next page in a `Link` header. GlitchTip writes it as Python shows a set, which changes nothing here.
fn next(link: &str) -> Option<String> {
    let of_next = link.split("rel=\"next\"").nth(1)?;
    // What belongs to another link stands behind the next "<".
    let of_next = of_next.split('<').next()?;
    if !of_next.contains("results=\"true\"") {
        return None;
    }
    let cursor = of_next.split("cursor=\"").nth(1)?.split('"').next()?;
    let fits = |c: u8| c.is_ascii_alphanumeric() || b":%=_-+/.".contains(&c);
    let is_good = !cursor.is_empty() && cursor.len() <= LONGEST_CURSOR && cursor.bytes().all(fits);
    is_good.then(|| url::form_urlencoded::byte_serialize(cursor.as_bytes()).collect())
}
