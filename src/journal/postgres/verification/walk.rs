//! Scans over the records of a target, within one incarnation at a time: never beyond its frontier.

use tokio_postgres::Row;

use crate::clock::Timestamp;
use crate::journal::postgres::fault::Fault;
use crate::journal::postgres::letters::quantities;
use crate::journal::postgres::shared::Shared;
use crate::journal::verification::{Batch, State, Taken, Wanted, is_error_event};
use crate::journal::{Cursor, RecordId, TargetId, bounded};

use super::event::{event, know};
use super::passed::Reached;
use super::rows;

/// The most records that one scan reads.
const SCAN: usize = 4096;
/// Set in the cursor of a scan that begins behind the target's cursor in each incarnation.
const BEHIND: u64 = 1 << 63;

/// The positions of a target in an incarnation.
struct Way {
    incarnation: i32,
    /// The cursor: up to where events were looked up.
    cursor: i64,
    /// The frontier: up to where records were handed out.
    reached: i64,
    /// When the first record between the two was accepted; `None` if there is none.
    first: Option<i64>,
}

/// In each incarnation, the number below all records.
const BEGINNING: &str = "(f.incarnation::bigint << 40)";

async fn ways(shared: &Shared, target: TargetId) -> Result<Vec<Way>, Fault> {
    let sql = format!(
            "SELECT f.incarnation, c.cursor, f.reached, r.accepted_at
             FROM frontier f LEFT JOIN verification v ON v.target = f.target AND v.incarnation = f.incarnation
             CROSS JOIN LATERAL (SELECT coalesce(v.reached, {BEGINNING}) AS cursor) c
             LEFT JOIN LATERAL (
                 SELECT accepted_at FROM record r WHERE r.id > c.cursor AND r.id <= f.reached ORDER BY r.id LIMIT 1) r ON true
             WHERE f.target = $1 ORDER BY f.incarnation"
        );
    let rows = shared.client().await?.all(&sql, &[&i16::from(target.0)]).await?;
    let way = |row: &Row| Way { incarnation: row.get(0), cursor: row.get(1), reached: row.get(2), first: row.get(3) };
    Ok(rows.iter().map(way).collect())
}

/// The events to look up.
pub(super) async fn wanted(
    shared: &Shared,
    target: TargetId,
    (bound, now, limit): (Cursor, Timestamp, usize),
) -> Result<Batch, Fault> {
    let ways = ways(shared, target).await?;
    let reached: Reached = ways.iter().map(|way| (way.incarnation, way.reached)).collect();
    let (again, delayed) = rows::due(shared, target, now, limit).await?;
    let bounds = shared.passed.of(target, bound);
    let settled = shared.passed.remember(target, reached);
    let mut batch = Batch { again, delayed, settled, ..Batch::default() };
    let end = |way: &Way| bounds.get(&way.incarnation).map_or(0, |bound| way.reached.min(*bound));
    let next = ways.iter().filter(|way| way.first.is_some() && way.cursor < end(way)).min_by_key(|way| way.first);
    if let Some(way) = next {
        let scan = scan(shared, target, (way.cursor, end(way), limit)).await?;
        batch.from = Cursor::from_number(way.cursor.cast_unsigned());
        let reached = if scan.more { scan.last } else { end(way) };
        batch.reached = Cursor::from_number(reached.cast_unsigned());
        (batch.fresh, batch.waiting) = (scan.events, scan.waiting);
    }
    Ok(batch)
}

/// The events that the target took, of the records of one scan of one incarnation.
pub(super) async fn taken(
    shared: &Shared,
    target: TargetId,
    since: Timestamp,
    (after, bound): (Option<Cursor>, Cursor),
) -> Result<Taken, Fault> {
    let after = after.map_or(BEHIND, Cursor::number);
    let (flag, after) = (after & BEHIND, (after & !BEHIND).cast_signed());
    let mut ways = ways(shared, target).await?;
    ways.retain(|way| way.reached > after);
    let bounds = shared.passed.of(target, bound);
    let mut taken = Taken::default();
    for (at, way) in ways.iter().enumerate() {
        let beginning = i64::from(way.incarnation) << 40;
        let from = if flag == BEHIND { way.cursor.max(after) } else { beginning.max(after) };
        let scan = scan(shared, target, (from, way.reached, SCAN)).await?;
        let go_on = if scan.more { Some(scan.last) } else { (at + 1 < ways.len()).then_some(way.reached) };
        taken.next = go_on.map(|next| Cursor::from_number(flag | next.cast_unsigned()));
        taken.events = scan.events.into_iter().filter(|event| event.accepted_at >= since).collect();
        let is_below = |event: &Wanted, bound: i64| event.record.0 <= bound.cast_unsigned();
        for event in taken.events.iter_mut().filter(|event| !is_below(event, way.cursor)) {
            if event.state == State::Stored {
                event.state = State::Looking;
            }
        }
        let settled = bounds.get(&way.incarnation).map_or(way.cursor, |bound| way.cursor.max(*bound));
        taken.settled = taken.events.partition_point(|event| is_below(event, settled));
        if scan.more || !taken.events.is_empty() {
            break;
        }
    }
    Ok(taken)
}

/// The result of a scan.
struct Scan {
    events: Vec<Wanted>,
    waiting: Vec<RecordId>,
    /// The last record that was read.
    last: i64,
    /// Whether there are more records behind it.
    more: bool,
}

/// Scans the records after `from` and up to `to`, until it has found `limit` events that the target took, or has read [`SCAN`] records.
async fn scan(shared: &Shared, target: TargetId, (from, to, limit): (i64, i64, usize)) -> Result<Scan, Fault> {
    let (number, bit) = (i16::from(target.0), i32::from(target.0));
    let client = shared.client().await?;
    let found = client
        .all(
            "SELECT r.id, r.project, r.event_id, r.accepted_at, r.quantities, l.state, l.looks, l.repairs,
                 r.targets & (1::bigint << $5) <> 0,
                 r.id IN (SELECT unnest(records) FROM slice WHERE target = $4)
                 OR EXISTS (SELECT 1 FROM pending p WHERE p.target = $4 AND p.record = r.id),
                 EXISTS (SELECT 1 FROM missed m WHERE m.target = $4 AND m.record = r.id)
             FROM (
                 SELECT id, project, event_id, accepted_at, quantities, targets FROM record
                 WHERE id > $1 AND id <= $2 ORDER BY id LIMIT $3) r
             LEFT JOIN look l ON l.target = $4 AND l.record = r.id ORDER BY r.id",
            &[&from, &to, &bounded(SCAN), &number, &bit],
        )
        .await?;
    drop(client);
    know(shared, &found).await?;
    let mut scan = Scan { events: vec![], waiting: vec![], last: from, more: false };
    for row in &found {
        if scan.events.len() == limit {
            scan.more = true;
            return Ok(scan);
        }
        scan.last = row.get(0);
        if !row.get::<_, bool>(8) || !is_error_event(&quantities(row, 4)) {
            continue;
        }
        match (row.get::<_, bool>(9), row.get::<_, bool>(10)) {
            (true, _) => scan.waiting.push(RecordId(scan.last.cast_unsigned())),
            // The record, or part of it, was refused or dropped: the upstream may lack the event.
            (false, true) => {}
            (false, false) => scan.events.extend(event(shared, row, State::Stored)),
        }
    }
    scan.more = found.len() == SCAN;
    Ok(scan)
}
