//! The endpoints that take something other than envelopes and events: what each takes, its size limit, the categories that its requests
//! count as, and the parts of a request that are kept to repeat it at another tracker.
//!
//! The rules follow getsentry/relay (`relay-server/src/endpoints`: `security_report.rs`, `nel.rs`, `monitor.rs`,
//! `integrations/otlp.rs`, `vercel.rs`, `heroku.rs`). Payloads are not parsed: a request counts as one entry, whatever it holds.

use http::Uri;
use serde::{Deserialize, Serialize};

use super::category::{Category, Quantities};
use super::dsn::Dsn;

/// An endpoint under `/api/{project}/` whose requests are forwarded unchanged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Endpoint {
    /// `security/`: CSP, Expect-CT, Expect-Staple.
    Security,
    /// `csp-report/`: the old name of `security/`.
    CspReport,
    /// `nel/`: Network Error Logging.
    Nel,
    /// `cron/{slug}/`, `cron/{slug}/{key}/`: a check-in by URL.
    Cron,
    /// `integration/otlp/v1/traces`, or without `integration/`.
    OtlpTraces,
    /// `integration/otlp/v1/logs`, or without `integration/`.
    OtlpLogs,
    /// `integration/otlp/v1/metrics`, or without `integration/`.
    OtlpMetrics,
    /// `integration/vercel/logs`
    Vercel,
    /// `integration/heroku/…`
    Heroku,
}

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// The longest query that is kept with a record, in bytes.
const LONGEST_QUERY: usize = 8 * 1024;
/// The longest path below the project, in bytes: a slug has up to 50 characters, and percent-encoding can triple it.
const LONGEST_PATH: usize = 512;

impl Endpoint {
    /// The name of what it takes.
    pub const fn what(self) -> &'static str {
        match self {
            Self::Security | Self::CspReport => "security report",
            Self::Nel => "NEL report",
            Self::Cron => "check-in",
            Self::OtlpTraces => "OTLP traces request",
            Self::OtlpLogs => "OTLP logs request",
            Self::OtlpMetrics => "OTLP metrics request",
            Self::Vercel | Self::Heroku => "log drain request",
        }
    }

    /// The most bytes of a decoded body: as much as an item of an envelope with the same content may have.
    pub const fn limit(self) -> u64 {
        match self {
            Self::Security | Self::CspReport => MIB,
            Self::Cron => 100 * KIB,
            Self::Nel | Self::Vercel | Self::Heroku => 12 * MIB,
            Self::OtlpTraces | Self::OtlpLogs | Self::OtlpMetrics => 12 * MIB,
        }
    }

    /// Whether it takes a body of this content type. Log drains, check-ins and NEL reports may have any: upstreams decide.
    pub fn takes(self, content_type: &str) -> bool {
        let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        match self {
            Self::Security | Self::CspReport => matches!(
                essence.as_str(),
                "application/json"
                    | "application/csp-report"
                    | "application/expect-ct-report"
                    | "application/expect-ct-report+json"
                    | "application/expect-staple-report"
                    // The Reporting API: an array of reports of any type.
                    | "application/reports+json"
            ),
            Self::OtlpTraces | Self::OtlpLogs | Self::OtlpMetrics => {
                is_json(content_type) || essence == "application/x-protobuf"
            }
            Self::Cron | Self::Nel | Self::Vercel | Self::Heroku => true,
        }
    }

    /// Whether an empty body is valid: a check-in has everything in its query, and a protobuf message may have no field set.
    pub const fn may_be_empty(self) -> bool {
        matches!(self, Self::Cron | Self::OtlpTraces | Self::OtlpLogs | Self::OtlpMetrics)
    }

    /// The quantities of a request with `bytes` of body. Its entries are not counted, because payloads are not parsed.
    pub fn quantities(self, bytes: u64) -> Quantities {
        let mut all = Quantities::new();
        match self {
            Self::Security | Self::CspReport => all.add(Category::Security, 1),
            Self::Nel => all.add(Category::Unknown, 1),
            Self::Cron => all.add(Category::Monitor, 1),
            Self::OtlpTraces => all.add(Category::Span, 1),
            Self::OtlpMetrics => all.add(Category::TraceMetric, 1),
            Self::OtlpLogs | Self::Vercel | Self::Heroku => {
                all.add(Category::LogItem, 1);
                all.add(Category::LogByte, bytes);
            }
        }
        all
    }

    /// The headers that upstreams read, besides those kept of every client.
    pub const fn headers(self) -> &'static [&'static str] {
        match self {
            Self::Heroku => &["content-type", "logplex-frame-id", "logplex-drain-token", "logplex-msg-count"],
            _ => &["content-type"],
        }
    }

    /// Whether its path is defined with a slash at the end. Relay and GlitchTip take most paths only as defined.
    const fn ends_in_slash(self) -> bool {
        matches!(self, Self::Security | Self::CspReport | Self::Nel | Self::Cron)
    }
}

/// Whether a content type is JSON, whatever its parameters.
pub fn is_json(content_type: &str) -> bool {
    content_type.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json")
}

/// A request that is no envelope, as it is repeated: everything but its body and its sender. Holds no key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RawRequest {
    /// Whether the method is GET; otherwise POST.
    #[serde(rename = "g", default, skip_serializing_if = "is_false")]
    pub get: bool,
    /// The path below the project, without a leading slash.
    #[serde(rename = "p")]
    pub path: Box<str>,
    /// Whether the key came at the end of the path. Then the upstream's key goes there, too, instead of into a header.
    #[serde(rename = "k", default, skip_serializing_if = "is_false")]
    pub keyed: bool,
    /// The query without credentials.
    #[serde(rename = "q", default, skip_serializing_if = "str::is_empty")]
    pub query: Box<str>,
    /// The names and values of the headers to send.
    #[serde(rename = "h", default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<(Box<str>, Box<str>)>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde wants a reference")]
const fn is_false(flag: &bool) -> bool {
    !*flag
}

/// Why a request cannot be kept: 400.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum InvalidRequest {
    /// The path is too long, or an upstream could take it for another path.
    #[error("the path is too long, or has a part that is no name")]
    Path,
    /// The query is too long.
    #[error("the query has more than {LONGEST_QUERY} bytes")]
    Query,
}

impl RawRequest {
    /// The key at the end of the path `/api/{project}/{tail}`; `None` if there is none.
    pub fn key(endpoint: Endpoint, tail: &str) -> Option<&str> {
        let after_slug = tail.trim_end_matches('/').split('/').skip(2);
        if endpoint == Endpoint::Cron { after_slug.last() } else { None }
    }

    /// The parts of a request to `/api/{project}/{tail}?{query}` that are kept: all but the key.
    pub fn new(endpoint: Endpoint, get: bool, tail: &str, query: Option<&str>) -> Result<Self, InvalidRequest> {
        let mut parts: Vec<&str> = tail.trim_end_matches('/').split('/').collect();
        let keyed = Self::key(endpoint, tail).is_some();
        if keyed {
            parts.pop();
        }
        if tail.len() > LONGEST_PATH || !parts.iter().all(|part| is_name(part)) {
            return Err(InvalidRequest::Path);
        }
        let query = query.map(without_credentials).unwrap_or_default();
        if query.len() > LONGEST_QUERY {
            return Err(InvalidRequest::Query);
        }
        let mut path = parts.join("/");
        if endpoint.ends_in_slash() {
            path.push('/');
        }
        Ok(Self { get, path: path.into(), keyed, query: query.into(), headers: vec![] })
    }

    /// The URL of this request at an upstream; `None` if its parts make no valid URL.
    pub fn uri(&self, dsn: &Dsn) -> Option<Uri> {
        let key = if self.keyed { format!("{}/", dsn.public_key()) } else { String::new() };
        let query = if self.query.is_empty() { String::new() } else { format!("?{}", self.query) };
        format!("{}{}{key}{query}", dsn.api_address(), self.path).parse().ok()
    }
}

/// Whether an upstream takes this for one name in a path, however often it decodes it: no slash in any spelling, and not only dots.
fn is_name(part: &str) -> bool {
    let bytes = part.as_bytes();
    let plain = |b: &u8| b.is_ascii_alphanumeric() || b"-_.~!$'()*+,;=:@%".contains(b);
    let hidden = |at: usize| {
        let code = part.get(at + 1..at + 3).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        code.is_none_or(|code| code.is_ascii_control() || b"/\\.%".contains(&code))
    };
    let mut escapes = bytes.iter().enumerate().filter(|(_, b)| **b == b'%').map(|(at, _)| at);
    !bytes.is_empty() && bytes.iter().all(plain) && !bytes.iter().all(|b| *b == b'.') && !escapes.any(hidden)
}

/// The query without the parameters that authenticate; the rest keeps its spelling.
fn without_credentials(query: &str) -> String {
    const CREDENTIALS: [&str; 5] = ["sentry_key", "sentry_version", "sentry_client", "sentry_secret", "glitchtip_key"];
    let authenticates = |pair: &&str| {
        let name = url::form_urlencoded::parse(pair.as_bytes()).next().map(|(name, _)| name);
        name.is_some_and(|name| CREDENTIALS.contains(&&*name))
    };
    let kept: Vec<&str> = query.split('&').filter(|pair| !pair.is_empty() && !authenticates(pair)).collect();
    kept.join("&")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(endpoint: Endpoint, tail: &'static str, query: &str) -> (RawRequest, Option<&'static str>) {
        (RawRequest::new(endpoint, false, tail, Some(query)).unwrap(), RawRequest::key(endpoint, tail))
    }

    #[test]
    fn only_credentials_are_removed_from_the_query() {
        let query =
            "sentry_key=a&sentry_release=my%20app%401.0&sentry_version=7&&sentry%5Fclient=x&sentry_environment=a+b";
        let (request, key) = kept(Endpoint::Security, "security", query);
        assert_eq!(&*request.query, "sentry_release=my%20app%401.0&sentry_environment=a+b");
        assert_eq!((&*request.path, key), ("security/", None));
    }

    #[test]
    fn a_key_in_the_path_is_replaced_by_the_upstreams() {
        let dsn: Dsn = "https://theirs@tracker.example:9000/prefix/42".parse().unwrap();
        let (request, key) = kept(Endpoint::Cron, "cron/nightly/ours/", "status=ok");
        assert_eq!(key, Some("ours"));
        let uri = request.uri(&dsn).unwrap().to_string();
        assert_eq!(uri, "https://tracker.example:9000/prefix/api/42/cron/nightly/theirs/?status=ok");
        let (request, key) = kept(Endpoint::Cron, "cron/nightly", "");
        assert_eq!(key, None);
        assert_eq!(request.uri(&dsn).unwrap(), "https://tracker.example:9000/prefix/api/42/cron/nightly/");
        let (request, _) = kept(Endpoint::OtlpTraces, "otlp/v1/traces/", "");
        assert_eq!(request.uri(&dsn).unwrap(), "https://tracker.example:9000/prefix/api/42/otlp/v1/traces");
    }

    #[test]
    fn no_path_leads_elsewhere() {
        for slug in ["..", ".", "a%2fb", "%2e%2e", "a%5Cb", "%252e", "a%", "a%zz", "a\"b", "%00", ""] {
            let tail = format!("cron/{slug}/key");
            assert!(RawRequest::new(Endpoint::Cron, true, &tail, None).is_err(), "{slug}");
        }
        for slug in ["nightly", "a.b", "My%20Job", "%C3%A9t%C3%A9", "x_1-2~3"] {
            assert!(RawRequest::new(Endpoint::Cron, true, &format!("cron/{slug}"), None).is_ok(), "{slug}");
        }
        assert!(RawRequest::new(Endpoint::Cron, true, &format!("cron/{}", "a".repeat(600)), None).is_err());
        assert!(RawRequest::new(Endpoint::Cron, true, "cron/a", Some(&"a".repeat(9000))).is_err());
    }

    #[test]
    fn a_request_reads_back_from_json() {
        let (mut request, _) = kept(Endpoint::Heroku, "integration/heroku/logs", "a=b");
        request.headers.push(("content-type".into(), "application/logplex-1".into()));
        let json = serde_json::to_string(&request).unwrap();
        assert_eq!(serde_json::from_str::<RawRequest>(&json).unwrap(), request);
    }

    #[test]
    fn content_types_are_compared_without_case_and_parameters() {
        assert!(Endpoint::Security.takes("Application/CSP-Report; charset=utf-8"));
        assert!(Endpoint::OtlpLogs.takes("application/x-protobuf") && Endpoint::OtlpLogs.takes("application/json"));
        for endpoint in [Endpoint::Security, Endpoint::CspReport, Endpoint::Nel] {
            assert!(
                endpoint.takes("application/reports+json") && endpoint.takes("application/reports+json;charset=UTF-8")
            );
        }
        assert!(!Endpoint::OtlpLogs.takes("application/reports+json"));
        for wrong in ["", "text/plain", "application/reports", "application/jsonx"] {
            assert!(!Endpoint::Security.takes(wrong) && !Endpoint::OtlpTraces.takes(wrong), "{wrong}");
        }
    }
}
