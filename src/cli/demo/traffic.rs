//! What the demo sends: requests recorded from real SDKs, each time under an event id of its own.

use std::time::Duration;

use bytes::Bytes;
use reqwest::{Client, redirect::Policy};
use tokio::time::Instant;

use crate::cli::admin::told;
use crate::cli::failure::{Exit, Failure};
use crate::intake::decode;
use crate::protocol::envelope::Envelope;
use crate::protocol::event_id::EventId;

/// The key that the recorded clients had: the demo's project has it, too, so that they are sent as they were.
pub(super) const KEY: &str = "a1b2c3d4e5f60718293a4b5c6d7e8f90";
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// No recorded body is larger when decoded.
const LARGEST: u64 = 1024 * 1024;

/// A recorded request.
struct Recorded {
    client: &'static str,
    what: &'static str,
    encoding: &'static str,
    body: &'static [u8],
}

/// The recorded requests, in the order in which they are sent, again and again.
const RECORDED: [Recorded; 5] = [
    Recorded {
        client: "@sentry/node 10.24.0",
        what: "TypeError: amount is not a number",
        encoding: "",
        body: include_bytes!("../../../fixtures/envelopes/node-error.body"),
    },
    Recorded {
        client: "sentry-sdk 2.75.0",
        what: "an exception",
        encoding: "gzip",
        body: include_bytes!("../../../fixtures/envelopes/python-error.body"),
    },
    Recorded {
        client: "@sentry/node 10.24.0",
        what: "a transaction",
        encoding: "",
        body: include_bytes!("../../../fixtures/envelopes/node-transaction.body"),
    },
    Recorded {
        client: "@sentry/node 10.24.0",
        what: "a message",
        encoding: "",
        body: include_bytes!("../../../fixtures/envelopes/node-message.body"),
    },
    Recorded {
        client: "sentry-sdk 2.75.0",
        what: "a message",
        encoding: "gzip",
        body: include_bytes!("../../../fixtures/envelopes/python-message.body"),
    },
];

/// A request that was answered with 200.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    /// The event's id, 32 hex digits.
    pub(super) id: String,
    /// Who would have sent it.
    pub(super) client: &'static str,
    /// What it is.
    pub(super) what: &'static str,
    /// How long the answer took.
    pub(super) took: Duration,
}

/// Sends what was recorded, through the front door.
#[derive(Debug)]
pub(super) struct Traffic {
    http: Client,
    url: String,
    turn: usize,
}

impl Traffic {
    /// Traffic to the relay at `address`.
    pub(super) fn new(address: std::net::SocketAddr) -> Result<Self, Failure> {
        let http = Client::builder().no_proxy().redirect(Policy::none()).tls_certs_only([]).timeout(PATIENCE).build();
        let http = http.map_err(|error| Failure::new(Exit::Internal, told(&error)))?;
        Ok(Self { http, url: format!("http://{address}/api/1/envelope/"), turn: 0 })
    }

    /// Sends the next `count` requests, one after the other.
    pub(super) async fn send(&mut self, count: usize) -> Result<Vec<Sent>, Failure> {
        let mut sent = vec![];
        for _ in 0..count {
            let recorded = &RECORDED[self.turn % RECORDED.len()];
            self.turn += 1;
            sent.push(self.send_one(recorded).await?);
        }
        Ok(sent)
    }

    async fn send_one(&self, Recorded { client, what, encoding, body }: &'static Recorded) -> Result<Sent, Failure> {
        let (id, body) = renewed(encoding, body).map_err(|why| Failure::new(Exit::Internal, why))?;
        let began = Instant::now();
        let request = self.http.post(&self.url).header("x-sentry-auth", auth(client)).body(body);
        let answer = request.send().await;
        let answer = answer.map_err(|error| {
            Failure::new(Exit::Negative, format_args!("the relay does not answer: {}", told(&error)))
        })?;
        if !answer.status().is_success() {
            return Err(Failure::new(Exit::Negative, format_args!("the relay answers {} to {what}", answer.status())));
        }
        Ok(Sent { id, client, what, took: began.elapsed() })
    }
}

fn auth(client: &str) -> String {
    let client = client.replace("@sentry/node ", "sentry.javascript.node/").replace("sentry-sdk ", "sentry.python/");
    format!("Sentry sentry_version=7, sentry_client={client}, sentry_key={KEY}")
}

/// The recorded envelope under a new event id: every mention of the old one is replaced, all lengths stay.
fn renewed(encoding: &str, body: &'static [u8]) -> Result<(String, Bytes), String> {
    let encodings = decode::encodings(encoding).map_err(|error| error.to_string())?;
    let body = decode::decode(Bytes::from_static(body), &encodings, LARGEST).map_err(|error| error.to_string())?;
    let envelope = Envelope::parse(body.clone()).map_err(|error| error.to_string())?;
    let old = envelope.event_id().ok_or("the recorded envelope has no event id")?.to_string();
    let new = EventId::random().to_string();
    let mut renewed = body.to_vec();
    for at in memchr::memmem::find_iter(&body, &old) {
        renewed[at..at + new.len()].copy_from_slice(new.as_bytes());
    }
    Ok((new, renewed.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_recorded_envelope_can_be_sent_under_a_new_id() {
        for Recorded { client, what, encoding, body } in &RECORDED {
            let (id, renewed) = renewed(encoding, body).unwrap();
            let envelope = Envelope::parse(renewed).unwrap_or_else(|error| panic!("{client} {what}: {error}"));
            assert_eq!(envelope.event_id().unwrap().to_string(), id);
            let payload: serde_json::Value = serde_json::from_slice(&envelope.payload(&envelope.items()[0])).unwrap();
            assert_eq!(payload["event_id"], id.as_str(), "{client} {what}");
        }
    }
}
