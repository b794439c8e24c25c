//! The rounds: in each, every contender starts afresh, idles, meets a pace, full load, and an upstream that hangs.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::contender::{Contender, Kind};
use super::load::{self, Load, Tally};
use super::options::Options;
use super::sink::{Mode, Sinks};

/// Envelopes per second of the paced parts.
pub(crate) const PACE: u32 = 1000;

/// What one contender did in one round.
#[derive(Clone, Debug)]
pub(crate) struct Round {
    /// From the start of the process to its first answer.
    pub ready: Duration,
    /// Resident bytes before the first envelope.
    pub idle: u64,
    /// Resident bytes at the end of the paced part.
    pub paced: u64,
    /// The most resident bytes up to the end of the full load.
    pub full: u64,
    /// Envelopes per second that both upstreams took, from the first request to the last delivery.
    pub rate: f64,
    /// Processor time per envelope, in µs, the deliveries included.
    pub cpu_us: f64,
    /// The answer's median and 99th percentile in ms, both upstreams healthy.
    pub healthy_ms: [f64; 2],
    /// The same with one upstream hung.
    pub hung_ms: [f64; 2],
}

/// Runs all rounds; the order of the contenders moves on by one each time.
pub(crate) fn run(
    options: &Options,
    contenders: &[Kind],
    place: &Path,
    sinks: &mut Sinks,
) -> Result<BTreeMap<Kind, Vec<Round>>> {
    let mut rounds: BTreeMap<Kind, Vec<Round>> = BTreeMap::new();
    for number in 0..options.rounds() {
        for turn in 0..contenders.len() {
            let kind = contenders[(turn + number) % contenders.len()];
            let files = place.join(format!("round-{number}-{turn}"));
            let round = one(options, kind, &files, sinks).with_context(|| format!("{kind}, round {}", number + 1))?;
            eprintln!(
                "round {} {kind}: {:.0}/s, {:.1} µs each, p99 {:.2} ms, one hung {:.2} ms",
                number + 1,
                round.rate,
                round.cpu_us,
                round.healthy_ms[1],
                round.hung_ms[1]
            );
            rounds.entry(kind).or_default().push(round);
            std::fs::remove_dir_all(&files)?;
        }
    }
    Ok(rounds)
}

fn one(options: &Options, kind: Kind, files: &Path, sinks: &mut Sinks) -> Result<Round> {
    sinks.set_both(Mode::Up)?;
    let contender = Contender::start(kind, files, sinks)?;
    std::thread::sleep(Duration::from_millis(500));
    let idle = contender.usage().resident;

    let before = sinks.counts()?;
    let healthy = load::send(pace(options, &contender, Duration::from_secs(10)))?;
    let paced = contender.usage().resident;
    drained(sinks, before, &healthy)?;

    let (rate, cpu_us) = full_load(options, &contender, sinks)?;
    let full = contender.usage().peak;

    sinks.set(1, Mode::Hung)?;
    let hung = load::send(pace(options, &contender, Duration::from_secs(2)))?;
    sinks.set(1, Mode::Up)?;
    if kind == Kind::Switchyard {
        all_accepted(&hung).context("with one upstream hung")?;
    }
    let both = |tally: &Tally| [tally.percentile_ms(0.5), tally.percentile_ms(0.99)];
    let (healthy_ms, hung_ms) = (both(&healthy), both(&hung));
    Ok(Round { ready: contender.ready_after, idle, paced, full, rate, cpu_us, healthy_ms, hung_ms })
}

/// Envelopes per second taken by both upstreams, and the processor time of each in µs.
fn full_load(options: &Options, contender: &Contender, sinks: &mut Sinks) -> Result<(f64, f64)> {
    let (before, cpu, started) = (sinks.counts()?, contender.usage().cpu_us, Instant::now());
    let tally = load::send(Load {
        pace: None,
        duration: options.full_load(),
        ..pace(options, contender, Duration::from_secs(10))
    })?;
    drained(sinks, before, &tally)?;
    let (took, cpu) = (started.elapsed(), contender.usage().cpu_us - cpu);
    Ok((per(tally.accepted, took.as_secs_f64()), per(cpu, exact(tally.accepted))))
}

fn pace(options: &Options, contender: &Contender, patience: Duration) -> Load {
    Load {
        target: contender.address,
        connections: options.connections,
        fresh: options.connection_per_request,
        pace: Some(PACE),
        duration: options.paced_load(),
        count: u64::MAX,
        patience,
    }
}

/// Waits until both upstreams have what was accepted.
pub(crate) fn drained(sinks: &mut Sinks, before: [u64; 2], tally: &Tally) -> Result<()> {
    all_accepted(tally)?;
    let taken = sinks.wait(before, tally.accepted, Duration::from_secs(60))?;
    let complete = taken.iter().all(|n| *n >= tally.accepted);
    ensure!(complete, "of {} accepted envelopes the upstreams took {taken:?} within a minute", tally.accepted);
    Ok(())
}

/// A figure for a relay that refuses is no figure.
pub(crate) fn all_accepted(tally: &Tally) -> Result<()> {
    let first = tally.failure.as_deref().unwrap_or_default();
    ensure!(tally.failed == 0, "{} of {} envelopes failed: {first}", tally.failed, tally.accepted + tally.failed);
    Ok(())
}

/// `count` per `unit`.
pub(crate) fn per(count: u64, unit: f64) -> f64 {
    exact(count) / unit
}

/// A count as a fraction: exact below 2⁵³.
#[expect(clippy::cast_precision_loss, reason = "counts of a bench are far below 2⁵³")]
pub(crate) fn exact(count: u64) -> f64 {
    count as f64
}
