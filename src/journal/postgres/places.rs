//! The places of records that were handed out or put off: slices, and rows of `pending`.
//!
//! Rule: a transaction that changes these for other relays, or takes up settled records again, has the target to itself ([`Work::lock`]).

use std::collections::HashSet;

use crate::journal::archive::Fate;
use crate::journal::{Rest, TargetId};
use crate::policy::outcome::DropReason;

use super::fault::Fault;
use super::hand::Place;
use super::record::{ms, packed};
use super::work::Work;

/// Of these records, those that wait for the target.
pub(super) async fn waits(work: &Work, target: TargetId, records: &[i64]) -> Result<HashSet<i64>, Fault> {
    let rows = work
        .query(
            "SELECT u.id FROM unnest($2::bigint[]) AS u(id)
             WHERE EXISTS (SELECT 1 FROM pending p WHERE p.target = $1 AND p.record = u.id)
             OR EXISTS (SELECT 1 FROM slice s WHERE s.target = $1 AND u.id = ANY(s.records))
             OR NOT EXISTS (SELECT 1 FROM frontier f
                 WHERE f.target = $1 AND f.incarnation = (u.id >> 40)::int AND f.reached >= u.id)",
            &[&i16::from(target.0), &records],
        )
        .await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// The records that were taken out of their places.
#[derive(Debug, Default)]
pub(super) struct TakenOut {
    of_slices: HashSet<i64>,
    of_rows: HashSet<i64>,
    /// The slices that are no longer ours.
    pub(super) lost: HashSet<i64>,
}

impl TakenOut {
    /// Returns whether a record was in this place, and was ours.
    pub(super) fn has(&self, (record, place): (i64, Place)) -> bool {
        match place {
            Place::Slice(_) => self.of_slices.contains(&record),
            Place::Row(_) => self.of_rows.contains(&record),
        }
    }
}

/// Takes those of the records out of their places that are ours.
pub(super) async fn take_out(work: &Work, target: TargetId, all: &[(i64, Place)]) -> Result<TakenOut, Fault> {
    let (mut slices, mut in_slices, mut turns, mut rows) = (vec![], vec![], vec![], vec![]);
    for (record, place) in all {
        match place {
            Place::Slice(slice) => {
                slices.push(*slice);
                in_slices.push(*record);
            }
            Place::Row(turn) => {
                turns.push(*turn);
                rows.push(*record);
            }
        }
    }
    let (of_slices, of_rows) =
        tokio::try_join!(out_of_slices(work, &slices, &in_slices), out_of_rows(work, target, &rows, &turns))?;
    let mut taken = TakenOut { of_rows, lost: slices.into_iter().collect(), ..TakenOut::default() };
    for (slice, records) in of_slices {
        taken.lost.remove(&slice);
        taken.of_slices.extend(records);
    }
    Ok(taken)
}

/// Takes records out of those of these slices that are ours; returns what was taken of each. Removes empty slices.
async fn out_of_slices(work: &Work, slices: &[i64], records: &[i64]) -> Result<Vec<(i64, Vec<i64>)>, Fault> {
    if slices.is_empty() {
        return Ok(vec![]);
    }
    let ours = work
        .query(
            "WITH before AS (
                 SELECT id, records FROM slice WHERE id = ANY($1) AND owner = $3 ORDER BY id FOR UPDATE),
             parts AS (
                 SELECT id, ARRAY(SELECT u.r FROM unnest(records) WITH ORDINALITY AS u(r, o) WHERE u.r <> ALL($2) ORDER BY u.o) AS rest,
                     ARRAY(SELECT r FROM unnest(records) AS u(r) WHERE r = ANY($2)) AS taken
                 FROM before),
             gone AS (DELETE FROM slice s USING parts p WHERE s.id = p.id AND cardinality(p.rest) = 0),
             stays AS (UPDATE slice s SET records = p.rest FROM parts p WHERE s.id = p.id AND cardinality(p.rest) > 0)
             SELECT id, taken FROM parts",
            &[&slices, &records, &work.shared.incarnation],
        )
        .await?;
    Ok(ours.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// Takes out the rows that are ours in these turns; returns their records.
async fn out_of_rows(work: &Work, target: TargetId, rows: &[i64], turns: &[i64]) -> Result<HashSet<i64>, Fault> {
    if rows.is_empty() {
        return Ok(HashSet::new());
    }
    let sql = "DELETE FROM pending p USING unnest($2::bigint[], $4::bigint[]) AS u(record, turn)
         WHERE p.target = $1 AND p.record = u.record AND p.turn = u.turn AND p.owner = $3 RETURNING p.record";
    let ours = work.query(sql, &[&i16::from(target.0), &rows, &work.shared.incarnation, &turns]).await?;
    Ok(ours.iter().map(|row| row.get(0)).collect())
}

/// Puts records off: writes a row without an owner for each.
pub(super) async fn put_off(work: &Work, target: TargetId, rests: &[(i64, Rest)]) -> Result<(), Fault> {
    if rests.is_empty() {
        return Ok(());
    }
    let mut sorted: Vec<&(i64, Rest)> = rests.iter().collect();
    sorted.sort_by_key(|(id, _)| *id);
    let ids: Vec<i64> = sorted.iter().map(|(id, _)| *id).collect();
    let rests = || sorted.iter().map(|(_, rest)| rest);
    let dues: Vec<i64> = rests().map(|rest| ms(rest.due)).collect();
    let attempts: Vec<i32> = rests().map(|rest| rest.progress.attempts.cast_signed()).collect();
    let strikes: Vec<i32> = rests().map(|rest| rest.progress.strikes.cast_signed()).collect();
    let items: Vec<_> = rests().map(|rest| rest.progress.items.as_deref().map(packed)).collect();
    let quantities: Vec<String> = rests().map(|rest| rest.quantities.to_string()).collect();
    work.execute(
        "INSERT INTO pending (target, record, due, attempts, strikes, items, quantities)
         SELECT $1, * FROM unnest($2::bigint[], $3::bigint[], $4::int[], $5::int[], $6::bytea[], $7::text[])",
        &[&i16::from(target.0), &ids, &dues, &attempts, &strikes, &items, &quantities],
    )
    .await
}

/// Notes records that a target does not get, or not in full, if the reason has a [`Fate`].
pub(super) async fn note_missed(
    work: &Work,
    target: TargetId,
    mut missed: Vec<(i64, DropReason)>,
) -> Result<(), Fault> {
    missed.retain(|(_, reason)| Fate::of(*reason).is_some());
    if missed.is_empty() {
        return Ok(());
    }
    missed.sort_by_key(|(id, _)| *id);
    let (ids, reasons): (Vec<i64>, Vec<&str>) = missed.iter().map(|(id, reason)| (*id, reason.name())).unzip();
    work.execute(
        "INSERT INTO missed SELECT u.r, $1, u.why FROM unnest($2::bigint[], $3::text[]) AS u(r, why)
         ON CONFLICT (record, target) DO UPDATE SET reason = excluded.reason",
        &[&i16::from(target.0), &ids, &reasons],
    )
    .await
}

/// Writes the missing frontiers of a target, at the beginning of each incarnation.
pub(super) const BEGIN: &str =
    "INSERT INTO frontier SELECT $1, incarnation, incarnation::bigint << 40 FROM node ON CONFLICT DO NOTHING";

/// Releases the rows of a target whose owner is gone, but for those of this incarnation.
pub(super) const FREE: &str =
    "UPDATE pending p SET owner = NULL FROM node n WHERE p.target = $1 AND p.owner = n.incarnation
     AND n.incarnation <> $2 AND (n.replaced OR n.gone)";
