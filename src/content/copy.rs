//! Brings a tracker's copy into the one shape, for each API. The places of the parts are known from recorded answers of GlitchTip 5.2 and
//! Bugsink 2.6, and from Sentry's documentation ("Retrieve an Event for a Project").

use serde_json::Value;

use super::Kind;
use super::shape::{self, Parts};

/// The shape of a copy; `None` when it holds no event.
pub(super) fn shape(kind: Kind, copy: &Value) -> Option<Value> {
    match kind {
        Kind::Bugsink => Some(shape::of_event(copy.get("data")?.as_object()?)),
        Kind::Glitchtip | Kind::Sentry => of_entries(copy),
    }
}

/// The dialect that GlitchTip took over from Sentry: interfaces in `entries`, `extra` in `context`, release, environment and level in tags.
fn of_entries(copy: &Value) -> Option<Value> {
    copy.get("eventID").filter(|id| id.is_string())?;
    let entries = copy.get("entries")?.as_array()?;
    let entry =
        |kind: &str| entries.iter().find(|entry| entry.get("type").and_then(Value::as_str) == Some(kind))?.get("data");
    let tags = copy.get("tags").filter(|tags| !tags.is_null());
    let release = copy.get("release");
    let version = release.and_then(|release| release.get("version")).or(release).filter(|version| !version.is_null());
    Some(
        Parts {
            exception: entry("exception"),
            breadcrumbs: entry("breadcrumbs"),
            tags,
            user: said(copy, "user"),
            release: version.or_else(|| tag(tags, "release")),
            environment: tag(tags, "environment"),
            level: said(copy, "level").or_else(|| tag(tags, "level")),
            timestamp: said(copy, "dateCreated"),
            message: entry("message"),
            extra: said(copy, "context"),
            contexts: said(copy, "contexts"),
        }
        .shape(),
    )
}

fn said<'a>(copy: &'a Value, name: &str) -> Option<&'a Value> {
    copy.get(name).filter(|value| !value.is_null())
}

fn tag<'a>(tags: Option<&'a Value>, key: &str) -> Option<&'a Value> {
    let mut tags = tags?.as_array()?.iter();
    tags.find(|tag| tag.get("key").and_then(Value::as_str) == Some(key))?.get("value")
}
