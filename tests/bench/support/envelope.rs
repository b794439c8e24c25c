//! The envelopes of the load: 4 KiB, an error event as a Node service sends it, each with its own event id.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::UNIX_EPOCH;

/// The key that the load authenticates with.
pub(crate) const KEY: &str = "b7e1a5c04d9f4e2c8a6b3d5f71920c84";

/// The size of an envelope in bytes.
pub(crate) const SIZE: usize = 4096;

const ID_PLACE: &str = "00000000000000000000000000000000";

/// A whole request, rewritten in place for each envelope.
pub(crate) struct Request {
    bytes: Vec<u8>,
    id_places: Vec<usize>,
    run: u64,
    counter: u64,
}

impl Request {
    /// Creates requests to `target` whose ids differ from those of every other `connection` and run.
    pub(crate) fn new(target: SocketAddr, connection: usize, closes: bool) -> Self {
        let body = body();
        let mut text = String::with_capacity(SIZE + 512);
        let connection_header = if closes { "Connection: close\r\n" } else { "" };
        // Writing to a string cannot fail.
        let _infallible = write!(
            text,
            "POST /api/1/envelope/?sentry_key={KEY}&sentry_version=7&sentry_client=sentry.javascript.node%2F10.24.0 \
             HTTP/1.1\r\nHost: {target}\r\n{connection_header}Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let id_places = text.match_indices(ID_PLACE).map(|(at, _)| at).collect();
        let run =
            u64::try_from(UNIX_EPOCH.elapsed().map_or(0, |passed| passed.as_nanos()) & 0xffff_ffff_ffff).unwrap_or(0);
        Self { bytes: text.into_bytes(), id_places, run, counter: u64::try_from(connection).unwrap_or(0) << 40 }
    }

    /// The bytes of the next request.
    pub(crate) fn next(&mut self) -> &[u8] {
        self.counter += 1;
        let id = format!("{:016x}{:016x}", self.run, self.counter);
        for at in &self.id_places {
            self.bytes[*at..*at + id.len()].copy_from_slice(id.as_bytes());
        }
        &self.bytes
    }
}

/// An envelope of exactly [`SIZE`] bytes with a place for the id in header and event.
fn body() -> String {
    let header = format!(
        r#"{{"event_id":"{ID_PLACE}","sent_at":"2026-01-01T00:00:00.000Z","sdk":{{"name":"sentry.javascript.node","version":"10.24.0"}},"trace":{{"environment":"production","release":"ai-admin@1.42.0","public_key":"{KEY}","trace_id":"4a1f0c9be5d84f0e9d3b7c6a58e21f30"}}}}"#
    );
    let mut event = format!(
        r#"{{"event_id":"{ID_PLACE}","platform":"node","level":"error","environment":"production","release":"ai-admin@1.42.0","exception":{{"values":[{{"type":"TypeError","value":"Cannot read properties of undefined (reading 'id')","stacktrace":{{"frames":["#
    );
    let frame = |n: usize| {
        format!(
            r#"{{"filename":"/srv/ai-admin/dist/routes/orders.js","function":"handler{n}","lineno":{n},"colno":17,"in_app":true,"module":"routes.orders"}}"#
        )
    };
    let tail = |padding: usize| format!(r#"]}}}}]}},"extra":{{"padding":"{}"}}}}"#, "x".repeat(padding));
    let item = "{\"type\":\"event\"}";
    let fixed = header.len() + item.len() + 3 + tail(0).len();
    event.push_str(&frame(1));
    let mut n = 2;
    while fixed + event.len() + frame(n).len() < SIZE {
        event.push(',');
        event.push_str(&frame(n));
        n += 1;
    }
    let padding = SIZE.saturating_sub(fixed + event.len());
    format!("{header}\n{item}\n{event}{}\n", tail(padding))
}
