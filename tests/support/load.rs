//! Senders that post errors as services do: several at once, on kept or new connections, paced or not.
//!
//! Rule: a sender sends an envelope once, as SDKs do, and remembers a missing answer. It knows only the relay's address.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use super::connection::Connection;
use super::envelopes;

/// How the senders behave.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Style {
    pub(crate) senders: usize,
    /// The interval between two envelopes of a sender; `None` sends the next when one is answered.
    pub(crate) pace: Option<Duration>,
    /// Whether a connection serves several requests.
    pub(crate) keep_alive: bool,
}

/// One envelope that was sent.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    pub(crate) id: String,
    /// The status, or the error of the connection.
    pub(crate) outcome: Result<u16, String>,
    /// The time at which it was sent.
    pub(crate) at: Instant,
    pub(crate) took: Duration,
}

/// Everything that a load has sent.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sendings(pub(crate) Vec<Sent>);

impl Sendings {
    /// The ids of envelopes that were answered with 200.
    pub(crate) fn accepted(&self) -> BTreeSet<String> {
        self.0.iter().filter(|sent| sent.outcome == Ok(200)).map(|sent| sent.id.clone()).collect()
    }

    /// The envelopes that were not answered with 200.
    pub(crate) fn failures(&self) -> Vec<&Sent> {
        self.0.iter().filter(|sent| sent.outcome != Ok(200)).collect()
    }

    /// The longest time to an answer.
    pub(crate) fn slowest(&self) -> Duration {
        self.0.iter().map(|sent| sent.took).max().unwrap_or_default()
    }
}

/// Running senders; dropping this ends them.
pub(crate) struct Load {
    tasks: JoinSet<Vec<Sent>>,
    stop: CancellationToken,
    answered: watch::Receiver<u64>,
}

impl Load {
    /// Starts senders that post to `host:port`.
    pub(crate) fn start(address: &str, style: Style) -> Self {
        let (tasks, stop, (count, answered)) = (JoinSet::new(), CancellationToken::new(), watch::channel(0));
        let mut load = Self { tasks, stop, answered };
        for _ in 0..style.senders {
            load.tasks.spawn(send(address.to_owned(), style, load.stop.clone(), count.clone()));
        }
        load
    }

    /// The number of envelopes answered with 200 so far.
    pub(crate) fn answered(&self) -> u64 {
        *self.answered.borrow()
    }

    /// Waits until `count` more envelopes are answered with 200.
    pub(crate) async fn more(&mut self, count: u64) {
        let goal = self.answered() + count;
        let reached = timeout(Duration::from_secs(20), self.answered.wait_for(|answered| *answered >= goal));
        let is_reached = reached.await.is_ok_and(|reached| reached.is_ok());
        assert!(is_reached, "{} were answered and not {goal}", self.answered());
    }

    /// Stops the senders once each has finished its current envelope.
    pub(crate) async fn stop(mut self) -> Sendings {
        self.stop.cancel();
        let mut all = Vec::new();
        while let Some(sent) = self.tasks.join_next().await {
            all.extend(sent.expect("a sender does not panic"));
        }
        Sendings(all)
    }
}

async fn send(address: String, style: Style, stop: CancellationToken, answered: watch::Sender<u64>) -> Vec<Sent> {
    let (mut all, mut kept) = (Vec::new(), None);
    let mut turns = interval(style.pace.unwrap_or(Duration::from_millis(20)));
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !stop.is_cancelled() {
        let failed = all.last().is_some_and(|sent: &Sent| sent.outcome != Ok(200));
        if style.pace.is_some() || failed {
            turns.tick().await;
        }
        let id = envelopes::new_id();
        let began = Instant::now();
        let outcome = post(&address, &mut kept, &envelopes::error(&id)).await;
        if !style.keep_alive || outcome.is_err() {
            kept = None;
        }
        if outcome == Ok(200) {
            answered.send_modify(|count| *count += 1);
        }
        all.push(Sent { id, outcome, at: began, took: began.elapsed() });
    }
    all
}

async fn post(address: &str, kept: &mut Option<Connection>, envelope: &str) -> Result<u16, String> {
    if kept.is_none() {
        *kept = Some(Connection::open(address).await.map_err(|error| format!("no connection: {error}"))?);
    }
    let Some(wire) = kept else { return Err("no connection".to_owned()) };
    let answer = wire.post(envelope).await.map_err(|error| format!("no answer: {error}"))?;
    if answer.is_last() {
        *kept = None;
    }
    Ok(answer.status)
}
