//! Records from rows.
//!
//! Rule: a record that cannot be read is set aside for the target that it was to be handed out to, counted, and logged. It blocks nobody.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use deadpool_postgres::Transaction;
use tokio_postgres::Row;
use uuid::Uuid;

use crate::clock::Timestamp;
use crate::journal::log::tell_set_aside;
use crate::journal::{Record, RecordId, TargetId};

use super::bodies;
use super::fault::Fault;
use super::fresh::Kept;
use super::shared::Shared;

/// The due time of a record that is set aside: never.
pub(super) const NEVER: Timestamp = Timestamp::from_millis(i64::MAX as u64);

macro_rules! body {
    () => {
        "coalesce(r.body, (SELECT b.bytes FROM body b WHERE b.record = r.id AND b.day = r.accepted_at / 86400000))"
    };
}

/// The body of the record `r`, unless it is a large one.
pub(super) const BODY: &str = body!();
/// The columns that [`of_row`] reads, of the tables `r` and `p`.
pub(super) const COLUMNS: &str = concat!(
    "r.id, r.accepted_at, r.project, p.name, r.size, r.quantities, r.event_id, r.client, ",
    body!(),
    ", r.large"
);
/// The tables of [`COLUMNS`].
pub(super) const TABLES: &str = "record r JOIN project p ON p.id = r.project";

/// The record of a row.
pub(super) fn of_row(shared: &Shared, row: &Row) -> Result<Kept, Fault> {
    let unreadable = |what: &str| Fault::Failed(format!("{what} cannot be read"));
    let (id, project): (i64, i32) = (row.get(0), row.get(2));
    let size = row.get::<_, i64>(4).cast_unsigned();
    let body = match (row.get::<_, Option<&[u8]>>(8), row.get::<_, Option<i64>>(9)) {
        (Some(bytes), None) if bytes.len() as u64 == size => Bytes::copy_from_slice(bytes).into(),
        (None, Some(large)) => bodies::kept(shared, large, size),
        _ => return Err(unreadable("its body")),
    };
    let record = Record {
        id: RecordId(id.cast_unsigned()),
        accepted_at: Timestamp::from_millis(row.get::<_, i64>(1).cast_unsigned()),
        project: shared.names().project(project).cloned().unwrap_or_else(|| row.get::<_, &str>(3).into()),
        event_id: row.get::<_, Option<Uuid>>(6).map(|id| id.as_u128().into()),
        quantities: row.get::<_, &str>(5).parse().map_err(|_| unreadable("what it counts as"))?,
        client: serde_json::from_str(row.get(7)).map_err(|_| unreadable("its client"))?,
        body,
        located: OnceLock::new(),
    };
    Ok(Kept { record: Arc::new(record), project })
}

/// The time in a column.
pub(super) const fn time(ms: i64) -> Timestamp {
    Timestamp::from_millis(ms.cast_unsigned())
}

/// Loads those of these records that are kept. The inner error is the reason why one cannot be read.
pub(super) async fn load(
    shared: &Shared,
    tx: &Transaction<'_>,
    ids: &[i64],
) -> Result<HashMap<i64, Result<Kept, Fault>>, Fault> {
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let statement = tx.prepare_cached(&of_ids()).await?;
    let rows = tx.query(&statement, &[&ids]).await?;
    Ok(rows.iter().map(|row| (row.get(0), of_row(shared, row))).collect())
}

/// A record; `None` if it is no longer kept.
pub(super) async fn one(shared: &Shared, record: RecordId) -> Result<Option<Arc<Record>>, Fault> {
    let ids = vec![record.number().cast_signed()];
    let row = shared.client().await?.any(&of_ids(), &[&ids]).await?;
    row.map(|row| Ok(of_row(shared, &row)?.record)).transpose()
}

fn of_ids() -> String {
    format!("SELECT {COLUMNS} FROM {TABLES} WHERE r.id = ANY($1)")
}

/// Returns the record if it can be handed out, else sets it aside.
pub(super) async fn expect(
    shared: &Shared,
    tx: &Transaction<'_>,
    target: TargetId,
    id: i64,
    loaded: Option<Result<Kept, Fault>>,
) -> Result<Option<Kept>, Fault> {
    let why = match loaded {
        Some(Ok(loaded)) => return Ok(Some(loaded)),
        Some(Err(why)) => why.to_string(),
        None => "it is gone".to_owned(),
    };
    shared.set_aside.fetch_add(1, Ordering::Relaxed);
    tell_set_aside(shared.names().upstream(target), id.cast_unsigned(), &why);
    tx.execute(
        "INSERT INTO pending (target, record, due, attempts, strikes) VALUES ($1, $2, $3, 0, 0)
         ON CONFLICT (target, record) DO UPDATE SET due = excluded.due, owner = NULL",
        &[&i16::from(target.0), &id, &ms(NEVER)],
    )
    .await?;
    Ok(None)
}

/// A time as a column has it.
pub(super) const fn ms(at: Timestamp) -> i64 {
    at.as_millis() as i64
}

/// The positions of items from a column.
pub(super) fn items(packed: &[u8]) -> Vec<u16> {
    packed.as_chunks::<2>().0.iter().map(|item| u16::from_le_bytes(*item)).collect()
}

/// A text as a column holds it: every character but one.
pub(super) fn plain(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

/// Positions of items as they are kept.
pub(super) fn packed(items: &[u16]) -> Vec<u8> {
    items.iter().flat_map(|item| item.to_le_bytes()).collect()
}
