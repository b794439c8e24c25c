//! A backlog: both upstreams are down while envelopes come in, then Switchyard is killed, started again, and delivers.
//!
//! The cost of an envelope is that of accepting the last ones plus that of delivering the first ones. It is compared with the same
//! procedure on a small backlog, so that all else is equal.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::contender::{Contender, Kind};
use super::load::{self, Load};
use super::options::Options;
use super::rounds::{all_accepted, exact, per};
use super::sink::{Mode, Sinks};

/// The number of envelopes over which costs are measured; also the size of the small backlog.
pub(crate) const SAMPLE: u64 = 30_000;

/// The measurements with a backlog.
#[derive(Clone, Debug)]
pub(crate) struct Backlog {
    /// The number of envelopes that waited for each of the two upstreams.
    pub waiting: u64,
    /// Resident memory in bytes: the larger of the values before and after the restart.
    pub resident: u64,
    /// The time from the start of the process to its first answer, with the whole backlog.
    pub ready: Duration,
    /// Processor time for accepting one envelope, in µs.
    pub accept_us: f64,
    /// Processor time for delivering one envelope to one upstream, in µs.
    pub deliver_us: f64,
}

impl Backlog {
    /// Processor time for accepting an envelope and delivering it twice, in µs.
    pub(crate) fn cost_us(&self) -> f64 {
        self.accept_us + 2.0 * self.deliver_us
    }
}

/// Builds a backlog of `size` envelopes and measures.
pub(crate) fn measure(options: &Options, size: u64, place: &Path, sinks: &mut Sinks) -> Result<Backlog> {
    let size = if options.quick { size.min(50_000) } else { size };
    let files = place.join(format!("backlog-{size}"));
    sinks.set_both(Mode::Down)?;
    let mut relay = Contender::start_with_room(Kind::Switchyard, &files, sinks, "16GiB")?;
    let started = Instant::now();
    let first = fill(options, &relay, size.saturating_sub(SAMPLE))?;
    let cpu = relay.usage().cpu_us;
    let last = fill(options, &relay, SAMPLE)?;
    let accept_us = per(relay.usage().cpu_us - cpu, exact(last.max(1)));
    let waiting = first + last;
    eprintln!("backlog: {waiting} waiting after {:.0} s", started.elapsed().as_secs_f64());
    let before_restart = relay.usage().resident;
    relay.kill()?;
    drop(relay);

    let relay = Contender::start_with_room(Kind::Switchyard, &files, sinks, "16GiB").context("the restart")?;
    std::thread::sleep(Duration::from_millis(500));
    let resident = before_restart.max(relay.usage().resident);
    let ready = relay.ready_after;
    let deliver_us = deliver(&relay, sinks)?;
    drop(relay);
    sinks.set_both(Mode::Up)?;
    std::fs::remove_dir_all(&files)?;
    eprintln!("backlog: accept {accept_us:.1} µs, deliver {deliver_us:.1} µs each, ready after {ready:?}");
    Ok(Backlog { waiting, resident, ready, accept_us, deliver_us })
}

/// Sends up to `count` envelopes within a time limit; returns the number accepted.
fn fill(options: &Options, relay: &Contender, count: u64) -> Result<u64> {
    let tally = load::send(Load {
        target: relay.address,
        connections: options.connections,
        fresh: false,
        pace: None,
        duration: Duration::from_secs(options.backlog_seconds),
        count,
        patience: Duration::from_secs(30),
    })?;
    all_accepted(&tally).context("while the upstreams are down")?;
    Ok(tally.accepted)
}

/// Brings the upstreams back and measures the processor time of a delivery once deliveries have begun.
fn deliver(relay: &Contender, sinks: &mut Sinks) -> Result<f64> {
    let before = sinks.counts()?;
    sinks.set_both(Mode::Up)?;
    let begun = sinks.wait(before, 100, Duration::from_secs(90))?;
    ensure!(
        begun.iter().all(|n| *n >= 100),
        "the backlog is not delivered: {begun:?} within 90 s of the upstreams' return"
    );
    let (before, cpu) = (sinks.counts()?, relay.usage().cpu_us);
    let taken = sinks.wait(before, SAMPLE / 2, Duration::from_secs(15))?;
    Ok(per(relay.usage().cpu_us - cpu, exact((taken[0] + taken[1]).max(1))))
}
