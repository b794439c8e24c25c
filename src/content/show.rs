//! Shows values of events to a person: short, harmless to a terminal, with secrets hidden. When in doubt, it hides.

use std::borrow::Cow;
use std::fmt::Write as _;

use serde_json::Value;

use crate::printable;

/// The most characters of a value that are shown.
const MAX_SHOWN: usize = 200;
/// The number of common characters that are shown before two long texts differ.
const IN_COMMON: usize = 40;
const HIDDEN: &str = "(hidden)";

/// Keys with hidden values, in lower case and without separators: a key that contains one of the words, or ends with one of the ends.
const SECRET_WORDS: [&str; 13] = [
    "password",
    "passwd",
    "passphrase",
    "secret",
    "token",
    "authorization",
    "cookie",
    "apikey",
    "privatekey",
    "accesskey",
    "credential",
    "sessionid",
    "sentrykey",
];
/// Further keys before a value in a text.
const SECRET_KEYS: &[&str] = &["credentials", "pwd", "_key", "-key"];
const SECRET_ENDS: [&str; 4] = ["dsn", "pwd", "pass", "xauth"];

/// Whether the value of this key is hidden.
pub(super) fn is_secret(key: &str) -> bool {
    let parted = |c: &char| matches!(c, '-' | '_' | '.' | ' ');
    let key: String = key.chars().take(MAX_SHOWN).filter(|c| !parted(c)).flat_map(char::to_lowercase).collect();
    key == "auth"
        || SECRET_WORDS.iter().any(|word| key.contains(word))
        || SECRET_ENDS.iter().any(|end| key.ends_with(end))
}

/// Whether one of the values in it names another one a secret, as in `["Authorization", "Bearer …"]` or `{"key": "password", "value": …}`.
pub(super) fn holds_secret(value: &Value) -> bool {
    let names = |value: &Value| value.as_str().is_some_and(|text| text.len() < 64 && is_secret(text));
    match value {
        Value::Array(all) => all.iter().take(8).any(names),
        Value::Object(all) => ["key", "name", "header"].iter().any(|name| all.get(*name).is_some_and(names)),
        _ => false,
    }
}

/// Both values of a difference. If two texts begin with the same long text, shows where they begin to differ.
pub(super) fn pair(sent: &Value, there: &Value, is_secret: bool) -> (Box<str>, Box<str>) {
    if is_secret {
        let hidden = |value: &Value| if value.is_null() { "(nothing)" } else { HIDDEN };
        return (hidden(sent).into(), hidden(there).into());
    }
    match (sent, there) {
        (Value::Array(own), Value::Array(theirs)) if own.len() != theirs.len() => {
            (format!("{} entries", own.len()).into(), format!("{} entries", theirs.len()).into())
        }
        (Value::String(own), Value::String(theirs)) => {
            let (own, theirs) = (masked(own), masked(theirs));
            let common = own.chars().zip(theirs.chars()).take_while(|(a, b)| a == b).count();
            let skipped = if common > MAX_SHOWN / 2 { common - IN_COMMON } else { 0 };
            (after(&own, skipped), after(&theirs, skipped))
        }
        _ => (one(sent), one(there)),
    }
}

fn after(text: &str, skipped: usize) -> Box<str> {
    let rest: String = text.chars().skip(skipped).take(MAX_SHOWN + 1).collect();
    let shown = cut(&self::text(&rest), MAX_SHOWN).into_owned();
    if skipped == 0 { shown.into() } else { format!("…{shown} ({} characters)", text.chars().count()).into() }
}

fn one(value: &Value) -> Box<str> {
    match value {
        Value::Null => "(nothing)".into(),
        Value::String(text) => after(&masked(text), 0),
        other => {
            let mut out = String::new();
            write(&mut out, other);
            cut(&text(&out), MAX_SHOWN).into()
        }
    }
}

/// Writes JSON with its secrets hidden, up to the length that is shown.
fn write(out: &mut String, value: &Value) {
    if out.len() > MAX_SHOWN * 4 {
        return;
    }
    let secret = holds_secret(value);
    match value {
        Value::Object(_) | Value::Array(_) if secret => out.push_str(HIDDEN),
        Value::Object(all) => {
            out.push('{');
            for (at, (key, value)) in all.iter().enumerate() {
                let comma = if at == 0 { "" } else { ", " };
                let key: String = key.chars().take(MAX_SHOWN).collect();
                out.push_str(comma);
                out.push_str(&key);
                out.push_str(": ");
                if is_secret(&key) {
                    out.push_str(HIDDEN)
                } else {
                    write(out, value)
                }
                if out.len() > MAX_SHOWN * 4 {
                    return;
                }
            }
            out.push('}');
        }
        Value::Array(all) => {
            out.push('[');
            for (at, value) in all.iter().enumerate().take_while(|(at, _)| *at < MAX_SHOWN) {
                out.push_str(if at == 0 { "" } else { ", " });
                write(out, value);
            }
            out.push(']');
        }
        Value::String(text) => out.extend(masked(text).chars().take(MAX_SHOWN)),
        other => {
            if write!(out, "{other}").is_err() {
                out.push_str(HIDDEN);
            }
        }
    }
}

/// A text with the users in its URLs hidden, or all of it hidden if it has the form of a secret.
fn masked(text: &str) -> String {
    if says_secret(text) {
        return HIDDEN.to_owned();
    }
    text.split_inclusive(|c: char| c.is_whitespace() || "\"'`<>".contains(c)).map(without_user).collect()
}

/// A word with the user of its URL hidden.
fn without_user(word: &str) -> Cow<'_, str> {
    let url = word.split_once("://").and_then(|(scheme, rest)| Some((scheme, rest.rsplit_once('@')?)));
    match url {
        Some((scheme, (user, place))) if !user.is_empty() => format!("{scheme}://…@{place}").into(),
        _ => word.into(),
    }
}

/// Whether a text has the form of a secret: a secret's name with a value after it, a header's credentials, a private key.
fn says_secret(text: &str) -> bool {
    let lower = text.to_lowercase();
    let given = |word: &str| {
        lower.match_indices(word).any(|(at, _)| {
            let rest = lower[at + word.len()..].trim_start_matches(['"', '\'', '\\', ' ']);
            rest.starts_with([':', '='])
        })
    };
    lower.contains("private key-")
        || lower.contains("bearer ")
        || SECRET_WORDS.iter().chain(SECRET_KEYS).any(|name| given(name))
}

/// A text with characters escaped that control a terminal or are invisible or change the direction of text.
pub(super) fn text(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars().take(MAX_SHOWN * 5) {
        if printable::misleads(c) { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

/// At most `most` characters, with an ellipsis for the rest.
pub(super) fn cut(text: &str, most: usize) -> Cow<'_, str> {
    match text.char_indices().nth(most) {
        None => text.into(),
        Some((end, _)) => format!("{}…", &text[..end]).into(),
    }
}
