//! Line ends, NULs, escapes and odd characters in everything that the relay repeats in a header, to an upstream or in its log.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::front;
use crate::support::envelopes::{self, KEY, new_id};
use crate::support::relay::SOON;
use crate::support::wire::{Answer, exchange, post};

/// Strings that try to inject headers, terminal escapes or credentials.
const EVIL: [&str; 8] = [
    "a\r\nx-evil: 1",
    "a\nx-evil: 1",
    "a\rx-evil: 1",
    "a\0b",
    "a\u{1b}[2J\u{7}",
    "a\u{2028}\u{202e}b",
    "\u{feff}\u{1f4a3}\u{fffd}",
    "a, sentry_key=other",
];

fn percent(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02x}")).collect()
}

fn json(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn is_harmless(answer: &Answer) {
    assert!(!answer.headers.contains_key("x-evil"), "{answer:?}");
    for (name, value) in &answer.headers {
        assert!(value.as_bytes().iter().all(|byte| !byte.is_ascii_control()), "{name}: {value:?}");
    }
    drop(answer.json());
}

#[tokio::test]
async fn odd_bytes_in_keys_and_names_become_no_headers_and_no_log_lines() {
    let (relay, upstream) = front().await;
    let address = relay.address();
    let mut good = 0;
    for evil in EVIL {
        let escaped = percent(evil);
        let basic = format!("Basic {}", BASE64.encode(format!("{evil}:")));
        let body = envelopes::error(&new_id());
        for request in [
            post(&format!("/api/1/envelope/?sentry_key={escaped}"), &[], body.as_bytes()),
            post("/api/1/envelope/", &[("authorization", &basic)], body.as_bytes()),
            post(&format!("/api/{escaped}/envelope/?sentry_key={KEY}"), &[], body.as_bytes()),
            post(&format!("/api/1/envelope/?sentry_key={KEY}&sentry_version={escaped}"), &[], body.as_bytes()),
            post("/api/1/envelope/", &[], format!("{{\"dsn\":{}}}\n", json(&format!("http://{evil}@h/1"))).as_bytes()),
            post(
                &format!("/api/1/envelope/?sentry_key={KEY}"),
                &[],
                format!("{{\"event_id\":{}}}", json(evil)).as_bytes(),
            ),
            post(&format!("/api/1/envelope/?sentry_key={KEY}"), &[], oversized(evil).as_bytes()),
        ] {
            let answer = exchange(&address, &request).await;
            assert!((400..500).contains(&answer.status), "{evil:?}: {answer:?}");
            is_harmless(&answer);
        }
        // An odd client name or envelope header value does no harm, so the envelope is taken.
        let (dsn, sent_at) = (json(&format!("http://{KEY}@h/1")), json(evil));
        let body = format!(
            "{{\"event_id\":\"{}\",\"dsn\":{dsn},\"sent_at\":{sent_at},\"trace\":{{\"public_key\":{sent_at}}}}}\n\
             {{\"type\":{sent_at}}}\nx\n",
            new_id()
        );
        let path = format!("/api/1/envelope/?sentry_key={KEY}&sentry_client={escaped}");
        let answer = exchange(&address, &post(&path, &[], body.as_bytes())).await;
        assert_eq!(answer.status, 200, "{evil:?}: {answer:?}");
        is_harmless(&answer);
        good += 1;
    }
    relay.balanced(SOON).await;
    let seen = upstream.seen();
    assert_eq!(seen.len(), good);
    for seen in seen {
        assert!(!seen.headers.contains_key("x-evil"), "{seen:?}");
        let auth = seen.headers["x-sentry-auth"].to_str().expect("ASCII");
        assert_eq!(auth.matches("sentry_key=").count(), 1, "{auth}");
        assert_eq!(seen.header()["trace"]["public_key"], "cafe");
    }
    let log = relay.log();
    assert!(log.chars().all(|c| c == '\n' || !c.is_control()), "{log:?}");
    assert!(!log.lines().any(|line| line.starts_with("x-evil")), "{log}");
    relay.finish().await;
}

/// A client report over its size limit, with an odd string in its item header.
fn oversized(evil: &str) -> String {
    format!("{{}}\n{{\"type\":\"client_report\",\"x\":{}}}\n{}\n", json(evil), "x".repeat(200 * 1024))
}

#[tokio::test]
async fn header_bytes_that_are_no_text_are_ignored_or_refused() {
    let (relay, upstream) = front().await;
    let address = relay.address();
    let mut good = 0;
    for name in ["user-agent", "origin", "x-forwarded-for", "content-type", "x-sentry-forwarded-for", "cookie"] {
        let body = envelopes::error(&new_id());
        let request =
            post(&format!("/api/1/envelope/?sentry_key={KEY}"), &[(name, "\u{e9}\u{1f4a3}<>\"'`")], body.as_bytes());
        let answer = exchange(&address, &request).await;
        assert_eq!(answer.status, 200, "{name}: {answer:?}");
        good += 1;
    }
    for (name, status) in [("x-sentry-auth", 401), ("content-encoding", 415)] {
        let body = envelopes::error(&new_id());
        let path = "/api/1/envelope/?sentry_key=".to_owned() + KEY;
        let path = if name == "x-sentry-auth" { "/api/1/envelope/" } else { &path };
        let answer = exchange(&address, &post(path, &[(name, "Sentry \u{1f4a3}=\u{e9}")], body.as_bytes())).await;
        assert_eq!(answer.status, status, "{name}: {answer:?}");
        is_harmless(&answer);
    }
    relay.finish().await;
    assert_eq!(upstream.taken_count(), good);
    assert!(upstream.seen().iter().all(|seen| !seen.headers.contains_key("cookie")));
}

/// A frame of HTTP/2 for the connection.
fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    [&[0, 0, payload.len() as u8, kind, flags, 0, 0, 0, 0][..], payload].concat()
}

#[tokio::test]
async fn frames_that_a_library_would_warn_of_write_no_lines() {
    const SETTINGS: u8 = 4;
    const PING: u8 = 6;
    const ACK: u8 = 1;
    let (relay, _upstream) = front().await;
    for address in [relay.address(), relay.admin_address()] {
        let mut connection = TcpStream::connect(address).await.expect("a connection");
        let unasked = frame(PING, ACK, b"unasked!").repeat(100);
        let mut all = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        all.extend(frame(SETTINGS, 0, b""));
        all.extend(unasked);
        all.extend(frame(PING, 0, b"the last"));
        connection.write_all(&all).await.expect("frames are taken");
        // The last one is answered, so all before it were read.
        let mut said = vec![];
        while !said.windows(8).any(|eight| eight == b"the last") {
            let read = timeout(SOON, connection.read_buf(&mut said)).await.expect("an answer in time");
            assert!(read.expect("no reset") > 0, "{said:?}");
        }
    }
    let log = relay.log();
    assert!(!log.contains("PING ack"), "{log}");
    relay.finish().await;
}
