//! The load: keep-alive connections (or a new one per request) that send envelopes as fast as they are answered, or at a pace.
//!
//! A paced envelope that goes out late because its connection still waits for an answer counts from the moment it was due, so a relay
//! cannot hide a stall by keeping the load from sending.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use super::envelope::Request;
use super::wire;

/// The parameters of a load.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    /// The address to send to.
    pub target: SocketAddr,
    /// The number of connections.
    pub connections: usize,
    /// Whether each request opens a new connection.
    pub fresh: bool,
    /// Envelopes per second; `None` means as fast as they are answered.
    pub pace: Option<u32>,
    /// The load ends after this time …
    pub duration: Duration,
    /// … or after this many envelopes.
    pub count: u64,
    /// The timeout of an answer, after which the connection is given up.
    pub patience: Duration,
}

/// The results of a load.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Envelopes answered with 200.
    pub accepted: u64,
    /// Envelopes with another answer, a late one or none.
    pub failed: u64,
    /// The first failure.
    pub failure: Option<String>,
    /// The times to the answers in µs, sorted.
    pub latencies: Vec<u32>,
}

impl Tally {
    /// The latency in ms within which the share `of` of the answers came.
    pub(crate) fn percentile_ms(&self, of: f64) -> f64 {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "small"
        )]
        let rank = ((self.latencies.len() as f64) * of).ceil() as usize;
        self.latencies.get(rank.saturating_sub(1)).map_or(f64::NAN, |us| f64::from(*us) / 1000.0)
    }

    fn fail(&mut self, why: String) {
        self.failed += 1;
        self.failure.get_or_insert(why);
    }

    fn add(&mut self, other: Self) {
        self.accepted += other.accepted;
        self.failed += other.failed;
        self.failure = self.failure.take().or(other.failure);
        self.latencies.extend(other.latencies);
    }
}

/// Runs a load on this thread.
pub(crate) fn send(load: Load) -> Result<Tally> {
    ensure!(load.connections > 0, "a load needs a connection");
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let (started, tickets) = (Instant::now(), Arc::new(AtomicU64::new(0)));
        let mut connections = JoinSet::new();
        for index in 0..load.connections {
            connections.spawn(connection(load, index, started, Arc::clone(&tickets)));
        }
        let mut sum = Tally::default();
        while let Some(tally) = connections.join_next().await {
            sum.add(tally?);
        }
        sum.latencies.sort_unstable();
        Ok(sum)
    })
}

async fn connection(load: Load, index: usize, started: Instant, tickets: Arc<AtomicU64>) -> Tally {
    let mut tally = Tally::default();
    let mut request = Request::new(load.target, index, load.fresh);
    let mut wire = None;
    while let Some(began) = turn(&load, started, &tickets).await {
        match timeout(load.patience, exchange(&load, &mut wire, request.next())).await {
            Ok(Ok(200)) => tally.accepted += 1,
            Ok(Ok(status)) => tally.fail(format!("status {status}")),
            Ok(Err(error)) => {
                wire = None;
                tally.fail(format!("{error:#}"));
            }
            Err(_) => {
                wire = None;
                tally.fail(format!("no answer within {:?}", load.patience));
            }
        }
        tally.latencies.push(u32::try_from(began.elapsed().as_micros()).unwrap_or(u32::MAX));
    }
    tally
}

/// Waits for the connection's next turn; returns the time from which the envelope counts, or `None` when the load is over.
async fn turn(load: &Load, started: Instant, tickets: &AtomicU64) -> Option<Instant> {
    let ticket = tickets.fetch_add(1, Ordering::Relaxed);
    if ticket >= load.count || started.elapsed() >= load.duration {
        return None;
    }
    let Some(pace) = load.pace else { return Some(Instant::now()) };
    let due = started + Duration::from_micros(ticket * 1_000_000 / u64::from(pace.max(1)));
    if due >= started + load.duration {
        return None;
    }
    if due <= Instant::now() {
        return Some(due);
    }
    sleep_until(due).await;
    // The timer's delay is not the relay's.
    Some(Instant::now())
}

type Wire = Option<(TcpStream, Vec<u8>)>;

/// Sends one request over the open connection or a new one; returns the status of the answer.
async fn exchange(load: &Load, wire: &mut Wire, request: &[u8]) -> Result<u16> {
    let (mut stream, mut buffer) = match wire.take() {
        Some(open) => open,
        None => {
            let stream = TcpStream::connect(load.target).await?;
            stream.set_nodelay(true)?;
            (stream, Vec::with_capacity(4096))
        }
    };
    stream.write_all(request).await?;
    let head = wire::read_message(&mut stream, &mut buffer).await?;
    let Some(head) = head else { anyhow::bail!("closed without an answer") };
    if !load.fresh && !head.closes {
        *wire = Some((stream, buffer));
    }
    Ok(head.status)
}
