//! Connections that end before there was a request to answer, and what their clients are told.
//!
//! Rule: a client that speaks HTTP gets a status and the JSON that it knows of other refusals. The HTTP implementation finds out
//! what is malformed, and answers that without a word of its own: [`CutShort::of_answer`] knows its answer.

use http::{HeaderName, HeaderValue, StatusCode, header};

/// Browsers may read every answer, refusals included.
pub(in crate::http) const SHARED: [(HeaderName, HeaderValue); 3] = [
    (header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*")),
    (
        header::ACCESS_CONTROL_EXPOSE_HEADERS,
        HeaderValue::from_static("x-sentry-error, x-sentry-rate-limits, retry-after"),
    ),
    (HeaderName::from_static("cross-origin-resource-policy"), HeaderValue::from_static("cross-origin")),
];

/// Why a connection ends before there was a request to answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::http) enum CutShort {
    /// The headers did not come in time.
    Stalled,
    /// The request line is too long.
    EndlessLine,
    /// A trusted proxy has not begun with a header of the PROXY protocol.
    NoProxyHeader,
    /// Somebody else has, or it is not expected.
    StrayProxyHeader,
    /// Its client has too many connections.
    TooManyConnections,
    /// Something other than TLS on an address that speaks TLS.
    NoTls,
    /// What came is no request.
    Malformed,
    /// The headers are too many, or too long.
    TooManyHeaders,
    /// A connection of HTTP/2 found no room for what it brings. It has no request yet that could be answered.
    NoRoom,
}

impl CutShort {
    /// What the HTTP implementation could not read, if it is that.
    pub(super) fn of_error(error: &hyper::Error) -> Option<Self> {
        if error.is_parse_too_large() {
            return Some(Self::TooManyHeaders);
        }
        error.is_parse().then_some(Self::Malformed)
    }

    /// What the HTTP implementation says by an answer that begins like this.
    pub(super) fn of_answer(head: &[u8]) -> Option<Self> {
        let status = head.strip_prefix(b"HTTP/1.1 ")?.get(..3)?;
        [Self::Malformed, Self::TooManyHeaders].into_iter().find(|why| why.status().as_str().as_bytes() == status)
    }

    /// Whether the HTTP implementation has answered it already, or no answer could be understood.
    pub(super) const fn is_answered(self) -> bool {
        matches!(self, Self::Malformed | Self::TooManyHeaders | Self::NoRoom)
    }

    pub(in crate::http) const fn status(self) -> StatusCode {
        match self {
            Self::Stalled => StatusCode::REQUEST_TIMEOUT,
            Self::EndlessLine => StatusCode::URI_TOO_LONG,
            Self::NoTls | Self::Malformed | Self::NoProxyHeader | Self::StrayProxyHeader => StatusCode::BAD_REQUEST,
            Self::TooManyConnections | Self::NoRoom => StatusCode::SERVICE_UNAVAILABLE,
            Self::TooManyHeaders => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        }
    }

    pub(in crate::http) const fn detail(self) -> &'static str {
        match self {
            Self::Stalled => "the request's headers did not arrive within 10 seconds",
            Self::EndlessLine => "the request line is too long",
            Self::NoProxyHeader => {
                "proxy_protocol is on: a trusted proxy must begin each connection with a header of the PROXY protocol, version 1 or 2"
            }
            Self::StrayProxyHeader => {
                "a header of the PROXY protocol is taken from trusted_proxies alone, and only where proxy_protocol is on"
            }
            Self::TooManyConnections => {
                "this address has too many connections: max_connections_per_address is the limit"
            }
            Self::NoRoom => "too many bytes are in flight for another connection of HTTP/2, try again later",
            Self::NoTls => "this address speaks TLS: use https",
            Self::Malformed => "this is no HTTP request",
            Self::TooManyHeaders => {
                "the request's headers are too many or too long: 100 with 64 KiB together are the limit"
            }
        }
    }

    /// What the client is told. In place of an answer of the HTTP implementation's it goes its way, through TLS; else it is said in
    /// plain text, and behind TLS not at all.
    pub(super) fn answer(self) -> String {
        let body = format!("{{\"detail\":\"{}\",\"causes\":[]}}\r\n", self.detail());
        let (status, length) = (self.status(), body.len());
        let shared: String =
            SHARED.iter().map(|(name, value)| format!("{name}: {}\r\n", value.to_str().unwrap_or_default())).collect();
        format!(
            "HTTP/1.1 {status}\r\ncontent-type: application/json\r\n{shared}connection: close\r\n\
             content-length: {length}\r\n\r\n{body}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answers_of_the_http_implementation_are_known() {
        assert_eq!(CutShort::of_answer(b"HTTP/1.1 400 Bad Request\r\n"), Some(CutShort::Malformed));
        assert_eq!(CutShort::of_answer(b"HTTP/1.1 431 Request"), Some(CutShort::TooManyHeaders));
        for other in [&b"HTTP/1.1 200 OK"[..], b"HTTP/1.1 4", b"PRI * HTTP/2.0", b""] {
            assert_eq!(CutShort::of_answer(other), None);
        }
    }
}
