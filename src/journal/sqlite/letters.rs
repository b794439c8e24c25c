//! Dead letters in the database: bounded, retried and discarded by the writer, shown by the reader.
//!
//! Rule: what is changed here is counted anew after a rollback; a letter goes with the commit that lets its record wait again.

use std::collections::BTreeMap;
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension as _, Row, params};

use crate::clock::Timestamp;
use crate::journal::letters::together;
use crate::journal::{DeadLetter, Letter, Pick, RecordId, Settings, TargetId, WithRecord};
use crate::telemetry::log;

use super::accounts::Book;
use super::decode::{self, COLUMNS, Loaded, TABLES};
use super::queue::Target;
use super::settlement::{Again, Pass};
use super::shared::Shared;

/// The most dead letters that are kept.
const MOST: u64 = 10_000;
/// The part of `max_size` that their records may take, as a divisor.
const SHARE: u64 = 8;

/// What [`letter`] reads of the tables `d` and `r`.
const LETTER: &str = "d.id, d.target, d.record, d.at, d.reason, d.status, d.answer, d.attempts, d.items,
    coalesce(d.quantities, r.quantities), r.project, r.accepted_at, r.event_id, r.size";
/// The letters that a [`Pick`] means.
const MEANT: &str = "FROM dead_letter d JOIN record r ON r.id = d.record
    WHERE (?1 IS NULL OR d.id = ?1) AND (?2 IS NULL OR d.target = ?2) AND (?3 IS NULL OR d.reason = ?3)
    AND r.accepted_at >= ?4";

/// The writer's count of them.
#[derive(Debug)]
pub(super) struct Letters {
    most_bytes: u64,
    count: u64,
    bytes: u64,
}

/// What of one record is retried: the numbers of the letters and their bytes, and what is to wait again.
struct Retried {
    letters: Vec<(u64, u64)>,
    again: Again,
}

impl Letters {
    pub(super) fn new(conn: &Connection, settings: &Settings) -> rusqlite::Result<Self> {
        let mut letters = Self { most_bytes: settings.max_size.get() / SHARE, count: 0, bytes: 0 };
        letters.measure(conn)?;
        Ok(letters)
    }

    /// Counts them anew.
    pub(super) fn measure(&mut self, conn: &Connection) -> rusqlite::Result<()> {
        let sql = "SELECT count(*), coalesce(sum(coalesce(r.size, 0) + length(d.answer)), 0)
                   FROM dead_letter d LEFT JOIN record r ON r.id = d.record";
        let (count, bytes): (i64, i64) = conn.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?)))?;
        (self.count, self.bytes) = (count.cast_unsigned(), bytes.cast_unsigned());
        Ok(())
    }

    /// So many were written, of so many bytes.
    pub(super) fn add(&mut self, (count, bytes): (u64, u64)) {
        self.count += count;
        self.bytes += bytes;
    }

    fn gone(&mut self, bytes: u64) {
        self.count = self.count.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    /// Removes the oldest until their number and size are within bounds; names the targets of those that went.
    pub(super) fn bound(&mut self, conn: &Connection) -> rusqlite::Result<Vec<TargetId>> {
        let mut targets = Vec::new();
        if self.count <= MOST && self.bytes <= self.most_bytes {
            return Ok(targets);
        }
        let mut oldest = conn.prepare_cached(
            "SELECT d.id, d.target, coalesce(r.size, 0) + length(d.answer)
             FROM dead_letter d LEFT JOIN record r ON r.id = d.record ORDER BY d.id",
        )?;
        let (mut rows, mut last) = (oldest.query([])?, 0);
        while self.count > MOST || self.bytes > self.most_bytes {
            let Some(row) = rows.next()? else { break };
            last = row.get::<_, i64>(0)?;
            targets.push(TargetId(row.get(1)?));
            self.gone(row.get::<_, i64>(2)?.cast_unsigned());
        }
        conn.prepare_cached("DELETE FROM dead_letter WHERE id <= ?1")?.execute([last])?;
        if let Some(count) = log::admit_sum("letters forgotten", "", targets.len() as u64) {
            tracing::warn!(count, "there are too many dead letters: the oldest are forgotten");
        }
        Ok(targets)
    }

    /// Takes out those that `pick` means, to wait again when it is a `retry`, else for good; returns how many.
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
            Pass::settle(conn, &target, now, &mut *book, passes)?;
            let Some(pass) = passes.last_mut() else { continue };
            for Retried { letters, again } in records.into_values() {
                if !retry || pass.take_up(conn, again, now, (now, &mut *book))? {
                    count += self.remove(conn, pass, &letters)?;
                }
            }
        }
        Ok(count)
    }

    fn remove(&mut self, conn: &Connection, pass: &mut Pass, letters: &[(u64, u64)]) -> rusqlite::Result<usize> {
        for (id, bytes) in letters {
            conn.prepare_cached("DELETE FROM dead_letter WHERE id = ?1")?.execute([id.cast_signed()])?;
            self.gone(*bytes);
        }
        pass.forget_letters(letters.len() as u64);
        Ok(letters.len())
    }
}

/// After the commit: those that went because there were too many are counted no more.
pub(super) fn forget(targets: &[Arc<Target>], gone: &[TargetId]) {
    for id in gone {
        if let Some(target) = targets.get(usize::from(id.0)) {
            let mut queue = target.queue();
            queue.dead_letters = queue.dead_letters.saturating_sub(1);
        }
    }
}

type ByTarget = Vec<(Arc<Target>, BTreeMap<u64, Retried>)>;

/// The oldest of those meant, by target and record.
fn meant(conn: &Connection, shared: &Shared, pick: &Pick, limit: usize) -> rusqlite::Result<ByTarget> {
    let mut by_target: BTreeMap<u8, BTreeMap<u64, Retried>> = BTreeMap::new();
    let mut select = conn.prepare_cached(&format!("SELECT {LETTER} {MEANT} ORDER BY d.id LIMIT ?5"))?;
    let mut rows = select.query(params![
        pick.id.map(u64::cast_signed),
        pick.target.map(|target| target.0),
        pick.reason,
        pick.since.as_millis().cast_signed(),
        i64::try_from(limit).unwrap_or(i64::MAX)
    ])?;
    while let Some(row) = rows.next()? {
        let (id, record): (i64, i64) = (row.get(0)?, row.get(2)?);
        let size = row.get::<_, i64>(13)?.cast_unsigned();
        let bytes = size + row.get_ref(6)?.as_str().unwrap_or_default().len() as u64;
        // Quantities that cannot be read are of a record that is set aside when it is claimed.
        let quantities = decode::quantities(row, 9).ok().flatten().unwrap_or_default();
        let again = Again {
            id: record.cast_unsigned(),
            project: row.get(10)?,
            size,
            items: decode::items(row, 8)?,
            quantities,
        };
        let records = by_target.entry(row.get(1)?).or_default();
        let letter = (id.cast_unsigned(), bytes);
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

/// Those meant with numbers below `before`, newest first.
pub(super) fn list(
    conn: &Connection,
    shared: &Shared,
    pick: &Pick,
    before: u64,
    limit: usize,
) -> rusqlite::Result<Vec<Letter>> {
    let sql = format!("SELECT {LETTER} {MEANT} AND d.id < ?5 ORDER BY d.id DESC LIMIT ?6");
    let mut select = conn.prepare_cached(&sql)?;
    let mut rows = select.query(params![
        pick.id.map(u64::cast_signed),
        pick.target.map(|target| target.0),
        pick.reason,
        pick.since.as_millis().cast_signed(),
        i64::try_from(before).unwrap_or(i64::MAX),
        i64::try_from(limit).unwrap_or(i64::MAX)
    ])?;
    let mut letters = Vec::new();
    while let Some(row) = rows.next()? {
        letters.push(letter(shared, row)?);
    }
    Ok(letters)
}

/// One of them with its record.
pub(super) fn one(conn: &Connection, shared: &Shared, id: u64) -> rusqlite::Result<Option<WithRecord>> {
    let pick = Pick { id: Some(id), ..Pick::default() };
    let Some(letter) = list(conn, shared, &pick, u64::MAX, 1)?.pop() else { return Ok(None) };
    let mut select = conn.prepare_cached(&format!("SELECT {COLUMNS} FROM record r {TABLES} WHERE r.id = ?1"))?;
    let loaded =
        select.query_row([letter.record.0.cast_signed()], |row| decode::load(conn, shared, row, false)).optional()?;
    match loaded {
        Some(Loaded::Record(ready)) => Ok(Some((letter, ready.record))),
        Some(Loaded::Unreadable { why, .. }) => Err(decode::unreadable(&why)),
        None => Ok(None),
    }
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
