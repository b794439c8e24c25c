//! The records that are still kept.

use std::sync::Arc;

use uuid::Uuid;

use crate::clock::Timestamp;
use crate::journal::archive::{Comparison, Kept};
use crate::journal::{Archive, Call, Cursor, Record, RecordId, TargetId};
use crate::protocol::event_id::EventId;

use super::fault::Fault;
use super::record::{self, COLUMNS, TABLES};
use super::shared::Shared;
use super::{PostgresJournal, compare};

/// The most records of one step of a scan.
const STEP: i64 = 256;
/// The most bytes of their bodies, except for the first body.
const BYTES: i64 = 1 << 20;

impl Archive for PostgresJournal {
    fn record(&self, record: RecordId) -> Call<'_, Option<Arc<Record>>> {
        self.call(move |shared| async move { record::one(&shared, record).await })
    }

    fn record_of(&self, event_id: EventId) -> Call<'_, Option<Arc<Record>>> {
        self.call(move |shared| async move { newest(&shared, event_id).await })
    }

    fn kept(&self, after: Cursor) -> Call<'_, Kept> {
        self.call(move |shared| async move { kept(&shared, after).await })
    }

    fn compare(&self, targets: (TargetId, TargetId), since: Timestamp, after: Cursor) -> Call<'_, Comparison> {
        self.call(move |shared| async move { compare::compare(&shared, targets, since, after).await })
    }
}

async fn newest(shared: &Shared, event_id: EventId) -> Result<Option<Arc<Record>>, Fault> {
    let sql = format!(
        "SELECT {COLUMNS} FROM {TABLES} WHERE r.event_id = $1 AND r.quantities <> ''
         ORDER BY ' ' || r.quantities LIKE '% error=%' DESC, r.accepted_at DESC, r.id DESC LIMIT 1"
    );
    let client = shared.client().await?;
    let row = client.query_opt(&sql, &[&Uuid::from_u128(event_id.as_u128())]).await?;
    row.map(|row| record::of_row(shared, &row).map(|loaded| loaded.record)).transpose()
}

/// Reads a step in the order of numbers, which is not that of acceptance if several relays took the records.
async fn kept(shared: &Shared, after: Cursor) -> Result<Kept, Fault> {
    let sql = format!(
        "SELECT {COLUMNS} FROM (
             SELECT id, sum(size) OVER (ORDER BY id) - size AS before FROM (
                 SELECT id, CASE WHEN large IS NULL THEN size ELSE 0 END AS size FROM record
                 WHERE id > $1 ORDER BY id LIMIT $2) AS some) AS step
         JOIN record r ON r.id = step.id JOIN project p ON p.id = r.project WHERE step.before < $3::bigint ORDER BY r.id"
    );
    let client = shared.client().await?;
    let rows = client.query(&sql, &[&after.number().cast_signed(), &STEP, &BYTES]).await?;
    let next = rows.last().map(|row| Cursor::from_number(row.get::<_, i64>(0).cast_unsigned()));
    let read = rows.iter().filter_map(|row| record::of_row(shared, row).ok());
    Ok(Kept { records: read.map(|loaded| loaded.record).collect(), next })
}
