//! Stores entries in a new file, in transactions of bounded size.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use rusqlite::types::Value as Sql;
use rusqlite::{Connection, params, params_from_iter};
use tokio::sync::mpsc::Receiver;

use crate::journal::Sync;
use crate::journal::sqlite::private::beside;
use crate::journal::sqlite::schema::{self, PAGE};
use crate::journal::sqlite::space;
use crate::journal::sqlite::spool::Spool;
use crate::journal::transfer::{
    Body, Entry, Kind, MoveId, Needed, OF_RECORDS, Part, Passing, Record, Row, TABLES, Table, Target, TransferError,
    Value,
};

use super::Trouble;

/// The bytes, or the entries, after which a transaction is committed.
const BYTES: usize = 4 << 20;
const ENTRIES: usize = 4096;

/// Writes rows for a target's untried records between two numbers.
const UNTRIED: &str = "INSERT OR IGNORE INTO pending (target, record, due, attempts, strikes)
    SELECT ?1, id, accepted_at, 0, 0 FROM record WHERE id >= ?2 AND id < ?3 AND targets & (1 << ?1)";
/// Writes rows for those of its events that were not looked up.
const UNLOOKED: &str = "INSERT OR IGNORE INTO look (target, record, project, state, due, looks, since, repairs)
    SELECT ?1, id, project, 0, accepted_at, 0, accepted_at, 0 FROM record r
    WHERE id >= ?2 AND id < ?3 AND targets & (1 << ?1) AND event_id IS NOT NULL
    AND ' ' || quantities || ' ' LIKE '% error=1 %'
    AND NOT EXISTS (SELECT 1 FROM missed m WHERE m.target = ?1 AND m.record = r.id)";

/// Fills the file, and counts the records in `kept`.
pub(super) fn run(
    path: &Path,
    (by, sync): (MoveId, Sync),
    mut from: Receiver<Entry>,
    kept: &AtomicU64,
) -> Result<(), Trouble> {
    empty(path, sync)?;
    let (conn, folder) = (Connection::open(path)?, Spool::open(path, sync)?);
    let mut filling = Filling {
        conn: &conn,
        folder,
        projects: HashMap::new(),
        targets: vec![],
        last: 0,
        file: None,
        uncommitted: (0, 0),
    };
    schema::begin(&conn, by)?;
    conn.execute_batch("BEGIN IMMEDIATE")?;
    while let Some(Entry(part)) = from.blocking_recv() {
        if let Part::End = part {
            return filling.end();
        }
        filling.keep(part)?;
        kept.store(filling.last.cast_unsigned(), Ordering::Relaxed);
    }
    Err(TransferError::CutOff.into())
}

/// Removes what was there.
fn empty(path: &Path, sync: Sync) -> std::io::Result<()> {
    for ending in ["-wal", "-shm", "-journal"] {
        match std::fs::remove_file(beside(path, ending)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    File::options().write(true).truncate(true).open(path)?.sync_all()?;
    Spool::open(path, sync)?.clear(&HashSet::new(), 0)
}

struct Filling<'c> {
    conn: &'c Connection,
    folder: Spool,
    /// The numbers of projects in this file, by those of the source.
    projects: HashMap<i64, i64>,
    targets: Vec<Passing>,
    /// The number of the last record.
    last: i64,
    /// The body that is being written, and how many bytes are to come.
    file: Option<(File, u64)>,
    /// Entries and bytes of the transaction.
    uncommitted: (usize, usize),
}

impl Filling<'_> {
    fn keep(&mut self, part: Part) -> Result<(), Trouble> {
        match part {
            Part::Secret(secret) => {
                self.conn.execute("UPDATE meta SET secret = ?1", [secret])?;
            }
            Part::LastLetter(last) => {
                self.conn.execute("DELETE FROM sqlite_sequence WHERE name = 'dead_letter'", [])?;
                self.conn.execute("INSERT INTO sqlite_sequence VALUES ('dead_letter', ?1)", [last])?;
            }
            // Here the configuration file names the primary.
            Part::Primary(_) | Part::End => {}
            Part::Target(target) => self.target(&target)?,
            Part::Project(number, name) => {
                let own = self.projects.len() as i64;
                self.conn.execute("INSERT INTO project VALUES (?1, ?2)", params![own, name])?;
                self.projects.insert(number, own);
            }
            Part::Rows(table, rows) => {
                for row in rows {
                    self.row(&TABLES[table], row, None)?;
                }
            }
            Part::Record(record) => self.record(&record)?,
            Part::Piece(piece) => self.piece(&piece)?,
        }
        self.uncommitted.0 += 1;
        if self.uncommitted.0 >= ENTRIES || self.uncommitted.1 >= BYTES {
            self.conn.execute_batch("COMMIT; BEGIN IMMEDIATE")?;
            self.uncommitted = (0, 0);
        }
        Ok(())
    }

    fn target(&mut self, target: &Target) -> rusqlite::Result<()> {
        let (id, Target { name, delivered_at, canary_at, is_verified }) = (self.targets.len() as i64, target);
        self.targets.push(Passing::new(0));
        self.conn
            .execute("INSERT INTO target VALUES (?1, ?2, 0, ?3, ?4)", params![id, name, delivered_at, canary_at])?;
        if *is_verified {
            self.conn.execute("INSERT INTO verification VALUES (?1, 0)", [id])?;
        }
        Ok(())
    }

    /// Writes a row; `record` is the record that it belongs to, if any.
    fn row(&self, table: &Table, row: Row, record: Option<i64>) -> rusqlite::Result<()> {
        let mut names: Vec<&str> = table.columns.iter().map(|(name, _)| *name).collect();
        let value = |((_, kind), value): (&(_, Kind), Value)| match value {
            Value::Int(number) if *kind == Kind::Project => {
                Sql::Integer(self.projects.get(&number).copied().unwrap_or(0))
            }
            Value::Int(number) => Sql::Integer(number),
            Value::Text(text) => Sql::Text(text),
            Value::Bytes(bytes) => Sql::Blob(bytes),
            Value::Null => Sql::Null,
        };
        let mut values: Vec<Sql> = table.columns.iter().zip(row).map(value).collect();
        if table.name == "backfill" {
            names.extend(["reached", "until"]);
            values.extend([Sql::Integer(0), Sql::Integer(0)]);
        }
        if let Some(record) = record {
            names.push("record");
            values.push(Sql::Integer(record));
        }
        let places = vec!["?"; names.len()].join(", ");
        let sql = format!("INSERT INTO {} ({}) VALUES ({places})", table.name, names.join(", "));
        self.conn.prepare_cached(&sql)?.execute(params_from_iter(values)).map(drop)
    }

    fn record(&mut self, record: &Record) -> Result<(), Trouble> {
        self.last += 1;
        let id = self.last;
        let in_memory = if let Body::Here(bytes) = &record.body { bytes.len() } else { 0 };
        let in_file = if record.body == Body::Large { record.size.cast_unsigned() } else { 0 };
        let keys: Vec<u8> = record.keys.iter().flat_map(|key| key.to_le_bytes()).collect();
        let row = space::of_a_row(in_memory + record.client.len(), PAGE.into());
        let room = space::OVERHEAD + keys.len() as u64 + row + in_file;
        self.conn.prepare_cached("INSERT INTO record VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)")?.execute(
            params![
                id,
                record.accepted_at,
                self.projects.get(&record.project).copied().unwrap_or(0),
                record.targets,
                record.size,
                record.quantities,
                record.event_id.map(u128::to_be_bytes),
                (!keys.is_empty()).then_some(keys),
                room.cast_signed(),
            ],
        )?;
        let bytes: &[u8] = if let Body::Here(bytes) = &record.body { bytes } else { &[] };
        let mut body = self.conn.prepare_cached("INSERT INTO body VALUES (?1, ?2, ?3)")?;
        body.execute(params![id, record.client, bytes])?;
        self.uncommitted.1 += in_memory;
        if record.body == Body::Large {
            self.begin_file(id, in_file)?;
        }
        for (table, row) in &record.rows {
            self.row(&OF_RECORDS[*table], row.clone(), Some(id))?;
        }
        for (at, target) in self.targets.iter_mut().enumerate() {
            let Needed { untried, unlooked } = target.pass(at, id, record);
            for (rows, between) in [(UNTRIED, untried), (UNLOOKED, unlooked)] {
                let Some(between) = between else { continue };
                self.conn.prepare_cached(rows)?.execute(params![at as i64, between.start, between.end])?;
            }
        }
        Ok(())
    }

    fn begin_file(&mut self, id: i64, size: u64) -> Result<(), Trouble> {
        let file = self.folder.create()?;
        self.conn.execute("INSERT INTO file VALUES (?1, ?2, ?3)", params![id, file.name(), size.cast_signed()])?;
        let writing = File::options().write(true).open(file.path())?;
        file.keep();
        self.file = Some((writing, size));
        Ok(())
    }

    fn piece(&mut self, piece: &Bytes) -> Result<(), Trouble> {
        let Some((file, left)) = &mut self.file else { return Ok(()) };
        file.write_all(piece)?;
        *left = left.saturating_sub(piece.len() as u64);
        if *left == 0 {
            file.sync_all()?;
            self.file = None;
        }
        Ok(())
    }

    /// Writes the watermarks and cursors, and commits.
    fn end(&self) -> Result<(), Trouble> {
        self.folder.sync_folder()?;
        for (target, passing) in self.targets.iter().enumerate() {
            let target = target as i64;
            let marks = [
                ("target", "watermark", "id", passing.reached()),
                ("verification", "reached", "target", passing.looked()),
            ];
            for (table, column, key, number) in marks {
                self.conn.execute(&format!("UPDATE {table} SET {column} = ?2 WHERE {key} = ?1"), [target, number])?;
            }
        }
        self.conn.execute("UPDATE backfill SET until = ?1", [self.last])?;
        self.conn.execute("UPDATE backfill SET reached = until WHERE ended_at IS NOT NULL", [])?;
        self.conn.execute("UPDATE meta SET next_record = ?1", [self.last + 1])?;
        Ok(self.conn.execute_batch("COMMIT")?)
    }
}
