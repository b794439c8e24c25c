//! The bench of relays: contenders are child processes, the load comes from this process, and two sinks run in another child.
//!
//! Rule: every contender meets the same load, sinks and machine within a round, and rounds alternate, so that other work of the machine
//! hits all alike. Medians of the rounds are reported. The bench knows a contender by its address and process only and does not look into
//! the relay.
#![allow(dead_code, reason = "each bench uses its part")]
#![expect(clippy::disallowed_methods, reason = "a bench is not the daemon: its tasks die with its runtime")]

mod backlog;
pub(crate) mod contender;
mod envelope;
mod floor;
mod large;
pub(crate) mod load;
#[path = "../../support/net.rs"]
mod net;
mod options;
mod ports;
#[path = "../../support/postgres.rs"]
mod postgres;
pub(crate) mod process;
pub(crate) mod rounds;
pub(crate) mod servers;
pub(crate) mod sink;
mod switch;
mod table;
mod verdict;
mod wire;

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;

use contender::Kind;
use options::Options;

/// The argument that makes this executable play a role of the bench.
pub(crate) const ROLE: &str = "--play";

/// Runs the bench for `contenders`; the first one is judged.
pub(crate) fn main(contenders: &[Kind]) -> ExitCode {
    play_or(|| bench(&Options::parse(), contenders))
}

/// Plays a role if started as a child; otherwise runs `bench`.
pub(crate) fn play_or(bench: impl FnOnce() -> Result<bool>) -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let outcome = match arguments.iter().position(|a| a == ROLE).map(|at| &arguments[at + 1..]) {
        Some([role]) if role.ends_with("sink") => sink::play(role.starts_with("bare")).map(|()| true),
        Some([role, port, a, b]) if role == "floor" => floor::play(port, a, b).map(|()| true),
        Some(other) => Err(anyhow::anyhow!("no such role: {other:?}")),
        None => bench(),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Measures and prints; returns `false` if `--strict` was given and a `must` limit is missed.
fn bench(options: &Options, contenders: &[Kind]) -> Result<bool> {
    let contenders: Vec<Kind> = contenders.iter().copied().filter(|kind| options.wants(*kind)).collect();
    let place = tempfile::Builder::new().prefix("bench-").tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let mut sinks = sink::Sinks::start(options.bare_answers)?;
    let rounds = rounds::run(options, &contenders, place.path(), &mut sinks)?;
    let mut rows = verdict::of_rounds(&rounds, &contenders);
    if contenders.contains(&Kind::Switchyard) {
        if options.backlog > 0 {
            let large =
                backlog::measure(options, options.backlog, place.path(), &mut sinks).context("with a backlog")?;
            let small =
                backlog::measure(options, backlog::SAMPLE, place.path(), &mut sinks).context("without a backlog")?;
            rows.extend(verdict::of_backlog(&small, &large));
        }
        let large = large::measure(place.path(), &mut sinks).context("with large attachments")?;
        rows.push(verdict::of_large(large));
        rows.push(verdict::of_switch(switch::measure(options.rounds(), place.path(), &sinks)?));
    }
    if options.json {
        println!("{}", table::json(&rows, options)?);
    } else {
        println!("{}", table::text(&rows, &contenders, options));
    }
    Ok(!options.strict || rows.iter().all(|row| row.verdict != Some(verdict::Verdict::Missed)))
}
