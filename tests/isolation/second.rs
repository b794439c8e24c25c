//! The second project, which an attack on the first must not silence: its events, and the times to its answers.

use std::time::Duration;

use tokio::time::Instant;

use crate::support::envelopes::{envelope, new_id};
use crate::support::relay::Relay;
use crate::support::wire::{Wire, post};

pub(crate) const KEY: &str = "0b0e5ca1ab1e0ddba11c0ffee0decade";

/// The section of a project `app` with these DSNs.
pub(crate) fn project(upstreams: &[(&str, String)]) -> String {
    let dsns: String = upstreams.iter().map(|(name, dsn)| format!("{name} = \"{dsn}\"\n")).collect();
    format!("[[projects]]\nname = \"app\"\nid = \"2\"\npublic_key = \"{KEY}\"\n[projects.upstreams]\n{dsns}")
}

/// Times to answers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Times(Vec<Duration>);

impl Times {
    pub(crate) fn add(&mut self, took: Duration) {
        self.0.push(took);
    }

    fn p99(&self) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort();
        sorted.get((sorted.len() * 99).div_ceil(100).saturating_sub(1)).copied().unwrap_or_default()
    }
}

/// Prints the 99th percentile with and without the attack.
pub(crate) fn compare(what: &str, calm: &Times, attacked: &Times) {
    eprintln!("{what}: the other's p99 {:?}, {:?} without", attacked.p99(), calm.p99());
}

/// A client of the second project.
pub(crate) struct Second {
    address: String,
}

impl Second {
    pub(crate) fn of(relay: &Relay) -> Self {
        Self { address: relay.address() }
    }

    /// Sends `count` events of 4 KiB one after the other, each of which must be taken.
    pub(crate) async fn events(&self, count: usize) -> Times {
        let mut times = Times::default();
        let mut wire = Wire::connect(&self.address).await;
        for _ in 0..count {
            let id = new_id();
            let event = format!(r#"{{"event_id":"{id}","message":"{}"}}"#, "x".repeat(4000));
            let path = format!("/api/2/envelope/?sentry_key={KEY}");
            let began = Instant::now();
            wire.send(&post(&path, &[], envelope(&id, "event", &event).as_bytes())).await;
            let answer = wire.answer().await;
            assert_eq!(answer.status, 200, "{answer:?}");
            times.add(began.elapsed());
        }
        times
    }
}
