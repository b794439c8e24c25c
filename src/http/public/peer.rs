//! The sender of a request, as upstreams are told: the client's address, its `User-Agent` and `Origin`, and nothing else.
//!
//! The address is that of the peer. If the peer is a trusted proxy, the addresses of the first of `CF-Connecting-IP`,
//! `X-Vercel-Forwarded-For`, `X-Sentry-Forwarded-For`, `X-Forwarded-For` that holds any precede it (getsentry/relay,
//! `relay-server/src/extractors/forwarded_for.rs`). Trackers replace `{{auto}}` in `user.ip_address` by the first of this chain.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::http::listener::doors;
use crate::http::listener::network::Network;
use crate::journal::Client;

use super::circle;

const FORWARDED: [HeaderName; 4] = [
    HeaderName::from_static("cf-connecting-ip"),
    HeaderName::from_static("x-vercel-forwarded-for"),
    HeaderName::from_static("x-sentry-forwarded-for"),
    HeaderName::from_static("x-forwarded-for"),
];
/// The longest value in bytes: it is kept with every record. Browsers within apps have long names.
const LONGEST: usize = 2048;
/// The most addresses of a chain that are read.
const MOST: usize = 16;

/// Who is at the other end of the connection.
pub(super) fn of(parts: &Parts) -> IpAddr {
    parts.extensions.get::<SocketAddr>().map_or(IpAddr::from([127, 0, 0, 1]), SocketAddr::ip)
}

/// What upstreams are told of the sender of a request.
pub(super) fn client(headers: &HeaderMap, peer: IpAddr, trusted: &[Network]) -> Client {
    let peer = peer.to_canonical();
    let mut forwarded_for = String::new();
    if Network::any_contains(trusted, peer) {
        let mut chains = FORWARDED.into_iter().map(|name| chain(headers, &name));
        for address in chains.find(|chain| !chain.is_empty()).unwrap_or_default() {
            forwarded_for.push_str(&address.to_string());
            forwarded_for.push_str(", ");
        }
    }
    forwarded_for.push_str(&peer.to_string());
    Client {
        user_agent: text(headers.get(header::USER_AGENT)).map(Into::into),
        origin: text(headers.get(header::ORIGIN)).map(Into::into),
        forwarded_for: Some(forwarded_for.into()),
        sentry_client: None,
        via: circle::via(headers),
        request: None,
        left_out: vec![],
        spilled: None,
    }
}

/// The client whose share of room and places a request takes: the last address of the chain that is no trusted proxy's. The client may
/// have made up the addresses before it.
pub(super) fn source(headers: &HeaderMap, peer: IpAddr, trusted: &[Network]) -> IpAddr {
    let mut source = peer;
    if Network::any_contains(trusted, peer) {
        let chain = |name| headers.get_all(name).iter().rev().filter_map(|line| line.to_str().ok());
        let last = |name| {
            let addresses = chain(name).flat_map(|line| line.rsplit(',')).take(MOST).filter_map(address);
            addresses.fold(None, |found: Option<IpAddr>, next| match found {
                Some(found) if !Network::any_contains(trusted, found) => Some(found),
                _ => Some(next),
            })
        };
        source = FORWARDED.into_iter().rev().find_map(last).unwrap_or(peer);
    }
    doors::client(source)
}

/// The addresses in all lines of a header, in order. Words that are no address (`unknown`, a name) are left out.
fn chain(headers: &HeaderMap, name: &HeaderName) -> Vec<IpAddr> {
    let lines = headers.get_all(name).iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).filter_map(address).take(MOST).collect()
}

/// Reads an address with or without port, brackets or zone.
fn address(text: &str) -> Option<IpAddr> {
    let text = text.trim().trim_matches('"');
    let ip = |text: &str| text.split('%').next().unwrap_or_default().parse::<IpAddr>().ok();
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    let with_port = || text.parse::<SocketAddr>().ok().map(|address| address.ip());
    let address =
        bare.map_or_else(|| ip(text), |text| text.parse::<Ipv6Addr>().ok().map(Into::into)).or_else(with_port);
    address.map(|address| address.to_canonical())
}

fn text(value: Option<&HeaderValue>) -> Option<&str> {
    value?.to_str().ok().filter(|text| !text.is_empty() && text.len() <= LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forwarded(pairs: &[(&'static str, &str)], trusted: &[IpAddr]) -> String {
        let trusted: Vec<Network> = trusted.iter().copied().map(Into::into).collect();
        let headers = pairs.iter().map(|(name, value)| ((*name).parse().unwrap(), value.parse().unwrap())).collect();
        client(&headers, "10.0.0.9".parse().unwrap(), &trusted).forwarded_for.unwrap().into()
    }

    #[test]
    fn only_a_trusted_proxy_is_believed() {
        let proxy: IpAddr = "10.0.0.9".parse().unwrap();
        let headers = [("x-forwarded-for", "203.0.113.7, 10.0.0.1")];
        assert_eq!(forwarded(&headers, &[]), "10.0.0.9");
        assert_eq!(forwarded(&headers, &["10.0.0.8".parse().unwrap()]), "10.0.0.9");
        assert_eq!(forwarded(&headers, &[proxy]), "203.0.113.7, 10.0.0.1, 10.0.0.9");
        assert_eq!(forwarded(&headers, &["::ffff:10.0.0.9".parse().unwrap()]), "203.0.113.7, 10.0.0.1, 10.0.0.9");
        assert_eq!(forwarded(&[], &[proxy]), "10.0.0.9");
    }

    #[test]
    fn a_request_counts_against_the_last_address_that_is_no_trusted_proxy() {
        let trusted = ["10.0.0.0/8".parse().unwrap()];
        let source = |peer: &str, pairs: &[(&'static str, &str)]| {
            let pairs = pairs.iter().map(|(name, value)| ((*name).parse().unwrap(), value.parse().unwrap()));
            source(&pairs.collect(), peer.parse().unwrap(), &trusted).to_string()
        };
        let chain = [("x-forwarded-for", "198.51.100.1, 203.0.113.7, 10.0.0.2")];
        assert_eq!(source("10.0.0.9", &chain), "203.0.113.7");
        assert_eq!(source("203.0.113.9", &chain), "203.0.113.9", "who is not trusted says nothing");
        let flood = format!("{}203.0.113.7", "198.51.100.1, ".repeat(100));
        assert_eq!(source("10.0.0.9", &[("x-forwarded-for", &flood)]), "203.0.113.7");
        let lines = [("x-forwarded-for", "198.51.100.1"), ("x-forwarded-for", "203.0.113.7")];
        assert_eq!(source("10.0.0.9", &lines), "203.0.113.7");
        assert_eq!(source("10.0.0.9", &[("cf-connecting-ip", "203.0.113.7")]), "203.0.113.7");
        assert_eq!(source("10.0.0.9", &[("x-forwarded-for", "10.0.0.3, 10.0.0.2")]), "10.0.0.3");
        assert_eq!(source("10.0.0.9", &[]), "10.0.0.9");
    }

    #[test]
    fn the_first_header_with_an_address_counts() {
        let proxy: IpAddr = "10.0.0.9".parse().unwrap();
        let all = [
            ("x-forwarded-for", "203.0.113.1"),
            ("x-sentry-forwarded-for", "203.0.113.2"),
            ("x-vercel-forwarded-for", "203.0.113.3"),
            ("cf-connecting-ip", "203.0.113.4"),
        ];
        for (known, first) in [(1, "1"), (2, "2"), (3, "3"), (4, "4")] {
            assert_eq!(forwarded(&all[..known], &[proxy]), format!("203.0.113.{first}, 10.0.0.9"));
        }
        assert_eq!(forwarded(&[("cf-connecting-ip", "unknown"), all[0]], &[proxy]), "203.0.113.1, 10.0.0.9");
    }

    #[test]
    fn every_spelling_of_an_address_is_read_and_other_words_are_dropped() {
        let proxy: IpAddr = "10.0.0.9".parse().unwrap();
        for (sent, read) in [
            ("203.0.113.7:4711", "203.0.113.7, "),
            ("2001:db8::7", "2001:db8::7, "),
            ("[2001:db8::7]", "2001:db8::7, "),
            ("[2001:db8::7]:4711", "2001:db8::7, "),
            ("fe80::7%eth0", "fe80::7, "),
            ("::ffff:203.0.113.7", "203.0.113.7, "),
            ("\"203.0.113.7\"", "203.0.113.7, "),
            ("unknown, 203.0.113.7, _hidden,, x y", "203.0.113.7, "),
            ("<script>", ""),
            ("203.0.113.777", ""),
            ("", ""),
        ] {
            assert_eq!(forwarded(&[("x-forwarded-for", sent)], &[proxy]), format!("{read}10.0.0.9"), "{sent}");
        }
        let lines = [("x-forwarded-for", "203.0.113.7"), ("x-forwarded-for", "10.0.0.1, 10.0.0.2")];
        assert_eq!(forwarded(&lines, &[proxy]), "203.0.113.7, 10.0.0.1, 10.0.0.2, 10.0.0.9");
        let flood = "203.0.113.7,".repeat(5000);
        assert_eq!(forwarded(&[("x-forwarded-for", &flood)], &[proxy]).matches("203.0.113.7").count(), MOST);
    }
}
