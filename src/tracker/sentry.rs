//! GlitchTip's and Sentry's API: `/api/0/projects/{organization}/{project}/events/` (Sentry's "Retrieve an Event for a Project" and
//! "List a Project's Error Events"; GlitchTip 5.2 run, its answers in `fixtures/tracker-api`).
//!
//! GlitchTip answers a wrong project with 404 for an event and with an empty list, so an empty list shows nothing. Two numbers show that
//! the name means the project of the DSN: the one in the project's resource (scope `project:read`), and the one of any listed event.

use http::StatusCode;
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::protocol::event_id::EventId;

use super::json::{First, Member};
use super::{Answer, Confirmed, Cursor, Dialect, Page, There, Trouble};

/// GlitchTip's and Sentry's API dialect.
#[derive(Clone, Copy, Debug)]
pub struct Sentry;

/// The longest cursor that is followed, in bytes.
const LONGEST_CURSOR: usize = 500;

fn project(there: &There) -> String {
    format!("/api/0/projects/{}/", there.name)
}

/// The members that are read of an event, alone or in a list, and of a project.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Told<'a> {
    #[serde(borrow, rename = "eventID")]
    event_id: Member<'a>,
    id: Member<'a>,
    #[serde(rename = "projectID")]
    project: Member<'a>,
    #[serde(rename = "dateCreated")]
    created: Member<'a>,
}

impl Told<'_> {
    /// The event's id.
    fn event(&self) -> Option<EventId> {
        self.event_id.parsed().or_else(|| self.id.parsed())
    }
}

/// Whether this is the number of the DSN's project, as a number or as text; `false` when it is absent, as in some answers of Sentry.
fn is_number(number: Member<'_>, there: &There) -> Result<bool, Trouble> {
    match number.written() {
        None => Ok(false),
        Some(number) if number.trim_matches('"') == &*there.number => Ok(true),
        Some(number) => {
            let shown: String = number.chars().take(20).collect();
            Err(Trouble::Refused(format!(
                "{} is project {shown} there, and the DSN is of project {}: correct `project` beside the DSN",
                there.name, there.number
            )))
        }
    }
}

/// The first two numbers of a version.
pub type Version = (u16, u16);

/// The path of a GlitchTip's settings, which anybody may read.
pub const SETTINGS: &str = "/api/settings/";

/// The version in a GlitchTip's settings; `None` when they name none, as in a custom build.
///
/// glitchtip-backend, `glitchtip/api/api.py`: `version` is what its image was built with, as in `6.1.3`. `GET /api/0/` says "0" of any.
pub fn version(answer: &Answer<'_>) -> Option<Version> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Settings<'a> {
        #[serde(borrow)]
        version: Member<'a>,
    }
    let settings: Option<Settings<'_>> = (answer.status == StatusCode::OK).then(|| answer.read().ok()).flatten();
    let said = settings?.version.text()?;
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

    fn read_event(&self, there: &There, id: EventId, answer: &Answer<'_>) -> Result<bool, Trouble> {
        match answer.status {
            StatusCode::OK => {
                let event: Told<'_> = answer.read()?;
                if event.event() != Some(id) {
                    return Err(Trouble::Strange("200 with another event than the one asked for".into()));
                }
                is_number(event.project, there)?;
                Ok(true)
            }
            StatusCode::NOT_FOUND if answer.detail().is_some() => Ok(false),
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
        let First(events) = answer.read::<First<Told<'_>>>()?;
        let mut page = Page::default();
        for event in events {
            page.confirms |= is_number(event.project, there)?;
            page.ids.extend(event.event().map(|id| (id, event.created.parsed())));
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
        match answer.status {
            StatusCode::OK if answer.body.trim_ascii_start().starts_with(b"[") => {
                let page = self.read_page(there, None, answer)?;
                Ok(if page.confirms { Confirmed::Yes } else { Confirmed::CannotTell })
            }
            StatusCode::OK => match is_number(answer.read::<Told<'_>>()?.id, there)? {
                true => Ok(Confirmed::Yes),
                false => Err(Trouble::Strange("200 with no project".into())),
            },
            StatusCode::NOT_FOUND if answer.read::<IgnoredAny>().is_ok() => Err(Trouble::Refused(format!(
                "it knows no project {} (404), or the token's owner is no member of it: write `project = \"organization/project\"` \
                 beside the DSN, as in the address of its page",
                there.name
            ))),
            // A token with event:read alone may not read projects.
            StatusCode::FORBIDDEN => Ok(Confirmed::CannotTell),
            _ => Err(answer.trouble()),
        }
    }
}

/// The cursor of the next page in a `Link` header. GlitchTip writes the header like a Python set, which makes no difference here.
fn next(link: &str) -> Option<String> {
    let of_next = link.split("rel=\"next\"").nth(1)?;
    // What follows the next "<" belongs to another link.
    let of_next = of_next.split('<').next()?;
    if !of_next.contains("results=\"true\"") {
        return None;
    }
    let cursor = of_next.split("cursor=\"").nth(1)?.split('"').next()?;
    let fits = |c: u8| c.is_ascii_alphanumeric() || b":%=_-+/.".contains(&c);
    let is_good = !cursor.is_empty() && cursor.len() <= LONGEST_CURSOR && cursor.bytes().all(fits);
    is_good.then(|| url::form_urlencoded::byte_serialize(cursor.as_bytes()).collect())
}
