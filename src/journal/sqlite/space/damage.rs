//! Bodies that a damaged page keeps from being removed. They stay when their records go, and belong to no record from then on, because no
//! number is used again.
//!
//! Rule: a removal that fails ends its transaction, because SQLite writes nothing more in it. Its cause is found after that, so that the
//! removal fails once, and not each time.

use std::collections::BTreeSet;

use rusqlite::{Connection, Error, ErrorCode};

/// The bodies that are known to stay, by the numbers of their records.
#[derive(Debug, Default)]
pub(super) struct Damage {
    stay: BTreeSet<u64>,
    /// The range in which a removal has just failed, and whether the failure lasts: an error of the disk may pass.
    failed: Option<(u64, u64, bool)>,
}

impl Damage {
    /// Removes the bodies of these records, except those that stay.
    pub(super) fn remove(&mut self, conn: &Connection, (first, last): (u64, u64)) -> rusqlite::Result<()> {
        let mut delete = conn.prepare_cached("DELETE FROM body WHERE id BETWEEN ?1 AND ?2")?;
        let stay = self.stay.range(first..=last).copied();
        let mut from = first;
        for end in stay.chain([last + 1]) {
            if let Err(error) = delete.execute([from.cast_signed(), end.cast_signed() - 1]) {
                self.failed = is_lasting(&error).map(|lasts| (from, end - 1, lasts));
                return Err(error);
            }
            from = end + 1;
        }
        Ok(())
    }

    /// After the rollback: finds the bodies that cannot be read, and keeps them from being removed. If all can be read and the failure
    /// lasts, all of the range stay.
    pub(super) fn find(&mut self, conn: &Connection) {
        let Some((first, last, lasts)) = self.failed.take() else { return };
        let Ok(all) = numbers(conn, first, last) else { return };
        let mut lost: Vec<u64> = all.iter().copied().filter(|id| is_damaged(conn, *id)).collect();
        if lost.is_empty() && lasts {
            lost = all;
        }
        for id in lost {
            tracing::error!(
                record.id = id,
                "the body of a record lies in a damaged place of the journal: it stays when the record goes"
            );
            self.stay.insert(id);
        }
    }
}

/// Whether a failure lasts; `None` if it is not of the stored data.
fn is_lasting(error: &Error) -> Option<bool> {
    match error.sqlite_error_code()? {
        ErrorCode::DatabaseCorrupt => Some(true),
        ErrorCode::SystemIoFailure => Some(false),
        _ => None,
    }
}

fn numbers(conn: &Connection, first: u64, last: u64) -> rusqlite::Result<Vec<u64>> {
    let mut select = conn.prepare("SELECT id FROM body WHERE id BETWEEN ?1 AND ?2")?;
    let ids = select.query_map([first.cast_signed(), last.cast_signed()], |row| row.get::<_, i64>(0))?;
    ids.map(|id| id.map(i64::cast_unsigned)).collect()
}

/// Whether one of the body's pages is damaged. An error of the disk, which may pass, is not damage.
fn is_damaged(conn: &Connection, id: u64) -> bool {
    let sql = "SELECT length(substr(bytes, -1)) FROM body WHERE id = ?1";
    let read = conn.query_row(sql, [id.cast_signed()], |row| row.get::<_, Option<i64>>(0));
    read.is_err_and(|error| is_lasting(&error) == Some(true))
}
