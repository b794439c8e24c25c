//! The rows of evidence: attempts, lags and outages of upstreams, tallies of the intake, and when the relay ran.
//!
//! Rule: rows are written in a transaction with other changes, and removed after 90 days, with the hours of the accounts.

use std::sync::Arc;

use rusqlite::{Connection, Row, params};

use crate::clock::Timestamp;
use crate::journal::evidence::{CANARY_FAILED, Evidence, KEPT, LastHours, MOST, Observation, Outage, Stretch, Tally};
use crate::journal::{Switch, TargetId, bounded};
use crate::policy::verdict::Verdict;
use crate::telemetry::lags::Lags;
use crate::telemetry::observations::{Change, Performance};

use super::shared::Shared;
use super::{steps, verification};

/// Writes a switch.
pub(super) fn write_switch(conn: &Connection, switch: &Switch) -> rusqlite::Result<()> {
    let Switch { at, project, from, to, reason, author } = switch;
    conn.prepare_cached(
        "INSERT INTO switch (at, project, before, after, reason, author) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?
    .execute(params![at.as_millis().cast_signed(), project, from, to, reason, author])
    .map(drop)
}

/// Writes an observation.
pub(super) fn write(conn: &Connection, observation: &Observation) -> rusqlite::Result<()> {
    let Observation { started, now, stopping, upstreams, intake, steps: told, canaries } = observation;
    let ms = |at: &Timestamp| at.as_millis().cast_signed();
    conn.prepare_cached(
        "INSERT INTO stretch VALUES (?1, ?2, ?3)
         ON CONFLICT DO UPDATE SET seen = max(seen, excluded.seen), stopped = excluded.stopped",
    )?
    .execute(params![ms(started), ms(now), stopping])?;
    for tally in intake {
        let hour = now.hour().cast_signed();
        conn.prepare_cached(
            "INSERT INTO intake VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT DO UPDATE SET quantity = quantity + excluded.quantity",
        )?
        .execute(params![hour, tally.what, tally.kind, tally.count.cast_signed()])?;
    }
    for (target, step) in told {
        steps::write(conn, *target, step)?;
    }
    for (target, at) in canaries {
        conn.prepare_cached("UPDATE target SET canary_at = max(coalesce(canary_at, 0), ?2) WHERE id = ?1")?
            .execute(params![target.0, ms(at)])?;
    }
    for (target, observed) in upstreams {
        for (hour, performance) in &observed.hours {
            write_performance(conn, *target, *hour, performance)?;
        }
        for change in &observed.changes {
            write_change(conn, *target, change)?;
        }
    }
    Ok(())
}

fn write_performance(
    conn: &Connection,
    target: TargetId,
    hour: u64,
    performance: &Performance,
) -> rusqlite::Result<()> {
    let hour = hour.cast_signed();
    for verdict in Verdict::ALL.into_iter().filter(|verdict| performance.attempts(*verdict) > 0) {
        conn.prepare_cached(
            "INSERT INTO attempt VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT DO UPDATE SET quantity = quantity + excluded.quantity",
        )?
        .execute(params![hour, target.0, verdict.name(), performance.attempts(verdict).cast_signed()])?;
    }
    let mut lags = performance.lags.clone();
    let mut kept = conn.prepare_cached("SELECT histogram FROM lag WHERE hour = ?1 AND target = ?2")?;
    let mut rows = kept.query(params![hour, target.0])?;
    if let Some(row) = rows.next()? {
        lags.merge(&histogram(row, 0)?);
    }
    drop(rows);
    conn.prepare_cached("INSERT OR REPLACE INTO lag VALUES (?1, ?2, ?3)")?
        .execute(params![hour, target.0, lags.encode()])
        .map(drop)
}

/// A histogram that cannot be read counts as empty: nothing else depends on it.
fn histogram(row: &Row<'_>, at: usize) -> rusqlite::Result<Lags> {
    Ok(row.get_ref(at)?.as_blob().ok().and_then(Lags::decode).unwrap_or_default())
}

/// Begins or ends an outage. An outage that lasts is not begun twice, because a restart does not end it.
fn write_change(conn: &Connection, target: TargetId, change: &Change) -> rusqlite::Result<()> {
    match change {
        Change::Down { at, cause } => conn
            .prepare_cached(
                "INSERT INTO outage (target, began, cause) SELECT ?1, ?2, ?3
                 WHERE NOT EXISTS (SELECT 1 FROM outage WHERE target = ?1 AND ended IS NULL)",
            )?
            .execute(params![target.0, at.as_millis().cast_signed(), cause]),
        Change::Up { at } => conn
            .prepare_cached("UPDATE outage SET ended = max(began, ?2) WHERE target = ?1 AND ended IS NULL")?
            .execute(params![target.0, at.as_millis().cast_signed()]),
    }
    .map(drop)
}

/// Removes rows that are older than 90 days, and the oldest of those that are too many.
pub(super) fn forget(conn: &Connection, now: Timestamp) -> rusqlite::Result<()> {
    steps::forget(conn, now)?;
    verification::forget_contents(conn, now)?;
    let oldest = now - KEPT;
    let (hour, ms) = (oldest.hour().cast_signed(), oldest.as_millis().cast_signed());
    for table in ["attempt", "lag", "intake"] {
        conn.execute(&format!("DELETE FROM {table} WHERE hour < ?1"), [hour])?;
    }
    conn.execute("DELETE FROM outage WHERE ended < ?1 OR id <= (SELECT max(id) FROM outage) - ?2", [ms, MOST])?;
    conn.execute(
        "DELETE FROM stretch WHERE seen < ?1
         OR started <= (SELECT started FROM stretch ORDER BY started DESC LIMIT 1 OFFSET ?2)",
        [ms, MOST],
    )
    .map(drop)
}

/// The evidence since the beginning of that hour.
pub(super) fn read(conn: &Connection, shared: &Shared, since: Timestamp) -> rusqlite::Result<Evidence> {
    let hour = since.hour().cast_signed();
    let mut evidence = Evidence {
        intake: intake(conn, hour)?,
        stretches: stretches(conn, since)?,
        latest: latest(conn, shared, hour)?,
        steps: steps::read(conn, shared, hour)?,
        ..Evidence::default()
    };
    add_accounts(conn, shared, hour, &mut evidence)?;
    add_performance(conn, shared, hour, &mut evidence)?;
    Ok(evidence)
}

fn add_accounts(conn: &Connection, shared: &Shared, hour: i64, evidence: &mut Evidence) -> rusqlite::Result<()> {
    let mut sums = conn.prepare_cached(
        "SELECT target, project, category, outcome, sum(quantity) FROM ledger WHERE hour >= ?1
         GROUP BY target, project, category, outcome",
    )?;
    let mut rows = sums.query([hour])?;
    while let Some(row) = rows.next()? {
        let Some(project) = shared.projects().get(row.get::<_, u32>(1)? as usize).cloned() else { continue };
        let upstream = u8::try_from(row.get::<_, i64>(0)?).ok().map(|target| shared.name(target));
        let word = |at| row.get_ref(at).map(|word| word.as_str().unwrap_or_default());
        evidence.add_account((upstream, project), (word(2)?, word(3)?), row.get::<_, i64>(4)?.cast_unsigned());
    }
    Ok(())
}

/// Adds the attempts and lags since that hour. Lags of later hours are also added apart.
fn add_performance(conn: &Connection, shared: &Shared, hour: i64, evidence: &mut Evidence) -> rusqlite::Result<()> {
    let mut select = conn
        .prepare_cached("SELECT target, result, sum(quantity) FROM attempt WHERE hour >= ?1 GROUP BY target, result")?;
    let mut rows = select.query([hour])?;
    while let Some(row) = rows.next()? {
        let result = row.get_ref(1)?.as_str().unwrap_or_default();
        evidence.add_attempts(shared.name(row.get(0)?), result, row.get::<_, i64>(2)?.cast_unsigned());
    }
    let mut select = conn.prepare_cached("SELECT target, histogram, hour FROM lag WHERE hour >= ?1")?;
    let mut rows = select.query([hour])?;
    while let Some(row) = rows.next()? {
        evidence.add_lags(shared.name(row.get(0)?), &histogram(row, 1)?, row.get::<_, i64>(2)? > hour);
    }
    Ok(())
}

/// The last hour of each outcome, of `misconfigured`, and of a failed canary, by upstream.
fn latest(conn: &Connection, shared: &Shared, hour: i64) -> rusqlite::Result<LastHours> {
    let mut all = LastHours::new();
    for select in [
        "SELECT target, outcome, max(hour) FROM ledger WHERE hour >= ?1 AND target >= 0 GROUP BY target, outcome",
        "SELECT target, result, max(hour) FROM attempt WHERE hour >= ?1 AND result = 'misconfigured' GROUP BY target",
    ] {
        let mut select = conn.prepare_cached(select)?;
        let mut rows = select.query([hour])?;
        while let Some(row) = rows.next()? {
            all.insert((shared.name(row.get(0)?), row.get(1)?), at(row.get::<_, i64>(2)? * 3_600_000));
        }
    }
    let mut select =
        conn.prepare_cached("SELECT kind, max(hour) FROM intake WHERE hour >= ?1 AND what = ?2 GROUP BY kind")?;
    let mut rows = select.query(params![hour, CANARY_FAILED])?;
    while let Some(row) = rows.next()? {
        all.insert((row.get::<_, Arc<str>>(0)?, CANARY_FAILED.into()), at(row.get::<_, i64>(1)? * 3_600_000));
    }
    Ok(all)
}

fn intake(conn: &Connection, hour: i64) -> rusqlite::Result<Vec<Tally>> {
    let mut sums =
        conn.prepare_cached("SELECT what, kind, sum(quantity) FROM intake WHERE hour >= ?1 GROUP BY what, kind")?;
    let tally = |row: &Row<'_>| {
        Ok(Tally { what: row.get(0)?, kind: row.get(1)?, count: row.get::<_, i64>(2)?.cast_unsigned() })
    };
    sums.query_map([hour], tally)?.collect()
}

fn stretches(conn: &Connection, since: Timestamp) -> rusqlite::Result<Vec<Stretch>> {
    let mut select = conn.prepare_cached(
        "SELECT started, seen, stopped FROM stretch
         WHERE seen >= ?1 OR started = (SELECT max(started) FROM stretch WHERE seen < ?1) ORDER BY started LIMIT ?2",
    )?;
    let rows = select.query_map([since.as_millis().cast_signed(), MOST], |row| {
        Ok(Stretch { from: at(row.get(0)?), to: at(row.get(1)?), stopped: row.get(2)? })
    })?;
    rows.collect()
}

/// The outages that had not ended by `since`, newest first, at most `limit`.
pub(super) fn outages(
    conn: &Connection,
    shared: &Shared,
    since: Timestamp,
    limit: usize,
) -> rusqlite::Result<Vec<Outage>> {
    let mut select = conn.prepare_cached(
        "SELECT target, began, ended, cause FROM outage WHERE ended IS NULL OR ended > ?1 ORDER BY id DESC LIMIT ?2",
    )?;
    let limit = bounded(limit);
    let rows = select.query_map([since.as_millis().cast_signed(), limit], |row| {
        Ok(Outage {
            upstream: shared.name(row.get(0)?),
            from: at(row.get(1)?),
            to: row.get::<_, Option<i64>>(2)?.map(at),
            cause: row.get(3)?,
        })
    })?;
    rows.collect()
}

fn at(ms: i64) -> Timestamp {
    Timestamp::from_millis(ms.cast_unsigned())
}
