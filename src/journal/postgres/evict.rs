//! Eviction: the oldest records that wait only for shadows make room.
//!
//! Rules: a record goes for all targets that it waits for, or for none. A record stays if the primary of its project waits for it, if a
//! relay has it in hand, or if a dead letter shows it. Each step reads a bounded number of records, and has all targets to itself.

use std::collections::{BTreeMap, HashMap, HashSet};

use bytes::Bytes;

use crate::journal::shares::tell_evicted;
use crate::journal::{Primaries, TargetId};
use crate::policy::outcome::DropReason;
use crate::protocol::category::Quantities;

use super::discard::{self, BODIES};
use super::fault::Fault;
use super::settled;
use super::work::{LOCKS, Work};

/// The most records that one step reads, and the most that it evicts.
const LOOK: i64 = 1024;
const STEP: usize = 128;

/// The wait of a record for one target.
struct Waiting {
    target: TargetId,
    size: u64,
    quantities: Quantities,
    /// Whether the record is in hand, or a dead letter shows it.
    is_held: bool,
}

/// A record to evict.
struct Victim {
    id: i64,
    project: i32,
    waiting: Vec<Waiting>,
}

/// Evicts up to [`STEP`] of the oldest records of these projects that can go; returns how many. The next call continues behind them. Evicts
/// none until the primaries are known.
pub(super) async fn step(work: &mut Work, giving: &HashSet<i32>) -> Result<usize, Fault> {
    let Some(primaries) = work.shared.room.primaries() else { return Ok(0) };
    let lock = "SELECT pg_advisory_xact_lock($1, id) FROM (SELECT id::int FROM target ORDER BY id) AS t";
    work.execute(lock, &[&LOCKS]).await?;
    let mut found = victims(work, giving, &primaries).await?;
    let ids: Vec<i64> = found.iter().map(|victim| victim.id).collect();
    // A record that another transaction has locked stays.
    let lock = "SELECT id FROM record WHERE id = ANY($1) ORDER BY id FOR UPDATE SKIP LOCKED";
    let ours: HashSet<i64> = work.query(lock, &[&ids]).await?.iter().map(|row| row.get(0)).collect();
    found.retain(|victim| ours.contains(&victim.id));
    if found.is_empty() {
        return Ok(0);
    }
    for some in found.chunks(BODIES) {
        note(work, some).await?;
    }
    let ids: Vec<i64> = found.iter().map(|victim| victim.id).collect();
    work.execute("DELETE FROM pending WHERE record = ANY($1)", &[&ids]).await?;
    tell(work, &found);
    settled::remove(work, &ids, false).await
}

/// The oldest records that can go, from the position of the search on. After the last record the search begins anew.
async fn victims(work: &Work, giving: &HashSet<i32>, primaries: &Primaries) -> Result<Vec<Victim>, Fault> {
    let (at, id) = work.shared.room.search();
    let sql = "SELECT id, accepted_at, project FROM record WHERE (accepted_at, id) > ($1, $2) ORDER BY accepted_at, id LIMIT $3";
    let rows = work.query(sql, &[&at, &id, &LOOK]).await?;
    let looked: Vec<i64> = rows.iter().filter(|row| giving.contains(&row.get(2))).map(|row| row.get(0)).collect();
    let mut waiting = waiting(work, &looked).await?;
    let (mut found, mut seen) = (vec![], (i64::MIN, 0));
    for row in &rows {
        let (id, project): (i64, i32) = (row.get(0), row.get(2));
        seen = (row.get(1), id);
        let Some(waiting) = waiting.remove(&id) else { continue };
        // The primary of a project that another relay has just met is not known yet.
        let Some(name) = work.shared.names().project(project).cloned() else { continue };
        let primary = primaries.of(&name);
        if !waiting.iter().any(|one| one.is_held || Some(one.target) == primary) {
            found.push(Victim { id, project, waiting });
        }
        if found.len() == STEP {
            break;
        }
    }
    let is_end = found.len() < STEP && (rows.len() as i64) < LOOK;
    work.shared.room.go_on(if is_end { (i64::MIN, 0) } else { seen });
    Ok(found)
}

/// The targets that each record waits for, by record.
async fn waiting(work: &Work, records: &[i64]) -> Result<HashMap<i64, Vec<Waiting>>, Fault> {
    let rows = work
        .query(
            "SELECT r.id, t.id, r.size, coalesce(p.quantities, r.quantities),
                 p.owner IS NOT NULL OR s.id IS NOT NULL OR EXISTS (SELECT 1 FROM dead_letter d WHERE d.record = r.id)
             FROM record r JOIN target t ON r.targets & (1::bigint << t.id) <> 0
                 LEFT JOIN frontier f ON f.target = t.id AND f.incarnation = (r.id >> 40)::int
                 LEFT JOIN pending p ON p.target = t.id AND p.record = r.id
                 LEFT JOIN slice s ON s.target = t.id AND r.id = ANY(s.records)
             WHERE r.id = ANY($1)
                 AND (p.record IS NOT NULL OR s.id IS NOT NULL OR coalesce(f.reached, 0) < r.id)",
            &[&records],
        )
        .await?;
    let mut all: HashMap<i64, Vec<Waiting>> = HashMap::new();
    for row in &rows {
        let target = TargetId(u8::try_from(row.get::<_, i16>(1)).unwrap_or(u8::MAX));
        // Quantities that cannot be read counted as nothing before, too.
        let quantities = row.get::<_, &str>(3).parse().unwrap_or_default();
        let size = row.get::<_, i64>(2).cast_unsigned();
        all.entry(row.get(0)).or_default().push(Waiting { target, size, quantities, is_held: row.get(4) });
    }
    Ok(all)
}

/// Books that no target gets these records.
async fn note(work: &mut Work, victims: &[Victim]) -> Result<(), Fault> {
    let (now, reason) = (work.now(), DropReason::Evicted);
    let is_counted = |victim: &&Victim| victim.waiting.iter().any(|one| discard::counts_body(&one.quantities));
    let counted: Vec<i64> = victims.iter().filter(is_counted).map(|victim| victim.id).collect();
    let bodies = discard::bodies(work, reason, &counted).await?;
    let none = Bytes::new().into();
    for Victim { id, project, waiting } in victims {
        let body = bodies.get(id).unwrap_or(&none);
        for Waiting { target, size, quantities, .. } in waiting {
            work.book.note_dropped(now, (*target, *project), reason, (body, quantities));
            work.book.leave(*target, *project, *size, quantities);
        }
    }
    Ok(())
}

/// Logs what was evicted.
fn tell(work: &Work, victims: &[Victim]) {
    let mut all: BTreeMap<TargetId, u64> = BTreeMap::new();
    for Waiting { target, .. } in victims.iter().flat_map(|victim| &victim.waiting) {
        *all.entry(*target).or_default() += 1;
    }
    for (target, envelopes) in all {
        tell_evicted(work.shared.names().upstream(target), envelopes);
    }
}
