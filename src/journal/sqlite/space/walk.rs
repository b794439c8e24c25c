//! Finds records that may go, step by step, and removes them with all that belongs to them.
//!
//! Rule: a record that a target waits for or that a dead letter shows is never found.

use std::collections::{BTreeMap, HashSet};

use rusqlite::{Connection, params};

use crate::journal::shares::Giving;
use crate::journal::sqlite::shared::Shared;

use super::Doomed;
use super::age::Age;
use super::damage::Damage;

/// Records that one step looks at.
pub(super) const STEP: u64 = 512;

/// The records that one walk found.
#[derive(Debug, Default)]
pub(in crate::journal::sqlite) struct Walk {
    pub(super) runs: Vec<(u64, u64)>,
    pub(in crate::journal::sqlite) removed: usize,
    /// The room that they take in bytes, by project.
    pub(super) room: BTreeMap<u32, u64>,
    pub(super) next: u64,
    pub(super) end: bool,
}

impl Walk {
    /// Adds a record of a project that takes `room` bytes. Its number is higher than those before.
    pub(in crate::journal::sqlite) fn add(&mut self, id: u64, (project, room): (u32, u64)) {
        let is_next = self.runs.last().is_some_and(|run| run.1 + 1 == id);
        self.go_on(id, (project, room), is_next);
    }

    /// The same; `is_next` if no record lies between this one and the one before.
    fn go_on(&mut self, id: u64, (project, room): (u32, u64), is_next: bool) {
        match self.runs.last_mut() {
            Some(run) if is_next => run.1 = id,
            _ => self.runs.push((id, id)),
        }
        self.removed += 1;
        *self.room.entry(project).or_default() += room;
    }
}

/// Walks over `rows` records after `from` and finds settled ones: those that are old, up to the first that is not, or those of projects
/// that give way. Stops when it has `most` records or `bytes`.
pub(super) fn walk(
    conn: &Connection,
    shared: &Shared,
    (from, rows): (u64, u64),
    (mut age, giving): (Option<&mut Age<'_>>, Option<&Giving>),
    (most, bytes): (usize, u64),
) -> rusqlite::Result<Walk> {
    let mut select = conn.prepare_cached(
        "SELECT id, accepted_at, targets, project, coalesce(room, size + 512) FROM record WHERE id > ?1 ORDER BY id LIMIT ?2",
    )?;
    let mut looked = select.query([from.cast_signed(), rows.cast_signed()])?;
    let (mut seen, mut end) = (Vec::new(), false);
    while let Some(row) = looked.next()? {
        let id = row.get::<_, i64>(0)?.cast_unsigned();
        if let Some(age) = &mut age
            && !age.has(conn, id, row.get(1)?)?
        {
            end = true;
            break;
        }
        let room = (row.get::<_, u32>(3)?, row.get::<_, i64>(4)?.cast_unsigned());
        seen.push((id, row.get::<_, i64>(2)?, room));
    }
    drop(looked);
    #[cfg(test)]
    shared.counters.walked.fetch_add(seen.len() as u64, std::sync::atomic::Ordering::Relaxed);
    end |= (seen.len() as u64) < rows;
    let (Some((first, ..)), Some((last, ..))) = (seen.first(), seen.last()) else {
        return Ok(Walk { next: from, end: true, ..Walk::default() });
    };
    let held = held(conn, shared, *first, *last)?;
    let marks: Vec<(i64, u64)> = shared.targets().iter().map(|t| (t.bit(), t.queue().watermark)).collect();
    let settled = |id: u64, mask: i64| marks.iter().all(|(bit, mark)| mask & bit == 0 || id <= *mark);
    let (mut walk, mut running, mut found) = (Walk { next: *last, end, ..Walk::default() }, false, 0);
    for (id, mask, (project, room)) in seen {
        if walk.removed == most || found >= bytes {
            walk.end = false;
            break;
        }
        walk.next = id;
        let may = giving.is_none_or(|giving| giving.has(project));
        let goes = may && settled(id, mask) && !held.contains(&id);
        if goes {
            walk.go_on(id, (project, room), running);
            found += room;
        }
        running = goes;
    }
    Ok(walk)
}

/// The records from `first` to `last` that have a row in `pending` or a dead letter.
fn held(conn: &Connection, shared: &Shared, first: u64, last: u64) -> rusqlite::Result<HashSet<u64>> {
    let range = (first.cast_signed(), last.cast_signed());
    let mut held = HashSet::new();
    let mut letters = conn.prepare_cached("SELECT record FROM dead_letter WHERE record BETWEEN ?1 AND ?2")?;
    for id in letters.query_map(range, |row| row.get::<_, i64>(0))? {
        held.insert(id?.cast_unsigned());
    }
    let mut rows = conn.prepare_cached("SELECT record FROM pending WHERE target = ?1 AND record BETWEEN ?2 AND ?3")?;
    for target in shared.targets().iter() {
        for id in rows.query_map(params![target.id.0, range.0, range.1], |row| row.get::<_, i64>(0))? {
            held.insert(id?.cast_unsigned());
        }
    }
    Ok(held)
}

/// Removes records with all that belongs to them.
pub(super) fn remove(
    conn: &Connection,
    runs: &[(u64, u64)],
    doomed: &mut Doomed,
    damage: &mut Damage,
) -> rusqlite::Result<()> {
    for (first, last) in runs {
        let range = [first.cast_signed(), last.cast_signed()];
        let mut files = conn.prepare_cached("DELETE FROM file WHERE record BETWEEN ?1 AND ?2 RETURNING name, size")?;
        for file in files.query_map(range, |row| Ok((row.get(0)?, row.get::<_, i64>(1)?.cast_unsigned())))? {
            doomed.push(file?);
        }
        conn.prepare_cached("DELETE FROM record WHERE id BETWEEN ?1 AND ?2")?.execute(range)?;
        damage.remove(conn, (*first, *last))?;
        conn.prepare_cached("DELETE FROM missed WHERE record BETWEEN ?1 AND ?2")?.execute(range)?;
    }
    Ok(())
}
