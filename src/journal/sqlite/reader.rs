//! The thread that reads: records for a target that fell behind or has retries due, and questions about what is kept.
//!
//! Rule: read transactions are short, a bounded number of rows and about 1 MiB of bodies, so that the log can start over.
//! A record that cannot be read is set aside: it stays pending, never comes due, and is counted.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender};

use rusqlite::{Connection, OptionalExtension};
use tokio::sync::oneshot;

use crate::clock::Timestamp;
use crate::journal::archive::{Comparison, Kept};
use crate::journal::backfill::{BACKGROUND, Backfill, Scope, Survey};
use crate::journal::evidence::{Evidence, Outage};
use crate::journal::losses::Loss;
use crate::journal::verification::{Batch, Contents, Missing, PutOff, Sampled, Standing, Taken};
use crate::journal::{
    Backlog, Cursor, JournalError, Letter, Pick, RecentKeys, Record, RecordId, Switch, TargetId, WithRecord,
};
use crate::protocol::event_id::EventId;

use super::backfill;
use super::decode::{self, COLUMNS, Loaded, PENDING, TABLES};
use super::group::Command;
use super::letters;
use super::losses;
use super::queue::{NEVER, READY_BYTES, READY_RECORDS, Target};
use super::shared::{Placed, Reply, Shared, failure};

use super::{compare, evidence, verification};
use aside::{Failures, apart};

mod aside;

/// The most questions that wait for the reader.
pub(super) const SEATS: usize = 64;
/// Records looked at for one target in one read.
const SCAN: u64 = 20_000;

/// What the reader is asked.
#[derive(Debug)]
pub(super) enum Question {
    /// Make ready what is due by then.
    Due(Arc<Target>, Timestamp, Reply<()>),
    /// Make ready what is backfilled.
    Background(Arc<Target>, Reply<()>),
    /// Make ready what was never tried.
    Fresh(Arc<Target>, Reply<()>),
    Backlog(Arc<Target>, Reply<Backlog>),
    Keys(Timestamp, Option<Cursor>, usize, Reply<RecentKeys>),
    Switches(usize, Reply<Vec<Switch>>),
    Evidence(Timestamp, Reply<Evidence>),
    Outages(Timestamp, usize, Reply<Vec<Outage>>),
    Compare((Arc<Target>, Arc<Target>), Timestamp, Cursor, Reply<Comparison>),
    Letters(Pick, u64, usize, Reply<Vec<Letter>>),
    Letter(u64, Reply<Option<WithRecord>>),
    Survey(Scope, Cursor, Reply<Survey>),
    Backfills(Reply<Vec<Backfill>>),
    Losses(Reply<Vec<Loss>>),
    Wanted(Arc<Target>, (Cursor, Timestamp, usize), Reply<Batch>),
    PutOff(Arc<Target>, (Timestamp, usize), Reply<PutOff>),
    Taken(Arc<Target>, Timestamp, (Option<Cursor>, Cursor), Reply<Taken>),
    Missing(Arc<Target>, Timestamp, usize, Reply<Missing>),
    Standings(Reply<Vec<Standing>>),
    RecordOf(EventId, Reply<Option<Arc<Record>>>),
    Kept(Cursor, Reply<Kept>),
    Record(RecordId, Reply<Option<Arc<Record>>>),
    Sampled(TargetId, Timestamp, Vec<u64>, Reply<Sampled>),
    Contents(TargetId, Timestamp, Reply<Contents>),
}

/// The owner of the connection that reads.
#[derive(Debug)]
pub(super) struct Reader {
    conn: Connection,
    shared: Arc<Shared>,
    commands: SyncSender<Placed<Command>>,
    failed: RefCell<Failures>,
}

impl Reader {
    pub(super) fn new(conn: Connection, shared: Arc<Shared>, commands: SyncSender<Placed<Command>>) -> Self {
        Self { conn, shared, commands, failed: RefCell::default() }
    }

    /// Answers until there is nobody left to ask. Whoever asked may be gone.
    pub(super) fn run(self, asked: &Receiver<Placed<Question>>) {
        for (question, place) in asked {
            drop(place);
            match question {
                Question::Due(target, now, reply) => answer(reply, self.due(&target, now)),
                Question::Background(target, reply) => answer(reply, self.background(&target)),
                Question::Fresh(target, reply) => answer(reply, self.fresh(&target)),
                Question::Backlog(target, reply) => answer(reply, self.backlog(&target)),
                Question::Keys(since, before, limit, reply) => answer(reply, self.keys(since, before, limit)),
                Question::Switches(limit, reply) => answer(reply, self.switches(limit)),
                Question::Evidence(since, reply) => answer(reply, evidence::read(&self.conn, &self.shared, since)),
                Question::Outages(since, limit, reply) => {
                    answer(reply, evidence::outages(&self.conn, &self.shared, since, limit));
                }
                Question::Compare((a, b), since, after, reply) => {
                    answer(reply, compare::compare(&self.conn, &self.shared, (&a, &b), since, after));
                }
                Question::Letters(pick, before, limit, reply) => {
                    answer(reply, letters::list(&self.conn, &self.shared, &pick, before, limit));
                }
                Question::Survey(scope, after, reply) => {
                    answer(reply, backfill::survey(&self.conn, &self.shared, &scope, after));
                }
                Question::Backfills(reply) => answer(reply, backfill::all(&self.conn)),
                Question::Letter(id, reply) => answer(reply, letters::one(&self.conn, &self.shared, id)),
                Question::Losses(reply) => answer(reply, losses::read(&self.conn, &self.shared)),
                Question::Wanted(target, which, reply) => {
                    answer(reply, verification::wanted(&self.conn, &self.shared, &target, which));
                }
                Question::PutOff(target, which, reply) => {
                    answer(reply, verification::put_off(&self.conn, &self.shared, &target, which));
                }
                Question::Taken(target, since, places, reply) => {
                    answer(reply, verification::taken(&self.conn, &self.shared, &target, since, places));
                }
                Question::Missing(target, since, sample, reply) => {
                    answer(reply, verification::missing(&self.conn, &self.shared, &target, (since, sample)));
                }
                Question::Standings(reply) => answer(reply, verification::standings(&self.conn, &self.shared)),
                Question::RecordOf(id, reply) => answer(reply, verification::record_of(&self.conn, &self.shared, id)),
                Question::Record(id, reply) => answer(reply, verification::record(&self.conn, &self.shared, id)),
                Question::Kept(after, reply) => answer(reply, verification::kept(&self.conn, &self.shared, after)),
                Question::Sampled(target, now, kinds, reply) => {
                    answer(reply, verification::sampled(&self.conn, target, now, &kinds));
                }
                Question::Contents(target, since, reply) => {
                    answer(reply, verification::contents(&self.conn, &self.shared, target, since));
                }
            }
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
            for loaded in loaded {
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

    /// What was read of the records after `from`, and the number up to which that is all there is.
    fn read_fresh(&self, target: &Target, from: u64, to: u64) -> rusqlite::Result<(Vec<Loaded>, u64)> {
        let mut select = self.conn.prepare_cached(&format!(
            "SELECT {COLUMNS} FROM record r {TABLES}
             WHERE r.id > ?1 AND r.id <= ?2 AND r.targets & ?3 ORDER BY r.id"
        ))?;
        let mut rows = select.query((from.cast_signed(), to.cast_signed(), target.bit()))?;
        let (mut loaded, mut bytes, mut seen) = (Vec::new(), 0, from);
        loop {
            let row = match rows.next() {
                Ok(Some(row)) => row,
                Ok(None) => return Ok((loaded, to)),
                Err(_) if !loaded.is_empty() => return Ok((loaded, seen)),
                Err(error) => return Err(error),
            };
            let id = row.get::<_, i64>(0)?.cast_unsigned();
            bytes += decode::in_memory(row);
            if !loaded.is_empty() && (bytes > READY_BYTES || loaded.len() == READY_RECORDS) {
                return Ok((loaded, id - 1));
            }
            match self.load(target, row, (false, loaded.len()))? {
                Some(next) => loaded.push(next),
                None => return Ok((loaded, id - 1)),
            }
            seen = id;
        }
    }

    /// Fills `due_ready` with the rows that are due, or learns when the next one is.
    fn due(&self, target: &Target, now: Timestamp) -> rusqlite::Result<()> {
        loop {
            let (busy, discards) = {
                let mut queue = target.queue();
                queue.came = None;
                (queue.busy_rows(), queue.discards)
            };
            let (loaded, next) = self.read_due(target, (Timestamp::default(), now), &busy)?;
            let mut queue = target.queue();
            let last = loaded.last().and_then(|(_, due)| *due);
            if queue.discards != discards || queue.came.is_some_and(|came| Some(came) < last) {
                // Some of it is gone, or something belongs before it.
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
            // Some of it is gone: whoever asked asks again.
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

    /// The rows due in that span that are not `busy`, each with its due time, and when the next one after them is.
    #[expect(clippy::type_complexity, reason = "used once, right above")]
    fn read_due(
        &self,
        target: &Target,
        (from, now): (Timestamp, Timestamp),
        busy: &std::collections::HashSet<u64>,
    ) -> rusqlite::Result<(Vec<(Loaded, Option<Timestamp>)>, Option<Timestamp>)> {
        let mut select = self.conn.prepare_cached(&format!(
            "SELECT {COLUMNS}, {PENDING} FROM pending p LEFT JOIN record r ON r.id = p.record
             {TABLES} WHERE p.target = ?1 AND p.due >= ?2 ORDER BY p.due, p.record"
        ))?;
        let mut rows = select.query((target.id.0, from.as_millis().cast_signed()))?;
        let (mut loaded, mut bytes, mut seen) = (Vec::new(), 0, None);
        loop {
            let row = match rows.next() {
                Ok(Some(row)) => row,
                Ok(None) => return Ok((loaded, None)),
                Err(_) if !loaded.is_empty() => return Ok((loaded, seen)),
                Err(error) => return Err(error),
            };
            // A row without its record is nobody's.
            let Some(id) = row.get::<_, Option<i64>>(0)?.map(i64::cast_unsigned) else { continue };
            if busy.contains(&id) {
                continue;
            }
            let due = decode::due(row)?;
            bytes += decode::in_memory(row);
            let whole = !loaded.is_empty() && (bytes > READY_BYTES || loaded.len() == READY_RECORDS);
            if due > now || whole {
                return Ok((loaded, Some(due)));
            }
            match self.load(target, row, (true, loaded.len()))? {
                Some(next) => loaded.push((next, Some(due))),
                None => return Ok((loaded, Some(due))),
            }
            seen = Some(due);
        }
    }

    fn backlog(&self, target: &Target) -> rusqlite::Result<Backlog> {
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

    fn keys(&self, since: Timestamp, before: Option<Cursor>, limit: usize) -> rusqlite::Result<RecentKeys> {
        let mut select = self
            .conn
            .prepare_cached("SELECT id, accepted_at, keys FROM record WHERE id < ?1 ORDER BY id DESC LIMIT ?2")?;
        let before = before.map_or(i64::MAX, |before| before.number().cast_signed());
        let mut rows = select.query(rusqlite::params![before, i64::try_from(limit).unwrap_or(i64::MAX)])?;
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

    fn switches(&self, limit: usize) -> rusqlite::Result<Vec<Switch>> {
        let mut select = self.conn.prepare_cached(
            "SELECT at, project, before, after, reason, author FROM switch ORDER BY id DESC LIMIT ?1",
        )?;
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
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

fn answer<T>(reply: oneshot::Sender<Result<T, JournalError>>, result: rusqlite::Result<T>) {
    drop(reply.send(result.map_err(|error| failure(&error))));
}
