//! Compares which of the kept records one target got and another did not, by their rows.
//!
//! Rule: one look reads a bounded number of narrow rows, so that no other question waits long for the reader.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use rusqlite::{Connection, params};

use crate::clock::Timestamp;
use crate::journal::archive::{Comparison, Fate, Unequal};
use crate::journal::{Cursor, RecordId};
use crate::policy::outcome::DropReason;

use super::queue::Target;
use super::shared::Shared;

/// Records read in one look.
const SCAN: i64 = 10_000;

/// Notes that a target will not get a record, or part of it. The row is removed if the target is to get the record after all.
pub(super) fn note_missed(conn: &Connection, target: &Target, record: u64, reason: DropReason) -> rusqlite::Result<()> {
    if Fate::of(reason).is_none() {
        return Ok(());
    }
    conn.prepare_cached("INSERT OR REPLACE INTO missed VALUES (?1, ?2, ?3)")?
        .execute(params![record.cast_signed(), target.id.0, reason.name()])
        .map(drop)
}

/// The state of one target within a range of records.
struct Standing {
    bit: i64,
    watermark: u64,
    pending: HashSet<i64>,
    missed: HashMap<i64, Fate>,
}

impl Standing {
    fn read(conn: &Connection, target: &Target, first: i64, last: i64) -> rusqlite::Result<Self> {
        // The watermark is read from the same snapshot as the rows, because the queue in memory is ahead of it.
        let watermark = conn
            .prepare_cached("SELECT watermark FROM target WHERE id = ?1")?
            .query_row([target.id.0], |row| row.get::<_, i64>(0))?;
        let range = params![target.id.0, first, last];
        let mut select =
            conn.prepare_cached("SELECT record FROM pending WHERE target = ?1 AND record BETWEEN ?2 AND ?3")?;
        let pending = select.query_map(range, |row| row.get(0))?.collect::<Result<_, _>>()?;
        let mut select =
            conn.prepare_cached("SELECT record, reason FROM missed WHERE target = ?1 AND record BETWEEN ?2 AND ?3")?;
        let missed =
            select.query_map(range, |row| Ok((row.get(0)?, Fate::noted(row.get_ref(1)?.as_str().unwrap_or("")))))?;
        let missed = missed.collect::<Result<_, _>>()?;
        Ok(Self { bit: target.bit(), watermark: watermark.cast_unsigned(), pending, missed })
    }

    fn fate(&self, record: i64, targets: i64) -> Fate {
        let waits = record.cast_unsigned() > self.watermark || self.pending.contains(&record);
        Fate::of_record(targets & self.bit != 0, self.missed.get(&record), waits)
    }
}

/// Compares records behind `after` that were accepted since `since`, as many as one look reads, without our own records.
pub(super) fn compare(
    conn: &Connection,
    shared: &Shared,
    (a, b): (&Target, &Target),
    since: Timestamp,
    after: Cursor,
) -> rusqlite::Result<Comparison> {
    let snapshot = conn.unchecked_transaction()?;
    let mut select = snapshot.prepare_cached(
        "SELECT id, accepted_at, project, targets, event_id FROM record
         WHERE id > ?1 AND quantities <> '' ORDER BY id LIMIT ?2",
    )?;
    let rows = select.query_map([after.number().cast_signed(), SCAN], |row| {
        Ok((
            row.get::<_, i64>(0)?,
            row.get::<_, i64>(1)?.cast_unsigned(),
            row.get::<_, u32>(2)?,
            row.get::<_, i64>(3)?,
            row.get::<_, Option<[u8; 16]>>(4).unwrap_or_default(),
        ))
    })?;
    let rows = rows.collect::<Result<Vec<_>, _>>()?;
    let mut comparison = Comparison::default();
    let (Some(first), Some(last)) = (rows.first(), rows.last()) else { return Ok(comparison) };
    if rows.len() as i64 == SCAN {
        comparison.next = Some(Cursor::from_number(last.0.cast_unsigned()));
    }
    let standing = |target| Standing::read(&snapshot, target, first.0, last.0);
    let (a, b) = (standing(a)?, standing(b)?);
    let nobody: Arc<str> = "".into();
    for (id, accepted_at, project, targets, event_id) in rows {
        if accepted_at < since.as_millis() || targets & (a.bit | b.bit) == 0 {
            continue;
        }
        comparison.note(Unequal {
            id: RecordId(id.cast_unsigned()),
            accepted_at: Timestamp::from_millis(accepted_at),
            project: shared.projects().get(project as usize).unwrap_or(&nobody).clone(),
            event_id: event_id.map(|id| u128::from_be_bytes(id).into()),
            a: a.fate(id, targets),
            b: b.fate(id, targets),
        });
    }
    Ok(comparison)
}
