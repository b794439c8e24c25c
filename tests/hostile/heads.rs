//! Request heads that are too large, too many, or invalid.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::beside::beside;
use crate::support::memory::Memory;
use crate::support::relay::Plan;
use crate::support::upstream::Upstream;
use crate::support::wire::{Wire, head, post};
use crate::{front, keyed};

/// Sends as many of the bytes as are taken; returns what comes back until the orderly end.
async fn said_to(address: &str, bytes: &[u8]) -> String {
    let mut wire = Wire::connect(address).await;
    wire.offer(bytes).await;
    String::from_utf8_lossy(&wire.rest().await).into_owned()
}

#[tokio::test]
async fn floods_of_headers_and_invalid_http_are_refused_with_flat_memory() {
    let (relay, upstream) = front().await;
    let memory = Memory::of(relay.pid());
    memory.forget_peak();
    let before = memory.resident();
    let path = keyed("/api/1/envelope/");
    let many: Vec<String> = (0..50_000).map(|n| format!("x-{n}")).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|name| (name.as_str(), "1")).collect();
    let long = "x".repeat(4 << 20);
    let twice = [("content-length", "5"), ("content-length", "50")];
    let both = [("content-length", "5"), ("transfer-encoding", "chunked")];
    let attack = async {
        for (what, bytes, statuses) in [
            ("50,000 headers", head("POST", &path, &many), &[400, 414, 431][..]),
            ("a header of 4 MiB", head("POST", &path, &[("x-long", &long)]), &[400, 414, 431]),
            ("a header's name of 4 MiB", head("POST", &path, &[(&long, "1")]), &[400, 414, 431]),
            ("a path of 4 MiB", head("POST", &format!("/{long}"), &[]), &[400, 414, 431]),
            ("a method of 4 MiB", head(&long, &path, &[]), &[400, 414, 431]),
            ("a line without an end", long.clone().into_bytes(), &[400, 414, 431]),
            ("two lengths", post(&path, &twice, b"hello"), &[400]),
            (
                "a length and chunks",
                [head("POST", &path, &both), b"0\r\n\r\nGET /x HTTP/1.1\r\n\r\n".to_vec()].concat(),
                &[400],
            ),
            ("a negative length", head("POST", &path, &[("content-length", "-1")]), &[400]),
            ("a length of 2^64", head("POST", &path, &[("content-length", "18446744073709551616")]), &[400]),
            (
                "a chunk of 2^64",
                [head("POST", &path, &[("transfer-encoding", "chunked")]), b"10000000000000000\r\nx".to_vec()].concat(),
                &[400],
            ),
            ("a NUL in a header", head("POST", &path, &[("x-nul", "a\0b")]), &[400]),
            ("a bare CR in a header", head("POST", &path, &[("x-cr", "a\rb")]), &[400]),
            ("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".repeat(20), &[400]),
        ] {
            let said = said_to(&relay.address(), &bytes).await;
            let status = said.split(' ').nth(1).and_then(|code| code.parse::<u16>().ok());
            // Closing without an answer is fine for bytes that are no request.
            assert!(status.is_none_or(|status| statuses.contains(&status)), "{what}: {said}");
            assert_eq!(said.matches("HTTP/1.1 ").count(), usize::from(status.is_some()), "{what}: {said}");
            eprintln!("{what}: {status:?}");
        }
    };
    let ((), sent) = beside(&relay, attack).await;
    let grown = memory.peak().saturating_sub(before);
    eprintln!("floods of headers: {grown} KiB more than {before} KiB at the most");
    assert!(grown < 16 * 1024, "{grown} KiB");
    relay.finish().await;
    assert_eq!(upstream.taken_count(), sent);
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Longer than the time limits of a head, of this test's idle connections, and of a ping's answer.
const LIMITS: Duration = Duration::from_secs(30);

/// Sends the pieces one by one and nothing more; returns what comes until the other side closes.
async fn said_to_silence(address: &str, pieces: &[&[u8]]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    stream.set_nodelay(true).expect("an option of the socket");
    for piece in pieces {
        stream.write_all(piece).await.expect("bytes are taken");
    }
    let mut said = vec![];
    let ended = timeout(LIMITS, stream.read_to_end(&mut said)).await;
    let sent = || String::from_utf8_lossy(&pieces.concat()).into_owned();
    ended.unwrap_or_else(|_| panic!("it goes on: {:?}", sent())).expect("no reset");
    said
}

/// Only the whole preface makes a connection HTTP/2 (RFC 9113, section 3.4) and lifts the limits of HTTP/1.1.
#[tokio::test(flavor = "multi_thread")]
async fn a_silent_client_is_disconnected_whatever_its_first_bytes() {
    let upstream = Upstream::start().await;
    let relay = Plan::new(&[("tracker", upstream.dsn("cafe", 7))]).server("keep_alive = \"1s\"").start().await;
    let address = relay.address();
    let other: Vec<u8> = [&PREFACE[..23], b"x"].concat();
    let odd: [(&[u8], &str); 12] = [
        (b"PRIX /nowhere/ HTTP/1.1\r\nhost: x\r\n\r\n", "40"),
        (b"PRI * HTTP/1.1\r\nhost: x\r\n\r\n", "40"),
        (b"PRI /nowhere/ HTTP/1.0\r\nconnection: keep-alive\r\n\r\n", "40"),
        (b"CONNECT x:443 HTTP/1.1\r\nhost: x:443\r\n\r\n", "40"),
        (b"GET /nowhere/ HTTP/1.1\r\nhost: x\r\nconnection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk\r\n\r\n", "40"),
        (b"\r\n\r\nGET /nowhere/ HTTP/1.1\r\nhost: x\r\n\r\n\r\n", "40"),
        (b"GET /nowhere/ HTTP/1.1\r\nhost: x\r\n\r\nPRI * HTTP/1.1\r\nhost: x\r\n\r\n", "40"),
        (b"GET /nowhere/ HTTP/1.1\r\nhost: x\r\n\r\nPRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "40"),
        (b"GET /nowhere/ HTTP/1.1\r\nhost: x\r\n\r\nPRI * HT", "40"),
        (&other, "400"),
        (&PREFACE[..23], "408"),
        (b"PRI", "408"),
    ];
    let asked = odd.map(async |(bytes, status)| {
        for pieces in [vec![bytes], bytes.chunks(1).collect()] {
            let said = String::from_utf8_lossy(&said_to_silence(&address, &pieces).await).into_owned();
            let answered = said.strip_prefix("HTTP/1.").and_then(|said| said.get(2..));
            let is_as_told = answered.is_some_and(|answered| answered.starts_with(status));
            assert!(is_as_told, "{:?}: {said}", String::from_utf8_lossy(bytes));
        }
    });
    let http2 = async {
        let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
        let bytes = [PREFACE, &settings].concat();
        let said = said_to_silence(&address, &bytes.chunks(1).collect::<Vec<_>>()).await;
        let has = |frame: [u8; 5]| said.windows(5).any(|five| five == frame);
        assert!(has([0, 0, 8, 6, 0]), "a ping is asked for an answer: {said:?}");
    };
    tokio::join!(futures_util::future::join_all(asked), http2);
    relay.finish().await;
    assert_eq!(upstream.taken_count(), 0);
}
