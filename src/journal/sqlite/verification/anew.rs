//! Looks up an event again after it is delivered again.

use rusqlite::{Connection, params};

use crate::clock::Timestamp;
use crate::journal::TargetId;
use crate::protocol::category::{Category, Quantities};

/// Notes that a record waits for a target again. An event below the cursor is looked up once more.
pub(in crate::journal::sqlite) fn look_again(
    conn: &Connection,
    target: TargetId,
    (record, project, quantities): (u64, u32, &Quantities),
    due: Timestamp,
) -> rusqlite::Result<()> {
    if !quantities.iter().any(|(category, _)| category == Category::Error) {
        return Ok(());
    }
    conn.prepare_cached(
        "INSERT INTO look (target, record, project, state, due, looks, since, repairs)
         SELECT ?1, ?2, ?3, 0, ?4, 0, ?4, 0 FROM verification WHERE target = ?1 AND reached >= ?2
         ON CONFLICT DO UPDATE SET state = 0, due = excluded.due, looks = 0",
    )?
    .execute(params![target.0, record.cast_signed(), project, due.as_millis().cast_signed()])
    .map(drop)
}
