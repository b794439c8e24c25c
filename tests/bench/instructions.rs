//! The cost of an envelope in instructions, step by step, beside the committed figures: `cargo bench --bench instructions`.
//!
//! Each step runs twice in its own process under valgrind's callgrind, with many rounds and with few; the difference is the cost of the
//! rounds. Time means nothing on a shared machine, while instructions vary by a per cent or two. A step that takes 5 % more than
//! `instructions.toml` says ends the run with exit code 1. `-- --write` replaces those figures. They hold for one build profile: `.ci/run`
//! builds with `--profile look`.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use switchyard::clock::{Clock, Timestamp};
use switchyard::config::{Config, parse};
use switchyard::delivery::rewrite::{Address, rewrite};
use switchyard::intake::submit::{Entrance, Intake};
use switchyard::journal::sqlite::SqliteJournal;
use switchyard::journal::{Client, Log as _, Queues as _, Settings, Settlement, Submission, TargetId};
use switchyard::policy::cooldown::Cooldowns;
use switchyard::policy::dedup::{Dedup, Keys};
use switchyard::protocol::category::{Category, Quantities};
use switchyard::protocol::envelope::Envelope;
use switchyard::telemetry::ledger::Ledger;
use switchyard::telemetry::metrics::Metrics;

/// The number of clients whose envelopes make one commit.
const BATCH: usize = 16;
/// Rounds of [`BATCH`] envelopes.
const FEW: usize = 20;
const MANY: usize = 120;
/// Measurements of each step. The least counts, because batches differ with the scheduling of threads.
const TIMES: usize = 3;
/// The fraction by which a step may exceed the committed figure.
const MARGIN: f64 = 0.05;

const ENVELOPE: &str = include_str!("../../fixtures/envelopes/node-error-tunnel.body");
const CONFIG: &str = r#"
primary = "a"
[upstreams.a]
[upstreams.b]
[[projects]]
name = "shop"
id = "1"
public_key = "a1b2c3d4e5f60718293a4b5c6d7e8f90"
[projects.upstreams]
a = "http://cafe@127.0.0.1:9/1"
b = "http://beef@127.0.0.1:9/2"
"#;

/// The measured steps; each figure is per envelope.
const STEPS: [(&str, &str); 4] = [
    ("commit", "a journal commit of 16, to two upstreams"),
    ("settle", "the same, claimed and settled at both"),
    ("intake", "taken in, with the commit"),
    ("rewrite", "the header line for an upstream"),
];

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("instructions: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> anyhow::Result<bool> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [work, name, rounds] = &*arguments
        && work == "--work"
    {
        return work_on(name, rounds.parse()?).map(|()| true);
    }
    let figures = STEPS.map(|(name, _)| cost(name).map(|figure| (name, figure)));
    let figures = figures.into_iter().collect::<anyhow::Result<BTreeMap<&str, u64>>>()?;
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bench/instructions.toml");
    if arguments.iter().any(|argument| argument == "--write") {
        let lines: String = figures.iter().map(|(name, figure)| format!("{name} = {figure}\n")).collect();
        std::fs::write(
            &file,
            format!("# Instructions an envelope: cargo bench --profile look --bench instructions -- --write\n{lines}"),
        )?;
    }
    let committed: BTreeMap<String, u64> =
        toml::from_str(&std::fs::read_to_string(&file)?).context("instructions.toml")?;
    println!("{:<44} {:>12} {:>12} {:>8}", "instructions an envelope", "now", "committed", "ratio");
    let mut is_well = true;
    for (name, what) in STEPS {
        let (now, then) =
            (figures[name], committed.get(name).copied().with_context(|| format!("instructions.toml has no {name}"))?);
        let ratio = now as f64 / then as f64;
        let is_more = ratio > 1.0 + MARGIN;
        println!("{what:<44} {now:>12} {then:>12} {ratio:>8.3}{}", if is_more { "  MORE" } else { "" });
        is_well &= !is_more;
    }
    if !is_well {
        println!(
            "A step takes more than {:.0} % more than before. If it has to: `-- --write`, and say why in the commit.",
            MARGIN * 100.0
        );
    }
    Ok(is_well)
}

/// The instructions of a step per envelope.
fn cost(step: &str) -> anyhow::Result<u64> {
    let (mut few, mut many) = (u64::MAX, u64::MAX);
    for _ in 0..TIMES {
        few = few.min(collected(step, FEW)?);
        many = many.min(collected(step, MANY)?);
    }
    Ok(many.saturating_sub(few) / ((MANY - FEW) * BATCH) as u64)
}

/// All instructions of a process that runs so many rounds of a step.
fn collected(step: &str, rounds: usize) -> anyhow::Result<u64> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--"])
        .arg(std::env::current_exe()?)
        .args(["--work", step, &rounds.to_string()])
        .output()
        .context("valgrind is needed: apt install valgrind")?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        bail!("{step} failed under valgrind: {said}");
    }
    let line =
        said.lines().find_map(|line| line.split_once("Collected :")).with_context(|| format!("no count in: {said}"))?;
    Ok(line.1.trim().parse()?)
}

fn work_on(step: &str, rounds: usize) -> anyhow::Result<()> {
    let config =
        parse("bench", CONFIG, &|_| None).map_err(|problems| anyhow::anyhow!("{}", problems.summary()))?.config;
    if step == "rewrite" {
        return rewritten(&config, rounds);
    }
    let folder = tempfile::tempdir()?;
    let settings = Settings { path: folder.path().join("journal.db"), ..Settings::default() };
    let journal = Arc::new(SqliteJournal::open(&settings, Clock::system(), Ledger::default())?);
    // One thread works besides the journal's own, so every run forms the same batches.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let targets = [journal.target("a").await?, journal.target("b").await?];
        match step {
            "commit" => committed(&journal, targets, rounds).await,
            "settle" => settled(&journal, targets, rounds).await,
            "intake" => taken_in(&journal, targets, &config, rounds).await,
            _ => bail!("there is no step {step}"),
        }
    })
}

/// Waits for all futures and polls only those that were woken.
async fn together<T, E>(all: impl Iterator<Item = impl Future<Output = Result<T, E>>>) -> anyhow::Result<()>
where
    E: std::error::Error + Send + Sync + 'static,
{
    let mut all: FuturesUnordered<_> = all.collect();
    while let Some(done) = all.next().await {
        done?;
    }
    Ok(())
}

fn submission(targets: &[TargetId], number: usize) -> Submission {
    Submission {
        accepted_at: Timestamp::from_millis(1_700_000_000_000),
        project: "shop".into(),
        event_id: None,
        quantities: quantities(),
        keys: vec![number as u128],
        repeats_since: Timestamp::default(),
        client: Client::default(),
        body: Bytes::from_static(ENVELOPE.as_bytes()).into(),
        targets: targets.to_vec(),
        withheld: vec![],
        spans: None,
    }
}

fn quantities() -> Quantities {
    [(Category::Error, 1)].into_iter().collect()
}

async fn committed(journal: &SqliteJournal, targets: [TargetId; 2], rounds: usize) -> anyhow::Result<()> {
    for round in 0..rounds {
        together((0..BATCH).map(|n| journal.append(submission(&targets, round * BATCH + n)))).await?;
    }
    Ok(())
}

async fn settled(journal: &SqliteJournal, targets: [TargetId; 2], rounds: usize) -> anyhow::Result<()> {
    for round in 0..rounds {
        together((0..BATCH).map(|n| journal.append(submission(&targets, round * BATCH + n)))).await?;
        for target in targets {
            let (mut seen, changed) = (0, journal.changed(target));
            while seen < BATCH {
                let claims = journal.claim(target, Timestamp::from_millis(u64::MAX / 2), BATCH).await?;
                if claims.is_empty() {
                    changed.notified().await;
                }
                seen += claims.len();
                for claim in claims {
                    let settlement = Settlement { delivered: quantities(), ..Settlement::default() };
                    journal.settle(&claim.lease, settlement).await?;
                }
            }
        }
    }
    Ok(())
}

async fn taken_in(
    journal: &Arc<SqliteJournal>,
    targets: [TargetId; 2],
    config: &Config,
    rounds: usize,
) -> anyhow::Result<()> {
    let (dedup, routing) = (Dedup::new(&config.dedup), Arc::new(config.routing()));
    let (repeats, own) = ((dedup, Keys::new(&journal.secret())), Arc::<SqliteJournal>::clone(journal));
    let intake = Intake::new(own, repeats, Cooldowns::default(), Clock::system(), Metrics::new());
    let project = Arc::clone(routing.project("shop").context("the project")?);
    let targets: HashMap<Arc<str>, TargetId> = [("a".into(), targets[0]), ("b".into(), targets[1])].into();
    intake.configure(routing, targets, &config.limits, HashMap::new());
    let id = ENVELOPE.split('"').nth(3).context("the event's id")?;
    for round in 0..rounds {
        let bodies = (0..BATCH).map(|n| ENVELOPE.replace(id, &format!("{:032x}", round * BATCH + n + 1)));
        let taken = bodies.map(|body| {
            let entrance = Entrance::Request { project: Arc::clone(&project), client: None };
            intake.submit(entrance, Client::default(), Bytes::from(body).into())
        });
        together(taken).await?;
    }
    Ok(())
}

fn rewritten(config: &Config, rounds: usize) -> anyhow::Result<()> {
    let (routing, body) = (config.routing(), Bytes::from_static(ENVELOPE.as_bytes()));
    let envelope = Envelope::parse(body.clone())?;
    let address = Address::of(&routing, "shop", "b").context("an address")?;
    for _ in 0..rounds * BATCH {
        let rewritten = rewrite(&body, Some(envelope.spans()), &address, Duration::from_secs(90), None);
        std::hint::black_box(rewritten);
    }
    Ok(())
}
