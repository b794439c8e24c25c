//! Comparisons of stored events with what was sent, in the database: counts by the hour, the kinds that were compared, and the newest
//! differences.
//!
//! Rule: everything is bounded. A kind that is forgotten is compared once more.

use rusqlite::{Connection, OptionalExtension as _, params};

use crate::clock::Timestamp;
use crate::journal::evidence::KEPT;
use crate::journal::sqlite::shared::Shared;
use crate::journal::verification::{
    Compared, Contents, DIFFERENCES, DIFFERENCES_KEPT, DIFFERENCES_OF_ONE, Differing, MOST_KINDS, Sampled,
};
use crate::journal::{TargetId, bounded};
use crate::telemetry::verification::FieldDifference;

const HOUR: i64 = 3_600_000;

/// Writes comparisons.
pub(super) fn write(
    conn: &Connection,
    target: TargetId,
    compared: &[Compared],
    now: Timestamp,
) -> rusqlite::Result<()> {
    let at = now.as_millis().cast_signed();
    for Compared { record, fingerprint, differences } in compared {
        let mut select = conn.prepare_cached("SELECT project, event_id FROM record WHERE id = ?1")?;
        let row = select.query_row([record.0.cast_signed()], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
        let Some((project, event_id)): Option<(u32, Option<[u8; 16]>)> = row else { continue };
        conn.prepare_cached(
            "INSERT INTO compared VALUES (?1, ?2, ?3, 1, ?4)
             ON CONFLICT DO UPDATE SET events = events + 1, differing = differing + excluded.differing",
        )?
        .execute(params![now.hour().cast_signed(), target.0, project, !differences.is_empty()])?;
        conn.prepare_cached("INSERT OR REPLACE INTO compared_kind VALUES (?1, ?2, ?3)")?.execute(params![
            target.0,
            fingerprint.cast_signed(),
            at
        ])?;
        let mut insert = conn.prepare_cached(
            "INSERT INTO difference (target, project, event_id, at, field, sent, there) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?;
        for FieldDifference { field, sent, there } in differences.iter().take(DIFFERENCES_OF_ONE) {
            insert.execute(params![target.0, project, event_id.unwrap_or_default(), at, field, sent, there])?;
        }
    }
    if compared.iter().any(|compared| !compared.differences.is_empty()) {
        conn.prepare_cached(
            "DELETE FROM difference WHERE target = ?1
             AND id <= (SELECT id FROM difference WHERE target = ?1 ORDER BY id DESC LIMIT 1 OFFSET ?2)",
        )?
        .execute(params![target.0, bounded(DIFFERENCES)])?;
    }
    Ok(())
}

/// Removes what is too old, and the oldest kinds of a target that has too many.
pub(in crate::journal::sqlite) fn forget(conn: &Connection, now: Timestamp) -> rusqlite::Result<()> {
    let ms = |at: Timestamp| at.as_millis().cast_signed();
    let oldest = now - KEPT;
    conn.prepare_cached("DELETE FROM compared WHERE hour < ?1")?.execute([oldest.hour().cast_signed()])?;
    conn.prepare_cached("DELETE FROM difference WHERE at < ?1")?.execute([ms(now - DIFFERENCES_KEPT)])?;
    conn.prepare_cached("DELETE FROM compared_kind WHERE at < ?1")?.execute([ms(oldest)])?;
    let mut many = conn.prepare_cached("SELECT target FROM compared_kind GROUP BY target HAVING count(*) > ?1")?;
    let many: Vec<u8> = many.query_map([MOST_KINDS], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    for target in many {
        conn.prepare_cached(
            "DELETE FROM compared_kind WHERE target = ?1
             AND at <= (SELECT at FROM compared_kind WHERE target = ?1 ORDER BY at DESC LIMIT 1 OFFSET ?2)",
        )?
        .execute(params![target, MOST_KINDS])?;
    }
    Ok(())
}

/// How many events were compared in the last 24 hours and in this hour, and when events of these kinds last were.
pub(in crate::journal::sqlite) fn sampled(
    conn: &Connection,
    target: TargetId,
    now: Timestamp,
    kinds: &[u64],
) -> rusqlite::Result<Sampled> {
    let mut sums = conn.prepare_cached(
        "SELECT coalesce(sum(events), 0), coalesce(sum(events) FILTER (WHERE hour >= ?2), 0)
         FROM compared WHERE hour > ?2 - 24 AND target = ?1",
    )?;
    let count = |row: &rusqlite::Row<'_>, at| row.get::<_, i64>(at).map(i64::cast_unsigned);
    let (day, hour) =
        sums.query_row(params![target.0, now.hour().cast_signed()], |row| Ok((count(row, 0)?, count(row, 1)?)))?;
    let mut sampled = Sampled { day, hour, ..Sampled::default() };
    let mut select = conn.prepare_cached("SELECT at FROM compared_kind WHERE target = ?1 AND kind = ?2")?;
    for kind in kinds {
        let at = select.query_row(params![target.0, kind.cast_signed()], |row| row.get::<_, i64>(0)).optional()?;
        sampled.kinds.extend(at.map(|at| (*kind, Timestamp::from_millis(at.cast_unsigned()))));
    }
    Ok(sampled)
}

/// The comparisons since the beginning of that hour.
pub(in crate::journal::sqlite) fn contents(
    conn: &Connection,
    shared: &Shared,
    target: TargetId,
    since: Timestamp,
) -> rusqlite::Result<Contents> {
    let hour = since.hour().cast_signed();
    let project = |number: u32| shared.projects().get(number as usize).cloned();
    let mut contents = Contents::default();
    let mut sums = conn.prepare_cached(
        "SELECT project, sum(events), sum(differing) FROM compared WHERE hour >= ?1 AND target = ?2 GROUP BY project",
    )?;
    let mut rows = sums.query(params![hour, target.0])?;
    while let Some(row) = rows.next()? {
        let Some(name) = project(row.get(0)?) else { continue };
        let count = |at| row.get::<_, i64>(at).map(i64::cast_unsigned);
        contents.projects.push((name, count(1)?, count(2)?));
    }
    let mut select = conn.prepare_cached(
        "SELECT project, event_id, at, field, sent, there FROM difference WHERE target = ?1 AND at >= ?2 ORDER BY id DESC",
    )?;
    let mut rows = select.query(params![target.0, hour.saturating_mul(HOUR)])?;
    while let Some(row) = rows.next()? {
        let Some(project) = project(row.get(0)?) else { continue };
        contents.differences.push(Differing {
            event_id: u128::from_be_bytes(row.get(1)?).into(),
            project,
            at: Timestamp::from_millis(row.get::<_, i64>(2)?.cast_unsigned()),
            difference: FieldDifference { field: row.get(3)?, sent: row.get(4)?, there: row.get(5)? },
        });
    }
    Ok(contents)
}
