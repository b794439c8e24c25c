//! HTTP/1.1 by hand, for requests that no well-behaved client sends and for seeing the exact answer.
//!
//! Rule: nothing is repaired. A test's bytes go out unchanged, and a reset connection fails the test that reads from it.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// A timeout that is longer than the relay waits for a stalled client.
const PATIENCE: Duration = Duration::from_secs(20);

/// One connection.
pub(crate) struct Wire {
    stream: TcpStream,
    read: Vec<u8>,
}

/// An answer as it came.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// The value of a header; empty when it is absent.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("a header in ASCII"))
    }

    /// The body parsed as JSON, which it must be.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The reason of a refusal; its body must have the form that SDKs know.
    pub(crate) fn detail(&self) -> String {
        let json = self.json();
        assert!(json["causes"].is_array(), "{json}");
        json["detail"].as_str().unwrap_or_else(|| panic!("{json}")).to_owned()
    }
}

/// A POST with a `Content-Length` and these headers, and no others but `Host`.
pub(crate) fn post(path: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let length = body.len().to_string();
    let headers = [headers, &[("content-length", &length)]].concat();
    [&head("POST", path, &headers), body].concat()
}

/// A POST in chunks of `size` bytes, as clients send that do not know the length.
pub(crate) fn chunked(path: &str, headers: &[(&str, &str)], body: &[u8], size: usize) -> Vec<u8> {
    let mut out = head("POST", path, &[headers, &[("transfer-encoding", "chunked")]].concat());
    for chunk in body.chunks(size) {
        out.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        out.extend_from_slice(chunk);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"0\r\n\r\n");
    out
}

/// The head of a request.
pub(crate) fn head(method: &str, path: &str, headers: &[(&str, &str)]) -> Vec<u8> {
    let lines: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    format!("{method} {path} HTTP/1.1\r\nhost: relay.test\r\n{lines}\r\n").into_bytes()
}

/// Sends one request on a connection of its own.
pub(crate) async fn exchange(address: &str, request: &[u8]) -> Answer {
    let mut wire = Wire::connect(address).await;
    wire.send(request).await;
    wire.answer().await
}

impl Wire {
    /// Opens a connection.
    pub(crate) async fn connect(address: &str) -> Self {
        Self::of(TcpStream::connect(address).await.expect("a connection"))
    }

    /// Wraps a connection that is open already.
    pub(crate) fn of(stream: TcpStream) -> Self {
        Self { stream, read: Vec::new() }
    }

    /// Sends all of `bytes`.
    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        timeout(PATIENCE, self.stream.write_all(bytes))
            .await
            .expect("bytes are taken in time")
            .expect("bytes are taken");
    }

    /// Reads one answer.
    pub(crate) async fn answer(&mut self) -> Answer {
        let end = loop {
            if let Some(end) = self.read.windows(4).position(|four| four == b"\r\n\r\n") {
                break end;
            }
            assert!(self.more().await > 0, "no whole answer: {:?}", String::from_utf8_lossy(&self.read));
        };
        let rest = self.read.split_off(end + 4);
        let head = String::from_utf8(std::mem::replace(&mut self.read, rest)).expect("a head in ASCII");
        let mut lines = head.trim_end().split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|code| code.parse().ok());
        let pair = |line: &str| {
            let (name, value) = line.split_once(": ").unwrap_or_else(|| panic!("no header: {line}"));
            (name.parse::<HeaderName>().expect("a name"), value.parse::<HeaderValue>().expect("a value"))
        };
        let headers: HeaderMap = lines.map(pair).collect();
        let length =
            headers.get("content-length").map_or(0, |n| n.to_str().expect("digits").parse().expect("a length"));
        while self.read.len() < length {
            assert!(self.more().await > 0, "a cut answer: {head}");
        }
        let rest = self.read.split_off(length);
        Answer { status: status.expect("a status"), headers, body: std::mem::replace(&mut self.read, rest) }
    }

    /// Sends as much of `bytes` as the other side takes; it may close before the end.
    pub(crate) async fn offer(&mut self, bytes: &[u8]) {
        drop(timeout(PATIENCE, self.stream.write_all(bytes)).await.expect("bytes are taken or refused in time"));
    }

    /// Reads until the other side closes the connection in order, and returns what came.
    pub(crate) async fn rest(mut self) -> Vec<u8> {
        while self.more().await > 0 {}
        self.read
    }

    /// Reads until the other side closes the connection in order.
    pub(crate) async fn ends(self) {
        drop(self.rest().await);
    }

    async fn more(&mut self) -> usize {
        let read = self.stream.read_buf(&mut self.read);
        timeout(PATIENCE, read).await.expect("an answer or an end in time").expect("no reset")
    }
}
