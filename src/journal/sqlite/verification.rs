//! Verification in the database: a cursor per target, and a row for each event below it that is not known to be stored
//! ([`crate::journal::verification`]).
//!
//! Rule: an event that is found at the first lookup costs no row. The cursor never passes a target's watermark, below which the target took
//! each event that no row of `pending` or `missed` names.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension as _, Row, params};

use crate::clock::Timestamp;
use crate::journal::archive::Kept;
use crate::journal::verification::{
    Batch, MISSING, Missing, PUT_OFF, PutOff, Standing, State, Taken, Wanted, is_error_event,
};
use crate::journal::{Cursor, Record, RecordId, TargetId, bounded};
use crate::protocol::event_id::EventId;

use super::decode::{self, COLUMNS, Loaded, TABLES};
use super::queue::Target;
use super::shared::Shared;

mod anew;
mod content;
mod notes;

pub(super) use anew::look_again;
pub(super) use content::{contents, forget as forget_contents, sampled};
pub(super) use notes::{note, repair};

/// The most records of one scan.
const SCAN: usize = 4096;
/// The most records of one step of [`kept`], and about how many bytes of bodies.
const LOOK: i64 = 256;
const LOOK_BYTES: usize = 4 << 20;

/// A target's cursor: a record's number.
fn cursor(conn: &Connection, target: TargetId) -> rusqlite::Result<u64> {
    let mut select = conn.prepare_cached("SELECT reached FROM verification WHERE target = ?1")?;
    let reached = select.query_row([target.0], |row| row.get::<_, i64>(0)).optional()?;
    Ok(reached.map_or(0, i64::cast_unsigned))
}

fn watermark(conn: &Connection, target: TargetId) -> rusqlite::Result<u64> {
    let mut select = conn.prepare_cached("SELECT watermark FROM target WHERE id = ?1")?;
    Ok(select.query_row([target.0], |row| row.get::<_, i64>(0)).optional()?.map_or(0, i64::cast_unsigned))
}

/// The events to look up.
pub(super) fn wanted(
    conn: &Connection,
    shared: &Shared,
    target: &Target,
    (bound, now, limit): (Cursor, Timestamp, usize),
) -> rusqlite::Result<Batch> {
    // One snapshot, because the cursor, the watermark and the rows belong together.
    let conn = &*conn.unchecked_transaction()?;
    let (from, settled) = (cursor(conn, target.id)?, watermark(conn, target.id)?);
    let (at, bound) = (Cursor::from_number(from), bound.number().min(settled));
    let mut batch = Batch { from: at, reached: at, settled: Cursor::from_number(settled), ..Batch::default() };
    due(conn, shared, target, (now, limit), &mut batch)?;
    if from < bound {
        let scan = scan(conn, shared, target, (from, bound, limit))?;
        batch.reached = Cursor::from_number(if scan.more { scan.last } else { bound });
        (batch.fresh, batch.waiting) = (scan.events, scan.waiting);
    }
    Ok(batch)
}

/// The events whose first lookup was put off, the newest first. [`wanted`] returns those that are due.
pub(super) fn put_off(
    conn: &Connection,
    shared: &Shared,
    target: &Target,
    (now, limit): (Timestamp, usize),
) -> rusqlite::Result<PutOff> {
    let conn = &*conn.unchecked_transaction()?;
    // Below the first kept record there is nothing to read.
    let meant = format!(
        "l.target = ?1 AND l.state = {PUT_OFF} AND l.due > ?2 AND l.record >= (SELECT coalesce(min(id), 0) FROM record)"
    );
    let mut select = conn.prepare_cached(&format!("SELECT {ROWS} WHERE {meant} ORDER BY l.record DESC LIMIT ?3"))?;
    let now = now.as_millis().cast_signed();
    let mut rows = select.query(params![target.id.0, now, bounded(limit)])?;
    let (mut found, mut count) = (PutOff::default(), 0);
    while let Some(row) = rows.next()? {
        count += 1;
        found.events.extend(event(shared, row, State::Unknown)?);
    }
    found.more = count == limit;
    let oldest = format!(
        "SELECT r.accepted_at FROM look l JOIN record r ON r.id = l.record WHERE {meant} ORDER BY l.record LIMIT 1"
    );
    let oldest = conn.prepare_cached(&oldest)?.query_row(params![target.id.0, now], |row| row.get::<_, i64>(0));
    found.oldest = oldest.optional()?.map(|at| Timestamp::from_millis(at.cast_unsigned()));
    Ok(found)
}

/// The events of one scan that the target took.
pub(super) fn taken(
    conn: &Connection,
    shared: &Shared,
    target: &Target,
    since: Timestamp,
    (after, bound): (Option<Cursor>, Cursor),
) -> rusqlite::Result<Taken> {
    let conn = &*conn.unchecked_transaction()?;
    let reached = cursor(conn, target.id)?;
    let scan = scan(conn, shared, target, (after.map_or(reached, Cursor::number), u64::MAX >> 1, SCAN))?;
    let mut events: Vec<Wanted> = scan.events.into_iter().filter(|event| event.accepted_at >= since).collect();
    for event in events.iter_mut().filter(|event| event.record.0 > reached && event.state == State::Stored) {
        event.state = State::Looking;
    }
    let settled = events.partition_point(|event| event.record.0 <= reached.max(bound.number()));
    Ok(Taken { events, settled, next: scan.more.then_some(Cursor::from_number(scan.last)) })
}

/// The result of a scan.
struct Scan {
    events: Vec<Wanted>,
    waiting: Vec<RecordId>,
    /// The last record that was scanned.
    last: u64,
    /// Whether there are more records behind it.
    more: bool,
}

/// Scans records after `from` and up to `to`, until `limit` events that the target took are found or [`SCAN`] records were read.
fn scan(
    conn: &Connection,
    shared: &Shared,
    target: &Target,
    (from, to, limit): (u64, u64, usize),
) -> rusqlite::Result<Scan> {
    let watermark = watermark(conn, target.id)?;
    let mut select = conn.prepare_cached(
        "SELECT r.id, r.project, r.event_id, r.accepted_at, r.quantities, r.targets,
             EXISTS (SELECT 1 FROM pending p WHERE p.target = ?4 AND p.record = r.id),
             EXISTS (SELECT 1 FROM missed m WHERE m.target = ?4 AND m.record = r.id),
             l.state, l.looks, l.repairs
         FROM record r LEFT JOIN look l ON l.target = ?4 AND l.record = r.id
         WHERE r.id > ?1 AND r.id <= ?2 ORDER BY r.id LIMIT ?3",
    )?;
    let scan = bounded(SCAN);
    let mut rows = select.query(params![from.cast_signed(), to.cast_signed(), scan, target.id.0])?;
    let mut found = Scan { events: vec![], waiting: vec![], last: from, more: false };
    let mut looked = 0;
    while let Some(row) = rows.next()? {
        if found.events.len() == limit {
            found.more = true;
            return Ok(found);
        }
        found.last = row.get::<_, i64>(0)?.cast_unsigned();
        looked += 1;
        let was_meant = row.get::<_, i64>(5)? & target.bit() != 0;
        if found.last > watermark
            || !was_meant
            || !is_error_event(&decode::quantities(row, 4).ok().flatten().unwrap_or_default())
        {
            continue;
        }
        match (row.get::<_, bool>(6)?, row.get::<_, bool>(7)?) {
            (true, _) => found.waiting.push(RecordId(found.last)),
            // All or part of it was refused or dropped: the upstream may lack the event.
            (false, true) => {}
            (false, false) => found.events.extend(event(shared, row, State::Stored)?),
        }
    }
    found.more = looked == SCAN;
    Ok(found)
}

/// The event of a row; `None` if it has no id. `state` is the state of an event without a row of its own.
fn event(shared: &Shared, row: &Row<'_>, state: State) -> rusqlite::Result<Option<Wanted>> {
    let Ok(Some(id)) = row.get::<_, Option<[u8; 16]>>(2) else { return Ok(None) };
    let Some(project) = shared.projects().get(row.get::<_, u32>(1)? as usize).cloned() else { return Ok(None) };
    let own = row.get::<_, Option<i16>>(8)?;
    let state = if own.is_some() { State::of_row(own) } else { state };
    let number = row.get::<_, i64>(0)?.cast_unsigned();
    Ok(Some(Wanted {
        record: RecordId(number),
        before: Cursor::from_number(number.saturating_sub(1)),
        project,
        event_id: u128::from_be_bytes(id).into(),
        accepted_at: Timestamp::from_millis(row.get::<_, i64>(3)?.cast_unsigned()),
        state,
        looks: row.get::<_, Option<u32>>(9)?.unwrap_or(0),
        repairs: row.get::<_, Option<u32>>(10)?.unwrap_or(0),
    }))
}

const ROWS: &str = "r.id, r.project, r.event_id, r.accepted_at, r.quantities, r.targets,
    EXISTS (SELECT 1 FROM pending p WHERE p.target = l.target AND p.record = l.record), 0, l.state, l.looks, l.repairs
    FROM look l JOIN record r ON r.id = l.record";

/// Adds the events that are due, of kept records.
fn due(
    conn: &Connection,
    shared: &Shared,
    target: &Target,
    (now, limit): (Timestamp, usize),
    batch: &mut Batch,
) -> rusqlite::Result<()> {
    let sql = format!("SELECT {ROWS} WHERE l.target = ?1 AND l.due <= ?2 ORDER BY l.due LIMIT ?3");
    let mut select = conn.prepare_cached(&sql)?;
    let mut rows = select.query(params![target.id.0, now.as_millis().cast_signed(), bounded(limit)])?;
    while let Some(row) = rows.next()? {
        match row.get::<_, bool>(6)? {
            true => batch.delayed.push(RecordId(row.get::<_, i64>(0)?.cast_unsigned())),
            false => batch.again.extend(event(shared, row, State::Looking)?),
        }
    }
    Ok(())
}

/// The events that are missing at the target.
pub(super) fn missing(
    conn: &Connection,
    shared: &Shared,
    target: &Target,
    (since, sample): (Timestamp, usize),
) -> rusqlite::Result<Missing> {
    let conn = &*conn.unchecked_transaction()?;
    let since = since.as_millis().cast_signed();
    let meant = format!("l.target = ?1 AND l.state = {MISSING} AND r.accepted_at >= ?2");
    let mut count =
        conn.prepare_cached(&format!("SELECT count(*) FROM look l JOIN record r ON r.id = l.record WHERE {meant}"))?;
    let count = count.query_row(params![target.id.0, since], |row| row.get::<_, i64>(0))?.cast_unsigned();
    let mut select = conn.prepare_cached(&format!("SELECT {ROWS} WHERE {meant} ORDER BY l.record DESC LIMIT ?3"))?;
    let mut rows = select.query(params![target.id.0, since, bounded(sample)])?;
    let mut missing = Missing { count, sample: vec![] };
    while let Some(row) = rows.next()? {
        missing.sample.extend(event(shared, row, State::Missing)?);
    }
    Ok(missing)
}

/// The numbers of events by state.
pub(super) fn standings(conn: &Connection, shared: &Shared) -> rusqlite::Result<Vec<Standing>> {
    let mut select = conn.prepare_cached(
        "SELECT target, project, count(*) FILTER (WHERE state = 1), count(*) FILTER (WHERE state = 0),
             count(*) FILTER (WHERE state >= 2) FROM look GROUP BY target, project",
    )?;
    let nobody: Arc<str> = "".into();
    let count = |row: &Row<'_>, at| row.get::<_, i64>(at).map(i64::cast_unsigned);
    let rows = select.query_map([], |row| {
        Ok(Standing {
            target: TargetId(row.get(0)?),
            project: shared.projects().get(row.get::<_, u32>(1)? as usize).unwrap_or(&nobody).clone(),
            missing: count(row, 2)?,
            looking: count(row, 3)?,
            unknown: count(row, 4)?,
        })
    })?;
    rows.collect()
}

/// The newest record with this event id; the newest of an error event if there is one.
pub(super) fn record_of(conn: &Connection, shared: &Shared, id: EventId) -> rusqlite::Result<Option<Arc<Record>>> {
    // Records are not indexed by their event id, because only people look up records by it, one event at a time. The newest are read first.
    let newest = |which: &str| {
        let sql = format!(
            "SELECT {COLUMNS} FROM record r {TABLES} WHERE r.event_id = ?1 AND {which} ORDER BY r.id DESC LIMIT 1"
        );
        let mut select = conn.prepare_cached(&sql)?;
        decode::first(conn, shared, select.query([id.as_u128().to_be_bytes().as_slice()])?)
    };
    match newest("' ' || r.quantities LIKE '% error=%'")? {
        Some(record) => Ok(Some(record)),
        None => newest("r.quantities <> ''"),
    }
}

/// The kept records behind `after`, as many as one step takes.
pub(super) fn kept(conn: &Connection, shared: &Shared, after: Cursor) -> rusqlite::Result<Kept> {
    let mut select = conn
        .prepare_cached(&format!("SELECT {COLUMNS} FROM record r {TABLES} WHERE r.id > ?1 ORDER BY r.id LIMIT ?2"))?;
    let mut rows = select.query(params![after.number().cast_signed(), LOOK])?;
    let (mut kept, mut count, mut bytes) = (Kept::default(), 0, 0);
    while let Some(row) = rows.next()? {
        count += 1;
        kept.next = Some(Cursor::from_number(row.get::<_, i64>(0)?.cast_unsigned()));
        if let Loaded::Record(ready) = decode::load(conn, shared, row, false)? {
            bytes += ready.record.body.in_memory();
            kept.records.push(ready.record);
        }
        if bytes >= LOOK_BYTES {
            return Ok(kept);
        }
    }
    kept.next = kept.next.filter(|_| count == LOOK);
    Ok(kept)
}
