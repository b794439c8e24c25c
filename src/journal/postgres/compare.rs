//! Compares which of the kept records two targets got, from the rows themselves.
//!
//! Rule: one step reads a bounded number of narrow rows, and the state of both targets at the same moment.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use deadpool_postgres::Transaction;
use tokio_postgres::{IsolationLevel, Row};
use uuid::Uuid;

use crate::clock::Timestamp;
use crate::journal::archive::{Comparison, Fate, Unequal};
use crate::journal::{Cursor, RecordId, TargetId};

use super::fault::Fault;
use super::record::{ms, time};
use super::shared::Shared;

/// The most records that one step reads.
const SCAN: i64 = 10_000;

/// The state of one target for the records of a step.
struct Standing {
    bit: i64,
    /// The frontiers, by incarnation.
    reached: HashMap<i64, i64>,
    /// Records that were handed out or put off and are not settled.
    waiting: HashSet<i64>,
    missed: HashMap<i64, Fate>,
}

impl Standing {
    async fn read(tx: &Transaction<'_>, target: TargetId, (first, last): (i64, i64)) -> Result<Self, Fault> {
        let number = i16::from(target.0);
        let frontier = tx.prepare_cached("SELECT incarnation::bigint, reached FROM frontier WHERE target = $1").await?;
        let waiting = tx
            .prepare_cached(
                "SELECT record FROM pending WHERE target = $1 AND record BETWEEN $2 AND $3
                 UNION ALL SELECT unnest(records) FROM slice WHERE target = $1",
            )
            .await?;
        let missed = "SELECT record, reason FROM missed WHERE target = $1 AND record BETWEEN $2 AND $3";
        let missed = tx.prepare_cached(missed).await?;
        let pair = |row: &Row| (row.get(0), row.get(1));
        Ok(Self {
            bit: 1 << target.0,
            reached: tx.query(&frontier, &[&number]).await?.iter().map(pair).collect(),
            waiting: tx.query(&waiting, &[&number, &first, &last]).await?.iter().map(|row| row.get(0)).collect(),
            missed: tx
                .query(&missed, &[&number, &first, &last])
                .await?
                .iter()
                .map(|row| (row.get(0), Fate::noted(row.get(1))))
                .collect(),
        })
    }

    fn fate(&self, record: i64, targets: i64) -> Fate {
        let is_untried = self.reached.get(&(record >> 40)).is_none_or(|reached| record > *reached);
        let waits = is_untried || self.waiting.contains(&record);
        Fate::of_record(targets & self.bit != 0, self.missed.get(&record), waits)
    }
}

/// Compares the records behind `after` that were accepted since `since`, as many as one step reads, without our own reports.
pub(super) async fn compare(
    shared: &Shared,
    (a, b): (TargetId, TargetId),
    since: Timestamp,
    after: Cursor,
) -> Result<Comparison, Fault> {
    shared.know_names().await?;
    let mut client = shared.client().await?;
    let snapshot = client.build_transaction().isolation_level(IsolationLevel::RepeatableRead).read_only(true);
    let tx = snapshot.start().await?;
    let mut rows = tx
        .query(
            "SELECT id, accepted_at, project, targets, event_id FROM record
             WHERE id > $1 AND quantities <> '' ORDER BY id LIMIT $2",
            &[&after.number().cast_signed(), &SCAN],
        )
        .await?;
    let mut comparison = Comparison::default();
    let (Some(first), Some(last)) = (rows.first(), rows.last()) else { return Ok(comparison) };
    let (first, last): (i64, i64) = (first.get(0), last.get(0));
    if rows.len() as i64 == SCAN {
        comparison.next = Some(Cursor::from_number(last.cast_unsigned()));
    }
    let (a, b) = (Standing::read(&tx, a, (first, last)).await?, Standing::read(&tx, b, (first, last)).await?);
    tx.commit().await?;
    let (names, nobody): (_, Arc<str>) = (shared.names(), "".into());
    // The numbers of several relays are not in the order of acceptance.
    rows.sort_by_key(|row| (row.get::<_, i64>(1), row.get::<_, i64>(0)));
    for row in &rows {
        let (id, accepted_at, targets): (i64, i64, i64) = (row.get(0), row.get(1), row.get(3));
        if accepted_at < ms(since) || targets & (a.bit | b.bit) == 0 {
            continue;
        }
        comparison.note(Unequal {
            id: RecordId(id.cast_unsigned()),
            accepted_at: time(accepted_at),
            project: Arc::clone(names.project(row.get(2)).unwrap_or(&nobody)),
            event_id: row.get::<_, Option<Uuid>>(4).map(|id| id.as_u128().into()),
            a: a.fate(id, targets),
            b: b.fate(id, targets),
        });
    }
    Ok(comparison)
}
