//! Who sent a request, as upstreams are told it: the client's address, its `User-Agent` and `Origin`, and nothing else.
//!
//! The address is the first of `CF-Connecting-IP`, `X-Sentry-Forwarded-For`, `X-Forwarded-For` when the peer is a trusted
//! proxy, else the peer itself (getsentry/relay, `relay-server/src/extractors/forwarded_for.rs`).

use std::net::IpAddr;

use http::{HeaderMap, HeaderValue, header};

use crate::journal::Client;

const FORWARDED: [&str; 3] = ["cf-connecting-ip", "x-sentry-forwarded-for", "x-forwarded-for"];
/// Longer values are no use to anybody and would be kept with every record.
const LONGEST: usize = 512;

/// What upstreams are told of the sender of a request.
pub(super) fn client(headers: &HeaderMap, peer: IpAddr, trusted: &[IpAddr]) -> Client {
    let peer = peer.to_canonical();
    let chain = if trusted.contains(&peer) { FORWARDED.iter().find_map(|name| text(headers.get(*name))) } else { None };
    let forwarded_for = match chain {
        Some(chain) => format!("{chain}, {peer}"),
        None => peer.to_string(),
    };
    Client {
        user_agent: text(headers.get(header::USER_AGENT)).map(Into::into),
        origin: text(headers.get(header::ORIGIN)).map(Into::into),
        forwarded_for: Some(forwarded_for.into()),
        sentry_client: None,
    }
}

fn text(value: Option<&HeaderValue>) -> Option<&str> {
    value?.to_str().ok().filter(|text| !text.is_empty() && text.len() <= LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forwarded(pairs: &[(&'static str, &str)], trusted: &[IpAddr]) -> String {
        let headers = pairs.iter().map(|(name, value)| ((*name).parse().unwrap(), value.parse().unwrap())).collect();
        client(&headers, "10.0.0.9".parse().unwrap(), trusted).forwarded_for.unwrap().into()
    }

    #[test]
    fn only_a_trusted_proxy_is_believed() {
        let proxy: IpAddr = "10.0.0.9".parse().unwrap();
        let headers = [("x-forwarded-for", "203.0.113.7, 10.0.0.1")];
        assert_eq!(forwarded(&headers, &[]), "10.0.0.9");
        assert_eq!(forwarded(&headers, &[proxy]), "203.0.113.7, 10.0.0.1, 10.0.0.9");
        let cloudflare = [("cf-connecting-ip", "203.0.113.8"), ("x-forwarded-for", "203.0.113.7")];
        assert_eq!(forwarded(&cloudflare, &[proxy]), "203.0.113.8, 10.0.0.9");
        assert_eq!(forwarded(&[], &[proxy]), "10.0.0.9");
    }
}
