//! The one shape in which events are compared, made from a payload as SDKs send it:
//! <https://develop.sentry.dev/sdk/data-model/event-payloads/>.
//!
//! Rule: different forms of the same value become equal. A value in none of the documented forms stays as it is, so that it can differ.

use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// The parts of an event that are compared, as they were found.
#[derive(Default)]
pub(super) struct Parts<'a> {
    pub(super) exception: Option<&'a Value>,
    pub(super) breadcrumbs: Option<&'a Value>,
    pub(super) tags: Option<&'a Value>,
    pub(super) user: Option<&'a Value>,
    pub(super) release: Option<&'a Value>,
    pub(super) environment: Option<&'a Value>,
    pub(super) level: Option<&'a Value>,
    pub(super) timestamp: Option<&'a Value>,
    pub(super) message: Option<&'a Value>,
    pub(super) extra: Option<&'a Value>,
    pub(super) contexts: Option<&'a Value>,
}

/// The shape of an event's payload. Old SDKs name some parts by Sentry's interfaces.
pub(super) fn of_event(event: &Map<String, Value>) -> Value {
    let get = |names: &[&str]| names.iter().find_map(|name| event.get(*name).filter(|value| !value.is_null()));
    Parts {
        exception: get(&["exception", "sentry.interfaces.Exception"]),
        breadcrumbs: get(&["breadcrumbs", "sentry.interfaces.Breadcrumbs"]),
        tags: get(&["tags"]),
        user: get(&["user", "sentry.interfaces.User"]),
        release: get(&["release"]),
        environment: get(&["environment"]),
        level: get(&["level"]),
        timestamp: get(&["timestamp"]),
        message: get(&["logentry", "sentry.interfaces.Message", "message"]),
        extra: get(&["extra"]),
        contexts: get(&["contexts", "sentry.interfaces.Contexts"]),
    }
    .shape()
}

impl Parts<'_> {
    /// All parts in the one shape.
    pub(super) fn shape(self) -> Value {
        // An absent object has no members, so each missing member differs by itself.
        let members = |value: Option<Value>| value.unwrap_or_else(|| json!({}));
        json!({
            "exception": list(self.exception, exception),
            "breadcrumbs": list(self.breadcrumbs, breadcrumb),
            "tags": members(self.tags.map(tags)),
            "user": members(self.user.map(user)),
            "release": self.release.map(scalar),
            "environment": self.environment.map(scalar),
            "level": self.level.map(scalar),
            "timestamp": self.timestamp.map(micros),
            "message": members(self.message.map(message)),
            "extra": members(self.extra.cloned()),
            "contexts": members(self.contexts.cloned()),
        })
    }
}

/// The entries of a list, of an object with `values`, or of one entry alone.
fn list(value: Option<&Value>, each: fn(&Map<String, Value>) -> Value) -> Value {
    let Some(value) = value else { return Value::Null };
    let values = value.get("values").filter(|values| !values.is_null()).unwrap_or(value);
    let one = |value: &Value| value.as_object().map_or_else(|| value.clone(), each);
    match values {
        Value::Array(all) => all.iter().filter(|value| !value.is_null()).map(one).collect(),
        Value::Object(alone) => json!([each(alone)]),
        other => other.clone(),
    }
}

/// The value of the first of these names that is present and not empty; else `null`.
fn pick(object: &Map<String, Value>, names: &[&str]) -> Value {
    let said = |name: &&str| object.get(*name).filter(|value| !value.is_null() && value.as_str() != Some(""));
    names.iter().find_map(said).cloned().unwrap_or_default()
}

fn exception(exception: &Map<String, Value>) -> Value {
    let raw = exception.get("rawStacktrace").filter(|raw| raw.is_object());
    let stacktrace = raw.or_else(|| exception.get("stacktrace"));
    let frames = stacktrace.and_then(|stacktrace| stacktrace.get("frames"));
    json!({
        "type": pick(exception, &["type"]),
        "value": pick(exception, &["value"]),
        "frames": list(frames, frame),
    })
}

fn frame(frame: &Map<String, Value>) -> Value {
    json!({
        "function": pick(frame, &["function"]),
        "filename": pick(frame, &["filename", "abs_path", "absPath"]),
        "lineno": scalar(&pick(frame, &["lineno", "lineNo"])),
        "in_app": pick(frame, &["in_app", "inApp"]),
    })
}

fn breadcrumb(breadcrumb: &Map<String, Value>) -> Value {
    let said = |name| pick(breadcrumb, &[name]);
    json!({
        "type": said("type"),
        "category": said("category"),
        "message": said("message"),
        "level": scalar(&said("level")),
        "timestamp": micros(&said("timestamp")),
        "data": said("data"),
    })
}

/// The tags of an object, a list of pairs, or a list of objects with `key` and `value`, as an object.
fn tags(tags: &Value) -> Value {
    let Value::Array(list) = tags else {
        let Value::Object(object) = tags else { return tags.clone() };
        return object.iter().map(|(key, value)| (key.clone(), scalar(value))).collect();
    };
    let pair = |tag: &Value| {
        let (key, value) = (tag.get("key").or_else(|| tag.get(0))?, tag.get("value").or_else(|| tag.get(1)));
        Some((key.as_str()?.to_owned(), value.map(scalar).unwrap_or_default()))
    };
    list.iter().filter_map(pair).collect()
}

/// The members of a user, with those in `data` beside the rest.
fn user(user: &Value) -> Value {
    let Value::Object(object) = user else { return user.clone() };
    let mut flat = object.clone();
    if let Some(Value::Object(data)) = flat.remove("data") {
        for (key, value) in data {
            flat.entry(key).or_insert(value);
        }
    }
    for name in ["id", "username", "email", "ip_address"] {
        if let Some(value) = flat.get_mut(name) {
            *value = scalar(value);
        }
    }
    Value::Object(flat)
}

/// A message: a text, or a template with parameters. A template without parameters counts as the text.
fn message(message: &Value) -> Value {
    let Value::Object(object) = message else { return json!({ "formatted": message }) };
    let (mut formatted, mut template, mut params) =
        (pick(object, &["formatted"]), pick(object, &["message"]), pick(object, &["params"]));
    match &mut params {
        Value::Array(params) => params.iter_mut().for_each(|param| *param = scalar(param)),
        Value::Object(params) => params.values_mut().for_each(|param| *param = scalar(param)),
        _ => {}
    }
    if formatted.is_null() && (params.is_null() || params == json!([]) || params == json!({})) {
        formatted = template.take();
    }
    if formatted == template {
        template = Value::Null;
    }
    json!({ "formatted": formatted, "message": template, "params": params })
}

/// A number or boolean as text, because trackers hold text there.
fn scalar(value: &Value) -> Value {
    match value {
        Value::Number(_) | Value::Bool(_) => Value::String(value.to_string()),
        other => other.clone(),
    }
}

/// A time in microseconds since 1970, from seconds or from RFC 3339 with or without a zone; any other value stays as it is.
fn micros(value: &Value) -> Value {
    let of_seconds = |seconds: f64| seconds.is_finite().then(|| (seconds * 1e6).round()).filter(|at| at.abs() < 1e18);
    let micros = match value {
        Value::Number(seconds) => seconds.as_f64().and_then(of_seconds),
        Value::String(text) => text.parse().ok().and_then(of_seconds).or_else(|| of_date(text)),
        _ => None,
    };
    // The number is whole and below 10^18, so it fits.
    micros.map_or_else(|| value.clone(), |micros| json!(micros as i64))
}

#[allow(
    clippy::cast_precision_loss,
    reason = "the microseconds of any year below 10,000 are exact enough for a millisecond"
)]
fn of_date(text: &str) -> Option<f64> {
    if text.len() > 64 {
        return None;
    }
    let text = text.trim().replace(' ', "T");
    let date = OffsetDateTime::parse(&text, &Rfc3339).or_else(|_| OffsetDateTime::parse(&format!("{text}Z"), &Rfc3339));
    Some((date.ok()?.unix_timestamp_nanos() / 1000) as f64)
}
