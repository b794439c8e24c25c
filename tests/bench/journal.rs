//! The cost of the journal alone: puts, the whole way of a record, a start with a million waiting records, and work beside them.
//!
//! `cargo bench --bench journal` prints a table. The files lie in the system's temporary folder; `TMPDIR` names another disk.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::join_all;
use switchyard::clock::{Clock, Timestamp};
use switchyard::journal::sqlite::SqliteJournal;
use switchyard::journal::{Client, Log as _, Queues as _, Settings, Settlement, Submission, TargetId};
use switchyard::protocol::category::{Category, Quantities};
use switchyard::telemetry::ledger::Ledger;
use switchyard::units::ByteSize;

const BODY: usize = 4096;
const PUTS: usize = 40_000;
const WAITING: usize = 1_000_000;

fn main() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    println!(
        "{:<44} {:>12} {:>14} {:>10}",
        "journal, 4 KiB bodies, sync = full", "per second", "CPU µs each", "MiB res."
    );
    for batch in [1, 16, 64] {
        let puts = if batch == 1 { PUTS / 8 } else { PUTS };
        let folder = tempfile::tempdir()?;
        let journal = open(folder.path())?;
        let name = format!("put, {batch} at a time");
        runtime.block_on(async {
            let targets = targets(&journal).await?;
            measured(&name, puts, put(&journal, puts, batch, targets)).await
        })?;
    }
    for batch in [1, 16, 64] {
        let folder = tempfile::tempdir()?;
        let journal = open(folder.path())?;
        runtime.block_on(whole_way(&journal, &format!("put, 2 claims, 2 settles, {batch} at a time"), batch))?;
    }
    runtime.block_on(million())
}

fn settings(folder: &Path) -> Settings {
    Settings { path: folder.join("journal.db"), max_size: ByteSize::mib(64 * 1024), ..Settings::default() }
}

fn open(folder: &Path) -> anyhow::Result<Arc<SqliteJournal>> {
    Ok(Arc::new(SqliteJournal::open(&settings(folder), Clock::system(), Ledger::default())?))
}

async fn targets(journal: &SqliteJournal) -> anyhow::Result<[TargetId; 2]> {
    Ok([journal.target("a").await?, journal.target("b").await?])
}

fn submission(body: &Bytes, targets: &[TargetId]) -> Submission {
    Submission {
        accepted_at: Timestamp::from_millis(1_700_000_000_000),
        project: "shop".into(),
        event_id: Some(7.into()),
        quantities: quantities(),
        keys: vec![7],
        repeats_since: Timestamp::default(),
        client: Client { user_agent: Some("sentry.javascript.node/10.24.0".into()), ..Client::default() },
        body: body.clone().into(),
        targets: targets.to_vec(),
        withheld: vec![],
        spans: None,
    }
}

fn quantities() -> Quantities {
    [(Category::Error, 1)].into_iter().collect()
}

async fn put(journal: &SqliteJournal, puts: usize, batch: usize, targets: [TargetId; 2]) -> anyhow::Result<()> {
    let body = Bytes::from(vec![b'x'; BODY]);
    for _ in 0..puts / batch {
        for answer in join_all((0..batch).map(|_| journal.append(submission(&body, &targets)))).await {
            answer?;
        }
    }
    Ok(())
}

/// Claims and settles for one target until it has seen `count` records.
async fn deliver(journal: &SqliteJournal, target: TargetId, count: usize) -> anyhow::Result<()> {
    let changed = journal.changed(target);
    let mut seen = 0;
    while seen < count {
        let claims = journal.claim(target, Timestamp::from_millis(u64::MAX / 2), 16).await?;
        if claims.is_empty() {
            changed.notified().await;
        }
        for claim in claims {
            seen += 1;
            let settlement = Settlement { delivered: quantities(), ..Settlement::default() };
            journal.settle(&claim.lease, settlement).await?;
        }
    }
    Ok(())
}

async fn whole_way(journal: &Arc<SqliteJournal>, name: &str, batch: usize) -> anyhow::Result<()> {
    let [a, b] = targets(journal).await?;
    let puts = if batch == 1 { PUTS / 8 } else { PUTS };
    let everything = async {
        let all = tokio::join!(put(journal, puts, batch, [a, b]), deliver(journal, a, puts), deliver(journal, b, puts));
        all.0.and(all.1).and(all.2)
    };
    measured(name, puts, everything).await
}

async fn million() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let journal = open(folder.path())?;
    let [a, _] = targets(&journal).await?;
    let small = Bytes::from(vec![b'x'; 512]);
    for _ in 0..WAITING / 250 {
        join_all((0..250).map(|_| journal.append(submission(&small, &[a])))).await;
    }
    drop(journal);
    let began = Instant::now();
    let journal = open(folder.path())?;
    println!(
        "{:<44} {:>9.3} s {:>14} {:>10}",
        "open with 1,000,000 waiting",
        began.elapsed().as_secs_f64(),
        "",
        resident()
    );
    let began = Instant::now();
    let backlog = journal.backlog(a).await?;
    println!("{:<44} {:>9.3} s", format!("backlog of {}", backlog.envelopes), began.elapsed().as_secs_f64());
    let [_, b] = targets(&journal).await?;
    let beside = async { tokio::try_join!(put(&journal, PUTS, 16, [a, b]), deliver(&journal, b, PUTS)).map(|_| ()) };
    measured("put, 1 of 2 delivered, 1,000,000 waiting", PUTS, beside).await?;
    measured("draining the 1,000,000", PUTS, deliver(&journal, a, PUTS)).await?;
    drop(journal);
    let folder = tempfile::tempdir()?;
    let journal = open(folder.path())?;
    let [a, b] = targets(&journal).await?;
    let beside = async { tokio::try_join!(put(&journal, PUTS, 16, [a, b]), deliver(&journal, b, PUTS)).map(|_| ()) };
    measured("the same on an empty journal", PUTS, beside).await
}

async fn measured(name: &str, count: usize, work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let (began, cpu) = (Instant::now(), cpu());
    work.await?;
    let (took, cpu) = (began.elapsed(), self::cpu() - cpu);
    let each = |time: Duration| time.as_secs_f64() * 1e6 / count as f64;
    println!("{name:<44} {:>12.0} {:>14.1} {:>10}", count as f64 / took.as_secs_f64(), each(cpu), resident());
    Ok(())
}

/// CPU time of the whole process, with a resolution of 10 ms.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks: u64 = after_name.split_whitespace().skip(11).take(2).filter_map(|n| n.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 10)
}

/// Resident memory in MiB.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    (statm.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4096) >> 20
}
