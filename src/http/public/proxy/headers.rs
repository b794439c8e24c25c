//! The headers of requests and answers that pass the proxy: only those on the lists here, which give the reasons.
//!
//! An unlisted header is more often an order to a web server on the way than something that a client of a tracker needs:
//! `X-Accel-Redirect` and `X-Sendfile` make one serve files, `X-Original-URL` makes a framework route another path. Cookies stay out,
//! because a browser sends those of everything on our host.

use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::protocol::auth;

use super::destination::Rekey;

/// The headers of a request that a tracker gets.
const OF_A_REQUEST: [&str; 20] = [
    // What the client accepts.
    "accept",
    "accept-charset",
    "accept-encoding",
    "accept-language",
    // Who the client is: sentry-cli's token, an SDK's key.
    "authorization",
    "x-sentry-auth",
    "user-agent",
    // Which page shows the crash-report dialog; Sentry compares it with the project's allowed domains.
    "origin",
    "referer",
    "x-requested-with",
    // What the body is. Its length is set anew, and its encoding is undone.
    "content-type",
    "content-disposition",
    "content-language",
    // Whether the client has the answer already, and which part of it the client wants.
    "cache-control",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "range",
];

/// The headers of an answer that a client gets, besides all that begin with [`SENTRY`].
const OF_AN_ANSWER: [&str; 30] = [
    // What the body is.
    "content-type",
    "content-length",
    "content-encoding",
    "content-language",
    "content-disposition",
    "content-range",
    "accept-ranges",
    // Whether the answer may be cached.
    "cache-control",
    "etag",
    "last-modified",
    "expires",
    "age",
    "date",
    "vary",
    // What to request next: a page of a list, a redirect, at a later time, by another method.
    "link",
    "location",
    "retry-after",
    "allow",
    "x-hits",
    "x-max-hits",
    // Which sites may read the answer in a browser.
    "access-control-allow-headers",
    "access-control-allow-methods",
    "access-control-allow-origin",
    "access-control-expose-headers",
    "access-control-max-age",
    "cross-origin-resource-policy",
    // What a browser must not do with the answer.
    "content-security-policy",
    "referrer-policy",
    "x-content-type-options",
    "x-frame-options",
];

/// The prefix of the headers with limits, errors and announcements of Sentry's API.
const SENTRY: &str = "x-sentry-";

/// The headers of a request as the primary gets it.
pub(super) fn to_upstream(from: &HeaderMap, forwarded_for: Option<&str>, rekey: Option<&Rekey>) -> HeaderMap {
    let mut headers = only(from, |name| OF_A_REQUEST.contains(&name));
    keep_ours(&mut headers, rekey);
    if let Some(chain) = forwarded_for.and_then(|chain| HeaderValue::try_from(chain).ok()) {
        headers.insert("x-forwarded-for", chain.clone());
        headers.insert("x-sentry-forwarded-for", chain);
    }
    headers
}

/// The headers of the primary's answer as the client gets it. A length beside `Transfer-Encoding` says nothing of the body (RFC 9112,
/// section 6.3), and would make the client take a part of it for the whole.
pub(super) fn to_client(from: &HeaderMap) -> HeaderMap {
    let mut headers = only(from, |name| OF_AN_ANSWER.contains(&name) || name.starts_with(SENTRY));
    if from.contains_key(header::TRANSFER_ENCODING) {
        headers.remove(header::CONTENT_LENGTH);
    }
    headers
}

/// Replaces the client's key by the primary's, and removes `Basic` credentials with a password, which are meant for the site around us
/// and not for a tracker. Without a password they are a key of Sentry's API.
fn keep_ours(headers: &mut HeaderMap, rekey: Option<&Rekey>) {
    for name in [HeaderName::from_static("x-sentry-auth"), header::AUTHORIZATION] {
        let Some(value) = headers.get(&name).and_then(|value| value.to_str().ok()) else { continue };
        let rekeyed = rekey.map_or_else(|| value.to_owned(), |rekey| rekey.header(value));
        let of_a_site = rekeyed == value && auth::basic(value).is_some_and(|(_, password)| !password.is_empty());
        match HeaderValue::try_from(rekeyed) {
            Ok(value) if !of_a_site => drop(headers.insert(name, value)),
            _ => drop(headers.remove(name)),
        }
    }
}

/// The headers whose names pass, without those that `Connection` names (RFC 9110, section 7.6.1).
fn only(from: &HeaderMap, passes: impl Fn(&str) -> bool) -> HeaderMap {
    let named = from.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
    let named: Vec<String> = named.flat_map(|value| value.split(',')).map(|n| n.trim().to_ascii_lowercase()).collect();
    let all = from.iter().filter(|(name, _)| passes(name.as_str()) && !named.iter().any(|n| *n == name.as_str()));
    all.map(|(name, value)| (name.clone(), value.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pairs = pairs.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        pairs.collect()
    }

    fn names(headers: &HeaderMap) -> Vec<&str> {
        headers.keys().map(HeaderName::as_str).collect()
    }

    #[test]
    fn a_request_keeps_only_listed_headers() {
        let request = map(&[
            ("authorization", "Bearer sntrys_x"),
            ("connection", "keep-alive, X-Private"),
            ("x-private", "1"),
            ("transfer-encoding", "chunked"),
            ("host", "relay.test"),
            ("cookie", "session=1"),
            ("x-forwarded-for", "6.6.6.6"),
            ("cf-connecting-ip", "6.6.6.6"),
            ("content-type", "application/json"),
            ("accept-encoding", "gzip"),
            ("x-original-url", "/admin/"),
            ("x-rewrite-url", "/admin/"),
            ("x-http-method-override", "DELETE"),
            ("x-sentry-forwarded-for", "6.6.6.6"),
        ]);
        let sent = to_upstream(&request, Some("203.0.113.7"), None);
        let expected =
            ["authorization", "content-type", "accept-encoding", "x-forwarded-for", "x-sentry-forwarded-for"];
        assert_eq!(names(&sent), expected);
        assert_eq!(sent["x-forwarded-for"], "203.0.113.7");
        assert_eq!(sent["authorization"], "Bearer sntrys_x");
    }

    #[test]
    fn a_sites_own_password_goes_to_no_tracker() {
        let sent = |value| to_upstream(&map(&[("authorization", value)]), None, None).remove("authorization");
        assert_eq!(sent("Basic c3RhZ2luZzpzZWNyZXQ="), None);
        assert_eq!(sent("Basic YXBpLWtleTo=").unwrap(), "Basic YXBpLWtleTo=");
        assert_eq!(sent("Bearer a:b").unwrap(), "Bearer a:b");
    }

    #[test]
    fn an_answer_keeps_only_listed_headers() {
        let answer = map(&[
            ("link", "<https://t.test/api/0/x/>; rel=next"),
            ("location", "https://t.test/login/"),
            ("content-encoding", "gzip"),
            ("content-length", "12"),
            ("set-cookie", "a=1"),
            ("set-cookie", "b=1"),
            ("strict-transport-security", "max-age=1; includeSubDomains"),
            ("keep-alive", "timeout=5"),
            ("x-accel-redirect", "/secret"),
            ("x-sendfile", "/etc/passwd"),
            ("refresh", "0; url=http://evil.test/"),
            ("www-authenticate", "Basic"),
            ("service-worker-allowed", "/"),
            ("set-cookie2", "a=1"),
            ("x-sentry-rate-limits", "60:error:key"),
            ("x-hits", "3"),
        ]);
        let expected = ["link", "location", "content-encoding", "content-length", "x-sentry-rate-limits", "x-hits"];
        assert_eq!(names(&to_client(&answer)), expected);
    }
}
