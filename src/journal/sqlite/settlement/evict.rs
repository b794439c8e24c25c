//! Makes room: drops the oldest records that wait only for shadows.
//!
//! Rule: a record is dropped for all targets that wait for it, or for none. A record that its project's primary waits for, that is leased,
//! or that a dead letter shows stays, because dropping its other copies would free nothing. Each look is at a bounded number of records.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, params};

use crate::clock::Timestamp;
use crate::journal::shares::{Giving, Rank, tell_evicted};
use crate::journal::sqlite::accounts::Book;
use crate::journal::sqlite::queue::Target;
use crate::journal::sqlite::shared::Shared;
use crate::journal::sqlite::space::Walk;
use crate::journal::{Progress, TargetId};
use crate::policy::outcome::DropReason;
use crate::protocol::category::Quantities;

use super::{Pass, Victim, write_row};

/// The most records dropped in one step, and the records that one look reads.
const STEP: usize = 128;
const LOOK: usize = 1024;
/// The bytes that one step drops even if less is needed.
const BYTES: u64 = 256 << 10;
/// An untried record that is this far behind the first one stays, because every record in between would need a row.
const FAR: u64 = 8 * LOOK as u64;

/// How often the search begins again at the oldest record: a record that a primary waited for may wait only for shadows by now.
const ANEW: Duration = Duration::from_secs(10);

/// The state of the search for room.
#[derive(Debug, Default)]
pub(in crate::journal::sqlite) struct Eviction {
    /// The searches, by rank.
    searches: [Search; Rank::COUNT],
    /// Dropped envelopes that are not logged yet, by target.
    untold: BTreeMap<TargetId, u64>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Search {
    /// The search has looked at the records up to this one, and began anew at `since`.
    from: u64,
    since: Timestamp,
    /// Whether the last whole lap found nothing. Until something is found, each try is one look.
    barren: bool,
}

/// The records that a step dropped.
#[derive(Debug, Default)]
pub(in crate::journal::sqlite) struct Gone {
    /// The records, which no target holds any more.
    pub(in crate::journal::sqlite) records: Walk,
    /// The bytes of their bodies.
    pub(in crate::journal::sqlite) bytes: u64,
}

/// A record as the search reads it.
struct Looked {
    id: u64,
    project: u32,
    size: u64,
    quantities: String,
    mask: i64,
    room: u64,
}

/// The state of one target for the records of a look.
struct Standing {
    target: Arc<Target>,
    watermark: u64,
    /// Untried records that are not leased lie after this number.
    untried: u64,
    /// The quantities in its rows; `None` means all of the record.
    rows: HashMap<u64, Option<String>>,
    /// Records that are leased, or were settled since the transaction began.
    busy: HashSet<u64>,
    victims: Vec<Victim>,
}

impl Eviction {
    /// Drops up to [`STEP`] of the oldest records that can go, or as many as `need` bytes take (at least [`BYTES`]), of the first in
    /// `giving` that has any. `None` if there are none, or while the primaries are unknown. `last` is the last record of the previous
    /// commit.
    pub(in crate::journal::sqlite) fn step(
        &mut self,
        conn: &Connection,
        shared: &Shared,
        (giving, need): (&[Giving], u64),
        (last, now, book): (u64, Timestamp, &mut Book),
        passes: &mut Vec<Pass>,
    ) -> rusqlite::Result<Option<Gone>> {
        let Some(primaries) = shared.primary_bits() else { return Ok(None) };
        let (own, targets) = (passes.len(), shared.targets());
        for target in targets.iter() {
            target.queue().frozen = true;
            Pass::settle(conn, target, (now, true), &mut *book, passes)?;
            passes.iter_mut().last().map_or(Ok(()), |pass| pass.rise(conn, last, now))?;
        }
        let own = &mut passes[own..];
        let bound = bound(&targets, &primaries).min(last);
        for giving in giving {
            let gone = self.search(conn, (giving, &primaries), (bound, need), own, (now, &mut *book))?;
            if gone.is_some() {
                return Ok(gone);
            }
        }
        Ok(None)
    }

    fn search(
        &mut self,
        conn: &Connection,
        (giving, primaries): (&Giving, &[i64]),
        (bound, need): (u64, u64),
        own: &mut [Pass],
        (now, book): (Timestamp, &mut Book),
    ) -> rusqlite::Result<Option<Gone>> {
        let rank = giving.rank as usize;
        let mut search = self.searches[rank];
        if now.since(search.since) >= ANEW {
            (search.from, search.since) = (0, now);
        }
        let (began, mut wrapped) = (search.from, search.from == 0);
        loop {
            let looked = look(conn, search.from, bound)?;
            let is_end = looked.len() < LOOK;
            let gone = match (looked.first(), looked.last()) {
                (Some(first), Some(last)) => {
                    let mut standings = standings(conn, own, (first.id, last.id))?;
                    let (gone, reached) = choose(conn, &mut standings, &looked, (giving, primaries), need.max(BYTES))?;
                    search.from = if is_end && reached == last.id { 0 } else { reached };
                    for (pass, standing) in own.iter_mut().zip(standings) {
                        self.note(&standing);
                        pass.give_up(conn, standing, (now, &mut *book))?;
                    }
                    gone
                }
                _ => {
                    search.from = 0;
                    None
                }
            };
            let is_lap = wrapped && (is_end || search.from >= began && began > 0);
            search.barren = gone.is_none() && (search.barren || is_lap);
            self.searches[rank] = search;
            if gone.is_some() || search.barren {
                return Ok(gone);
            }
            wrapped |= is_end;
        }
    }

    fn note(&mut self, standing: &Standing) {
        if !standing.victims.is_empty() {
            *self.untold.entry(standing.target.id).or_default() += standing.victims.len() as u64;
        }
    }

    /// Logs what was dropped.
    pub(in crate::journal::sqlite) fn tell(&mut self, targets: &[Arc<Target>]) {
        for (id, envelopes) in std::mem::take(&mut self.untold) {
            let Some(target) = targets.get(usize::from(id.0)) else { continue };
            tell_evicted(&target.name, envelopes);
        }
    }
}

/// The last record that the search looks at: above its watermark, a primary waits for every record that has its bit.
fn bound(targets: &[Arc<Target>], primaries: &[i64]) -> u64 {
    let used = targets.iter().filter(|target| primaries.contains(&target.bit()));
    used.map(|target| target.queue().watermark).max().unwrap_or(u64::MAX)
}

fn look(conn: &Connection, from: u64, to: u64) -> rusqlite::Result<Vec<Looked>> {
    let mut select = conn.prepare_cached(
        "SELECT id, project, size, quantities, targets, coalesce(room, size + 512) FROM record
         WHERE id > ?1 AND id <= ?2 ORDER BY id LIMIT ?3",
    )?;
    let to = i64::try_from(to).unwrap_or(i64::MAX);
    let rows = select.query_map(params![from.cast_signed(), to, LOOK as i64], |row| {
        Ok(Looked {
            id: row.get::<_, i64>(0)?.cast_unsigned(),
            project: row.get(1)?,
            size: row.get::<_, i64>(2)?.cast_unsigned(),
            quantities: row.get(3).unwrap_or_default(),
            mask: row.get(4)?,
            room: row.get::<_, i64>(5)?.cast_unsigned(),
        })
    })?;
    rows.collect()
}

fn standings(conn: &Connection, passes: &[Pass], (first, last): (u64, u64)) -> rusqlite::Result<Vec<Standing>> {
    let mut select =
        conn.prepare_cached("SELECT record, quantities FROM pending WHERE target = ?1 AND record BETWEEN ?2 AND ?3")?;
    let standing = |pass: &Pass| {
        let rows = select.query_map(params![pass.target.id.0, first.cast_signed(), last.cast_signed()], |row| {
            Ok((row.get::<_, i64>(0)?.cast_unsigned(), row.get(1).unwrap_or_default()))
        })?;
        let rows = rows.collect::<Result<_, _>>()?;
        let (untried, _) = pass.untried();
        let queue = pass.target.queue();
        let busy = queue.leased_rows().into_iter().chain(queue.leases.keys().copied()).collect();
        let watermark = queue.watermark;
        drop(queue);
        Ok(Standing { target: Arc::clone(&pass.target), watermark, untried, rows, busy, victims: vec![] })
    };
    passes.iter().map(standing).collect()
}

impl Standing {
    fn waits(&self, record: &Looked) -> bool {
        let is_meant = record.mask & self.target.bit() != 0;
        is_meant && (record.id > self.watermark || self.rows.contains_key(&record.id))
    }

    /// Whether the target cannot give up this record, which waits for it.
    fn holds(&self, id: u64) -> bool {
        let is_untried = id > self.watermark;
        let is_held = self.busy.contains(&id) || is_untried && id <= self.untried;
        is_held || is_untried && id - self.untried > FAR
    }

    fn victim(&mut self, record: &Looked) {
        // Unreadable quantities count as nothing, here as in the backlog.
        let own = self.rows.get(&record.id).and_then(Option::as_ref).unwrap_or(&record.quantities);
        let quantities: Quantities = own.parse().unwrap_or_default();
        self.victims.push(Victim { id: record.id, project: record.project, size: record.size, quantities });
    }
}

/// Chooses victims, the oldest first. Returns them, and the last record that was considered.
fn choose(
    conn: &Connection,
    standings: &mut [Standing],
    looked: &[Looked],
    (giving, primaries): (&Giving, &[i64]),
    enough: u64,
) -> rusqlite::Result<(Option<Gone>, u64)> {
    let (mut gone, mut reached) = (Gone::default(), 0);
    let mut letter = conn.prepare_cached("SELECT 1 FROM dead_letter WHERE record = ?1")?;
    for record in looked {
        if gone.records.removed == STEP || gone.bytes >= enough {
            break;
        }
        reached = record.id;
        if !giving.has(record.project) {
            continue;
        }
        let primary = primaries.get(record.project as usize).copied().unwrap_or(0);
        let waiting: Vec<usize> = (0..standings.len()).filter(|at| standings[*at].waits(record)).collect();
        let is_held = |at: &usize| standings[*at].target.bit() == primary || standings[*at].holds(record.id);
        if waiting.is_empty() || waiting.iter().any(is_held) || letter.exists([record.id.cast_signed()])? {
            continue;
        }
        waiting.into_iter().for_each(|at| standings[at].victim(record));
        gone.records.add(record.id, (record.project, record.room));
        gone.bytes += record.size;
    }
    Ok(((gone.records.removed > 0).then_some(gone), reached))
}

impl Pass {
    /// Drops the chosen records. Untried records in between have rows from now on.
    fn give_up(
        &mut self,
        conn: &Connection,
        Standing { watermark, untried, victims, .. }: Standing,
        (now, book): (Timestamp, &mut Book),
    ) -> rusqlite::Result<()> {
        let Some(last) = victims.last().map(|victim| victim.id) else { return Ok(()) };
        for victim in victims.iter().filter(|victim| victim.id <= watermark) {
            conn.prepare_cached("DELETE FROM pending WHERE target = ?1 AND record = ?2")?
                .execute(params![self.target.id.0, victim.id.cast_signed()])?;
        }
        if last > watermark {
            let gone: HashSet<u64> = victims.iter().map(|victim| victim.id).collect();
            let mut select =
                conn.prepare_cached("SELECT id FROM record WHERE id > ?1 AND id <= ?2 AND targets & ?3")?;
            let range = params![untried.cast_signed(), last.cast_signed(), self.target.bit()];
            let ids = select.query_map(range, |row| row.get::<_, i64>(0))?;
            let ids = ids.collect::<Result<Vec<_>, _>>()?.into_iter().map(i64::cast_unsigned);
            self.skipped.extend(ids.filter(|id| !gone.contains(id)));
            for id in &self.skipped {
                write_row(conn, self.target.id, *id, now, &Progress::default(), None)?;
            }
            self.last_fresh = last;
            self.advance(conn, last, now)?;
        }
        self.victims = victims;
        self.note_victims(conn, DropReason::Evicted, (now, book))?;
        self.find_next_due(conn)
    }
}
