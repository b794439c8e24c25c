//! Backfills in the database: the writer begins, continues and cancels them, and the reader counts them.
//!
//! Rule: a backfill takes a record only at or below the target's watermark, where a record without a row counts as settled. It sets the
//! target's bit with the row: the record is meant for the target from then on.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension as _, Row, params};

use crate::clock::Timestamp;
use crate::journal::backfill::{BACKGROUND, Backfill, BackfillStep, Scope, Survey};
use crate::journal::{Cursor, TargetId, bounded};

use super::accounts::Book;
use super::decode;
use super::queue::Target;
use super::settlement::{Again, Pass};
use super::shared::Shared;

/// Records looked at in one step of a backfill, and of a survey.
const LOOK: usize = 2048;
const SURVEY: usize = 20_000;

/// Takes a step; returns the state of the target's backfill after it. `last` is the last record of the previous commit.
pub(super) fn step(
    conn: &Connection,
    shared: &Shared,
    target: &Arc<Target>,
    step: BackfillStep,
    (last, now, book): (u64, Timestamp, &mut Book),
    passes: &mut Vec<Pass>,
) -> rusqlite::Result<Option<Backfill>> {
    if let BackfillStep::Begin(begun) = step {
        let begun = Backfill { until: Cursor::from_number(last), ..*begun };
        return keep(conn, &begun).map(|()| Some(begun));
    }
    let Some(mut backfill) = of(conn, target.id)?.filter(Backfill::is_running) else { return of(conn, target.id) };
    match step {
        BackfillStep::GoOn(limit) => {
            let before = backfill.reached;
            go_on(conn, shared, target, (&mut backfill, limit), (last, now, book), passes)?;
            if backfill.is_running() && backfill.reached == before {
                return Ok(Some(backfill));
            }
        }
        BackfillStep::Begin(_) | BackfillStep::Cancel => (backfill.cancelled, backfill.ended_at) = (true, Some(now)),
    }
    keep(conn, &backfill)?;
    Ok(Some(backfill))
}

/// Takes records between the backfill's cursor and the target's watermark.
fn go_on(
    conn: &Connection,
    shared: &Shared,
    target: &Arc<Target>,
    (backfill, limit): (&mut Backfill, usize),
    (last, now, book): (u64, Timestamp, &mut Book),
    passes: &mut Vec<Pass>,
) -> rusqlite::Result<()> {
    Pass::settle(conn, target, (now, true), &mut *book, passes)?;
    let Some(pass) = passes.last_mut() else { return Ok(()) };
    let room = limit.saturating_sub(pass.waiting(conn, limit)?);
    if room == 0 {
        return Ok(());
    }
    pass.rise(conn, last, now)?;
    let bound = target.queue().watermark.min(backfill.until.number());
    let (seen, whole) = lacking(conn, shared, &backfill.scope, (backfill.reached.number(), bound), LOOK)?;
    let mut reached = whole;
    for (taken, (accepted_at, again)) in seen.into_iter().enumerate() {
        if taken == room {
            reached = again.id - 1;
            break;
        }
        let (id, due) = (again.id, Timestamp::from_millis(BACKGROUND.as_millis() + again.id));
        conn.prepare_cached("UPDATE record SET targets = targets | ?2 WHERE id = ?1")?
            .execute(params![id.cast_signed(), target.bit()])?;
        let (project, quantities) = (again.project, again.quantities.clone());
        if pass.take_up(conn, again, due, (now, &mut *book))? {
            book.note_backfilled(conn, accepted_at, (target.id, project), &quantities)?;
            backfill.taken += 1;
        }
    }
    backfill.reached = Cursor::from_number(reached.max(backfill.reached.number()));
    if backfill.reached.number() >= backfill.until.number() {
        backfill.ended_at = Some(now);
    }
    Ok(())
}

/// Looks at up to `look` records after `from` and up to `to`. Returns those of the scope that the target was not to get, with their times
/// of acceptance, and the last number looked at. Our own records, which have no quantities, are left out.
fn lacking(
    conn: &Connection,
    shared: &Shared,
    scope: &Scope,
    (from, to): (u64, u64),
    look: usize,
) -> rusqlite::Result<(Vec<(Timestamp, Again)>, u64)> {
    let names = shared.projects().clone();
    let bit = 1_i64 << scope.target.0;
    let mut select = conn.prepare_cached(
        "SELECT id, project, size, quantities, accepted_at, targets FROM record WHERE id > ?1 AND id <= ?2
         AND quantities <> '' ORDER BY id LIMIT ?3",
    )?;
    let mut rows = select.query(params![from.cast_signed(), to.cast_signed(), bounded(look)])?;
    let (mut found, mut count, mut last) = (Vec::new(), 0, from);
    while let Some(row) = rows.next()? {
        (last, count) = (row.get::<_, i64>(0)?.cast_unsigned(), count + 1);
        let project: u32 = row.get(1)?;
        let accepted_at = Timestamp::from_millis(row.get::<_, i64>(4)?.cast_unsigned());
        let is_meant =
            names.get(project as usize).is_some_and(|name| scope.projects.contains(name)) && accepted_at >= scope.since;
        if is_meant && row.get::<_, i64>(5)? & bit == 0 {
            // A record that cannot be read is set aside when it is claimed.
            let quantities = decode::quantities(row, 3).ok().flatten().unwrap_or_default();
            let size = row.get::<_, i64>(2)?.cast_unsigned();
            found.push((accepted_at, Again { id: last, project, size, items: None, quantities }));
        }
    }
    Ok((found, if count < look { to } else { last }))
}

/// Counts the records that a backfill would take, among a bounded number of records.
pub(super) fn survey(conn: &Connection, shared: &Shared, scope: &Scope, after: Cursor) -> rusqlite::Result<Survey> {
    let end = i64::MAX as u64;
    let (found, last) = lacking(conn, shared, scope, (after.number(), end), SURVEY)?;
    let next = (last < end).then_some(Cursor::from_number(last));
    Ok(Survey { records: found.len() as u64, bytes: found.iter().map(|(_, again)| again.size).sum(), next })
}

const COLUMNS: &str = "target, projects, since, until, reached, found, taken, started_at, ended_at, cancelled";

/// The last backfill of each target.
pub(super) fn all(conn: &Connection) -> rusqlite::Result<Vec<Backfill>> {
    let mut select = conn.prepare_cached(&format!("SELECT {COLUMNS} FROM backfill ORDER BY target"))?;
    select.query_map([], read)?.collect()
}

fn of(conn: &Connection, target: TargetId) -> rusqlite::Result<Option<Backfill>> {
    let mut select = conn.prepare_cached(&format!("SELECT {COLUMNS} FROM backfill WHERE target = ?1"))?;
    select.query_row([target.0], read).optional()
}

fn read(row: &Row<'_>) -> rusqlite::Result<Backfill> {
    let number = |at| row.get::<_, i64>(at).map(i64::cast_unsigned);
    let projects: Vec<Arc<str>> = serde_json::from_str(row.get_ref(1)?.as_str()?).unwrap_or_default();
    Ok(Backfill {
        scope: Scope { target: TargetId(row.get(0)?), projects, since: Timestamp::from_millis(number(2)?) },
        until: Cursor::from_number(number(3)?),
        reached: Cursor::from_number(number(4)?),
        found: number(5)?,
        taken: number(6)?,
        started_at: Timestamp::from_millis(number(7)?),
        ended_at: row.get::<_, Option<i64>>(8)?.map(|at| Timestamp::from_millis(at.cast_unsigned())),
        cancelled: row.get(9)?,
    })
}

fn keep(conn: &Connection, backfill: &Backfill) -> rusqlite::Result<()> {
    let Backfill { scope, until, reached, found, taken, started_at, ended_at, cancelled } = backfill;
    let projects = serde_json::Value::from_iter(scope.projects.iter().map(|name| &**name)).to_string();
    conn.prepare_cached(&format!(
        "INSERT OR REPLACE INTO backfill ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)"
    ))?
    .execute(params![
        scope.target.0,
        projects,
        scope.since.as_millis().cast_signed(),
        until.number().cast_signed(),
        reached.number().cast_signed(),
        found.cast_signed(),
        taken.cast_signed(),
        started_at.as_millis().cast_signed(),
        ended_at.map(|at| at.as_millis().cast_signed()),
        cancelled
    ])
    .map(drop)
}
