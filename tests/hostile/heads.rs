//! Heads of requests that are too large, too many, or no heads at all.

use super::beside::beside;
use crate::support::memory::Memory;
use crate::support::wire::{Wire, head, post};
use crate::{front, keyed};

/// Sends bytes, as many as are taken, and reads what comes back until the orderly end.
async fn said_to(address: &str, bytes: &[u8]) -> String {
    let mut wire = Wire::connect(address).await;
    wire.offer(bytes).await;
    String::from_utf8_lossy(&wire.rest().await).into_owned()
}

#[tokio::test]
async fn floods_of_headers_and_what_is_no_http_are_refused_with_flat_memory() {
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
            // Nothing at all is an answer to what is no request.
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
