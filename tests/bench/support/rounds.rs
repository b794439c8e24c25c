//! The rounds: in each, every contender starts anew, idles, and meets a paced load, full load, and an upstream that hangs.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::contender::{Contender, Kind};
use super::load::{self, Load, Tally};
use super::options::Options;
use super::sink::{Mode, Sinks};

/// The rate of the paced parts, in envelopes per second.
pub(crate) const PACE: u32 = 1000;

/// The figures of one contender in one round.
#[derive(Clone, Debug)]
pub(crate) struct Round {
    /// The time from the start of the process to its first answer.
    pub ready: Duration,
    /// Resident memory before the first envelope, in bytes.
    pub idle: u64,
    /// Resident memory at the end of the paced part, in bytes.
    pub paced: u64,
    /// The peak of resident memory up to the end of the full load, in bytes.
    pub full: u64,
    /// Envelopes per second that both upstreams took, from the first request to the last delivery.
    pub rate: f64,
    /// Processor time per envelope in µs, including deliveries.
    pub cpu_us: f64,
    /// The median and 99th percentile of the time to an answer in ms, with both upstreams healthy.
    pub healthy_ms: [f64; 2],
    /// The same with one upstream hung.
    pub hung_ms: [f64; 2],
}

/// Runs all rounds; the order of the contenders rotates by one each time.
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

/// The envelopes per second that both upstreams took, and the processor time per envelope in µs.
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

/// Waits until both upstreams have taken every accepted envelope.
pub(crate) fn drained(sinks: &mut Sinks, before: [u64; 2], tally: &Tally) -> Result<()> {
    all_accepted(tally)?;
    let taken = sinks.wait(before, tally.accepted, Duration::from_secs(60))?;
    let complete = taken.iter().all(|n| *n >= tally.accepted);
    ensure!(complete, "of {} accepted envelopes the upstreams took {taken:?} within a minute", tally.accepted);
    Ok(())
}

/// Fails if a relay refused envelopes: its figures would mean nothing.
pub(crate) fn all_accepted(tally: &Tally) -> Result<()> {
    let first = tally.failure.as_deref().unwrap_or_default();
    ensure!(tally.failed == 0, "{} of {} envelopes failed: {first}", tally.failed, tally.accepted + tally.failed);
    Ok(())
}

/// `count` per `unit`.
pub(crate) fn per(count: u64, unit: f64) -> f64 {
    exact(count) / unit
}

/// A count as a floating-point number, exact below 2⁵³.
#[expect(clippy::cast_precision_loss, reason = "counts of a bench are far below 2⁵³")]
pub(crate) fn exact(count: u64) -> f64 {
    count as f64
}
