//! Removes records that nobody needs any more: with time, and when room is short.
//!
//! Rule: a record is removed once no target waits for it and no dead letter shows it. Its row is locked for the last check, and a
//! transaction that takes a record up again locks the row, too. Each look reads a bounded number of records.

use std::collections::{BTreeMap, HashSet};
use std::sync::PoisonError;

use super::days;
use super::fault::Fault;
use super::record::ms;
use super::shared::Shared;
use super::work::Work;

/// How many records one step reads.
const LOOK: i64 = 1024;

/// Returns whether there is a record that was accepted before this time. It takes no turn among this relay's transactions, so nothing waits
/// for it.
pub(super) async fn has_older(shared: &Shared, before: i64) -> Result<bool, Fault> {
    // The oldest is the first of an index. Whether there is one before a time would be planned as a walk through the table.
    let older = "SELECT coalesce(min(accepted_at) < $1, false) FROM record";
    Ok(shared.client().await?.one(older, &[&before]).await?.get(0))
}

/// Removes up to `limit` records that nobody needs, of a bounded number accepted before `before`, and only those of the projects `of` if it
/// is given. The next call continues behind them.
pub(super) async fn forget(
    work: &mut Work,
    before: i64,
    limit: usize,
    of: Option<&HashSet<i32>>,
) -> Result<usize, Fault> {
    let (at, id) = *work.shared.pruned.lock().unwrap_or_else(PoisonError::into_inner);
    let rows = work
        .query(
            "WITH old AS (
                 SELECT id, accepted_at, project, targets FROM record
                 WHERE accepted_at < $1 AND (accepted_at, id) > ($2, $3) ORDER BY accepted_at, id LIMIT $4)
             SELECT id, accepted_at, project,
                 id NOT IN (SELECT unnest(records) FROM slice)
                 AND NOT EXISTS (SELECT 1 FROM pending p WHERE p.record = old.id)
                 AND NOT EXISTS (SELECT 1 FROM dead_letter d WHERE d.record = old.id)
                 AND NOT EXISTS (
                     SELECT 1 FROM target t LEFT JOIN frontier f ON f.target = t.id AND f.incarnation = (old.id >> 40)::int
                     WHERE old.targets & (1::bigint << t.id) <> 0 AND coalesce(f.reached, 0) < old.id)
             FROM old ORDER BY accepted_at, id",
            &[&before, &at, &id, &LOOK],
        )
        .await?;
    let is_whole = rows.len() as i64 == LOOK;
    let (mut found, mut seen, mut is_limited) = (vec![], (0, 0), false);
    for row in &rows {
        if found.len() == limit {
            is_limited = true;
            break;
        }
        seen = (row.get(1), row.get(0));
        if row.get(3) && of.is_none_or(|of| of.contains(&row.get(2))) {
            found.push(row.get::<_, i64>(0));
        }
    }
    let next = if is_whole || is_limited { seen } else { (i64::MIN, 0) };
    *work.shared.pruned.lock().unwrap_or_else(PoisonError::into_inner) = next;
    // Bodies of old records may wait for the end of their day. When room is short they may not.
    if found.is_empty() { Ok(0) } else { remove(work, &found, of.is_none()).await }
}

/// Removes those of these records that nobody has taken up again; returns how many. With `leaves_bodies` their bodies may be left to [go
/// with their day](days).
pub(super) async fn remove(work: &mut Work, found: &[i64], leaves_bodies: bool) -> Result<usize, Fault> {
    let lock = "SELECT id FROM record WHERE id = ANY($1) ORDER BY id FOR UPDATE SKIP LOCKED";
    let ours: Vec<i64> = work.query(lock, &[&found]).await?.iter().map(|row| row.get(0)).collect();
    let rows = work
        .query(
            "DELETE FROM record r WHERE id = ANY($1)
             AND NOT EXISTS (SELECT 1 FROM pending p WHERE p.record = r.id)
             AND NOT EXISTS (SELECT 1 FROM dead_letter d WHERE d.record = r.id)
             RETURNING id, project, room, large, accepted_at, body IS NULL AND large IS NULL",
            &[&ours],
        )
        .await?;
    let (mut gone, mut large, mut by_day) = (vec![], vec![], BTreeMap::<i64, Vec<i64>>::new());
    let today = days::of(ms(work.now()));
    for row in &rows {
        gone.push(row.get::<_, i64>(0));
        work.book.take_room(row.get(1), -row.get::<_, i64>(2));
        large.extend(row.get::<_, Option<i64>>(3));
        let day = days::of(row.get(4));
        if row.get(5) && !(leaves_bodies && work.shared.over().goes_whole(day, today)) {
            by_day.entry(day).or_default().push(row.get(0));
        }
    }
    for (day, records) in by_day {
        work.execute("DELETE FROM body WHERE day = $1 AND record = ANY($2)", &[&day, &records]).await?;
    }
    work.execute("DELETE FROM missed WHERE record = ANY($1)", &[&gone]).await?;
    work.execute("DELETE FROM key WHERE record = ANY($1)", &[&gone]).await?;
    if !large.is_empty() {
        work.execute("DELETE FROM large WHERE id = ANY($1)", &[&large]).await?;
    }
    Ok(gone.len())
}
