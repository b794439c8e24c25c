//! Connections that end before there was a request to answer, and what their clients are told.
//!
//! Rule: a client that speaks HTTP gets a status and the JSON of other refusals. hyper finds malformed requests, and answers them with a
//! bare status; [`CutShort::of_answer`] recognises that answer.

use http::{HeaderName, HeaderValue, StatusCode, header};

/// The headers of every answer: browsers may read all of them, refusals included.
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
    /// A trusted proxy did not begin with a header of the PROXY protocol.
    NoProxyHeader,
    /// A header of the PROXY protocol came from somebody else, or is not expected.
    StrayProxyHeader,
    /// The client has too many connections.
    TooManyConnections,
    /// Something other than TLS on an address that speaks TLS.
    NoTls,
    /// The bytes are no request.
    Malformed,
    /// The headers are too many, or too long.
    TooManyHeaders,
    /// An HTTP/2 connection found no room for its window. It has no request that could be answered.
    NoRoom,
}

impl CutShort {
    /// The reason for a parse error of hyper; `None` for other errors.
    pub(super) fn of_error(error: &hyper::Error) -> Option<Self> {
        if error.is_parse_too_large() {
            return Some(Self::TooManyHeaders);
        }
        error.is_parse().then_some(Self::Malformed)
    }

    /// The reason for an answer that hyper gives by itself, from its first bytes; `None` for other answers.
    pub(super) fn of_answer(head: &[u8]) -> Option<Self> {
        let status = head.strip_prefix(b"HTTP/1.1 ")?.get(..3)?;
        [Self::Malformed, Self::TooManyHeaders].into_iter().find(|why| why.status().as_str().as_bytes() == status)
    }

    /// Whether hyper has answered already, or the client would not understand an answer.
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

    /// The whole answer in HTTP/1.1. Where it replaces an answer of hyper's it goes through TLS as that would. Else it is sent in plain
    /// text, and not at all once TLS is spoken.
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
    fn answers_that_hyper_gives_by_itself_are_recognised() {
        assert_eq!(CutShort::of_answer(b"HTTP/1.1 400 Bad Request\r\n"), Some(CutShort::Malformed));
        assert_eq!(CutShort::of_answer(b"HTTP/1.1 431 Request"), Some(CutShort::TooManyHeaders));
        for other in [&b"HTTP/1.1 200 OK"[..], b"HTTP/1.1 4", b"PRI * HTTP/2.0", b""] {
            assert_eq!(CutShort::of_answer(other), None);
        }
    }
}
