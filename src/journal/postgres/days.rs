//! Bodies by the day on which their records were accepted: each day is a partition, and to prune a day is to drop it.
//!
//! Rules: the day is that of the record's time, whichever relay's clock told it, so nothing else has to be kept. The leader makes the
//! partitions of today and tomorrow by the database's clock; a body of a day that has none stands with its record. A day goes when it lies
//! behind what is retained and no record has its body there. The last few bodies move to their records. A day of which much still waits
//! stays, and what was pruned of it is deleted there. Who drops a day waits for locks for moments only: what comes meanwhile waits as
//! long.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::journal::term::Epoch;

use crate::telemetry::log::{self, Line};

use super::connect::Connection;
use super::fault::Fault;
use super::schema::BODIES_BY_DAY;
use super::shared::Shared;
use super::term;
use super::work::Work;

/// Milliseconds of a day.
const DAY: i64 = 24 * 3_600_000;
/// Of so few records the bodies move out of a day that could go otherwise, so many at once.
const FEW: usize = 256;
const MORE: i64 = FEW as i64 + 1;
const STEP: i64 = 64;
/// How long a table is waited for, and how long it is left alone when somebody has it.
const PATIENCE: &str = "SET LOCAL lock_timeout = '50ms'";
const LATER: Duration = Duration::from_secs(5);
/// How many bodies of a day that stays are looked at in one step.
const LOOK: i64 = 1024;

/// The day of a time.
pub(super) const fn of(ms: i64) -> i64 {
    ms.div_euclid(DAY)
}

/// The table of a day.
fn partition(day: i64) -> String {
    format!("body_{day}")
}

/// Reads which days have a partition that can be used: none does while a relay that would not find bodies there may be at work.
pub(super) async fn read(shared: &Shared) -> Result<(), Fault> {
    let client = shared.client().await?;
    let is_known = "SELECT oldest >= $1 AND coalesce(earlier < clock_timestamp() - interval '1 minute', true)
         AND NOT EXISTS (SELECT 1 FROM node WHERE NOT replaced AND format < $1) FROM meta";
    let is_known = client.one(is_known, &[&BODIES_BY_DAY]).await?.get(0);
    let days = if is_known { made(&client).await?.1 } else { vec![] };
    shared.days.store(Arc::new(days));
    Ok(())
}

/// Today by the clock of the database, and the days that have a partition.
async fn made(client: &Connection) -> Result<(i64, Vec<i64>), Fault> {
    let made = "SELECT floor(extract(epoch FROM clock_timestamp()) / 86400)::bigint, ARRAY(
             SELECT c.relname::text FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
             WHERE i.inhparent = 'body'::regclass)";
    let row = client.one(made, &[]).await?;
    let names: Vec<&str> = row.get(1);
    Ok((row.get(0), names.iter().filter_map(|name| name.strip_prefix("body_")?.parse().ok()).collect()))
}

/// Makes the partitions of today and tomorrow, once they can be used. What is being written waits for nothing: a partition is made apart.
/// None is analyzed while it is small: what was planned then would read it from end to end later.
pub(super) async fn make(shared: &Shared, epoch: Epoch) -> Result<(), Fault> {
    let mut pooled = shared.client().await?;
    let (today, made) = made(&pooled).await?;
    let missing: Vec<i64> = [today, today + 1].into_iter().filter(|day| !made.contains(day)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    if pooled.query_one("SELECT oldest FROM meta", &[]).await?.get::<_, i32>(0) < BODIES_BY_DAY {
        return Ok(());
    }
    let tx = pooled.transaction().await?;
    term::under(&*tx, epoch).await?;
    for day in missing {
        let name = partition(day);
        tx.batch_execute(&format!(
            "{PATIENCE}; CREATE TABLE {name} (LIKE body INCLUDING ALL) WITH (autovacuum_analyze_threshold = 10000);
             ALTER TABLE body ATTACH PARTITION {name} FOR VALUES IN ({day})"
        ))
        .await?;
    }
    Ok(tx.commit().await?)
}

/// Drops the days that ended before that time and that no record needs.
pub(super) async fn drop_old(shared: &Arc<Shared>, before: i64) -> Result<(), Fault> {
    if shared.over().not_before > Instant::now() {
        return Ok(());
    }
    let (today, made) = made(&*shared.client().await?).await?;
    shared.over().held.retain(|day, _| made.contains(day));
    for day in made.into_iter().filter(|day| *day < today - 1 && day.saturating_add(1).saturating_mul(DAY) <= before) {
        match drop_one(shared, day).await {
            Err(fault) if fault.is_away() => return Err(fault),
            Err(fault) => {
                shared.over().not_before = Instant::now() + LATER;
                if let Some(Line { suppressed }) = log::admit("day stays", &day.to_string()) {
                    let why = "a day of bodies that is over cannot be dropped now; it is tried again";
                    tracing::warn!(%fault, day, suppressed, "{why}");
                }
            }
            Ok(()) => {}
        }
    }
    Ok(())
}

async fn drop_one(shared: &Arc<Shared>, day: i64) -> Result<(), Fault> {
    if shared.client().await?.all(LEFT, &[&day, &MORE]).await?.len() <= FEW {
        return Work::run(shared, async |work| close(work, day).await).await;
    }
    let from = shared.over().held.get(&day).copied().unwrap_or(Some(i64::MIN));
    let Some(from) = from else { return Ok(()) };
    let next = Work::run(shared, async |work| delete_pruned(work, day, from).await).await?;
    shared.over().held.insert(day, next);
    Ok(())
}

/// Deletes bodies of a day behind that record whose records are gone, of a bounded number; returns behind which the next look begins.
async fn delete_pruned(work: &Work, day: i64, from: i64) -> Result<Option<i64>, Fault> {
    let sql = "WITH looked AS (SELECT record FROM body WHERE day = $1 AND record > $2 ORDER BY record LIMIT $3),
         gone AS (DELETE FROM body WHERE day = $1 AND record IN (
             SELECT record FROM looked l WHERE NOT EXISTS (SELECT 1 FROM record r WHERE r.id = l.record)))
         SELECT max(record), count(*) FROM looked";
    let rows = work.query(sql, &[&day, &from, &LOOK]).await?;
    Ok(rows.first().filter(|row| row.get::<_, i64>(1) == LOOK).and_then(|row| row.get(0)))
}

/// The records that have their bodies there, up to a number.
const LEFT: &str =
    "SELECT id FROM record r WHERE accepted_at >= $1::bigint * 86400000 AND accepted_at < ($1 + 1) * 86400000
     AND body IS NULL AND large IS NULL AND (SELECT true FROM body b WHERE b.day = $1 AND b.record = r.id) LIMIT $2";

/// Moves the last bodies of a day to their records, or drops it. What a relay writes there that has not looked for a while is seen: it has
/// come to its end when the lock is there.
async fn close(work: &Work, day: i64) -> Result<(), Fault> {
    let left = work.query(LEFT, &[&day, &STEP]).await?;
    if !left.is_empty() {
        let left: Vec<i64> = left.iter().map(|row| row.get(0)).collect();
        let sql =
            "UPDATE record r SET body = b.bytes FROM body b WHERE r.id = ANY($2) AND b.day = $1 AND b.record = r.id";
        return work.execute(sql, &[&day, &left]).await;
    }
    work.change(&format!("{PATIENCE}; LOCK TABLE ONLY body IN ACCESS EXCLUSIVE MODE")).await?;
    if work.query(LEFT, &[&day, &STEP]).await?.is_empty() {
        work.change(&format!("DROP TABLE {}", partition(day))).await?;
    }
    Ok(())
}
