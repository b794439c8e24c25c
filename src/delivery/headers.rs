//! The headers that an operator adds for an upstream, as a proxy before the tracker demands them: Cloudflare Access, Google's IAP, HTTP
//! Basic. The option `headers` of `[upstreams.NAME]`.
//!
//! Rule: they go with every request to the upstream, and their values are shown nowhere.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, header};
use serde::Deserialize;

use crate::units::Secret;

/// The most headers of one upstream.
const MOST: usize = 32;
/// The longest value, in bytes.
const LONGEST: usize = 8 * 1024;
/// A shorter value is not hidden in answers, because that would hide words.
const SHORTEST_HIDDEN: usize = 4;

/// Headers that the relay sets itself, and headers of a single connection (RFC 9110, section 7.6.1).
const OURS: [&str; 22] = [
    "host",
    "content-length",
    "content-type",
    "content-encoding",
    "accept-encoding",
    "user-agent",
    "origin",
    "expect",
    "x-sentry-auth",
    "cdn-loop",
    "x-forwarded-for",
    "x-sentry-forwarded-for",
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "http2-settings",
];

/// Headers for every request to an upstream. Cheap to clone; the debug form shows no values.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(from = "BTreeMap<String, Secret>")]
pub struct Headers(Arc<Lines>);

#[derive(Debug, Default, PartialEq, Eq)]
struct Lines {
    /// The headers as they are written in the file.
    written: BTreeMap<String, Secret>,
    /// The headers that can be sent.
    sent: HeaderMap,
}

impl From<BTreeMap<String, Secret>> for Headers {
    fn from(written: BTreeMap<String, Secret>) -> Self {
        let parsed = written.iter().filter_map(|(name, value)| Some((name.parse().ok()?, parse(value)?)));
        let sent = parsed.collect();
        Self(Arc::new(Lines { written, sent }))
    }
}

fn parse(value: &Secret) -> Option<HeaderValue> {
    let mut value = HeaderValue::try_from(value.expose()).ok()?;
    value.set_sensitive(true);
    Some(value)
}

impl Headers {
    /// The headers as they are written.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Secret)> {
        self.0.written.iter().map(|(name, value)| (name.as_str(), value))
    }

    /// Sets the headers in a request.
    pub fn apply(&self, request: &mut HeaderMap) {
        for (name, value) in &self.0.sent {
            request.insert(name, value.clone());
        }
    }

    /// The name, as it is written, of an `Authorization` header, which a bearer token needs as well; `None` when there is none.
    pub fn authorization(&self) -> Option<&str> {
        self.iter().map(|(name, _)| name).find(|name| name.eq_ignore_ascii_case(header::AUTHORIZATION.as_str()))
    }

    /// Hides the values in an answer: a tracker, or a proxy before it, may repeat them.
    pub fn hide(&self, text: String) -> String {
        self.secrets().fold(text, hide)
    }

    /// The values that are secret. In `Basic …` the second word is one, too.
    pub fn secrets(&self) -> impl Iterator<Item = &str> {
        let all = self.0.written.values().map(Secret::expose);
        let parts = all.flat_map(|value| [value, value.split_once(' ').map_or("", |(_, rest)| rest.trim())]);
        parts.filter(|part| part.len() >= SHORTEST_HIDDEN)
    }

    /// The problems of the headers: the name of the header at fault, if it is one, and words that show no value.
    pub fn problems(&self) -> Vec<(Option<&str>, &'static str)> {
        let mut problems = vec![];
        if self.0.written.len() > MOST {
            problems.push((None, "has more than 32 headers"));
        }
        let mut seen: Vec<HeaderName> = vec![];
        for (written, value) in self.iter() {
            let found = match written.parse::<HeaderName>() {
                Err(_) => Some("is no name of a header"),
                Ok(name) if OURS.contains(&name.as_str()) => Some("is a header that the relay sets itself"),
                Ok(name) if seen.contains(&name) => Some("stands here twice: capitals make no difference"),
                Ok(name) => {
                    let found = problem_of(&name, value.expose());
                    seen.push(name);
                    found
                }
            };
            problems.extend(found.map(|found| (Some(written), found)));
        }
        problems
    }
}

fn problem_of(name: &HeaderName, value: &str) -> Option<&'static str> {
    let scheme = value.split(' ').next().unwrap_or_default();
    if value.trim().is_empty() {
        Some("is empty")
    } else if value.len() > LONGEST {
        Some("is longer than 8 KiB")
    } else if HeaderValue::try_from(value).is_err() {
        Some("has characters that no header may have")
    } else if *name == header::AUTHORIZATION && scheme.eq_ignore_ascii_case("sentry") {
        Some("is a second key beside the one of the DSN: trackers refuse requests with two")
    } else {
        None
    }
}

/// Hides a secret in a text, also as JSON spells it.
pub fn hide(text: String, secret: &str) -> String {
    spellings(secret).iter().fold(text, |text, spelling| text.replace(spelling, "***"))
}

/// Hides the beginning of a secret that a text ends with, because the text was cut there.
pub fn hide_cut(text: &mut String, secret: &str) {
    let cut = |spelling: &String| {
        let mut lengths = (SHORTEST_HIDDEN..spelling.len()).rev();
        lengths.find(|length| spelling.get(..*length).is_some_and(|beginning| text.ends_with(beginning)))
    };
    if let Some(length) = spellings(secret).iter().filter_map(cut).max() {
        text.truncate(text.len() - length);
        text.push_str("***");
    }
}

/// A secret as it is, and as JSON may spell it: PHP also escapes slashes.
fn spellings(secret: &str) -> [String; 3] {
    let escaped = secret.replace('\\', "\\\\").replace('"', "\\\"");
    let slashes_too = escaped.replace('/', "\\/");
    [secret.to_owned(), escaped, slashes_too]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> Headers {
        let pairs = pairs.iter().map(|(name, value)| ((*name).to_owned(), Secret::new((*value).to_owned())));
        pairs.collect::<BTreeMap<_, _>>().into()
    }

    #[test]
    fn values_are_set_and_shown_nowhere() {
        let own = headers(&[("CF-Access-Client-Id", "hunter2"), ("authorization", "Basic aHVudGVyMg==")]);
        let mut request = HeaderMap::new();
        request.insert("cf-access-client-id", HeaderValue::from_static("of a client"));
        own.apply(&mut request);
        assert_eq!((request.len(), &request["cf-access-client-id"]), (2, &HeaderValue::from_static("hunter2")));
        for shown in [format!("{own:?}"), format!("{request:?}")] {
            assert!(!shown.contains("hunter2") && !shown.contains("aHVu"), "{shown}");
        }
        assert_eq!(own.hide("no aHVudGVyMg== or hunter2 here".to_owned()), "no *** or *** here");
        assert_eq!((own.problems(), own.authorization()), (vec![], Some("authorization")));
    }

    #[test]
    fn a_secret_is_hidden_as_json_spells_it_and_where_the_text_was_cut() {
        assert_eq!(hide(r#"{"a":"hun\/ter\"2"} hun/ter"2"#.to_owned(), "hun/ter\"2"), r#"{"a":"***"} ***"#);
        for (text, hidden) in [("no hunter", "no ***"), ("no hunt", "no ***"), ("no hun", "no hun"), ("", "")] {
            let mut text = text.to_owned();
            hide_cut(&mut text, "hunter2");
            assert_eq!(text, hidden);
        }
        let mut text = r"no hun\/te".to_owned();
        hide_cut(&mut text, "hun/ter2");
        assert_eq!(text, "no ***");
    }

    #[test]
    fn a_header_that_cannot_be_sent_is_named() {
        let own = headers(&[
            ("Host", "h"),
            ("X a", "v"),
            ("X-A", ""),
            ("X-B", "a\nb"),
            ("X-C", "v"),
            ("x-c", "v"),
            ("Authorization", "Sentry sentry_key=a"),
        ]);
        let names: Vec<_> = own.problems().into_iter().map(|(name, _)| name.unwrap_or_default()).collect();
        assert_eq!(names, ["Authorization", "Host", "X a", "X-A", "X-B", "x-c"]);
        assert_eq!(own.0.sent.len(), 5, "what has no name or no value of a header is left out");
    }
}
