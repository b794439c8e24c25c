//! The PROXY protocol, versions 1 and 2, by which a proxy in front of the listener names the client that it connects for
//! (<https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>).
//!
//! Rule: only trusted proxies may send a header, and they must. A header is short, comes at once and precedes everything else, TLS
//! included. Knows bytes and addresses, no sockets.

use std::net::SocketAddr;

use proxy_header::{Error, ParseConfig, Protocol, ProxyHeader};

/// The longest header, in bytes: the addresses, and what a proxy adds about TLS and names.
pub(super) const LONGEST: usize = 1024;

const V1: &[u8] = b"PROXY ";
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// A header of the PROXY protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Header {
    /// The header's length in bytes.
    pub(super) length: usize,
    /// The client that the proxy connects for; `None` if the proxy connects for itself, as for a health check.
    pub(super) client: Option<SocketAddr>,
}

/// Returns whether `bytes` begin with a header, whole or not.
pub(super) fn is_header(bytes: &[u8]) -> bool {
    bytes.starts_with(V1) || bytes.starts_with(V2)
}

/// Reads the header at the beginning of `bytes`; `Ok(None)` while it is not whole, an error if there is none.
pub(super) fn header(bytes: &[u8]) -> Result<Option<Header>, NoHeader> {
    if ![V1, V2].iter().any(|beginning| bytes.starts_with(beginning) || beginning.starts_with(bytes)) {
        return Err(NoHeader);
    }
    let config = ParseConfig { include_tlvs: false, ..ParseConfig::default() };
    match ProxyHeader::parse(bytes, config) {
        Ok((header, length)) => {
            let stream = header.proxied_address().filter(|address| address.protocol == Protocol::Stream);
            Ok(Some(Header { length, client: stream.map(|address| address.source) }))
        }
        // A header of version 1 is one line: nothing more of it comes after its end.
        Err(Error::BufferTooShort) if bytes.starts_with(V1) && bytes.contains(&b'\n') => Err(NoHeader),
        Err(Error::BufferTooShort) if bytes.len() < LONGEST => Ok(None),
        Err(_) => Err(NoHeader),
    }
}

/// The bytes are no header of the PROXY protocol, or one that is too long.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct NoHeader;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proxy_header::ProxiedAddress;

    use super::*;

    fn client(bytes: &[u8]) -> Option<SocketAddr> {
        header(bytes).unwrap().unwrap().client
    }

    /// A header of version 2 by hand: command, family, and what follows.
    fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [V2, &[0x20 | command, family], &length, rest].concat()
    }

    #[test]
    fn the_client_is_read_from_both_versions() {
        let v4 = client(b"PROXY TCP4 203.0.113.7 10.0.0.1 4711 443\r\nGET / HTTP/1.1\r\n");
        assert_eq!(v4, Some("203.0.113.7:4711".parse().unwrap()));
        let v6 = client(b"PROXY TCP6 2001:db8::7 2001:db8::1 4711 443\r\n");
        assert_eq!(v6, Some("[2001:db8::7]:4711".parse().unwrap()));
        let addresses = [203, 0, 113, 7, 10, 0, 0, 1, 0x12, 0x67, 1, 0xbb];
        assert_eq!(client(&v2(1, 0x11, &addresses)), v4);
        let name = [&addresses[..], &[2, 0, 4], b"shop"].concat();
        let whole = v2(1, 0x11, &name);
        assert_eq!(header(&whole).unwrap().unwrap(), Header { length: whole.len(), client: v4 });
    }

    #[test]
    fn a_proxy_that_connects_for_itself_names_nobody() {
        assert_eq!(client(b"PROXY UNKNOWN\r\n"), None);
        assert_eq!(client(b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n"), None);
        assert_eq!(client(&v2(0, 0, &[])), None);
        assert_eq!(client(&v2(0, 0x11, &[1; 12])), None, "LOCAL");
        assert_eq!(client(&v2(1, 0, &[])), None, "an unspecified family");
    }

    #[test]
    fn bytes_that_are_no_header_are_refused() {
        for bytes in [&b"GET / HTTP/1.1\r\n"[..], b"PROXY TCP4 nonsense\r\n", b"\x16\x03\x01", &v2(7, 0x11, &[0; 12])] {
            assert_eq!(header(bytes), Err(NoHeader), "{bytes:?}");
        }
        assert_eq!(header(&v2(1, 0x11, &[0; 2 * LONGEST])[..LONGEST]), Err(NoHeader), "too long");
        assert_eq!(header(&[b"PROXY ", &[b'x'; LONGEST][..]].concat()), Err(NoHeader));
    }

    proptest! {
        #[test]
        fn every_header_is_read_back_and_no_part_of_one_is_whole(
            source: SocketAddr,
            v1: bool,
            rest: Vec<u8>,
        ) {
            let destination = SocketAddr::new(source.ip(), 443);
            let made = ProxyHeader::with_address(ProxiedAddress::stream(source, destination));
            let mut bytes = vec![];
            if v1 { made.encode_v1(&mut bytes) } else { made.encode_v2(&mut bytes) }.unwrap();
            for part in 0..bytes.len() {
                prop_assert_eq!(header(&bytes[..part]), Ok(None));
            }
            let length = bytes.len();
            bytes.extend(rest);
            let read = header(&bytes).unwrap().unwrap();
            prop_assert_eq!(read.length, length);
            let read = read.client.map(|client| (client.ip(), client.port()));
            prop_assert_eq!(read, Some((source.ip(), source.port())));
            prop_assert!(is_header(&bytes));
        }

        #[test]
        fn no_bytes_make_the_parser_panic_or_read_beyond_them(mut bytes: Vec<u8>, beginning in 0..3_usize) {
            let beginning: &[u8] = [&b""[..], V1, V2][beginning];
            bytes.splice(0..0, beginning.iter().copied());
            if let Ok(Some(header)) = header(&bytes) {
                prop_assert!(header.length <= bytes.len());
            }
        }
    }
}
