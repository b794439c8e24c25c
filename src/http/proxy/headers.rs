//! What of a request's and an answer's headers passes the proxy: everything but what concerns one connection, one host or
//! one site's browser state.
//!
//! Hop-by-hop headers end here (RFC 9110, section 7.6.1). So do cookies: a browser sends those of everything that shares our host.

use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::destination::Rekey;

/// Of one connection only, in either direction.
const HOP_BY_HOP: [&str; 10] = [
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

/// Of the request's way to us, or said anew on its way on. What others claim about the client's address is in the chain by now, as
/// far as it is believed.
const OF_A_REQUEST: [&str; 15] = [
    "host",
    "content-length",
    "content-encoding",
    "expect",
    "cookie",
    "forwarded",
    "x-forwarded-for",
    "x-sentry-forwarded-for",
    "x-vercel-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-proto",
    "x-real-ip",
    "cf-connecting-ip",
    "true-client-ip",
];

/// What a tracker says of its own site to a browser, which would take it for ours.
const OF_A_SITE: [&str; 4] = ["set-cookie", "strict-transport-security", "alt-svc", "clear-site-data"];

/// The headers of a request as the primary gets it.
pub(super) fn to_upstream(from: &HeaderMap, forwarded_for: Option<&str>, rekey: Option<&Rekey>) -> HeaderMap {
    let mut headers = without(from, &OF_A_REQUEST);
    if let Some(rekey) = rekey {
        for name in [HeaderName::from_static("x-sentry-auth"), header::AUTHORIZATION] {
            let Some(value) = headers.get(&name).and_then(|value| value.to_str().ok()) else { continue };
            if let Ok(value) = HeaderValue::try_from(rekey.header(value)) {
                headers.insert(name, value);
            }
        }
    }
    if let Some(chain) = forwarded_for.and_then(|chain| HeaderValue::try_from(chain).ok()) {
        headers.insert("x-forwarded-for", chain.clone());
        headers.insert("x-sentry-forwarded-for", chain);
    }
    headers
}

/// The headers of the primary's answer as the client gets it.
pub(super) fn to_client(from: &HeaderMap) -> HeaderMap {
    without(from, &OF_A_SITE)
}

fn without(from: &HeaderMap, besides: &[&str]) -> HeaderMap {
    let named = from.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
    let named: Vec<String> = named.flat_map(|value| value.split(',')).map(|n| n.trim().to_ascii_lowercase()).collect();
    let stays =
        |name: &str| !HOP_BY_HOP.contains(&name) && !besides.contains(&name) && !named.iter().any(|n| n == name);
    let all = from.iter().filter(|(name, _)| stays(name.as_str()));
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
    fn what_concerns_the_tracker_passes_and_nothing_of_the_connection() {
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
        ]);
        let sent = to_upstream(&request, Some("203.0.113.7"), None);
        let expected =
            ["authorization", "content-type", "accept-encoding", "x-forwarded-for", "x-sentry-forwarded-for"];
        assert_eq!(names(&sent), expected);
        assert_eq!(sent["x-forwarded-for"], "203.0.113.7");
        assert_eq!(sent["authorization"], "Bearer sntrys_x");
    }

    #[test]
    fn an_answer_keeps_its_lines_but_those_about_the_trackers_site() {
        let answer = map(&[
            ("link", "<https://t.test/api/0/x/>; rel=next"),
            ("location", "https://t.test/login/"),
            ("content-encoding", "gzip"),
            ("content-length", "12"),
            ("set-cookie", "a=1"),
            ("set-cookie", "b=1"),
            ("strict-transport-security", "max-age=1; includeSubDomains"),
            ("keep-alive", "timeout=5"),
        ]);
        assert_eq!(names(&to_client(&answer)), ["link", "location", "content-encoding", "content-length"]);
    }
}
