//! Bugsink's API: `/api/canonical/0/` (Bugsink 2.6.2 run, its answers in `fixtures/tracker-api`).
//!
//! The API lists no events of a project, only its issues, and the events of each issue. So the list here is a walk over both. The text of a
//! 404 says whether the event or the project is unknown.

use http::StatusCode;
use serde::Deserialize;

use crate::protocol::event_id::EventId;

use super::json::{First, MOST, Member};
use super::{Answer, Confirmed, Cursor, Dialect, Page, There, Trouble};

/// Bugsink's API dialect.
#[derive(Clone, Copy, Debug)]
pub struct Bugsink;

/// The longest cursor that is followed, in bytes.
const LONGEST: usize = 500;

const API: &str = "/api/canonical/0";

/// A page of a list.
#[derive(Default, Deserialize)]
#[serde(default)]
struct List<'a> {
    #[serde(borrow)]
    results: Option<First<Told<'a>>>,
    next: Member<'a>,
}

/// The members that are read of an event, alone or in a list, and of an issue.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Told<'a> {
    #[serde(borrow)]
    event_id: Member<'a>,
    project: Member<'a>,
    id: Member<'a>,
    timestamp: Member<'a>,
}

impl Dialect for Bugsink {
    fn wants_a_name(&self) -> bool {
        false
    }

    fn event(&self, there: &There, id: EventId) -> String {
        format!("{API}/events/lookup/?project={}&event_id={id}", there.number)
    }

    fn read_event(&self, there: &There, id: EventId, answer: &Answer<'_>) -> Result<bool, Trouble> {
        match answer.status {
            StatusCode::OK => {
                let event: Told<'_> = answer.read()?;
                if event.event_id.parsed() != Some(id) || event.project.written() != Some(&*there.number) {
                    return Err(Trouble::Strange("200 with another event than the one asked for".into()));
                }
                Ok(true)
            }
            StatusCode::NOT_FOUND => match answer.detail() {
                Some(detail) if detail.contains("Event") => Ok(false),
                Some(detail) if detail.contains("Project") => Err(no_project(there)),
                Some(_) => Err(Trouble::Refused(
                    "it cannot look up an event by its id: that needs Bugsink 2.6.2 or newer".into(),
                )),
                None => Err(answer.trouble()),
            },
            _ => Err(answer.trouble()),
        }
    }

    fn is_sorted(&self) -> bool {
        false
    }

    fn page(&self, there: &There, from: Option<&Cursor>) -> String {
        let first = || format!("{API}/issues/?project={}&sort=last_seen&order=desc", there.number);
        from.map_or_else(first, |cursor| cursor.path.clone())
    }

    fn read_page(&self, there: &There, from: Option<&Cursor>, answer: &Answer<'_>) -> Result<Page, Trouble> {
        let knows_none = || answer.detail().is_some_and(|detail| detail.contains("Project"));
        match answer.status {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND if knows_none() => return Err(no_project(there)),
            _ => return Err(answer.trouble()),
        }
        let List { results: Some(First(rows)), next } = answer.read()? else {
            return Err(Trouble::Strange("200 with no list".into()));
        };
        let mut page = Page { confirms: true, ..Page::default() };
        let mut then = from.map(|cursor| cursor.then.clone()).unwrap_or_default();
        let mut lists = vec![];
        for row in rows {
            match row.event_id.text() {
                Some(id) => page.ids.extend(id.parse().ok().map(|id| (id, row.timestamp.parsed()))),
                None => {
                    lists.extend(row.id.text().filter(|id| is_plain(id)).map(|id| format!("{API}/events/?issue={id}")));
                }
            }
        }
        lists.extend(self.next(next, from));
        lists.append(&mut then);
        lists.truncate(MOST);
        if !lists.is_empty() {
            let then = lists.split_off(1);
            page.next = lists.pop().map(|path| Cursor { path, then });
        }
        Ok(page)
    }

    fn confirmations(&self, there: &There) -> Vec<String> {
        // Of a project that was deleted, the list alone says so.
        vec![self.page(there, None)]
    }

    fn read_confirmation(&self, there: &There, answer: &Answer<'_>) -> Result<Confirmed, Trouble> {
        self.read_page(there, None, answer).map(|_| Confirmed::Yes)
    }
}

impl Bugsink {
    /// The path of the next page of the same list. Only the cursor of the answer's `next` is taken.
    fn next(self, next: Member<'_>, from: Option<&Cursor>) -> Option<String> {
        let next: url::Url = next.parsed()?;
        let cursor = next.query_pairs().find(|(name, _)| name == "cursor")?.1.into_owned();
        let cursor: String = url::form_urlencoded::byte_serialize(cursor.as_bytes()).collect();
        // The first page of issues has no cursor of ours, so its path is built again.
        let path = from.map(|from| from.path.clone()).or_else(|| {
            let project = next.query_pairs().find(|(name, _)| name == "project")?.1.into_owned();
            is_plain(&project).then(|| format!("{API}/issues/?project={project}&sort=last_seen&order=desc"))
        })?;
        let path = path.split("&cursor=").next()?.to_owned();
        (cursor.len() <= LONGEST).then(|| format!("{path}&cursor={cursor}"))
    }
}

fn is_plain(text: &str) -> bool {
    !text.is_empty() && text.len() <= 64 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

fn no_project(there: &There) -> Trouble {
    Trouble::Refused(format!(
        "it knows no project {}: was it deleted, or is the DSN one of another Bugsink?",
        there.number
    ))
}
