//! Writes findings: the cursor, the rows, the postings, and the repairs.
//!
//! Rule: rows and postings change in one transaction, and nothing changes twice.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension as _, params};

use crate::clock::Timestamp;
use crate::journal::sqlite::accounts::Book;
use crate::journal::sqlite::decode;
use crate::journal::sqlite::queue::Target;
use crate::journal::sqlite::settlement::{Again, Pass, write_dead_letter};
use crate::journal::verification::{Advance, Finding, MISSING, Note, Notes, Repair, lost, one_event};
use crate::journal::{RecordId, TargetId, bounded};
use crate::policy::outcome::Outcome;

use super::{content, cursor};

/// A dead letter that was written: the project of its record, and its size in bytes.
pub(in crate::journal::sqlite) type Lettered = (u32, u64);

/// Writes the findings of one target; returns the dead letters that it wrote.
pub(in crate::journal::sqlite) fn note(
    conn: &Connection,
    target: &Target,
    notes: &Notes,
    (now, book): (Timestamp, &mut Book),
) -> rusqlite::Result<Vec<Lettered>> {
    conn.prepare_cached("INSERT OR IGNORE INTO verification VALUES (?1, 0)")?.execute([target.id.0])?;
    let mut writer = Writing { conn, target, now, book, letters: vec![] };
    if let Some(Advance { from, to, found }) = &notes.fresh
        && cursor(conn, target.id)? == from.number()
    {
        conn.prepare_cached("UPDATE verification SET reached = ?2 WHERE target = ?1")?
            .execute(params![target.id.0, to.number().cast_signed()])?;
        for (record, finding) in found.iter().filter(|(record, _)| record.0 <= to.number()) {
            writer.note(*record, finding, true)?;
        }
    }
    let reached = cursor(conn, target.id)?;
    for (record, finding) in notes.again.iter().filter(|(record, _)| record.0 <= reached) {
        writer.note(*record, finding, false)?;
    }
    writer.forget_gone()?;
    content::write(conn, target.id, &notes.compared, now)?;
    Ok(writer.letters)
}

/// Writes the findings of one target.
struct Writing<'a> {
    conn: &'a Connection,
    target: &'a Target,
    now: Timestamp,
    book: &'a mut Book,
    letters: Vec<Lettered>,
}

impl Writing<'_> {
    fn has_row(&self, record: RecordId) -> rusqlite::Result<bool> {
        let mut select = self.conn.prepare_cached("SELECT state FROM look WHERE target = ?1 AND record = ?2")?;
        select.exists(params![self.target.id.0, record.0.cast_signed()])
    }

    /// Writes the finding of a record; `is_fresh` if the cursor passes the record only now.
    fn note(&mut self, record: RecordId, finding: &Finding, is_fresh: bool) -> rusqlite::Result<()> {
        let mut select = self.conn.prepare_cached("SELECT project FROM record WHERE id = ?1")?;
        let project = select.query_row([record.0.cast_signed()], |row| row.get::<_, u32>(0)).optional()?;
        // The record was pruned meanwhile. Its row is removed when it comes due.
        let Some(project) = project else { return Ok(()) };
        let is_there = !is_fresh && self.has_row(record)?;
        let Some((posted, note)) = finding.note(is_fresh, is_there) else { return Ok(()) };
        if let Some(outcome) = posted {
            self.post(project, outcome);
        }
        let (state, due, looked) = match note {
            Note::Stored => return self.forget(record),
            Note::GivenUp(why) => return self.give_up(record, project, why),
            Note::Row(state, due, looked) => (state, due, looked),
        };
        self.conn
            .prepare_cached(
                "INSERT INTO look (target, record, project, state, due, looks, since, repairs)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, 0)
                 ON CONFLICT DO UPDATE SET state = excluded.state, due = excluded.due, looks = looks + excluded.looks",
            )?
            .execute(params![
                self.target.id.0,
                record.0.cast_signed(),
                project,
                state,
                due.as_millis().cast_signed(),
                looked,
                self.now.as_millis().cast_signed()
            ])
            .map(drop)
    }

    fn post(&mut self, project: u32, outcome: Outcome) {
        self.book.note(self.now, Some(self.target.id), project, outcome, &one_event());
    }

    fn forget(&self, record: RecordId) -> rusqlite::Result<()> {
        self.conn
            .prepare_cached("DELETE FROM look WHERE target = ?1 AND record = ?2")?
            .execute(params![self.target.id.0, record.0.cast_signed()])
            .map(drop)
    }

    /// Makes a dead letter of an event that was lost each time. The dead letter keeps the record and can be retried.
    fn give_up(&mut self, record: RecordId, project: u32, why: &str) -> rusqlite::Result<()> {
        let mut select = self.conn.prepare_cached(
            "SELECT r.size, l.repairs FROM look l JOIN record r ON r.id = l.record WHERE l.target = ?1 AND l.record = ?2",
        )?;
        let row = select.query_row(params![self.target.id.0, record.0.cast_signed()], |row| {
            Ok((row.get::<_, i64>(0)?.cast_unsigned(), row.get::<_, u32>(1)?))
        });
        let Some((size, repairs)) = row.optional()? else { return Ok(()) };
        let letter = lost(self.now, why, repairs);
        write_dead_letter(self.conn, self.target.id, (record.0, project), &letter, None)?;
        self.letters.push((project, size + why.len() as u64));
        self.post(project, Outcome::Lost);
        self.forget(record)
    }

    /// Removes a bounded number of due rows whose records are gone. A missing event is posted as lost.
    fn forget_gone(&mut self) -> rusqlite::Result<()> {
        let mut select = self.conn.prepare_cached(
            "SELECT l.record, l.project, l.state FROM look l WHERE l.target = ?1 AND l.due <= ?2
             AND NOT EXISTS (SELECT 1 FROM record r WHERE r.id = l.record) LIMIT 256",
        )?;
        let rows = select.query_map(params![self.target.id.0, self.now.as_millis().cast_signed()], |row| {
            Ok((RecordId(row.get::<_, i64>(0)?.cast_unsigned()), row.get::<_, u32>(1)?, row.get::<_, i16>(2)?))
        })?;
        for (record, project, state) in rows.collect::<Result<Vec<_>, _>>()? {
            if state == MISSING {
                self.post(project, Outcome::Lost);
            }
            self.forget(record)?;
        }
        Ok(())
    }
}

/// Lets missing events wait for their upstream again; returns how many. Events that were sent again before are spaced apart.
pub(in crate::journal::sqlite) fn repair(
    conn: &Connection,
    target: &Arc<Target>,
    repair: &Repair,
    (now, book): (Timestamp, &mut Book),
    passes: &mut Vec<Pass>,
) -> rusqlite::Result<usize> {
    Pass::settle(conn, target, (now, true), &mut *book, passes)?;
    let Some(pass) = passes.last_mut() else { return Ok(0) };
    let mut select = conn.prepare_cached(
        "SELECT r.id, r.project, r.size, r.quantities, l.since, l.repairs FROM look l JOIN record r ON r.id = l.record
         WHERE l.target = ?1 AND l.state = 1 AND l.repairs < ?2 AND r.accepted_at >= ?3 ORDER BY l.record LIMIT ?4",
    )?;
    let since = repair.since.as_millis().cast_signed();
    let mut rows = select.query(params![target.id.0, repair.below, since, bounded(repair.limit)])?;
    let (mut taken, mut alone) = (0, last_alone(conn, target.id, repair)?);
    while let Some(row) = rows.next()? {
        let id = row.get::<_, i64>(0)?.cast_unsigned();
        let quantities = decode::quantities(row, 3).ok().flatten().unwrap_or_default();
        let size = row.get::<_, i64>(2)?.cast_unsigned();
        let again = Again { id, project: row.get(1)?, size, items: None, quantities };
        let first_look = Timestamp::from_millis(row.get::<_, i64>(4)?.cast_unsigned());
        let mut due = now.max(first_look + repair.spacing);
        if row.get::<_, u32>(5)? > 0 {
            due = due.max(alone + repair.apart);
            alone = due;
        }
        let project = again.project;
        if pass.take_up(conn, again, due, (now, &mut *book))? {
            book.note(now, Some(target.id), project, Outcome::Lost, &one_event());
            conn.prepare_cached("UPDATE look SET repairs = repairs + 1, due = ?3 WHERE target = ?1 AND record = ?2")?
                .execute(params![target.id.0, id.cast_signed(), (due + repair.settle).as_millis().cast_signed()])?;
            taken += 1;
        }
    }
    Ok(taken)
}

/// When the last of the events that are spaced apart is sent.
fn last_alone(conn: &Connection, target: TargetId, repair: &Repair) -> rusqlite::Result<Timestamp> {
    let mut select =
        conn.prepare_cached("SELECT max(due) FROM look WHERE target = ?1 AND state = 0 AND looks = 0 AND repairs > 1")?;
    let looked = select.query_row([target.0], |row| row.get::<_, Option<i64>>(0))?;
    Ok(looked.map_or(Timestamp::default(), |at| Timestamp::from_millis(at.cast_unsigned()) - repair.settle))
}
