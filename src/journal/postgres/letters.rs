//! Dead letters: written with the settlement that refuses, bounded in number, listed and forgotten.
//!
//! Rule: when there are too many, the oldest of the project that has the most go first.

use std::sync::Arc;

use tokio_postgres::Row;
use uuid::Uuid;

use crate::journal::letters::{Held, tell_forgotten};
use crate::journal::{DeadLetter, Letter, Pick, RecordId, TargetId, WithRecord, bounded};
use crate::protocol::category::Quantities;

use super::fault::Fault;
use super::record::{self, ms, packed, plain, time};
use super::shared::Shared;
use super::work::Work;

/// What [`of_row`] reads of the tables of [`MEANT`].
pub(super) const COLUMNS: &str = "d.id, d.target, d.record, d.at, d.reason, d.status, d.answer, d.attempts, d.items,
    coalesce(d.quantities, r.quantities), r.project, r.accepted_at, r.event_id, r.size";
/// The letters that a [`Pick`] means. The parameters are its [`Parts`].
pub(super) const MEANT: &str = "FROM dead_letter d JOIN record r ON r.id = d.record
    WHERE ($1::bigint IS NULL OR d.id = $1) AND ($2::smallint IS NULL OR d.target = $2)
    AND ($3::text IS NULL OR d.reason = $3) AND r.accepted_at >= $4";

/// A refusal that is to be kept.
pub(super) struct New {
    pub(super) target: TargetId,
    pub(super) record: i64,
    pub(super) project: i32,
    pub(super) refusal: DeadLetter,
    /// The quantities refused; `None` means all of the record.
    pub(super) quantities: Option<Quantities>,
}

/// Writes a dead letter.
pub(super) async fn write(work: &mut Work, letter: New) -> Result<(), Fault> {
    let New { target, record, project, refusal, quantities } = letter;
    let DeadLetter { at, reason, status, answer, attempts, items } = refusal;
    let (status, items) = (status.and_then(|status| i16::try_from(status).ok()), items.as_deref().map(packed));
    let answer = plain(&answer);
    work.has_letters = true;
    work.execute(
        "INSERT INTO dead_letter (target, record, project, at, reason, status, answer, attempts, items, quantities, bytes)
         SELECT $1, id, $3, $4, $5, $6, $7, $8, $9, $10, size + octet_length($7) FROM record WHERE id = $2",
        &[
            &i16::from(target.0),
            &record,
            &project,
            &ms(at),
            &&*reason,
            &status,
            &answer,
            &attempts.cast_signed(),
            &items,
            &quantities.map(|quantities| quantities.to_string()),
        ],
    ).await
}

/// Removes letters until their number and size are within bounds, if this transaction has written any.
pub(super) async fn bound(work: &mut Work) -> Result<(), Fault> {
    if !work.has_letters {
        return Ok(());
    }
    let sums = work
        .query("SELECT project, count(*), sum(bytes)::bigint FROM dead_letter GROUP BY project ORDER BY project", &[])
        .await?;
    let (unsigned, mut held) = (|row: &Row, at| row.get::<_, i64>(at).cast_unsigned(), Held::<i32>::default());
    sums.iter().for_each(|row| held.add(row.get(0), unsigned(row, 1), unsigned(row, 2)));
    let max_size = work.shared.settings.max_size.get();
    let mut gone = 0;
    while let Some(project) = held.furthest(max_size) {
        let sql = "DELETE FROM dead_letter WHERE id = (
                 SELECT id FROM dead_letter WHERE project = $1 ORDER BY id LIMIT 1) RETURNING bytes";
        // Another relay is at it, too.
        let Some(oldest) = work.query_opt(sql, &[&project]).await? else { break };
        held.take(project, unsigned(&oldest, 0));
        gone += 1;
    }
    tell_forgotten(gone);
    Ok(())
}

/// Those meant with numbers below `before`, newest first.
pub(super) async fn list(shared: &Shared, pick: &Pick, before: u64, limit: usize) -> Result<Vec<Letter>, Fault> {
    let sql = format!("SELECT {COLUMNS} {MEANT} AND d.id < $5 ORDER BY d.id DESC LIMIT $6");
    let ((id, target, reason, since), before) = (pick.parts(), i64::try_from(before).unwrap_or(i64::MAX));
    let limit = bounded(limit);
    let rows = shared.client().await?.all(&sql, &[&id, &target, &reason, &since, &before, &limit]).await?;
    shared.know_names().await?;
    Ok(rows.iter().map(|row| of_row(shared, row)).collect())
}

/// A letter with its record.
pub(super) async fn one(shared: &Shared, id: u64) -> Result<Option<WithRecord>, Fault> {
    let pick = Pick { id: Some(id), ..Pick::default() };
    let Some(letter) = list(shared, &pick, u64::MAX, 1).await?.pop() else { return Ok(None) };
    let record = record::one(shared, letter.record).await?;
    Ok(record.map(|record| (letter, record)))
}

/// Forgets the oldest letters that `pick` means, up to `limit`; returns how many.
pub(super) async fn forget(shared: &Shared, pick: &Pick, limit: usize) -> Result<usize, Fault> {
    let client = shared.client().await?;
    let sql = format!("DELETE FROM dead_letter WHERE id IN (SELECT d.id {MEANT} ORDER BY d.id LIMIT $5)");
    let (id, target, reason, since) = pick.parts();
    let limit = bounded(limit);
    Ok(client.execute(&sql, &[&id, &target, &reason, &since, &limit]).await? as usize)
}

fn of_row(shared: &Shared, row: &Row) -> Letter {
    let (names, nobody) = (shared.names(), Arc::from(""));
    let target: i16 = row.get(1);
    let refusal = DeadLetter {
        at: time(row.get(3)),
        reason: row.get::<_, String>(4).into(),
        status: row.get::<_, Option<i16>>(5).map(i16::cast_unsigned),
        answer: row.get(6),
        attempts: row.get::<_, i32>(7).cast_unsigned(),
        items: row.get::<_, Option<&[u8]>>(8).map(record::items),
    };
    Letter {
        id: row.get::<_, i64>(0).cast_unsigned(),
        target: TargetId(u8::try_from(target).unwrap_or(u8::MAX)),
        upstream: Arc::clone(names.target(target).unwrap_or(&nobody)),
        record: RecordId(row.get::<_, i64>(2).cast_unsigned()),
        project: Arc::clone(names.project(row.get(10)).unwrap_or(&nobody)),
        accepted_at: time(row.get(11)),
        event_id: row.get::<_, Option<Uuid>>(12).map(|id| id.as_u128().into()),
        size: row.get::<_, i64>(13).cast_unsigned(),
        quantities: quantities(row, 9),
        refusal,
    }
}

/// The quantities in a column. Those that cannot be read are of a record that is set aside when it is claimed.
pub(super) fn quantities(row: &Row, at: usize) -> Quantities {
    row.get::<_, &str>(at).parse().unwrap_or_default()
}
