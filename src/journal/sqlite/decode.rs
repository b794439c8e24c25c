//! Decodes rows into records.
//!
//! Rules: a row that makes no sense is told apart from a failure of the storage: the row is set aside, the failure tried again. The file of
//! a large body is not opened, because whether it can be opened now says nothing about the row. Rows that are scanned are narrow, and each
//! body is read by itself, so that a damaged body does not block the others.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, Row, Rows};

use crate::clock::Timestamp;
use crate::journal::body::Body;
use crate::journal::{Client, Progress, Record, RecordId};
use crate::protocol::category::Quantities;

use super::queue::{Leased, PutOff, Ready};
use super::shared::Shared;

/// Larger bodies go through the incremental interface, which copies no more than a page at a time. The SQL in [`stored`] repeats this
/// number.
pub(super) const LARGE: usize = 256 << 10;

/// A record as read, or why it cannot be read.
#[derive(Debug)]
pub(super) enum Loaded {
    Record(Ready),
    Unreadable { id: u64, lease: Leased, why: String },
}

/// The columns that [`load`] reads, of `record` and [`TABLES`]. For a row in `pending`, those of [`PENDING`] follow.
pub(super) const COLUMNS: &str = "r.id, r.accepted_at, r.project, r.size, r.quantities, r.event_id, f.name";
pub(super) const TABLES: &str = "LEFT JOIN file f ON f.record = r.id";
const _: () = assert!(LARGE == 262_144);
pub(super) const PENDING: &str = "p.due, p.attempts, p.strikes, p.items, p.quantities,
    EXISTS (SELECT 1 FROM look l WHERE l.target = p.target AND l.record = p.record AND l.repairs > 0)";

/// Reads the record of a row; with `put_off` the columns of [`PENDING`] follow.
pub(super) fn load(conn: &Connection, shared: &Shared, row: &Row<'_>, put_off: bool) -> rusqlite::Result<Loaded> {
    let id = row.get::<_, i64>(0)?.cast_unsigned();
    match parse(conn, shared, row, id, put_off) {
        Ok(ready) => Ok(Loaded::Record(ready)),
        Err(error) if is_storage_failure(&error) => Err(error),
        Err(error) => unreadable_row(row, put_off, &error),
    }
}

/// A record, if it is still kept.
pub(super) fn one(conn: &Connection, shared: &Shared, id: RecordId) -> rusqlite::Result<Option<Arc<Record>>> {
    let mut select = conn.prepare_cached(&format!("SELECT {COLUMNS} FROM record r {TABLES} WHERE r.id = ?1"))?;
    first(conn, shared, select.query([id.0.cast_signed()])?)
}

/// The record of the first row, if there is one.
pub(super) fn first(conn: &Connection, shared: &Shared, mut rows: Rows<'_>) -> rusqlite::Result<Option<Arc<Record>>> {
    match rows.next()?.map(|row| load(conn, shared, row, false)).transpose()? {
        Some(Loaded::Record(ready)) => Ok(Some(ready.record)),
        Some(Loaded::Unreadable { why, .. }) => Err(unreadable(&why)),
        None => Ok(None),
    }
}

/// The parts of an unreadable record's row that can be read.
pub(super) fn unreadable_row(row: &Row<'_>, put_off: bool, error: &rusqlite::Error) -> rusqlite::Result<Loaded> {
    let text = |at| row.get_ref(at).ok().and_then(|value| value.as_str().ok()?.parse::<Quantities>().ok());
    let own = if put_off { text(11) } else { None };
    let lease = Leased {
        number: 0,
        ends: None,
        progress: Progress::default(),
        project: row.get(2).unwrap_or(0),
        size: row.get::<_, i64>(3).unwrap_or(0).cast_unsigned(),
        quantities: own.or_else(|| text(4)).unwrap_or_default(),
        row: put_off,
    };
    Ok(Loaded::Unreadable { id: row.get::<_, i64>(0)?.cast_unsigned(), lease, why: error.to_string() })
}

/// The memory that the body of a row takes; 0 if the body is in a file.
pub(super) fn in_memory(row: &Row<'_>) -> usize {
    let is_here = row.get_ref(6).is_ok_and(|name| name == ValueRef::Null);
    let size = if is_here { row.get::<_, i64>(3).unwrap_or(0) } else { 0 };
    // No body is larger. A row that says otherwise is set aside.
    usize::try_from(size.min(i64::from(u32::MAX))).unwrap_or(0)
}

/// When a row in `pending` is due.
pub(super) fn due(row: &Row<'_>) -> rusqlite::Result<Timestamp> {
    Ok(Timestamp::from_millis(row.get::<_, i64>(7)?.cast_unsigned()))
}

fn parse(conn: &Connection, shared: &Shared, row: &Row<'_>, id: u64, put_off: bool) -> rusqlite::Result<Ready> {
    let project: u32 = row.get(2)?;
    let record = match shared.held.get(id) {
        Some(record) => record,
        None => {
            let record = Arc::new(read(conn, shared, row, id, project)?);
            shared.held.put(&record);
            record
        }
    };
    let put_off = if put_off { Some(progress(row)?) } else { None };
    Ok(Ready { record, project, put_off })
}

fn read(conn: &Connection, shared: &Shared, row: &Row<'_>, id: u64, project: u32) -> rusqlite::Result<Record> {
    let name = shared.projects().get(project as usize).cloned().ok_or_else(|| unreadable("its project"))?;
    let event_id = row.get::<_, Option<[u8; 16]>>(5)?.map(|id| u128::from_be_bytes(id).into());
    let (client, body) = stored(conn, shared, row, id)?;
    Ok(Record {
        id: RecordId(id),
        accepted_at: Timestamp::from_millis(row.get::<_, i64>(1)?.cast_unsigned()),
        project: name,
        event_id,
        quantities: quantities(row, 4)?.ok_or_else(|| unreadable("its quantities"))?,
        client,
        body,
        located: OnceLock::new(),
    })
}

/// The client and the body of a record. A large body is read without a second copy in memory; one in a file stays there.
fn stored(conn: &Connection, shared: &Shared, row: &Row<'_>, id: u64) -> rusqlite::Result<(Client, Body)> {
    let size: i64 = row.get(3)?;
    let mut select = conn.prepare_cached(
        "SELECT client, length(bytes), CASE WHEN length(bytes) <= 262144 THEN bytes END FROM body WHERE id = ?1",
    )?;
    let mut rows = select.query([id.cast_signed()])?;
    let found = rows.next()?.ok_or_else(|| unreadable("its body"))?;
    let client = found.get_ref(0)?.as_str().ok().and_then(|client| serde_json::from_str(client).ok());
    let client = client.ok_or_else(|| unreadable("its client"))?;
    if let Some(name) = row.get_ref(6)?.as_str_or_null().map_err(|_| unreadable("its file"))? {
        // Whoever sends the body finds out whether the file can be opened, and tries again, because a failure may pass.
        return Ok((client, shared.spool.file(name, size.cast_unsigned()).into_body()));
    }
    if found.get::<_, Option<i64>>(1)? != Some(size) {
        return Err(unreadable("its body"));
    }
    let size = usize::try_from(size).unwrap_or(0);
    if size <= LARGE {
        let bytes = found.get_ref(2)?.as_blob().map_err(|_| unreadable("its body"))?;
        return Ok((client, Bytes::copy_from_slice(bytes).into()));
    }
    let blob = conn.blob_open("main", "body", "bytes", id.cast_signed(), true)?;
    let mut body = vec![0; size];
    blob.read_at_exact(&mut body, 0)?;
    blob.close()?;
    Ok((client, Bytes::from(body).into()))
}

fn progress(row: &Row<'_>) -> rusqlite::Result<PutOff> {
    let items = items(row, 10)?;
    Ok(PutOff {
        due: due(row)?,
        progress: Progress { attempts: row.get(8)?, strikes: row.get(9)?, items },
        quantities: quantities(row, 11)?,
        repaired: row.get(12)?,
    })
}

/// The positions of items in a column; `None` where it is null.
pub(super) fn items(row: &Row<'_>, at: usize) -> rusqlite::Result<Option<Vec<u16>>> {
    let items = row.get_ref(at)?.as_blob_or_null().map_err(|_| unreadable("its items"))?;
    Ok(items.map(|items| items.as_chunks::<2>().0.iter().map(|item| u16::from_le_bytes(*item)).collect()))
}

/// The quantities in a column; `None` where it is null.
pub(super) fn quantities(row: &Row<'_>, at: usize) -> rusqlite::Result<Option<Quantities>> {
    let text = row.get_ref(at)?.as_str_or_null().map_err(|_| unreadable("its quantities"))?;
    text.map(|text| text.parse().map_err(|_| unreadable("its quantities"))).transpose()
}

pub(super) fn unreadable(what: &str) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Null, format!("{what} cannot be read").into())
}

/// Whether the storage failed, not the row: the storage may work the next time.
fn is_storage_failure(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code().is_some_and(|code| code != rusqlite::ErrorCode::DatabaseCorrupt)
}
