//! The reader thread: it reads records for targets that fell behind or have retries due, and answers questions about stored data.
//!
//! Rule: read transactions are short, a bounded number of rows and about 1 MiB of bodies, so that the WAL can start over. A record that
//! cannot be read is set aside: it stays pending, never comes due, and is counted.

use std::cell::RefCell;
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender};

use rusqlite::{Connection, OptionalExtension, Row, Rows};

use crate::clock::Timestamp;
use crate::journal::backfill::BACKGROUND;
use crate::journal::{Backlog, Cursor, RecentKeys, Switch, bounded};

use super::decode::{self, COLUMNS, Loaded, PENDING, TABLES};
use super::queue::{NEVER, READY_BYTES, READY_RECORDS, Take, Target};
use super::shared::{Placed, Shared};
use super::writer::group::Command;
use aside::{Failures, apart};

mod aside;

/// The most questions that wait for the reader.
pub(super) const SEATS: usize = 64;
/// Records looked at for one target in one read.
const SCAN: u64 = 20_000;

/// A question to the reader: it looks, and answers.
pub(super) type Question = Box<dyn FnOnce(&Reader) + Send>;

/// The rows of one read, each with its position: the number of its record, or its due time.
type Read = Vec<(Loaded, u64)>;

/// Where a read of rows ended.
enum End {
    /// There are no more rows.
    All,
    /// The disk does not give the next row.
    Lost,
    /// Before the row at this position.
    Before(u64),
}

/// The owner of the connection that reads.
#[derive(Debug)]
pub(super) struct Reader {
    pub(super) conn: Connection,
    pub(super) shared: Arc<Shared>,
    commands: SyncSender<Placed<Command>>,
    failed: RefCell<Failures>,
}

impl Reader {
    pub(super) fn new(conn: Connection, shared: Arc<Shared>, commands: SyncSender<Placed<Command>>) -> Self {
        Self { conn, shared, commands, failed: RefCell::default() }
    }

    /// Answers questions until all senders are gone.
    pub(super) fn run(self, asked: &Receiver<Placed<Question>>) {
        for (question, place) in asked {
            drop(place);
            question(&self);
        }
    }

    /// Reads into memory what a claim lacks.
    pub(super) fn make_ready(&self, target: &Target, lacking: &Take, now: Timestamp) -> rusqlite::Result<()> {
        match lacking {
            Take::Claims(_) => Ok(()),
            Take::ReadDue => self.due(target, now),
            Take::ReadFresh => self.fresh(target),
            Take::ReadBackground => self.background(target),
        }
    }

    /// Fills `ready` with the next untried records, until it has some or there are none.
    fn fresh(&self, target: &Target) -> rusqlite::Result<()> {
        loop {
            let (from, to) = {
                let mut queue = target.queue();
                if queue.handed >= queue.committed {
                    queue.live = true;
                }
                if queue.live || !queue.ready.is_empty() {
                    return Ok(());
                }
                (queue.handed, queue.committed.min(queue.handed + SCAN))
            };
            let (loaded, seen) = self.read_fresh(target, from, to)?;
            let mut queue = target.queue();
            for (loaded, _) in loaded {
                match loaded {
                    Loaded::Record(ready) if ready.record.id.0 > queue.handed => queue.push(ready),
                    Loaded::Unreadable { id, lease, why } if id > queue.handed => {
                        queue.handed = id;
                        queue.leases.insert(id, lease);
                        drop(queue);
                        self.set_aside(target, id, &why);
                        queue = target.queue();
                    }
                    // Discarded while it was read.
                    _ => {}
                }
            }
            queue.handed = queue.handed.max(seen);
        }
    }

    /// Reads untried records after `from`, up to `to`. Returns them, and the number up to which they are complete.
    fn read_fresh(&self, target: &Target, from: u64, to: u64) -> rusqlite::Result<(Read, u64)> {
        let mut select = self.conn.prepare_cached(&format!(
            "SELECT {COLUMNS} FROM record r {TABLES}
             WHERE r.id > ?1 AND r.id <= ?2 AND r.targets & ?3 ORDER BY r.id"
        ))?;
        let mut rows = select.query((from.cast_signed(), to.cast_signed(), target.bit()))?;
        let id = |row: &Row<'_>| row.get::<_, i64>(0).map(|id| Some(id.cast_unsigned()));
        let (loaded, end) = self.read(target, &mut rows, (false, to), id)?;
        let seen = match end {
            End::All => to,
            End::Lost => loaded.last().map_or(from, |(_, id)| *id),
            End::Before(id) => id - 1,
        };
        Ok((loaded, seen))
    }

    /// Fills `due_ready` with due rows, or notes when the next one is due.
    fn due(&self, target: &Target, now: Timestamp) -> rusqlite::Result<()> {
        loop {
            let (busy, discards) = {
                let mut queue = target.queue();
                queue.came = None;
                (queue.busy_rows(), queue.discards)
            };
            let (loaded, next) = self.read_due(target, (Timestamp::default(), now), &busy)?;
            let mut queue = target.queue();
            let last = loaded.last().map(|(_, due)| Timestamp::from_millis(*due));
            if queue.discards != discards || queue.came.is_some_and(|came| Some(came) < last) {
                // Some of them are gone, or a new row belongs before them.
                continue;
            }
            queue.next_due = next.into_iter().chain(queue.came).min();
            let (ready, unreadable) = apart(loaded);
            queue.due_ready.extend(ready);
            drop(queue);
            self.set_all_aside(target, unreadable);
            return Ok(());
        }
    }

    /// Fills `background` with the next rows of a backfill.
    fn background(&self, target: &Target) -> rusqlite::Result<()> {
        let (busy, discards) = {
            let mut queue = target.queue();
            queue.more_background = false;
            (queue.busy_rows(), queue.discards)
        };
        let last = Timestamp::from_millis(NEVER.as_millis() - 1);
        let (loaded, next) = self.read_due(target, (BACKGROUND, last), &busy)?;
        let mut queue = target.queue();
        if queue.discards != discards {
            // Some of them are gone: the caller asks again.
            queue.more_background = true;
            return Ok(());
        }
        queue.more_background |= next.is_some_and(|next| next <= last);
        let (ready, unreadable) = apart(loaded);
        queue.background.extend(ready);
        drop(queue);
        self.set_all_aside(target, unreadable);
        Ok(())
    }

    /// The rows due between `from` and `to` that are not `busy`, each with its due time, and the due time of the next row.
    fn read_due(
        &self,
        target: &Target,
        (from, to): (Timestamp, Timestamp),
        busy: &HashSet<u64>,
    ) -> rusqlite::Result<(Read, Option<Timestamp>)> {
        let mut select = self.conn.prepare_cached(&format!(
            "SELECT {COLUMNS}, {PENDING} FROM pending p LEFT JOIN record r ON r.id = p.record
             {TABLES} WHERE p.target = ?1 AND p.due >= ?2 ORDER BY p.due, p.record"
        ))?;
        let mut rows = select.query((target.id.0, from.as_millis().cast_signed()))?;
        // A row without its record is skipped.
        let due = |row: &Row<'_>| {
            let id = row.get::<_, Option<i64>>(0)?.filter(|id| !busy.contains(&id.cast_unsigned()));
            id.map(|_| decode::due(row).map(Timestamp::as_millis)).transpose()
        };
        let (loaded, end) = self.read(target, &mut rows, (true, to.as_millis()), due)?;
        let next = match end {
            End::All => None,
            End::Lost => loaded.last().map(|(_, due)| *due),
            End::Before(due) => Some(due),
        };
        Ok((loaded, next.map(Timestamp::from_millis)))
    }

    /// Reads as many rows as may be held ready, each with its position, up to position `to`. Skips rows without a position.
    fn read(
        &self,
        target: &Target,
        rows: &mut Rows<'_>,
        (put_off, to): (bool, u64),
        place: impl Fn(&Row<'_>) -> rusqlite::Result<Option<u64>>,
    ) -> rusqlite::Result<(Read, End)> {
        let (mut loaded, mut bytes) = (Vec::new(), 0);
        loop {
            let row = match rows.next() {
                Ok(Some(row)) => row,
                Ok(None) => return Ok((loaded, End::All)),
                Err(_) if !loaded.is_empty() => return Ok((loaded, End::Lost)),
                Err(error) => return Err(error),
            };
            let Some(place) = place(row)? else { continue };
            bytes += decode::in_memory(row);
            let is_whole = !loaded.is_empty() && (bytes > READY_BYTES || loaded.len() == READY_RECORDS);
            if place > to || is_whole {
                return Ok((loaded, End::Before(place)));
            }
            match self.load(target, row, (put_off, loaded.len()))? {
                Some(next) => loaded.push((next, place)),
                None => return Ok((loaded, End::Before(place))),
            }
        }
    }

    pub(super) fn backlog(&self, target: &Target) -> rusqlite::Result<Backlog> {
        self.fresh(target)?;
        let names = self.shared.projects().clone();
        let first_row = self
            .conn
            .prepare_cached(
                "SELECT r.accepted_at FROM pending p JOIN record r ON r.id = p.record
                 WHERE p.target = ?1 AND (p.due < ?2 OR p.due = ?3) ORDER BY p.record LIMIT 1",
            )?
            .query_row((target.id.0, BACKGROUND.as_millis().cast_signed(), NEVER.as_millis().cast_signed()), |row| {
                row.get::<_, i64>(0)
            })
            .optional()?
            .map(|at| Timestamp::from_millis(at.cast_unsigned()));
        let queue = target.queue();
        let first_id = queue.leases.iter().find(|(_, lease)| !lease.row).map(|(id, _)| *id);
        let first_id = queue.ended.iter().filter(|ended| !ended.lease.row).map(|ended| ended.id).chain(first_id).min();
        let ready = queue.ready.front().map(|ready| ready.record.accepted_at);
        let (envelopes, bytes) = (queue.tally.envelopes, queue.tally.bytes);
        let quantities = queue.tally.quantities(&names);
        drop(queue);
        let leased = match first_id {
            Some(id) => self.accepted_at(id)?,
            None => None,
        };
        let oldest = first_row.into_iter().chain(leased).chain(ready).min().filter(|_| envelopes > 0);
        Ok(Backlog { envelopes, bytes, oldest, quantities })
    }

    fn accepted_at(&self, id: u64) -> rusqlite::Result<Option<Timestamp>> {
        self.conn
            .prepare_cached("SELECT accepted_at FROM record WHERE id = ?1")?
            .query_row([id.cast_signed()], |row| row.get::<_, i64>(0))
            .optional()
            .map(|at| at.map(|at| Timestamp::from_millis(at.cast_unsigned())))
    }

    pub(super) fn keys(&self, since: Timestamp, before: Option<Cursor>, limit: usize) -> rusqlite::Result<RecentKeys> {
        let mut select = self
            .conn
            .prepare_cached("SELECT id, accepted_at, keys FROM record WHERE id < ?1 ORDER BY id DESC LIMIT ?2")?;
        let before = before.map_or(i64::MAX, |before| before.number().cast_signed());
        let mut rows = select.query(rusqlite::params![before, bounded(limit)])?;
        let (mut all, mut looked) = (RecentKeys::default(), 0);
        while let Some(row) = rows.next()? {
            let at = Timestamp::from_millis(row.get::<_, i64>(1)?.cast_unsigned());
            if at < since {
                return Ok(RecentKeys { next: None, ..all });
            }
            let keys = row.get_ref(2)?.as_blob().unwrap_or_default();
            all.keys.extend(keys.as_chunks::<16>().0.iter().map(|key| (u128::from_le_bytes(*key), at)));
            looked += 1;
            all.next = Some(Cursor::from_number(row.get::<_, i64>(0)?.cast_unsigned())).filter(|_| looked == limit);
        }
        Ok(all)
    }

    pub(super) fn switches(&self, limit: usize) -> rusqlite::Result<Vec<Switch>> {
        let mut select = self.conn.prepare_cached(
            "SELECT at, project, before, after, reason, author FROM switch ORDER BY id DESC LIMIT ?1",
        )?;
        let limit = bounded(limit);
        let rows = select.query_map([limit], |row| {
            Ok(Switch {
                at: Timestamp::from_millis(row.get::<_, i64>(0)?.cast_unsigned()),
                project: row.get(1)?,
                from: row.get(2)?,
                to: row.get(3)?,
                reason: row.get(4)?,
                author: row.get(5)?,
            })
        })?;
        rows.collect()
    }
}
