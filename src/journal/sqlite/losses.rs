//! The rows of losses: the transaction that drops adds to them, and the transaction that appends the report takes them off.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use crate::journal::TargetId;
use crate::journal::body::Body;
use crate::journal::losses::{Loss, spans_in};
use crate::protocol::category::{Category, Quantities};
use crate::protocol::client_report::Reason;

use super::schema;
use super::shared::Shared;
use super::spool::Spool;

/// The losses of one commit, by the numbers of target and project.
#[derive(Debug, Default)]
pub(super) struct Losses(BTreeMap<(u8, u32, Reason, Category), u64>);

impl Losses {
    /// Adds a loss.
    pub(super) fn add(
        &mut self,
        target: TargetId,
        project: u32,
        reason: Reason,
        (category, quantity): (Category, u64),
    ) {
        if category.can_be_reported() && quantity > 0 {
            *self.0.entry((target.0, project, reason, category)).or_default() += quantity;
        }
    }

    /// Writes the rows.
    pub(super) fn write(&self, conn: &Connection) -> rusqlite::Result<()> {
        let mut upsert = conn.prepare_cached(
            "INSERT INTO loss VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT DO UPDATE SET quantity = quantity + excluded.quantity",
        )?;
        for ((target, project, reason, category), quantity) in &self.0 {
            upsert.execute(params![target, project, reason.name(), category.name(), quantity.cast_signed()])?;
        }
        Ok(())
    }
}

/// The losses that are to be told.
pub(super) fn read(conn: &Connection, shared: &Shared) -> rusqlite::Result<Vec<Loss>> {
    let mut select = conn.prepare_cached("SELECT target, project, reason, category, quantity FROM loss")?;
    let (mut rows, mut losses) = (select.query([])?, Vec::new());
    while let Some(row) = rows.next()? {
        let name = |at| row.get_ref(at).ok().and_then(|name| name.as_str().ok());
        let words = (name(2).and_then(Reason::from_name), name(3).and_then(Category::from_name));
        let project = shared.projects().get(row.get::<_, u32>(1)? as usize).cloned();
        if let ((Some(reason), Some(category)), Some(project)) = (words, project) {
            let quantity = row.get::<_, i64>(4)?.cast_unsigned();
            losses.push(Loss { target: TargetId(row.get(0)?), project, reason, category, quantity });
        }
    }
    Ok(losses)
}

/// Takes off losses that were told.
pub(super) fn take_off(conn: &Connection, shared: &Shared, told: &[Loss]) -> rusqlite::Result<()> {
    let mut take = conn.prepare_cached(
        "UPDATE loss SET quantity = quantity - ?5 WHERE target = ?1 AND project = ?2 AND reason = ?3 AND category = ?4",
    )?;
    for Loss { target, project, reason, category, quantity } in told {
        let number = shared.projects().iter().position(|name| name == project).unwrap_or(usize::MAX);
        let number = u32::try_from(number).unwrap_or(u32::MAX);
        take.execute(params![target.0, number, reason.name(), category.name(), quantity.cast_signed()])?;
    }
    conn.prepare_cached("DELETE FROM loss WHERE quantity <= 0")?.execute([]).map(drop)
}

/// Reads the bodies of records of which something is lost.
///
/// Rule: it has a connection of its own, made for the first read. A page that the disk does not give ends the transaction of the connection
/// that asks for it, whatever the caller makes of the error.
#[derive(Debug)]
pub(super) struct Bodies {
    conn: OnceCell<Connection>,
    spool: Arc<Spool>,
}

impl Bodies {
    pub(super) fn new(spool: Arc<Spool>) -> Self {
        Self { conn: OnceCell::new(), spool }
    }

    /// The number of spans that are lost with a record's lost transactions: at least one for each, also if the body cannot be read. `None`
    /// if no transaction is lost. `writer` knows where the journal is.
    pub(super) fn spans_of(&self, writer: &Connection, record: u64, lost: &Quantities) -> Option<u64> {
        let (_, transactions) = lost.iter().find(|(category, _)| *category == Category::Transaction)?;
        let body = self.read(writer, record).ok().flatten();
        Some(body.map_or(0, |body| spans_in(&body)).max(transactions))
    }

    fn read(&self, writer: &Connection, record: u64) -> rusqlite::Result<Option<Body>> {
        let conn = match self.conn.get() {
            Some(conn) => conn,
            None => {
                let conn = schema::reader(Path::new(writer.path().unwrap_or_default()))?;
                self.conn.get_or_init(|| conn)
            }
        };
        let mut select = conn.prepare_cached(
            "SELECT b.bytes, f.name, f.size FROM body b LEFT JOIN file f ON f.record = b.id WHERE b.id = ?1",
        )?;
        select.query_row([record.cast_signed()], |row| self.body(row)).optional()
    }

    fn body(&self, row: &Row<'_>) -> rusqlite::Result<Body> {
        Ok(match row.get_ref(1)?.as_str_or_null() {
            Ok(Some(name)) => self.spool.file(name, row.get::<_, i64>(2)?.cast_unsigned()).into_body(),
            _ => Bytes::copy_from_slice(row.get_ref(0)?.as_blob().unwrap_or_default()).into(),
        })
    }
}
