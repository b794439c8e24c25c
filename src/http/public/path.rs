//! Normalises paths to the spelling of the routes, and refuses spellings that an upstream could read as another route.
//!
//! The rule: a path is decoded once, here, before it is routed. A path that a server behind us could still read as an ingest route
//! never passes the proxy, because the request would bypass limits, journal and mirror.

use std::borrow::Cow;

use http::Uri;
use http::uri::PathAndQuery;
use percent_encoding::percent_decode_str;

/// Why a path is not passed on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum Spelling {
    /// The path has a percent sign that begins no escape, an escape of a character that needs none, or an escape within an escape.
    #[error("the path has a percent sign that escapes nothing, a plain character, or another escape")]
    Escape,
    /// The path has an escaped backslash, or an escaped slash outside of names below `/api/0/`.
    #[error("the path has an escaped slash or backslash outside of a name below /api/0/")]
    Slash,
    /// An upstream may read the path as an ingest route.
    #[error("the path is another spelling of an ingest endpoint, which takes only its own")]
    Ingest,
}

/// Folds runs of slashes, and decodes characters that need no escape (RFC 3986, section 6.2.2.2). A DSN with a slash too many has
/// always worked.
pub(super) fn normalise(uri: &mut Uri) {
    let path = uri.path().as_bytes();
    if !path.contains(&b'%') && !path.windows(2).any(|two| two == b"//") {
        return;
    }
    let plain = unescaped(uri.path());
    let mut path = String::with_capacity(plain.len());
    for c in plain.chars() {
        if c != '/' || !path.ends_with('/') {
            path.push(c);
        }
    }
    let whole = uri.query().map_or_else(|| path.clone(), |query| format!("{path}?{query}"));
    if let Ok(whole) = PathAndQuery::try_from(whole) {
        let mut parts = std::mem::take(uri).into_parts();
        parts.path_and_query = Some(whole);
        *uri = Uri::from_parts(parts).unwrap_or_default();
    }
}

/// Checks that every server on the way reads `path` as we do, and none as an ingest route.
pub(super) fn check(path: &str) -> Result<(), Spelling> {
    let decoded = percent_decode_str(path).decode_utf8_lossy();
    let codes = |text: &str| text.match_indices('%').map(|(at, _)| code(text, at)).collect::<Vec<_>>();
    let found = codes(path);
    if found.iter().any(|code| code.is_none_or(is_unreserved)) || codes(&decoded).iter().any(Option::is_some) {
        return Err(Spelling::Escape);
    }
    // Names below the API's version may have a slash, as releases do.
    let is_slash = |code: &Option<u8>| *code == Some(b'\\') || *code == Some(b'/') && !path.starts_with("/api/0/");
    if found.iter().any(is_slash) {
        return Err(Spelling::Slash);
    }
    let until_query = decoded.split(['?', '#']).next().unwrap_or_default();
    if is_ingest(until_query) || is_ingest(&decoded) { Err(Spelling::Ingest) } else { Ok(()) }
}

/// Returns whether a decoded path is an ingest route to a server that ignores case, parameters, and dots and blanks around a segment.
fn is_ingest(path: &str) -> bool {
    let segments: Vec<String> = path.split(['/', '\\']).map(meaning).filter(|name| !name.is_empty()).collect();
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    let ["api", below @ ..] = &segments[..] else { return false };
    matches!(
        below,
        ["store"]
            | [_, "envelope" | "store" | "security" | "csp-report" | "nel" | "minidump" | "playstation" | "upload"]
            | [_, "unreal", _]
            | [_, "events", _, "attachments"]
            | [_, "cron", _]
            | [_, "cron", _, _]
            | [_, "integration", "otlp" | "vercel" | "heroku", ..]
            | [_, "otlp", "v1", ..]
    )
}

/// A segment in lower case, without parameters, and without dots, blanks and control characters around it.
fn meaning(segment: &str) -> String {
    let name = segment.split(';').next().unwrap_or_default();
    name.trim_matches(|c: char| c == '.' || c.is_whitespace() || c.is_control()).to_ascii_lowercase()
}

/// The path, with the escapes of characters that need none decoded.
fn unescaped(path: &str) -> Cow<'_, str> {
    if !path.contains('%') {
        return path.into();
    }
    let mut plain = String::with_capacity(path.len());
    let mut at = 0;
    while let Some(found) = path[at..].find('%').map(|offset| at + offset) {
        plain.push_str(&path[at..found]);
        at = match code(path, found).filter(|code| is_unreserved(*code)) {
            Some(code) => {
                plain.push(char::from(code));
                found + 3
            }
            None => {
                plain.push('%');
                found + 1
            }
        };
    }
    plain.push_str(&path[at..]);
    plain.into()
}

/// The byte that the escape at `at` stands for; `None` if it is no escape.
fn code(text: &str, at: usize) -> Option<u8> {
    let digits = text.get(at + 1..at + 3).filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))?;
    u8::from_str_radix(digits, 16).ok()
}

fn is_unreserved(code: u8) -> bool {
    code.is_ascii_alphanumeric() || b"-._~".contains(&code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slashes_are_folded_plain_characters_decoded_once_and_the_query_is_kept() {
        for (before, after) in [
            ("//api///1/envelope//?a=//b", "/api/1/envelope/?a=//b"),
            ("http://h:1//api/1/store", "http://h:1/api/1/store"),
            ("/api/1/envelope/", "/api/1/envelope/"),
            ("/api/%31/envelop%65/?a=%65", "/api/1/envelope/?a=%65"),
            ("/api/1/cron/My%20Job/", "/api/1/cron/My%20Job/"),
            ("/api/1/envelop%2565/", "/api/1/envelop%2565/"),
            ("/api/1%2fx/%zz%", "/api/1%2fx/%zz%"),
        ] {
            let mut uri: Uri = before.parse().unwrap();
            normalise(&mut uri);
            assert_eq!(uri, after);
        }
    }

    #[test]
    fn no_spelling_of_an_ingest_route_passes() {
        for (path, why) in [
            ("/api/1/envelope/", Spelling::Ingest),
            ("/api/1/Envelope", Spelling::Ingest),
            ("/api/store//", Spelling::Ingest),
            ("/api/1/envelope;x=1/", Spelling::Ingest),
            ("/api/1;x/envelope./", Spelling::Ingest),
            ("/api/1/envelope%20/", Spelling::Ingest),
            ("/api/1/envelope%00/", Spelling::Ingest),
            ("/api/1/envelope/%3Fx", Spelling::Ingest),
            ("/api/1/envelope%23x/", Spelling::Ingest),
            ("/api/1/otlp/v1/metrics/", Spelling::Ingest),
            ("/api/1/UNREAL/key", Spelling::Ingest),
            ("/api/0//%2F/store", Spelling::Ingest),
            ("/api/1/envelop%65/", Spelling::Escape),
            ("/api/1/envelop%2565/", Spelling::Escape),
            ("/api/1/%u0065nvelope/", Spelling::Escape),
            ("/api/1%2Fenvelope/", Spelling::Slash),
            ("/api%2F1/envelope/", Spelling::Slash),
            ("/api/0/x%5Cy/", Spelling::Slash),
        ] {
            assert_eq!(check(path), Err(why), "{path}");
        }
        for path in [
            "/api/0/organizations/shop/releases/web%2F1.0/",
            "/api/0/releases/100%25/",
            "/api/0/organizations/envelope/store/",
            "/api/embed/error-page/",
            "/api/1/brand-new/thing/",
            "/api/0/caf\u{e9}/",
        ] {
            assert_eq!(check(path), Ok(()), "{path}");
        }
    }

    /// A letter as it is, in the other case, or escaped once or twice.
    fn disguised(letter: char, how: u8) -> String {
        match how % 5 {
            0 => letter.to_string(),
            1 => letter.to_ascii_uppercase().to_string(),
            2 => format!("%{:02X}", letter as u32),
            3 => format!("%{:02x}", letter.to_ascii_uppercase() as u32),
            _ => format!("%25{:02x}", letter as u32),
        }
    }

    proptest::proptest! {
        #[test]
        fn no_disguised_ingest_route_passes(
            route in proptest::sample::select(vec!["api/1/envelope", "api/1/store", "api/store", "api/7/csp-report", "api/1/cron/x", "api/1/otlp/v1/logs", "api/1/playstation", "api/1/upload"]),
            how in proptest::collection::vec(0u8..30, 24),
            slash in proptest::sample::select(vec!["/", "//", "%2F", "/%2f", ";a=b/", "./", "%20/", "%09/", "%5C"]),
            end in proptest::sample::select(vec!["", "/", "//", ";x", ".", "%2f", "%00", "/;", "%3f", "%23/"]),
        ) {
            let letters = route.chars().zip(how).map(|(c, how)| if c == '/' { slash.to_owned() } else { disguised(c, how) });
            let path = format!("/{}{end}", letters.collect::<String>());
            proptest::prop_assert!(check(&path).is_err(), "{}", path);
        }
    }
}
