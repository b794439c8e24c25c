//! Room: what the journal takes and may take, what is removed first, and how space goes back to the file system.
//!
//! Rule: every step is bounded. Nothing here removes a record that a target waits for or that a dead letter needs. `settlement::evict`
//! chooses the waiting records that are dropped.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rusqlite::Connection;

use crate::journal::shares::{Giving, Rank};
use crate::journal::{JournalError, Settings};
use crate::units::ByteSize;

use super::private::beside;
use super::shared::Shared;
use super::spool::Spool;
pub(super) use age::{Age, Order};
pub(super) use ahead::Ahead;
pub(super) use count::of_a_row;
use damage::Damage;
pub(super) use files::{Files, durable};
use files::{LOG, length};
use search::Search;
pub(super) use walk::Walk;
use walk::{STEP, remove, walk};

/// The most records that one call of `prune` looks at.
const LOOK: u64 = 4096;
/// Bytes that the WAL may take without counting as room taken. More means that a foreign reader keeps it from starting over.
const LOG_FREE: u64 = 16 << 20;
/// The approximate bytes that a record takes besides its body, its client and its keys: its row, and its rows in `pending`.
pub(super) const OVERHEAD: u64 = 512;
/// The most records that one step removes for room.
const GIVING: usize = 64;
/// The bytes after which a step stops, if no more are needed.
const LITTLE: u64 = 256 << 10;
/// Records looked at in one step while the limit is near but not reached: a lap is made before it is.
const NEAR: u64 = 64;
/// Bytes of free pages that are kept for the next records.
const KEPT_FREE: u64 = 1 << 20;
/// Bytes that may be written before the pages are counted again. Counting costs as much as writing a record.
const UNCOUNTED: u64 = 256 << 10;

mod age;
mod ahead;
mod count;
mod damage;
mod files;
mod search;
mod tidy;
mod walk;

/// The writer's view of the room.
#[derive(Debug)]
pub(super) struct Room {
    max: u64,
    page: u64,
    log: PathBuf,
    /// The pages of the database, free ones included, and the free ones.
    pages: (u64, u64),
    /// The fewest free pages since the last call of [`Room::slack`].
    least_free: u64,
    /// The bytes of the WAL's file beyond [`LOG_FREE`].
    log_excess: u64,
    /// Bytes written since `pages` was read.
    grown: u64,
    /// Whether something was removed since then.
    shrunk: bool,
    /// Bytes written to the WAL since it was moved, and (`uncounted`) since `pages` was read.
    logged: u64,
    uncounted: u64,
    ahead: Ahead,
    prune_from: u64,
    /// The searches, by rank.
    searches: [Search; Rank::COUNT],
    /// The changes of the current transaction to the projects' counts.
    moved: Vec<(Arc<AtomicU64>, i64)>,
    spool: Arc<Spool>,
    /// The files of the records that the current transaction removes.
    doomed: Doomed,
    damage: Damage,
}

/// A request for room.
#[derive(Clone, Copy, Debug)]
pub(super) struct Want {
    pub(super) project: Option<u32>,
    pub(super) need: u64,
    /// Whether nothing else can give way. Then a search makes a whole lap, unless the last one found nothing.
    pub(super) is_last: bool,
}

/// Files of bodies, by name and size.
type Doomed = Vec<(String, u64)>;

impl Room {
    pub(super) fn new(
        conn: &Connection,
        ahead: Ahead,
        spool: Arc<Spool>,
        settings: &Settings,
    ) -> rusqlite::Result<Self> {
        let page = conn.query_row("PRAGMA page_size", [], |row| row.get::<_, i64>(0))?.cast_unsigned();
        let mut room = Self {
            max: settings.max_size.get(),
            page,
            log: beside(&settings.path, LOG),
            pages: (0, 0),
            least_free: 0,
            log_excess: 0,
            grown: 0,
            shrunk: false,
            logged: 0,
            uncounted: 0,
            ahead,
            prune_from: 0,
            searches: Default::default(),
            moved: vec![],
            spool,
            doomed: vec![],
            damage: Damage::default(),
        };
        room.measure(conn)?;
        Ok(room)
    }

    /// Bytes of a page.
    pub(super) const fn page(&self) -> u64 {
        self.page
    }

    /// Bytes in use.
    pub(super) fn used(&self) -> u64 {
        (self.pages.0 - self.pages.1) * self.page + self.grown + self.in_files()
    }

    /// Bytes of the files that stay.
    fn in_files(&self) -> u64 {
        self.spool.taken().saturating_sub(self.doomed())
    }

    /// Reads the page counts again, unless little was written since and the limit is far.
    pub(super) fn keep_up(&mut self, conn: &Connection) -> rusqlite::Result<()> {
        let is_close = self.used() + self.log_excess > self.max - self.max / 16;
        if self.shrunk || is_close || self.uncounted.max(self.grown) >= UNCOUNTED { self.measure(conn) } else { Ok(()) }
    }

    /// Reads the page counts again.
    pub(super) fn measure(&mut self, conn: &Connection) -> rusqlite::Result<()> {
        let ask = |sql| conn.prepare_cached(sql)?.query_row([], |row| row.get::<_, i64>(0)).map(i64::cast_unsigned);
        self.pages = (ask("PRAGMA page_count")?, ask("PRAGMA freelist_count")?);
        self.least_free = self.least_free.min(self.pages.1);
        self.log_excess = length(&self.log).saturating_sub(LOG_FREE);
        (self.grown, self.uncounted, self.shrunk) = (0, 0, false);
        Ok(())
    }

    /// Publishes what is in use.
    pub(super) fn publish(&self, shared: &Shared) {
        shared.used.store(self.used(), Ordering::Relaxed);
    }

    /// Whether `need` more bytes of a project fit, after removing delivered records if need be.
    ///
    /// # Errors
    ///
    /// The outer error ends the transaction, the inner one refuses this submission alone.
    pub(super) fn make(
        &mut self,
        conn: &Connection,
        shared: &Shared,
        want: Want,
    ) -> rusqlite::Result<Result<(), JournalError>> {
        let Want { project, need, .. } = want;
        let left = |room: &Self| room.left_for_others(shared, project, need);
        let beyond = (self.used() + need + left(self)).saturating_sub(self.max - self.max / 64);
        if beyond > 0 {
            self.evict(conn, shared, (want, beyond), |room| room.used() + need + left(room) <= room.max)?;
        }
        Ok(self.refused(need, left(self)).map_or(Ok(()), Err))
    }

    /// Why `need` bytes do not fit beside `left` bytes for others; `None` if they do.
    pub(super) fn refused(&self, need: u64, left: u64) -> Option<JournalError> {
        if self.fits(need + left) {
            return None;
        }
        let (used, max) = (ByteSize::bytes(self.used() + self.log_excess), ByteSize::bytes(self.max));
        Some(if self.fits(need) {
            let left = ByteSize::bytes(left);
            JournalError::Share(format!("{used} are in use, max_size is {max}, and {left} are left for other projects"))
        } else if self.log_excess > 0 && self.used() + need <= self.max {
            let log = self.log.display();
            JournalError::Full(format!(
                "{used} are in use with the log, max_size is {max}: another process reads the journal and keeps its log \
                 from starting over; end that process (fuser {log} names it)"
            ))
        } else {
            JournalError::Full(format!("{used} are in use, max_size is {max}, and nothing can go yet"))
        })
    }

    /// Bytes that must stay free for other projects when this one takes `need` more.
    pub(super) fn left_for_others(&self, shared: &Shared, project: Option<u32>, need: u64) -> u64 {
        shared.shares().left_for_others(project, need, self.used())
    }

    /// Whether `need` bytes fit into the free pages of the database file, after removing delivered records if need be.
    pub(super) fn reuse(&mut self, conn: &Connection, shared: &Shared, want: Want) -> rusqlite::Result<bool> {
        let Want { project, need, .. } = want;
        let enough = |room: &Self| room.pages.1 * room.page >= room.grown + need + KEPT_FREE;
        if !enough(self) {
            self.evict(conn, shared, (want, need + KEPT_FREE), enough)?;
        }
        Ok(enough(self) && self.fits(need + self.left_for_others(shared, project, need)))
    }

    /// Counts the bytes that a record of a project takes with the current transaction.
    pub(super) fn enter(&mut self, shared: &Shared, project: u32, bytes: u64) {
        self.count(shared, project, bytes.cast_signed());
    }

    fn count(&mut self, shared: &Shared, project: u32, bytes: i64) {
        if let Some(count) = shared.shares().count(project) {
            add(count, bytes);
            self.moved.push((Arc::clone(count), bytes));
        }
    }

    /// Bytes of the files that the current transaction removes.
    pub(super) fn doomed(&self) -> u64 {
        self.doomed.iter().map(|(_, size)| size).sum()
    }

    /// Whether `need` more bytes exceed the limit, without the WAL.
    pub(super) fn exceeds(&self, need: u64) -> bool {
        self.used() + need > self.max
    }

    /// Whether the limit is at least this many bytes.
    pub(super) fn holds(&self, bytes: u64) -> bool {
        bytes <= self.max
    }

    /// Counts bytes that the current transaction adds to the database.
    pub(super) fn grow(&mut self, bytes: u64) {
        self.grown += bytes;
    }

    /// After the commit: removes the files of the records that it removed.
    pub(super) fn remove_files(&mut self, shared: &Shared) {
        self.moved.clear();
        if !self.doomed.is_empty() {
            self.doomed.drain(..).for_each(|(name, size)| self.spool.remove(&name, size));
            self.publish(shared);
        }
    }

    /// After a rollback: the removed records are still there, and the added ones are not.
    pub(super) fn undo(&mut self, conn: &Connection) {
        self.damage.find(conn);
        self.doomed.clear();
        self.moved.drain(..).for_each(|(count, bytes)| add(&count, -bytes));
    }

    /// Whether `need` more bytes stay within the limit, including the excess of the WAL.
    pub(super) fn fits(&self, need: u64) -> bool {
        self.used() + need + self.log_excess <= self.max
    }

    /// Whether a foreign reader makes the WAL so large that nothing more fits.
    pub(super) fn is_held_by_a_reader(&self) -> bool {
        self.log_excess > 0 && !self.fits(0)
    }

    /// Removes settled records, the oldest first: a few when the limit is near, as many as needed when it is reached. Records of projects
    /// beyond their part go first. A project that is beyond its part itself never takes room from those within theirs. A step stops at
    /// `bytes` (at least [`LITTLE`]), because a few records may be all there is.
    fn evict(
        &mut self,
        conn: &Connection,
        shared: &Shared,
        (want, bytes): (Want, u64),
        enough: impl Fn(&Self) -> bool,
    ) -> rusqlite::Result<()> {
        let giving = shared.shares().giving(want.project, want.need);
        for giving in &giving {
            self.evict_of(conn, shared, giving, (bytes.max(LITTLE), want.is_last), &enough)?;
            if enough(self) {
                break;
            }
        }
        Ok(())
    }

    fn evict_of(
        &mut self,
        conn: &Connection,
        shared: &Shared,
        giving: &Giving,
        (bytes, is_last): (u64, bool),
        enough: impl Fn(&Self) -> bool,
    ) -> rusqlite::Result<()> {
        let rank = giving.rank as usize;
        let mut current = self.searches[rank].begin();
        loop {
            let rows = if enough(self) { NEAR } else { STEP };
            let from = self.searches[rank].from;
            let walk = walk(conn, shared, (from, rows), (None, Some(giving)), (GIVING, bytes))?;
            let is_over = self.searches[rank].step(&mut current, &walk, is_last);
            self.let_go(conn, shared, walk)?;
            if is_over || enough(self) {
                return Ok(());
            }
        }
    }

    /// Removes the records of a walk to make room.
    pub(super) fn let_go(&mut self, conn: &Connection, shared: &Shared, walk: Walk) -> rusqlite::Result<()> {
        self.remove(conn, shared, walk)?;
        self.measure(conn)
    }

    /// Removes the records of a walk. Keeps the number after the last one, because that record may be the newest.
    fn remove(&mut self, conn: &Connection, shared: &Shared, walk: Walk) -> rusqlite::Result<()> {
        let Some((_, last)) = walk.runs.last() else { return Ok(()) };
        keep_next_record(conn, last + 1)?;
        self.shrunk = true;
        remove(conn, &walk.runs, &mut self.doomed, &mut self.damage)?;
        for (project, bytes) in walk.room {
            self.count(shared, project, -bytes.cast_signed());
        }
        Ok(())
    }

    /// Removes up to `limit` old settled records, going on where the last call ended.
    pub(super) fn prune(
        &mut self,
        conn: &Connection,
        shared: &Shared,
        mut age: Age<'_>,
        limit: usize,
    ) -> rusqlite::Result<usize> {
        let (began, mut wrapped, mut removed) = (self.prune_from, self.prune_from == 0, 0);
        for _ in 0..LOOK / STEP {
            if removed >= limit || wrapped && began > 0 && self.prune_from >= began {
                break;
            }
            let walk =
                walk(conn, shared, (self.prune_from, STEP), (Some(&mut age), None), (limit - removed, u64::MAX))?;
            removed += walk.removed;
            self.prune_from = if walk.end { 0 } else { walk.next };
            let end = walk.end;
            self.remove(conn, shared, walk)?;
            if end && std::mem::replace(&mut wrapped, true) {
                break;
            }
        }
        Ok(removed)
    }
}

/// Adds to a count; `bytes` may be negative.
fn add(count: &AtomicU64, bytes: i64) {
    count.fetch_add(bytes.cast_unsigned(), Ordering::Relaxed);
}

/// The number that the next record would get if the journal were opened now: above every number that exists, was removed, or that a target
/// has settled.
pub(super) fn next_record(conn: &Connection) -> rusqlite::Result<u64> {
    let sql = "SELECT max(next_record, 1 + (SELECT coalesce(max(id), 0) FROM record),
                   1 + (SELECT coalesce(max(watermark), 0) FROM target)) FROM meta";
    conn.query_row(sql, [], |row| row.get::<_, i64>(0)).map(i64::cast_unsigned)
}

/// Keeps this number unless a higher one is kept, so that no number is used twice after the newest record was removed.
pub(super) fn keep_next_record(conn: &Connection, next: u64) -> rusqlite::Result<()> {
    conn.prepare_cached("UPDATE meta SET next_record = max(next_record, ?1)")?.execute([next.cast_signed()]).map(drop)
}
