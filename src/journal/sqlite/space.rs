//! Room: what the journal takes, what it may take, what goes first, and how space goes back to the file system.
//!
//! Rule: every step is bounded. Nothing here removes a record that a target still waits for or that a dead letter needs; what
//! gives way although it is waited for is chosen in `settlement::evict`.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, params};

use crate::clock::Timestamp;
use crate::journal::spool::Spool;
use crate::journal::{JournalError, Settings};
use crate::units::ByteSize;

use super::shared::Shared;

/// Records looked at in one step.
const STEP: u64 = 512;
/// Records looked at by one call of `prune`.
const LOOK: u64 = 4096;
/// Bytes in the log after which they are moved into the database file.
const LOG_FULL: u64 = 4 << 20;
/// Bytes the log may take without counting as room taken: more means that a foreign reader keeps it from starting over.
const LOG_FREE: u64 = 16 << 20;
/// What a record takes besides its body, roughly; only for the decision before it is written.
pub(super) const OVERHEAD: u64 = 512;
/// Pages given back in one step, and pages kept for what comes next.
const VACUUM_STEP: u64 = 128;
/// Free pages kept for what comes next.
const KEPT_FREE: u64 = 64;

/// The writer's view of the room.
#[derive(Debug)]
pub(super) struct Room {
    max: u64,
    page: u64,
    log: PathBuf,
    /// Pages of the file, free ones included, and free ones.
    pages: (u64, u64),
    /// Bytes of the log's file, and how much of them is more than should be.
    log_size: u64,
    log_excess: u64,
    /// Written since `pages` was read.
    grown: u64,
    /// Written since the log was moved.
    logged: u64,
    prune_from: u64,
    evict_from: u64,
    /// The last whole lap found nothing to evict: until something goes, each try looks at one step only.
    barren: bool,
    spool: Arc<Spool>,
    /// The files of records that the transaction under way removes.
    doomed: Files,
}

/// Files by name and size.
type Files = Vec<(String, u64)>;

/// What one walk removed.
struct Walk {
    removed: usize,
    next: u64,
    end: bool,
}

impl Room {
    pub(super) fn new(conn: &Connection, spool: Arc<Spool>, settings: &Settings) -> rusqlite::Result<Self> {
        let page = conn.query_row("PRAGMA page_size", [], |row| row.get::<_, i64>(0))?.cast_unsigned();
        let mut log = settings.path.clone().into_os_string();
        log.push("-wal");
        let mut room = Self {
            max: settings.max_size.get(),
            page,
            log: log.into(),
            pages: (0, 0),
            log_size: 0,
            log_excess: 0,
            grown: 0,
            logged: 0,
            prune_from: 0,
            evict_from: 0,
            barren: false,
            spool,
            doomed: vec![],
        };
        room.measure(conn)?;
        Ok(room)
    }

    /// Bytes in use.
    pub(super) fn used(&self) -> u64 {
        (self.pages.0 - self.pages.1) * self.page + self.grown + self.in_files()
    }

    /// Bytes of the files that stay.
    fn in_files(&self) -> u64 {
        self.spool.taken().saturating_sub(self.doomed())
    }

    /// Reads the page counts anew.
    pub(super) fn measure(&mut self, conn: &Connection) -> rusqlite::Result<()> {
        let ask = |sql| conn.prepare_cached(sql)?.query_row([], |row| row.get::<_, i64>(0)).map(i64::cast_unsigned);
        self.pages = (ask("PRAGMA page_count")?, ask("PRAGMA freelist_count")?);
        self.log_size = length(&self.log);
        self.log_excess = self.log_size.saturating_sub(LOG_FREE);
        self.grown = 0;
        Ok(())
    }

    /// Publishes what is taken.
    pub(super) fn publish(&self, shared: &Shared) {
        shared.space.set(self.used(), self.pages.0 * self.page + self.log_size + self.in_files());
    }

    /// Whether `need` bytes more fit, after removing delivered ones if need be.
    ///
    /// # Errors
    ///
    /// The outer error ends the transaction, the inner one refuses this submission alone.
    pub(super) fn make(
        &mut self,
        conn: &Connection,
        shared: &Shared,
        need: u64,
    ) -> rusqlite::Result<Result<(), JournalError>> {
        if self.used() + need > self.max - self.max / 64 {
            self.evict(conn, shared, |room| room.used() + need <= room.max)?;
        }
        if !self.fits(need) {
            let (used, max) = (ByteSize::bytes(self.used() + self.log_excess), ByteSize::bytes(self.max));
            let why = if self.log_excess > 0 && self.used() + need <= self.max {
                let log = self.log.display();
                format!(
                    "{used} are in use with the log, max_size is {max}: another process reads the journal and keeps its log \
                     from starting over; end that process (fuser {log} names it)"
                )
            } else {
                format!("{used} are in use, max_size is {max}, and nothing can go yet")
            };
            return Ok(Err(JournalError::Full(why)));
        }
        Ok(Ok(()))
    }

    /// Whether `need` bytes fit into what is free within the database file, after removing delivered ones if need be.
    pub(super) fn reuse(&mut self, conn: &Connection, shared: &Shared, need: u64) -> rusqlite::Result<bool> {
        let enough = |room: &Self| room.pages.1 * room.page >= room.grown + need + KEPT_FREE * room.page;
        if !enough(self) {
            self.evict(conn, shared, enough)?;
        }
        Ok(enough(self) && self.fits(need))
    }

    /// Records from this one on may be settled now.
    pub(super) fn look_again(&mut self, first: u64) {
        self.evict_from = self.evict_from.min(first.saturating_sub(1));
        self.barren = false;
    }

    /// Bytes of the files that go with the transaction under way.
    pub(super) fn doomed(&self) -> u64 {
        self.doomed.iter().map(|(_, size)| size).sum()
    }

    /// Whether with `need` bytes more the records take more than the limit.
    pub(super) fn exceeds(&self, need: u64) -> bool {
        self.used() + need > self.max
    }

    /// Whether the limit is no less than that.
    pub(super) fn holds(&self, bytes: u64) -> bool {
        bytes <= self.max
    }

    /// Counts what goes into the database with the transaction under way.
    pub(super) fn grow(&mut self, bytes: u64) {
        self.grown += bytes;
    }

    /// After the commit: removes the files of the records that it removed.
    pub(super) fn remove_files(&mut self, shared: &Shared) {
        if !self.doomed.is_empty() {
            self.doomed.drain(..).for_each(|(name, size)| self.spool.remove(&name, size));
            self.publish(shared);
        }
    }

    /// After a rollback: the records are still there.
    pub(super) fn spare_files(&mut self) {
        self.doomed.clear();
    }

    /// Whether `need` bytes more stay within the limit, what a foreign reader makes the log take included.
    pub(super) fn fits(&self, need: u64) -> bool {
        self.used() + need + self.log_excess <= self.max
    }

    /// Whether a foreign reader makes the log so large that nothing more fits.
    pub(super) fn is_held_by_a_reader(&self) -> bool {
        self.log_excess > 0 && !self.fits(0)
    }

    /// Whether so much of the file is free that it should shrink even while the journal is busy.
    pub(super) fn slack(&self) -> bool {
        self.pages.1 > KEPT_FREE && self.pages.1 > self.pages.0 / 4
    }

    /// Removes settled records, oldest first: a little when the limit is near, as much as is needed when it is reached.
    fn evict(&mut self, conn: &Connection, shared: &Shared, enough: impl Fn(&Self) -> bool) -> rusqlite::Result<()> {
        let (began, mut wrapped, mut fruits) = (self.evict_from, self.evict_from == 0, 0);
        loop {
            let walk = walk(conn, shared, self.evict_from, None, 64, &mut self.doomed)?;
            self.evict_from = if walk.end { 0 } else { walk.next };
            self.measure(conn)?;
            let lap = wrapped && (walk.end || self.evict_from >= began && began > 0);
            fruits += walk.removed;
            self.barren = fruits == 0 && (self.barren || lap);
            if lap || self.barren || enough(self) {
                return Ok(());
            }
            wrapped |= walk.end;
        }
    }

    /// Removes up to `limit` settled records accepted before `before`, going on where the last call ended.
    pub(super) fn prune(
        &mut self,
        conn: &Connection,
        shared: &Shared,
        before: Timestamp,
        limit: usize,
    ) -> rusqlite::Result<usize> {
        let (began, mut wrapped, mut removed) = (self.prune_from, self.prune_from == 0, 0);
        for _ in 0..LOOK / STEP {
            if removed >= limit || wrapped && began > 0 && self.prune_from >= began {
                break;
            }
            let walk = walk(conn, shared, self.prune_from, Some(before), limit - removed, &mut self.doomed)?;
            removed += walk.removed;
            self.prune_from = if walk.end { 0 } else { walk.next };
            if walk.end && std::mem::replace(&mut wrapped, true) {
                break;
            }
        }
        Ok(removed)
    }

    /// Counts bytes that went into the log; says whether it should be moved.
    pub(super) fn log(&mut self, bytes: u64) -> bool {
        self.logged += bytes + 4 * self.page;
        self.logged >= LOG_FULL
    }

    /// Whether there is something to tidy up when nothing else is to be done.
    pub(super) fn untidy(&self) -> bool {
        self.logged > 0 || self.pages.1 > KEPT_FREE
    }

    /// Moves the log into the database file; the next commit starts it over.
    pub(super) fn checkpoint(&mut self, conn: &Connection) -> rusqlite::Result<()> {
        self.logged = 0;
        conn.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))
    }

    /// Gives free pages at the end of the file back, a step at a time, and cuts the log. True when there is more to do.
    pub(super) fn tidy(&mut self, conn: &Connection) -> rusqlite::Result<bool> {
        self.measure(conn)?;
        let spare = self.pages.1.saturating_sub(KEPT_FREE).min(VACUUM_STEP);
        if spare > 0 {
            let mut step = conn.prepare(&format!("PRAGMA incremental_vacuum({spare})"))?;
            let mut rows = step.query([])?;
            while rows.next()?.is_some() {}
            drop(rows);
            self.measure(conn)?;
        }
        if self.pages.1 > KEPT_FREE && spare > 0 {
            return Ok(true);
        }
        self.truncate_log(conn)?;
        Ok(false)
    }

    /// Moves the log and cuts its file to nothing, unless somebody reads.
    pub(super) fn truncate_log(&mut self, conn: &Connection) -> rusqlite::Result<()> {
        // Nobody should wait for us while we wait for a reader that may never end.
        conn.busy_timeout(Duration::ZERO)?;
        let busy = conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, bool>(0));
        conn.busy_timeout(super::schema::PATIENCE)?;
        if !busy? {
            self.logged = 0;
        }
        self.measure(conn)
    }
}

/// Walks over up to [`STEP`] records after `from` and removes those that are settled, at most `limit`.
fn walk(
    conn: &Connection,
    shared: &Shared,
    from: u64,
    before: Option<Timestamp>,
    limit: usize,
    doomed: &mut Files,
) -> rusqlite::Result<Walk> {
    let before = before.map_or(u64::MAX, Timestamp::as_millis);
    let mut select =
        conn.prepare_cached("SELECT id, accepted_at, targets FROM record WHERE id > ?1 ORDER BY id LIMIT ?2")?;
    let mut rows = select.query([from.cast_signed(), STEP.cast_signed()])?;
    let (mut seen, mut end) = (Vec::new(), false);
    while let Some(row) = rows.next()? {
        if row.get::<_, i64>(1)?.cast_unsigned() >= before {
            end = true;
            break;
        }
        seen.push((row.get::<_, i64>(0)?.cast_unsigned(), row.get::<_, i64>(2)?));
    }
    drop(rows);
    end |= (seen.len() as u64) < STEP;
    let (Some((first, _)), Some((last, _))) = (seen.first(), seen.last()) else {
        return Ok(Walk { removed: 0, next: from, end: true });
    };
    let held = held(conn, shared, *first, *last)?;
    let marks: Vec<(i64, u64)> = shared.targets().iter().map(|t| (t.bit(), t.queue().watermark)).collect();
    let settled = |id: u64, mask: i64| marks.iter().all(|(bit, mark)| mask & bit == 0 || id <= *mark);
    let mut runs: Vec<(u64, u64)> = Vec::new();
    let (mut removed, mut next, mut running) = (0, *last, false);
    for (id, mask) in seen {
        if removed == limit {
            end = false;
            break;
        }
        next = id;
        let goes = settled(id, mask) && !held.contains(&id);
        match runs.last_mut() {
            Some(run) if goes && running => run.1 = id,
            _ if goes => runs.push((id, id)),
            _ => {}
        }
        running = goes;
        removed += usize::from(goes);
    }
    remove(conn, &runs, doomed)?;
    Ok(Walk { removed, next, end })
}

/// The records from `first` to `last` that a row in `pending` or a dead letter holds.
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

fn remove(conn: &Connection, runs: &[(u64, u64)], doomed: &mut Files) -> rusqlite::Result<()> {
    for (first, last) in runs {
        let range = [first.cast_signed(), last.cast_signed()];
        let mut files = conn.prepare_cached("DELETE FROM file WHERE record BETWEEN ?1 AND ?2 RETURNING name, size")?;
        for file in files.query_map(range, |row| Ok((row.get(0)?, row.get::<_, i64>(1)?.cast_unsigned())))? {
            doomed.push(file?);
        }
        conn.prepare_cached("DELETE FROM record WHERE id BETWEEN ?1 AND ?2")?.execute(range)?;
        conn.prepare_cached("DELETE FROM body WHERE id BETWEEN ?1 AND ?2")?.execute(range)?;
        conn.prepare_cached("DELETE FROM missed WHERE record BETWEEN ?1 AND ?2")?.execute(range)?;
    }
    Ok(())
}

/// The number that a record appended next gets, were the journal opened now.
pub(super) fn next_record(conn: &Connection) -> rusqlite::Result<u64> {
    let kept = conn.query_row("SELECT next_record FROM meta", [], |row| row.get::<_, i64>(0))?;
    let last = conn.query_row("SELECT max(id) FROM record", [], |row| row.get::<_, Option<i64>>(0)).optional()?;
    Ok(kept.max(last.flatten().unwrap_or(0) + 1).cast_unsigned())
}

/// Keeps that number, so that it is not used twice after the newest record was removed.
pub(super) fn keep_next_record(conn: &Connection, next: u64) -> rusqlite::Result<()> {
    conn.prepare_cached("UPDATE meta SET next_record = ?1")?.execute([next.cast_signed()]).map(drop)
}

fn length(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |meta| meta.len())
}
