//! Retries dead letters: their records wait again, due at once.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::clock::Timestamp;
use crate::journal::letters::together;
use crate::journal::verification::LOST_BY_TRACKER;
use crate::journal::{Pick, TargetId, bounded};
use crate::protocol::category::Quantities;

use super::again::{self, Again};
use super::fault::Fault;
use super::letters::{COLUMNS, MEANT, quantities};
use super::places;
use super::record::{items, time};
use super::shared::Shared;
use super::waiting;
use super::work::Work;

/// The retry of one record.
struct Retried {
    again: Again,
    /// The letters.
    ids: Vec<i64>,
    /// The time and the quantities of each refusal. A letter for an event that the upstream took and lost has none.
    refused: Vec<(Timestamp, Quantities)>,
}

type ByTarget = BTreeMap<TargetId, BTreeMap<i64, Retried>>;

/// Retries the oldest letters that `pick` means, up to `limit`, unless their records wait; returns how many.
pub(super) async fn letters(shared: &Arc<Shared>, pick: &Pick, limit: usize) -> Result<usize, Fault> {
    let now = shared.clock.now();
    let retried = Work::run(shared, async |work| attempt(work, pick, limit, now).await).await?;
    retried.iter().for_each(|(target, _)| waiting::tell(shared, *target, now));
    Ok(retried.iter().map(|(_, count)| count).sum())
}

async fn attempt(work: &mut Work, pick: &Pick, limit: usize, now: Timestamp) -> Result<Vec<(TargetId, usize)>, Fault> {
    let mut counts = Vec::new();
    for (target, mut records) in meant(work, pick, limit, now).await? {
        work.lock(target).await?;
        let ids: Vec<i64> = records.keys().copied().collect();
        for waiting in places::waits(work, target, &ids).await? {
            records.remove(&waiting);
        }
        let (mut all, mut letters) = (vec![], vec![]);
        for Retried { again, ids, refused } in records.into_values() {
            for (at, quantities) in &refused {
                again::note_retried(work, *at, (target, again.project), quantities).await?;
            }
            all.push(again);
            letters.extend(ids);
        }
        again::take_up(work, target, &all).await?;
        work.execute("DELETE FROM dead_letter WHERE id = ANY($1)", &[&letters]).await?;
        counts.push((target, letters.len()));
    }
    Ok(counts)
}

/// The oldest letters that `pick` means, by target and record. Another relay that retries them waits for this transaction.
async fn meant(work: &Work, pick: &Pick, limit: usize, due: Timestamp) -> Result<ByTarget, Fault> {
    let (id, target, reason, since) = pick.parts();
    let limit = bounded(limit);
    let sql = format!("SELECT {COLUMNS} {MEANT} ORDER BY d.id LIMIT $5 FOR UPDATE OF d");
    let mut by_target = ByTarget::new();
    for row in work.query(&sql, &[&id, &target, &reason, &since, &limit]).await? {
        let target = TargetId(u8::try_from(row.get::<_, i16>(1)).unwrap_or(u8::MAX));
        let again = Again {
            id: row.get(2),
            project: row.get(10),
            size: row.get::<_, i64>(13).cast_unsigned(),
            due,
            items: row.get::<_, Option<&[u8]>>(8).map(items),
            quantities: quantities(&row, 9),
        };
        let is_refused = row.get::<_, &str>(4) != LOST_BY_TRACKER;
        let refused = is_refused.then(|| (time(row.get(3)), again.quantities.clone()));
        let records = by_target.entry(target).or_default();
        let retried = match records.entry(again.id) {
            std::collections::btree_map::Entry::Vacant(place) => {
                place.insert(Retried { again, ids: vec![], refused: vec![] })
            }
            std::collections::btree_map::Entry::Occupied(place) => {
                let retried = place.into_mut();
                retried.again.quantities.extend(&again.quantities);
                retried.again.items = together(retried.again.items.take(), again.items);
                retried
            }
        };
        retried.ids.push(row.get(0));
        retried.refused.extend(refused);
    }
    Ok(by_target)
}
