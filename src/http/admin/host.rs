//! Which host names the admin listener answers to.
//!
//! Rule: a page can make its own host name resolve to this machine, and its browser then lets it read our answers (DNS rebinding). Its
//! requests carry that name, so only `localhost` and configured names are answered. Addresses are answered as well: nobody can make a
//! browser believe that a page came from an address that did not serve it.

use std::net::IpAddr;

use http::uri::Authority;
use http::{HeaderMap, Uri, header};

/// Whether a request names a host, and every host that it names is one of ours.
pub(super) fn is_ours(uri: &Uri, headers: &HeaderMap, configured: &[String]) -> bool {
    let in_headers = headers.get_all(header::HOST).iter().map(|host| host.to_str().ok()?.parse::<Authority>().ok());
    let mut named = uri.authority().cloned().map(Some).into_iter().chain(in_headers).peekable();
    named.peek().is_some() && named.all(|host| host.is_some_and(|host| is_answered(host.host(), configured)))
}

fn is_answered(host: &str, configured: &[String]) -> bool {
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    if address.parse::<IpAddr>().is_ok() {
        return true;
    }
    let name = host.strip_suffix('.').unwrap_or(host);
    ["localhost"].into_iter().chain(configured.iter().map(String::as_str)).any(|own| own.eq_ignore_ascii_case(name))
}

/// Whether a text is a host name, and not an address or anything else.
pub fn is_name(text: &str) -> bool {
    let is_label = |label: &str| {
        let fits = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        (1..=63).contains(&label.len()) && label.bytes().all(fits)
    };
    text.len() <= 253 && text.split('.').all(is_label) && text.parse::<IpAddr>().is_err()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn answers(uri: &str, hosts: &[&str]) -> bool {
        let mut headers = HeaderMap::new();
        for host in hosts {
            headers.append(header::HOST, HeaderValue::from_str(host).unwrap());
        }
        is_ours(&uri.parse().unwrap(), &headers, &["relay.example.org".to_owned()])
    }

    #[test]
    fn loopback_addresses_and_configured_names_are_answered_with_any_port() {
        for host in [
            "localhost",
            "LOCALHOST:8485",
            "localhost.:1",
            "127.0.0.1:8485",
            "127.9.9.9",
            "[::1]:8485",
            "192.0.2.7:8485",
            "relay.example.org",
            "Relay.Example.Org.:443",
        ] {
            assert!(answers("/", &[host]), "{host}");
        }
        assert!(answers("http://localhost:8485/", &["localhost:8485"]));
    }

    #[test]
    fn an_unknown_host_no_host_and_a_second_unknown_one_are_not_answered() {
        for hosts in [
            vec!["evil.test"],
            vec!["evil.test:8485"],
            vec!["localhost.evil.test"],
            vec!["127.0.0.1.evil.test"],
            vec!["relay.example.org.evil.test"],
            vec!["sub.relay.example.org"],
            vec!["user@"],
            vec![""],
            vec![],
            vec!["localhost", "evil.test"],
        ] {
            assert!(!answers("/", &hosts), "{hosts:?}");
        }
        assert!(!answers("http://evil.test/", &["localhost"]));
    }

    #[test]
    fn a_host_name_is_neither_an_address_nor_part_of_a_url() {
        assert!(["relay.example.org", "relay", "a_b-c.d"].into_iter().all(is_name));
        for text in ["", "http://relay", "relay:80", "*.example.org", "relay/", "a..b", "relay.", "127.0.0.1", "::1"] {
            assert!(!is_name(text), "{text}");
        }
    }
}
