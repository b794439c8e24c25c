//! The requests that the demo sends: recorded from real SDKs, each sent under a new event id.

use std::time::Duration;

use bytes::Bytes;
use reqwest::{Client, redirect::Policy};
use tokio::time::Instant;

use crate::cli::admin::told;
use crate::cli::failure::{Exit, Failure};
use crate::protocol::envelope::Envelope;
use crate::protocol::event_id::EventId;

/// The key that the recorded clients used. The demo's project has it, so that the requests are sent unchanged.
pub(super) const KEY: &str = "a1b2c3d4e5f60718293a4b5c6d7e8f90";
/// The timeout of a request.
const PATIENCE: Duration = Duration::from_secs(10);

/// A recorded request.
struct Recorded {
    client: &'static str,
    what: &'static str,
    body: &'static [u8],
}

/// The recorded requests, in the order in which they are sent over and over.
const RECORDED: [Recorded; ROUND] = [
    Recorded {
        client: "@sentry/node 10.24.0",
        what: "TypeError: amount is not a number",
        body: include_bytes!("../../../fixtures/envelopes/node-error.body"),
    },
    Recorded {
        client: "sentry-cli 3.8.0",
        what: "nightly import failed",
        body: include_bytes!("../../../fixtures/envelopes/cli-event.body"),
    },
    Recorded {
        client: "@sentry/node 10.24.0",
        what: "POST /checkout, a transaction",
        body: include_bytes!("../../../fixtures/envelopes/node-transaction.body"),
    },
    Recorded {
        client: "@sentry/node 10.24.0",
        what: "stock of A-17 is low",
        body: include_bytes!("../../../fixtures/envelopes/node-message.body"),
    },
];

/// The number of recorded requests.
pub(super) const ROUND: usize = 4;

/// A request that was answered with 200.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    /// The event's id, 32 hex digits.
    pub(super) id: String,
    /// The SDK that the request was recorded from.
    pub(super) client: &'static str,
    /// What the event is about.
    pub(super) what: &'static str,
    /// How long the answer took.
    pub(super) took: Duration,
}

/// Sends the recorded requests to the relay's public listener.
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

    async fn send_one(&self, Recorded { client, what, body }: &'static Recorded) -> Result<Sent, Failure> {
        let (id, body) = renewed(body).map_err(|why| Failure::new(Exit::Internal, why))?;
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
    let client = client.replace("@sentry/node ", "sentry.javascript.node/").replace("sentry-cli ", "sentry-cli/");
    format!("Sentry sentry_version=7, sentry_client={client}, sentry_key={KEY}")
}

/// The recorded envelope under a new event id. Every mention of the old id, with or without hyphens, is replaced; all lengths stay.
fn renewed(body: &'static [u8]) -> Result<(String, Bytes), String> {
    let envelope = Envelope::parse(Bytes::from_static(body)).map_err(|error| error.to_string())?;
    let old = envelope.event_id().ok_or("the recorded envelope has no event id")?;
    let new = EventId::random();
    let mut renewed = body.to_vec();
    for spelling in [EventId::to_string, hyphenated] {
        let (old, new) = (spelling(&old), spelling(&new));
        for at in memchr::memmem::find_iter(body, &old) {
            renewed[at..at + new.len()].copy_from_slice(new.as_bytes());
        }
    }
    Ok((new.to_string(), renewed.into()))
}

fn hyphenated(id: &EventId) -> String {
    uuid::Uuid::from_u128(id.as_u128()).hyphenated().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_recorded_envelope_can_be_sent_under_a_new_id() {
        for Recorded { client, what, body } in &RECORDED {
            let (id, renewed) = renewed(body).unwrap();
            let envelope = Envelope::parse(renewed).unwrap_or_else(|error| panic!("{client} {what}: {error}"));
            assert_eq!(envelope.event_id().unwrap().to_string(), id);
            let payload: serde_json::Value = serde_json::from_slice(&envelope.payload(&envelope.items()[0])).unwrap();
            assert_eq!(payload["event_id"], id.as_str(), "{client} {what}");
        }
    }
}
