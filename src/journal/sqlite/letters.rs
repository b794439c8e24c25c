//! Dead letters in the database: the writer bounds, retries and discards them, and the reader shows them.
//!
//! Rule: when there are too many, the oldest of the project with the most go first. After a rollback the letters are counted again. A
//! retried letter is removed with the commit that lets its record wait again.

use std::collections::BTreeMap;
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension as _, Row, params};

use crate::clock::Timestamp;
use crate::journal::letters::{Held, tell_forgotten, together};
use crate::journal::verification::LOST_BY_TRACKER;
use crate::journal::{DeadLetter, Letter, Pick, RecordId, Settings, TargetId, WithRecord, bounded};
use crate::protocol::category::Quantities;

use super::accounts::Book;
use super::decode;
use super::queue::Target;
use super::settlement::{Again, Pass};
use super::shared::Shared;

/// The columns that [`letter`] reads, of the tables `d` and `r`.
const LETTER: &str = "d.id, d.target, d.record, d.at, d.reason, d.status, d.answer, d.attempts, d.items,
    coalesce(d.quantities, r.quantities), r.project, r.accepted_at, r.event_id, r.size";
/// The letters that a [`Pick`] selects.
const MEANT: &str = "FROM dead_letter d JOIN record r ON r.id = d.record
    WHERE (?1 IS NULL OR d.id = ?1) AND (?2 IS NULL OR d.target = ?2) AND (?3 IS NULL OR d.reason = ?3)
    AND r.accepted_at >= ?4";

/// The writer's count of dead letters.
#[derive(Debug)]
pub(super) struct Letters {
    max_size: u64,
    held: Held<u32>,
}

/// The letters of one record that are taken out, and what waits again if they are retried.
struct Retried {
    letters: Vec<Taken>,
    again: Again,
}

/// A letter that is taken out.
struct Taken {
    id: u64,
    bytes: u64,
    /// When it was refused, and the quantities; `None` if the upstream took the event and lost it.
    refused: Option<(Timestamp, Quantities)>,
}

impl Letters {
    pub(super) fn new(conn: &Connection, settings: &Settings) -> rusqlite::Result<Self> {
        let mut letters = Self { max_size: settings.max_size.get(), held: Held::default() };
        letters.measure(conn)?;
        Ok(letters)
    }

    /// Counts the letters again.
    pub(super) fn measure(&mut self, conn: &Connection) -> rusqlite::Result<()> {
        self.held = Held::default();
        let mut select = conn.prepare(
            "SELECT d.project, coalesce(r.size, 0) + length(d.answer)
             FROM dead_letter d LEFT JOIN record r ON r.id = d.record",
        )?;
        let mut rows = select.query([])?;
        while let Some(row) = rows.next()? {
            self.add(row.get(0)?, row.get::<_, i64>(1)?.cast_unsigned());
        }
        Ok(())
    }

    /// Counts a letter that was written.
    pub(super) fn add(&mut self, project: u32, bytes: u64) {
        self.held.add(project, 1, bytes);
    }

    /// Removes letters until their number and size are within bounds: the oldest of the project that has the most. So no project's letters
    /// push out those of a project that has fewer. Returns the target of each removed letter.
    pub(super) fn bound(&mut self, conn: &Connection) -> rusqlite::Result<Vec<TargetId>> {
        let mut targets = Vec::new();
        while let Some(project) = self.held.furthest(self.max_size) {
            let mut oldest = conn.prepare_cached(
                "SELECT d.id, d.target, coalesce(r.size, 0) + length(d.answer)
                 FROM dead_letter d LEFT JOIN record r ON r.id = d.record WHERE d.project = ?1 ORDER BY d.id LIMIT 1",
            )?;
            let oldest = oldest.query_row([project], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).optional()?;
            let Some((id, target, bytes)): Option<(i64, u8, i64)> = oldest else {
                self.measure(conn)?;
                break;
            };
            conn.prepare_cached("DELETE FROM dead_letter WHERE id = ?1")?.execute([id])?;
            targets.push(TargetId(target));
            self.held.take(project, bytes.cast_unsigned());
        }
        tell_forgotten(targets.len() as u64);
        Ok(targets)
    }

    /// Takes out the letters that `pick` selects, and lets them wait again if it is a `retry`; returns how many.
    pub(super) fn take_out(
        &mut self,
        conn: &Connection,
        shared: &Shared,
        (pick, limit, retry): (&Pick, usize, bool),
        (now, book): (Timestamp, &mut Book),
        passes: &mut Vec<Pass>,
    ) -> rusqlite::Result<usize> {
        let mut count = 0;
        for (target, records) in meant(conn, shared, pick, limit)? {
            Pass::settle(conn, &target, (now, true), &mut *book, passes)?;
            let Some(pass) = passes.last_mut() else { continue };
            for Retried { letters, again } in records.into_values() {
                let project = again.project;
                if !retry || pass.take_up(conn, again, now, (now, &mut *book))? {
                    for (at, quantities) in
                        letters.iter().filter(|_| retry).filter_map(|letter| letter.refused.as_ref())
                    {
                        book.note_retried(conn, *at, (target.id, project), quantities)?;
                    }
                    count += self.remove(conn, pass, project, &letters)?;
                }
            }
        }
        Ok(count)
    }

    fn remove(
        &mut self,
        conn: &Connection,
        pass: &mut Pass,
        project: u32,
        letters: &[Taken],
    ) -> rusqlite::Result<usize> {
        for Taken { id, bytes, .. } in letters {
            conn.prepare_cached("DELETE FROM dead_letter WHERE id = ?1")?.execute([id.cast_signed()])?;
            self.held.take(project, *bytes);
        }
        pass.forget_letters(letters.len() as u64);
        Ok(letters.len())
    }
}

/// After the commit: counts the letters that no settlement wrote, and takes off those that went because there were too many.
pub(super) fn count(targets: &[Arc<Target>], come: &[TargetId], gone: &[TargetId]) {
    let of = |id: &TargetId| targets.get(usize::from(id.0));
    come.iter().filter_map(of).for_each(|target| target.queue().dead_letters += 1);
    for target in gone.iter().filter_map(of) {
        let mut queue = target.queue();
        queue.dead_letters = queue.dead_letters.saturating_sub(1);
    }
}

type ByTarget = Vec<(Arc<Target>, BTreeMap<u64, Retried>)>;

/// The oldest letters that `pick` selects, by target and record.
fn meant(conn: &Connection, shared: &Shared, pick: &Pick, limit: usize) -> rusqlite::Result<ByTarget> {
    let mut by_target: BTreeMap<u8, BTreeMap<u64, Retried>> = BTreeMap::new();
    let mut select = conn.prepare_cached(&format!("SELECT {LETTER} {MEANT} ORDER BY d.id LIMIT ?5"))?;
    let (id, target, reason, since) = pick.parts();
    let mut rows = select.query(params![id, target, reason, since, bounded(limit)])?;
    while let Some(row) = rows.next()? {
        let (id, record): (i64, i64) = (row.get(0)?, row.get(2)?);
        let size = row.get::<_, i64>(13)?.cast_unsigned();
        let bytes = size + row.get_ref(6)?.as_str().unwrap_or_default().len() as u64;
        // A record whose quantities cannot be read is set aside when it is claimed.
        let quantities = decode::quantities(row, 9).ok().flatten().unwrap_or_default();
        let again = Again {
            id: record.cast_unsigned(),
            project: row.get(10)?,
            size,
            items: decode::items(row, 8)?,
            quantities,
        };
        let records = by_target.entry(row.get(1)?).or_default();
        let at = Timestamp::from_millis(row.get::<_, i64>(3)?.cast_unsigned());
        let is_refused = row.get_ref(4)?.as_str().is_ok_and(|reason| reason != LOST_BY_TRACKER);
        let refused = is_refused.then(|| (at, again.quantities.clone()));
        let letter = Taken { id: id.cast_unsigned(), bytes, refused };
        match records.get_mut(&again.id) {
            None => drop(records.insert(again.id, Retried { letters: vec![letter], again })),
            Some(retried) => {
                retried.letters.push(letter);
                retried.again.quantities.extend(&again.quantities);
                retried.again.items = together(retried.again.items.take(), again.items);
            }
        }
    }
    let targets = shared.targets();
    let known = |(id, records)| Some((Arc::clone(targets.get(usize::from(id))?), records));
    Ok(by_target.into_iter().filter_map(known).collect())
}

/// The letters that `pick` selects with numbers below `before`, newest first.
pub(super) fn list(
    conn: &Connection,
    shared: &Shared,
    pick: &Pick,
    before: u64,
    limit: usize,
) -> rusqlite::Result<Vec<Letter>> {
    let sql = format!("SELECT {LETTER} {MEANT} AND d.id < ?5 ORDER BY d.id DESC LIMIT ?6");
    let mut select = conn.prepare_cached(&sql)?;
    let ((id, target, reason, since), before) = (pick.parts(), i64::try_from(before).unwrap_or(i64::MAX));
    let mut rows = select.query(params![id, target, reason, since, before, bounded(limit)])?;
    let mut letters = Vec::new();
    while let Some(row) = rows.next()? {
        letters.push(letter(shared, row)?);
    }
    Ok(letters)
}

/// A letter with its record.
pub(super) fn one(conn: &Connection, shared: &Shared, id: u64) -> rusqlite::Result<Option<WithRecord>> {
    let pick = Pick { id: Some(id), ..Pick::default() };
    let Some(letter) = list(conn, shared, &pick, u64::MAX, 1)?.pop() else { return Ok(None) };
    Ok(decode::one(conn, shared, letter.record)?.map(|record| (letter, record)))
}

fn letter(shared: &Shared, row: &Row<'_>) -> rusqlite::Result<Letter> {
    let number = |at| row.get::<_, i64>(at).map(i64::cast_unsigned);
    let target = TargetId(row.get(1)?);
    let upstream = shared.target(target).map(|target| Arc::clone(&target.name)).unwrap_or_else(|_| "".into());
    let refusal = DeadLetter {
        at: Timestamp::from_millis(number(3)?),
        reason: row.get::<_, String>(4)?.into(),
        status: row.get(5)?,
        answer: row.get(6)?,
        attempts: row.get(7)?,
        items: decode::items(row, 8)?,
    };
    Ok(Letter {
        id: number(0)?,
        target,
        upstream,
        record: RecordId(number(2)?),
        project: shared.projects().get(row.get::<_, u32>(10)? as usize).cloned().unwrap_or_else(|| "".into()),
        accepted_at: Timestamp::from_millis(number(11)?),
        event_id: row.get::<_, Option<[u8; 16]>>(12)?.map(|id| u128::from_be_bytes(id).into()),
        size: number(13)?,
        quantities: decode::quantities(row, 9)?.unwrap_or_default(),
        refusal,
    })
}
