//! The rows of events that are not known to be stored: due, put off, missing, and their counts.

use std::sync::Arc;

use tokio_postgres::Row;

use crate::clock::Timestamp;
use crate::journal::postgres::fault::Fault;
use crate::journal::postgres::record::{ms, time};
use crate::journal::postgres::shared::Shared;
use crate::journal::verification::{MISSING, Missing, PUT_OFF, PutOff, Standing, State, Wanted};
use crate::journal::{RecordId, TargetId, bounded};

use super::event::{event, know};

/// The columns that [`event`] reads, and their tables.
const COLUMNS: &str = "r.id, r.project, r.event_id, r.accepted_at, r.quantities, l.state, l.looks, l.repairs";
const TABLES: &str = "look l JOIN record r ON r.id = l.record";

/// The events of due rows whose records are kept, and the records of those that wait for their upstream.
pub(super) async fn due(
    shared: &Shared,
    target: TargetId,
    now: Timestamp,
    limit: usize,
) -> Result<(Vec<Wanted>, Vec<RecordId>), Fault> {
    let sql = format!(
        "SELECT {COLUMNS}, r.id IN (SELECT unnest(records) FROM slice WHERE target = $1)
             OR EXISTS (SELECT 1 FROM pending p WHERE p.target = $1 AND p.record = l.record)
         FROM {TABLES} WHERE l.target = $1 AND l.due <= $2 ORDER BY l.due, l.record LIMIT $3"
    );
    let rows = shared.client().await?.all(&sql, &[&i16::from(target.0), &ms(now), &bounded(limit)]).await?;
    know(shared, &rows).await?;
    let (waits, free): (Vec<&Row>, Vec<&Row>) = rows.iter().partition(|row| row.get::<_, bool>(8));
    let again = free.into_iter().filter_map(|row| event(shared, row, State::Looking)).collect();
    Ok((again, waits.into_iter().map(|row| RecordId(row.get::<_, i64>(0).cast_unsigned())).collect()))
}

/// The events whose first lookup was put off, the newest first. A due one comes with [`due`].
pub(super) async fn put_off(shared: &Shared, target: TargetId, now: Timestamp, limit: usize) -> Result<PutOff, Fault> {
    let client = shared.client().await?;
    let meant = "l.target = $1 AND l.state = $2 AND l.due > $3";
    let sql = format!("SELECT {COLUMNS} FROM {TABLES} WHERE {meant} ORDER BY r.accepted_at DESC, r.id DESC LIMIT $4");
    let (number, now) = (i16::from(target.0), ms(now));
    let rows = client.all(&sql, &[&number, &PUT_OFF, &now, &bounded(limit)]).await?;
    let oldest = format!("SELECT min(r.accepted_at) FROM {TABLES} WHERE {meant}");
    let oldest = client.one(&oldest, &[&number, &PUT_OFF, &now]).await?.get::<_, Option<i64>>(0).map(time);
    drop(client);
    know(shared, &rows).await?;
    let events = rows.iter().filter_map(|row| event(shared, row, State::Unknown)).collect();
    Ok(PutOff { events, more: rows.len() == limit, oldest })
}

/// The events that are missing.
pub(super) async fn missing(
    shared: &Shared,
    target: TargetId,
    since: Timestamp,
    sample: usize,
) -> Result<Missing, Fault> {
    let client = shared.client().await?;
    let meant = "l.target = $1 AND l.state = $2 AND r.accepted_at >= $3";
    let (number, since) = (i16::from(target.0), ms(since));
    let count = format!("SELECT count(*) FROM {TABLES} WHERE {meant}");
    let count = client.one(&count, &[&number, &MISSING, &since]).await?.get::<_, i64>(0).cast_unsigned();
    let sql = format!("SELECT {COLUMNS} FROM {TABLES} WHERE {meant} ORDER BY r.accepted_at DESC, r.id DESC LIMIT $4");
    let rows = client.all(&sql, &[&number, &MISSING, &since, &bounded(sample)]).await?;
    drop(client);
    know(shared, &rows).await?;
    Ok(Missing { count, sample: rows.iter().filter_map(|row| event(shared, row, State::Missing)).collect() })
}

/// The number of events in each state.
pub(super) async fn standings(shared: &Shared) -> Result<Vec<Standing>, Fault> {
    let sql = "SELECT target, project, count(*) FILTER (WHERE state = 1), count(*) FILTER (WHERE state = 0),
             count(*) FILTER (WHERE state >= 2) FROM look GROUP BY target, project ORDER BY target, project";
    let rows = shared.client().await?.all(sql, &[]).await?;
    know(shared, &rows).await?;
    let (names, nobody): (_, Arc<str>) = (shared.names(), "".into());
    let count = |row: &Row, at| row.get::<_, i64>(at).cast_unsigned();
    let standing = |row: &Row| Standing {
        target: TargetId(u8::try_from(row.get::<_, i16>(0)).unwrap_or(u8::MAX)),
        project: names.project(row.get(1)).unwrap_or(&nobody).clone(),
        missing: count(row, 2),
        looking: count(row, 3),
        unknown: count(row, 4),
    };
    Ok(rows.iter().map(standing).collect())
}
