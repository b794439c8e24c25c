//! `cargo bench --bench cluster` compares two relays in one run: one with its journal in PostgreSQL, whose commits wait for a standby, and
//! one with its journal in a file.
//!
//! Relay, both servers, load and upstreams share this machine, so the rates are lower bounds. Plan with the costs per envelope. Rounds
//! alternate; the table shows the median with the least and the most.

mod support;

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Parser;
use comfy_table::{CellAlignment, Table, presets};

use support::contender::{Contender, Kind};
use support::load::{self, Load, Tally};
use support::process;
use support::rounds::{all_accepted, drained, exact, per};
use support::servers::{Counted, Servers};
use support::sink::{Mode, Sinks};

/// The rate of the paced part, in envelopes per second.
const PACE: u32 = 500;
/// The bound for the relay's processor time per envelope, relative to that with a file.
const AIM: f64 = 1.3;

/// Measures the relay on PostgreSQL beside the relay on a file.
#[derive(Parser, Debug)]
#[command(name = "cluster")]
struct Options {
    /// Rounds
    #[arg(long, value_name = "N", default_value_t = 3)]
    rounds: usize,
    /// Seconds of each part of a round
    #[arg(long, value_name = "S", default_value_t = 3)]
    seconds: u64,
    /// Connections of the load
    #[arg(long, value_name = "N", default_value_t = 32)]
    connections: usize,
    /// Given by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

/// The figures of one relay in one round. Those of the servers are `None` for the journal in a file.
#[derive(Clone, Debug, Default)]
struct Round {
    /// Envelopes acknowledged per second while both upstreams refuse connections: the cost of journal and front door alone.
    appends: f64,
    /// The relay's processor time per envelope of `appends`, in µs.
    append_cpu: f64,
    /// Envelopes per second that were acknowledged and delivered to both upstreams.
    rate: f64,
    /// The relay's processor time per envelope of `rate` in µs, and the kernel's part of it.
    cpu: f64,
    kernel: f64,
    /// The 50th and 99th percentile of the time to an answer at [`PACE`], in ms.
    paced_ms: [f64; 2],
    /// The 99th percentile at full load, in ms.
    full_ms: f64,
    /// The servers' work per envelope that was acknowledged and delivered.
    served: Option<Served>,
    /// The same at [`PACE`], where transactions are smaller.
    paced: Option<Served>,
    /// The same per envelope that was only acknowledged.
    appended: Option<Served>,
    /// Processor time of load and upstreams in µs, per envelope that was delivered and per envelope that was only acknowledged.
    others: [f64; 2],
}

/// The servers' work per envelope.
#[derive(Clone, Copy, Debug)]
struct Served {
    /// Processor time of the primary and the standby, in µs.
    cpu: [f64; 2],
    /// Bytes of WAL.
    wal: f64,
    commits: f64,
}

fn main() -> ExitCode {
    support::play_or(|| bench(&Options::parse()))
}

fn bench(options: &Options) -> Result<bool> {
    let place = tempfile::Builder::new().prefix("bench-").tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let mut sinks = Sinks::start(false)?;
    let servers = Servers::start(&place.path().join("servers"))?;
    let (mut file, mut shared) = (vec![], vec![]);
    for number in 0..options.rounds.max(1) {
        let home = place.path().join(format!("round-{number}"));
        let mut turns = [false, true];
        turns.rotate_left(number % 2);
        for is_shared in turns {
            let home = home.join(if is_shared { "shared" } else { "file" });
            let (rounds, on) = if is_shared { (&mut shared, Some(&servers)) } else { (&mut file, None) };
            let round = one(options, &home, &mut sinks, on.map(|servers| (servers, format!("round{number}"))));
            let round = round
                .with_context(|| format!("round {number}, on {}", if is_shared { "PostgreSQL" } else { "a file" }))?;
            eprintln!(
                "round {} {}: {:.0} appends/s, {:.0}/s delivered, {:.1} µs of the relay each, p99 {:.1} ms",
                number + 1,
                if is_shared { "PostgreSQL" } else { "file" },
                round.appends,
                round.rate,
                round.cpu,
                round.paced_ms[1]
            );
            rounds.push(round);
        }
    }
    println!("{}", told(options, &servers.version()?, &file, &shared));
    println!("a write of 8 KiB to this disk: {:.0} µs", write_us(place.path())?);
    Ok(true)
}

fn one(options: &Options, home: &Path, sinks: &mut Sinks, on: Option<(&Servers, String)>) -> Result<Round> {
    sinks.set_both(Mode::Up)?;
    let relay = match &on {
        None => Contender::start(Kind::Switchyard, home, sinks)?,
        Some((servers, database)) => Contender::start_on(&servers.database(database)?, home, sinks)?,
    };
    let on = on.as_ref();
    let (before, cost) = (sinks.counts()?, Cost::now(&relay, on)?);
    let paced = load::send(load(options, &relay, Some(PACE)))?;
    drained(sinks, before, &paced)?;
    let mut round = Round { paced_ms: [paced.percentile_ms(0.5), paced.percentile_ms(0.99)], ..Round::default() };
    (_, _, round.paced) = Cost::now(&relay, on)?.since(&cost, &paced);

    let (before, cost, started) = (sinks.counts()?, Cost::now(&relay, on)?, Instant::now());
    let full = load::send(load(options, &relay, None))?;
    drained(sinks, before, &full)?;
    round.rate = per(full.accepted, started.elapsed().as_secs_f64());
    round.full_ms = full.percentile_ms(0.99);
    (round.cpu, round.others[0], round.served) = Cost::now(&relay, on)?.since(&cost, &full);
    round.kernel = per(relay.usage().kernel_us - cost.kernel, exact(full.accepted));

    // With both upstreams down the relay only takes envelopes. The backlog goes with the relay.
    sinks.set_both(Mode::Down)?;
    let (cost, started) = (Cost::now(&relay, on)?, Instant::now());
    let appended = load::send(load(options, &relay, None))?;
    all_accepted(&appended)?;
    round.appends = per(appended.accepted, started.elapsed().as_secs_f64());
    (round.append_cpu, round.others[1], round.appended) = Cost::now(&relay, on)?.since(&cost, &appended);
    Ok(round)
}

fn load(options: &Options, relay: &Contender, pace: Option<u32>) -> Load {
    let duration = Duration::from_secs(options.seconds);
    let (target, connections, patience) = (relay.address, options.connections, Duration::from_secs(10));
    Load { target, connections, fresh: false, pace, duration, count: u64::MAX, patience }
}

/// The resources that relay, servers and the rest of this bench have used so far.
struct Cost {
    relay: u64,
    /// The kernel's part of it.
    kernel: u64,
    others: u64,
    servers: Option<([u64; 2], Counted)>,
}

impl Cost {
    fn now(relay: &Contender, on: Option<&(&Servers, String)>) -> Result<Self> {
        let counted =
            |(servers, database): &(&Servers, String)| anyhow::Ok((servers.cpu_us(), servers.counted(database)?));
        let (relay, servers) = (relay.usage(), on.map(counted).transpose()?);
        let all = process::usage(std::process::id()).cpu_us;
        let of_servers = servers.map_or(0, |(cpu, _)| cpu.iter().sum());
        let others = all.saturating_sub(relay.cpu_us + of_servers);
        Ok(Self { relay: relay.cpu_us, kernel: relay.kernel_us, others, servers })
    }

    /// Per envelope since `before`: the processor time of the relay and of all others, and the servers' work.
    fn since(&self, before: &Self, tally: &Tally) -> (f64, f64, Option<Served>) {
        let each = |now: u64, before: u64| per(now.saturating_sub(before), exact(tally.accepted));
        let served = self.servers.zip(before.servers).map(|((cpu, now), (cpu_before, before))| Served {
            cpu: [each(cpu[0], cpu_before[0]), each(cpu[1], cpu_before[1])],
            wal: each(now.wal, before.wal),
            commits: each(now.commits, before.commits),
        });
        (each(self.relay, before.relay), each(self.others, before.others), served)
    }
}

/// The time of a page write to the disk in µs: the median of several.
fn write_us(place: &Path) -> Result<f64> {
    let mut file = std::fs::File::create(place.join("write"))?;
    let mut times = vec![];
    for _ in 0..200 {
        let started = Instant::now();
        file.write_all(&[0; 8192])?;
        file.sync_data()?;
        times.push(started.elapsed().as_secs_f64() * 1e6);
    }
    Ok(median(times.into_iter()))
}

/// The table and a line on how it was measured.
fn told(options: &Options, version: &str, file: &[Round], shared: &[Round]) -> String {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_header(["measure", "a file", "PostgreSQL", "ratio"]);
    let mut row = |measure: &str, of: &dyn Fn(&Round) -> f64| {
        let ratios = shared.iter().zip(file).map(|(shared, file)| of(shared) / of(file));
        let cells = [spread(file.iter().map(of)), spread(shared.iter().map(of)), spread(ratios)];
        table.add_row([measure.to_owned()].into_iter().chain(cells));
    };
    row("appends/s, durable, nothing delivered", &|round| round.appends);
    row("relay's CPU for each (µs)", &|round| round.append_cpu);
    row("accepted and delivered to both (/s)", &|round| round.rate);
    row("relay's CPU for each (µs)", &|round| round.cpu);
    row("of it in the kernel (µs)", &|round| round.kernel);
    row(&format!("answer at {PACE}/s: p50 (ms)"), &|round| round.paced_ms[0]);
    row(&format!("answer at {PACE}/s: p99 (ms)"), &|round| round.paced_ms[1]);
    row("answer at full load: p99 (ms)", &|round| round.full_ms);
    row("CPU of load and upstreams, delivered (µs)", &|round| round.others[0]);
    row("CPU of load and upstreams, append (µs)", &|round| round.others[1]);
    let at_pace = format!("at {PACE}/s");
    type Part = fn(&Round) -> Option<Served>;
    let parts: [(&str, Part); 3] =
        [("delivered", |round| round.served), (&at_pace, |round| round.paced), ("append", |round| round.appended)];
    for (what, of) in parts {
        let mut row = |measure: &str, value: &dyn Fn(Served) -> f64| {
            let values = shared.iter().filter_map(of).map(value);
            table.add_row([format!("{measure}, {what}"), String::new(), spread(values), String::new()]);
        };
        row("primary's CPU for each (µs)", &|served| served.cpu[0]);
        row("standby's CPU for each (µs)", &|served| served.cpu[1]);
        row("bytes of the log for each", &|served| served.wal);
        row("envelopes a commit", &|served| 1.0 / served.commits);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let ratio = median(shared.iter().zip(file).map(|(shared, file)| shared.cpu / file.cpu));
    let verdict = if ratio <= AIM { "kept" } else { "MISSED" };
    format!(
        "{table}\n\nthe relay's CPU per envelope, delivered: {ratio:.2} × the file's, aim ≤ {AIM}: {verdict}\n\
         median (least–most) of {} round(s) of {} s, {} connections, 4 KiB events; PostgreSQL {version}, one standby that confirms each \
         commit, fsync; all on {} processors: {}",
        options.rounds.max(1),
        options.seconds,
        options.connections,
        std::thread::available_parallelism().map_or(0, usize::from),
        processor()
    )
}

fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    sorted
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let sorted = sorted(values);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The median with the least and the most.
fn spread(values: impl Iterator<Item = f64>) -> String {
    let sorted = sorted(values);
    match sorted.as_slice() {
        [] => String::new(),
        [least, .., most] => format!("{} ({}–{})", number(sorted[sorted.len() / 2]), number(*least), number(*most)),
        [one] => number(*one),
    }
}

/// Formats a number with three significant digits.
fn number(value: f64) -> String {
    match value {
        v if v >= 100.0 => format!("{v:.0}"),
        v if v >= 10.0 => format!("{v:.1}"),
        v => format!("{v:.2}"),
    }
}

/// The name of the processor, as the kernel reports it.
fn processor() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    name.map_or("unknown", |(_, name)| name.trim()).to_owned()
}
