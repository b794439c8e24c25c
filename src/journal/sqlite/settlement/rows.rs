//! The rows that a settlement writes: waiting records and dead letters.

use rusqlite::{Connection, params};

use crate::clock::Timestamp;
use crate::journal::{DeadLetter, Progress, TargetId};
use crate::protocol::category::Quantities;

/// Writes or replaces the row of a waiting record.
pub(super) fn write_row(
    conn: &Connection,
    target: TargetId,
    id: u64,
    due: Timestamp,
    progress: &Progress,
    quantities: Option<&Quantities>,
) -> rusqlite::Result<()> {
    let items = progress.items.as_ref().map(|items| packed(items));
    let (id, due) = (id.cast_signed(), due.as_millis().min(i64::MAX as u64).cast_signed());
    let quantities = quantities.map(ToString::to_string);
    conn.prepare_cached(
        "INSERT INTO pending VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
         ON CONFLICT DO UPDATE SET due = excluded.due, attempts = excluded.attempts, strikes = excluded.strikes,
             items = excluded.items, quantities = excluded.quantities",
    )?
    .execute(params![target.0, id, due, progress.attempts, progress.strikes, items, quantities])
    .map(drop)
}

/// Writes a dead letter.
pub(in crate::journal::sqlite) fn write_dead_letter(
    conn: &Connection,
    target: TargetId,
    (id, project): (u64, u32),
    letter: &DeadLetter,
    quantities: Option<&Quantities>,
) -> rusqlite::Result<()> {
    let (id, at, reason) = (id.cast_signed(), letter.at.as_millis().cast_signed(), &*letter.reason);
    let (items, quantities) = (letter.items.as_ref().map(|items| packed(items)), quantities.map(ToString::to_string));
    conn.prepare_cached(
        "INSERT INTO dead_letter (target, record, at, reason, status, answer, attempts, items, quantities, project)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
    )?
    .execute(params![
        target.0,
        id,
        at,
        reason,
        letter.status,
        letter.answer,
        letter.attempts,
        items,
        quantities,
        project
    ])
    .map(drop)
}

/// The positions of items as they are stored.
fn packed(items: &[u16]) -> Vec<u8> {
    items.iter().flat_map(|item| item.to_le_bytes()).collect()
}
