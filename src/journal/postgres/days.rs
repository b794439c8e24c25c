//! Bodies by day: each day of acceptance is a partition, and pruning a day drops it.
//!
//! Rules: the day is that of the record's acceptance, whichever relay's clock told it, so nothing else has to be kept. The leader makes the
//! partitions of today and tomorrow by the database's clock. A body of a day without a partition is kept with its record. A day is dropped
//! when it is older than what is retained and no record has its body there. The last few bodies move to their records. A day with many
//! bodies stays, and bodies of pruned records are deleted there. A transaction that drops a day waits for locks for moments only, because
//! others wait as long behind it.

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
/// A day with at most [`FEW`] bodies left is emptied into their records, [`STEP`] at a time, so that it can go.
const FEW: usize = 256;
const MORE: i64 = FEW as i64 + 1;
const STEP: i64 = 64;
/// How long a lock is waited for, and how long days are left alone after that failed.
const PATIENCE: &str = "SET LOCAL lock_timeout = '50ms'";
const LATER: Duration = Duration::from_secs(5);
/// How many bodies of a day that stays one step reads.
const LOOK: i64 = 1024;

/// The number of the day of a time.
pub(super) const fn of(ms: i64) -> i64 {
    ms.div_euclid(DAY)
}

/// The name of a day's partition.
fn partition(day: i64) -> String {
    format!("body_{day}")
}

/// Reads which days have a partition that can be used: none while a relay may be at work that would not find bodies there.
pub(super) async fn read(shared: &Shared) -> Result<(), Fault> {
    let client = shared.client().await?;
    let is_known = "SELECT oldest >= $1 AND coalesce(earlier < clock_timestamp() - interval '1 minute', true)
         AND NOT EXISTS (SELECT 1 FROM node WHERE NOT replaced AND format < $1) FROM meta";
    let is_known = client.one(is_known, &[&BODIES_BY_DAY]).await?.get(0);
    let days = if is_known { made(&client).await?.1 } else { vec![] };
    shared.days.store(Arc::new(days));
    Ok(())
}

/// Today by the database's clock, and the days that have a partition.
async fn made(client: &Connection) -> Result<(i64, Vec<i64>), Fault> {
    let made = "SELECT floor(extract(epoch FROM clock_timestamp()) / 86400)::bigint, ARRAY(
             SELECT c.relname::text FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
             WHERE i.inhparent = 'body'::regclass)";
    let row = client.one(made, &[]).await?;
    let names: Vec<&str> = row.get(1);
    Ok((row.get(0), names.iter().filter_map(|name| name.strip_prefix("body_")?.parse().ok()).collect()))
}

/// Makes the partitions of today and tomorrow, once they can be used. Each is made apart and then attached, so writers wait for nothing. A
/// small partition is not analyzed: a plan made then would scan it from end to end later.
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

/// Drops the days that ended before this time and that no record needs.
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

/// Deletes bodies of a day whose records are gone, of a bounded number behind the record `from`; returns the record behind which the next
/// step begins, `None` at the end.
async fn delete_pruned(work: &Work, day: i64, from: i64) -> Result<Option<i64>, Fault> {
    let sql = "WITH looked AS (SELECT record FROM body WHERE day = $1 AND record > $2 ORDER BY record LIMIT $3),
         gone AS (DELETE FROM body WHERE day = $1 AND record IN (
             SELECT record FROM looked l WHERE NOT EXISTS (SELECT 1 FROM record r WHERE r.id = l.record)))
         SELECT max(record), count(*) FROM looked";
    let rows = work.query(sql, &[&day, &from, &LOOK]).await?;
    Ok(rows.first().filter(|row| row.get::<_, i64>(1) == LOOK).and_then(|row| row.get(0)))
}

/// The records that have their bodies in a day's partition, up to a number.
const LEFT: &str =
    "SELECT id FROM record r WHERE accepted_at >= $1::bigint * 86400000 AND accepted_at < ($1 + 1) * 86400000
     AND body IS NULL AND large IS NULL AND (SELECT true FROM body b WHERE b.day = $1 AND b.record = r.id) LIMIT $2";

/// Moves the last bodies of a day to their records, or drops the day if there are none. The check under the lock also sees bodies of relays
/// that have not read the days for a while: their transactions have ended by then.
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
