//! Reads the state at the start: targets, projects, totals and backlogs.
//!
//! Rule: backlogs are counted from the rows, not kept beside them, so that the balance of the accounts is a true audit.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};

use rusqlite::Connection;

use crate::clock::{Clock, Timestamp};
use crate::journal::evidence::Latest;
use crate::journal::shares::Shares;
use crate::journal::{OpenError, Settings, TargetId};
use crate::protocol::category::Quantities;
use crate::telemetry::ledger::Ledger;

use super::accounts;
use super::disk::Disk;
use super::queue::{NEVER, Queue, Target};
use super::schema::unusable;
use super::shared::{Counters, Shared};
use super::space::Files;
use super::spool::Spool;

/// Reads the state that the threads share.
pub(super) fn load(
    conn: &Connection,
    settings: &Settings,
    spool: Arc<Spool>,
    clock: Clock,
    ledger: Ledger,
) -> rusqlite::Result<Shared> {
    let names: Vec<Arc<str>> = conn
        .prepare("SELECT name FROM project ORDER BY id")?
        .query_map([], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    let mut shares = Shares::new(settings.max_size.get());
    names.iter().for_each(|name| shares.know(Arc::clone(name)));
    let mut targets = targets(conn)?;
    if let Err(error) = look_again(conn, &targets) {
        tracing::warn!(%error, "what was set aside is looked at again by the next start");
    }
    count_untried(conn, &mut targets, &shares)?;
    count_rows(conn, &mut targets)?;
    count_dead_letters(conn, &mut targets)?;
    let targets = (0..).zip(targets).map(|(id, (name, queue))| Arc::new(Target::new(TargetId(id), name, queue)));
    let shared = Shared {
        clock,
        ledger,
        targets: RwLock::new(Arc::new(targets.collect())),
        projects: RwLock::new(names),
        shares: RwLock::new(shares),
        used: AtomicU64::default(),
        files: Files::of(&settings.path),
        secret: conn.query_row("SELECT secret FROM meta", [], |row| row.get(0))?,
        spool,
        held: Default::default(),
        disk: Disk::new(settings),
        trouble: Mutex::new(None),
        closed: AtomicBool::new(false),
        primaries: RwLock::default(),
        woken: AtomicBool::new(false),
        hurried: AtomicBool::new(false),
        counters: Counters::default(),
    };
    accounts::post_totals(conn, &shared)?;
    Ok(shared)
}

/// Opens the folder of large bodies and removes the files of no record.
pub(super) fn spool(conn: &Connection, settings: &Settings) -> Result<Arc<Spool>, OpenError> {
    let path = settings.path.as_path();
    let (names, bytes) = files(conn).map_err(|e| unusable(path, &e))?;
    let spool = Spool::open(path, settings.sync).map_err(|e| unusable(path, &e))?;
    spool.clear(&names, bytes).map_err(|e| unusable(path, &e))?;
    Ok(Arc::new(spool))
}

/// The names of the files that records name, and their bytes in all.
fn files(conn: &Connection) -> rusqlite::Result<(HashSet<String>, u64)> {
    let mut select = conn.prepare("SELECT name, size FROM file")?;
    let (mut rows, mut names, mut bytes) = (select.query([])?, HashSet::new(), 0);
    while let Some(row) = rows.next()? {
        names.insert(row.get(0)?);
        bytes += row.get::<_, i64>(1)?.cast_unsigned();
    }
    Ok((names, bytes))
}

type Targets = Vec<(Arc<str>, Queue)>;

fn targets(conn: &Connection) -> rusqlite::Result<Targets> {
    let mut select = conn.prepare("SELECT name, watermark, delivered_at, canary_at FROM target ORDER BY id")?;
    let rows = select.query_map([], |row| {
        let watermark = row.get::<_, i64>(1)?.cast_unsigned();
        let mut queue = Queue::new(watermark, false);
        let at = |at| row.get::<_, Option<i64>>(at).map(|ms| ms.map(|ms| Timestamp::from_millis(ms.cast_unsigned())));
        queue.latest = Latest { delivered_at: at(2)?, canary_at: at(3)? };
        Ok((row.get(0)?, queue))
    })?;
    rows.collect()
}

/// Makes records due that were set aside: the cause may have passed, or this version may be able to read them. A bounded number for each
/// target, so that a start does not take long.
fn look_again(conn: &Connection, targets: &Targets) -> rusqlite::Result<()> {
    let mut update = conn.prepare(
        "UPDATE pending SET due = 0 WHERE target = ?1 AND record IN
         (SELECT record FROM pending WHERE target = ?1 AND due = ?2 LIMIT 1000)",
    )?;
    for (target, _) in (0_u8..).zip(targets) {
        update.execute((target, NEVER.as_millis().cast_signed()))?;
    }
    Ok(())
}

/// Scans the narrow table once: every record takes room, and those above the lowest watermark may wait untried.
fn count_untried(conn: &Connection, targets: &mut Targets, shares: &Shares) -> rusqlite::Result<()> {
    let lowest = targets.iter().map(|(_, queue)| queue.watermark).min().unwrap_or(u64::MAX);
    let mut select = conn
        .prepare("SELECT id, targets, project, size, quantities, coalesce(room, size + 512) FROM record ORDER BY id")?;
    let mut rows = select.query([])?;
    let mut last = Parsed::default();
    while let Some(row) = rows.next()? {
        if let Some(count) = shares.count(row.get(2)?) {
            count.fetch_add(row.get::<_, i64>(5)?.cast_unsigned(), Ordering::Relaxed);
        }
        if row.get::<_, i64>(0)?.cast_unsigned() <= lowest {
            continue;
        }
        let (id, mask) = (row.get::<_, i64>(0)?.cast_unsigned(), row.get::<_, i64>(1)?);
        let (project, size) = (row.get::<_, u32>(2)?, row.get::<_, i64>(3)?.cast_unsigned());
        let quantities = last.parse(row.get_ref(4)?.as_str().unwrap_or_default());
        for (bit, (_, queue)) in targets.iter_mut().enumerate() {
            if mask & 1 << bit != 0 && id > queue.watermark {
                queue.tally.enter(project, size, quantities);
                queue.committed = id;
            }
        }
    }
    Ok(())
}

fn count_rows(conn: &Connection, targets: &mut Targets) -> rusqlite::Result<()> {
    let mut select = conn.prepare(
        "SELECT p.target, p.due, r.project, r.size, coalesce(p.quantities, r.quantities)
         FROM pending p JOIN record r ON r.id = p.record",
    )?;
    let mut rows = select.query([])?;
    let mut last = Parsed::default();
    while let Some(row) = rows.next()? {
        let Some((_, queue)) = targets.get_mut(row.get::<_, u8>(0)? as usize) else { continue };
        let quantities = last.parse(row.get_ref(4)?.as_str().unwrap_or_default());
        queue.tally.enter(row.get(2)?, row.get::<_, i64>(3)?.cast_unsigned(), quantities);
        queue.wait(Timestamp::from_millis(row.get::<_, i64>(1)?.cast_unsigned()));
    }
    Ok(())
}

fn count_dead_letters(conn: &Connection, targets: &mut Targets) -> rusqlite::Result<()> {
    let mut select = conn.prepare("SELECT target, count(*) FROM dead_letter GROUP BY target")?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        if let Some((_, queue)) = targets.get_mut(row.get::<_, u8>(0)? as usize) {
            queue.dead_letters = row.get::<_, i64>(1)?.cast_unsigned();
        }
    }
    Ok(())
}

/// Keeps the last text parsed, because quantities repeat from row to row.
#[derive(Default)]
struct Parsed {
    text: String,
    quantities: Quantities,
}

impl Parsed {
    /// Unreadable text counts as nothing; the record is set aside when it is claimed.
    fn parse(&mut self, text: &str) -> &Quantities {
        if self.text != text {
            self.text.clear();
            self.text.push_str(text);
            self.quantities = text.parse().unwrap_or_default();
        }
        &self.quantities
    }
}
