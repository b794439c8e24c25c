//! Exports the file, table by table and record by record.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use bytes::Bytes;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, Statement};
use tokio::sync::mpsc::Sender;

use crate::journal::sqlite::private::{BODIES, beside};
use crate::journal::transfer::{
    Body, Entry, OF_RECORDS, PIECE, Part, ROWS, Record, Row, TABLES, Table, Target, TransferError, Value,
};

use super::Trouble;

/// Exports everything.
pub(super) fn run(path: &Path, conn: &Connection, to: &Sender<Entry>) -> Result<(), Trouble> {
    let tell = Telling { path, conn, to };
    let secret = conn.query_row("SELECT secret FROM meta", [], |row| row.get(0));
    tell.say(Part::Secret(secret?))?;
    let last = "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'dead_letter'";
    tell.say(Part::LastLetter(conn.query_row(last, [], |row| row.get(0))?))?;
    let marks = tell.targets()?;
    tell.projects()?;
    for (at, table) in TABLES.iter().enumerate() {
        tell.rows(at, table)?;
    }
    tell.records(&marks)?;
    tell.say(Part::End)
}

/// A target's watermark, and its cursor of verification.
struct Marks {
    watermark: i64,
    looked: i64,
}

struct Telling<'a> {
    path: &'a Path,
    conn: &'a Connection,
    to: &'a Sender<Entry>,
}

impl Telling<'_> {
    fn say(&self, part: Part) -> Result<(), Trouble> {
        Ok(self.to.blocking_send(Entry(part)).map_err(|_| TransferError::CutOff)?)
    }

    fn targets(&self) -> Result<Vec<Marks>, Trouble> {
        let sql = "SELECT t.name, t.delivered_at, t.canary_at, t.watermark, v.reached
             FROM target t LEFT JOIN verification v ON v.target = t.id ORDER BY t.id";
        let mut select = self.conn.prepare(sql)?;
        let found = select.query_map([], |row| {
            let (watermark, looked) = (row.get(3)?, row.get::<_, Option<i64>>(4)?);
            let target = Target {
                name: row.get(0)?,
                delivered_at: row.get(1)?,
                canary_at: row.get(2)?,
                is_verified: looked.is_some(),
            };
            Ok((target, Marks { watermark, looked: looked.unwrap_or(0) }))
        });
        let (mut marks, found) = (vec![], found?);
        for found in found {
            let (target, own) = found?;
            marks.push(own);
            self.say(Part::Target(target))?;
        }
        Ok(marks)
    }

    fn projects(&self) -> Result<(), Trouble> {
        let mut select = self.conn.prepare("SELECT id, name FROM project ORDER BY id")?;
        let found = select.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        for found in found {
            let (number, name) = found?;
            self.say(Part::Project(number, name))?;
        }
        Ok(())
    }

    fn rows(&self, at: usize, table: &Table) -> Result<(), Trouble> {
        let sql = format!("SELECT {} FROM {}", columns(table), table.name);
        let mut select = self.conn.prepare(&sql)?;
        let (mut rows, mut told) = (select.query([])?, vec![]);
        while let Some(row) = rows.next()? {
            told.push(values(row, table)?);
            if told.len() == ROWS {
                self.say(Part::Rows(at, std::mem::take(&mut told)))?;
            }
        }
        self.say(Part::Rows(at, told))
    }

    fn records(&self, marks: &[Marks]) -> Result<(), Trouble> {
        let hanging = OF_RECORDS.map(|table| {
            let (columns, name) = (columns(&table), table.name);
            self.conn.prepare(&format!(
                "SELECT {columns} FROM {name} WHERE record = ?1 AND target IN (SELECT id FROM target)"
            ))
        });
        let mut hanging: Vec<Statement<'_>> = hanging.into_iter().collect::<Result<_, _>>()?;
        let mut select = self.conn.prepare(
            "SELECT r.id, r.accepted_at, r.project, r.targets, r.size, r.quantities, r.event_id, r.keys, b.client,
                 length(b.bytes), f.name
             FROM record r LEFT JOIN body b ON b.id = r.id LEFT JOIN file f ON f.record = r.id ORDER BY r.id",
        )?;
        let mut rows = select.query([])?;
        while let Some(row) = rows.next()? {
            let (id, kept) = head(row, marks)?;
            let (mut record, file) = (kept.record, kept.file);
            for (at, (table, select)) in OF_RECORDS.iter().zip(&mut hanging).enumerate() {
                let mut found = select.query([id])?;
                while let Some(row) = found.next()? {
                    record.rows.push((at, values(row, table)?));
                }
            }
            match file {
                Some(name) => self.take_file(record, &name)?,
                None => self.take_row(record, id, kept.length)?,
            }
        }
        Ok(())
    }

    /// Exports a record whose body is in a file.
    fn take_file(&self, mut record: Box<Record>, name: &str) -> Result<(), Trouble> {
        let folder = beside(self.path, BODIES);
        if !folder.is_dir() {
            let why = format!("{} is missing: it belongs to the journal", folder.display());
            return Err(TransferError::Failed(why).into());
        }
        let is_whole = |file: &File| file.metadata().is_ok_and(|meta| meta.len() == record.size.cast_unsigned());
        let file = match File::open(folder.join(name)) {
            Ok(file) if is_whole(&file) => file,
            // The target sets the record aside, as the source would.
            Ok(_) => return self.say(Part::Record(record)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return self.say(Part::Record(record)),
            Err(error) => return Err(TransferError::Failed(format!("the body {name}: {error}")).into()),
        };
        record.body = Body::Large;
        let size = record.size.cast_unsigned();
        self.say(Part::Record(record))?;
        self.pieces(size, |at, piece| {
            file.read_exact_at(piece, at).map_err(|error| TransferError::Failed(format!("{name}: {error}")).into())
        })
    }

    /// Exports a record whose body is in the database.
    fn take_row(&self, mut record: Box<Record>, id: i64, length: Option<i64>) -> Result<(), Trouble> {
        if length != Some(record.size) {
            return self.say(Part::Record(record));
        }
        let size = record.size.cast_unsigned();
        let blob = self.conn.blob_open("main", "body", "bytes", id, true)?;
        if size <= PIECE as u64 {
            let mut bytes = vec![0; size as usize];
            blob.read_at_exact(&mut bytes, 0)?;
            record.body = Body::Here(bytes);
            return self.say(Part::Record(record));
        }
        record.body = Body::Large;
        self.say(Part::Record(record))?;
        self.pieces(size, |at, piece| {
            let at = usize::try_from(at).unwrap_or(usize::MAX);
            Ok(blob.read_at_exact(piece, at)?)
        })
    }

    fn pieces(&self, size: u64, read: impl Fn(u64, &mut [u8]) -> Result<(), Trouble>) -> Result<(), Trouble> {
        for at in (0..size).step_by(PIECE) {
            let mut piece = vec![0; (size - at).min(PIECE as u64) as usize];
            read(at, &mut piece)?;
            self.say(Part::Piece(Bytes::from(piece)))?;
        }
        Ok(())
    }
}

/// A record without its body and its rows, and where the body is.
struct Kept {
    record: Box<Record>,
    /// The length of a body in the database.
    length: Option<i64>,
    file: Option<String>,
}

fn head(row: &rusqlite::Row<'_>, marks: &[Marks]) -> rusqlite::Result<(i64, Kept)> {
    let (id, targets) = (row.get::<_, i64>(0)?, row.get::<_, i64>(3)?);
    let mask = |is_one: &dyn Fn(&Marks) -> bool| {
        marks.iter().enumerate().fold(0_i64, |mask, (at, marks)| mask | i64::from(is_one(marks)) << at)
    };
    let event_id: Option<Vec<u8>> = row.get(6)?;
    let keys: Option<Vec<u8>> = row.get(7)?;
    let record = Box::new(Record {
        accepted_at: row.get(1)?,
        project: row.get(2)?,
        targets,
        untried: targets & mask(&|marks| id > marks.watermark),
        looked: mask(&|marks| id <= marks.looked),
        size: row.get(4)?,
        quantities: row.get(5)?,
        event_id: event_id.and_then(|id| id.try_into().ok()).map(u128::from_be_bytes),
        keys: keys.unwrap_or_default().as_chunks::<16>().0.iter().map(|key| u128::from_le_bytes(*key)).collect(),
        client: row.get::<_, Option<String>>(8)?.unwrap_or_default(),
        body: Body::Gone,
        rows: vec![],
    });
    Ok((id, Kept { record, length: row.get(9)?, file: row.get(10)? }))
}

fn columns(table: &Table) -> String {
    let names: Vec<&str> = table.columns.iter().map(|(name, _)| *name).collect();
    names.join(", ")
}

fn values(row: &rusqlite::Row<'_>, table: &Table) -> rusqlite::Result<Row> {
    let value = |at| {
        Ok(match row.get_ref(at)? {
            ValueRef::Null => Value::Null,
            ValueRef::Integer(number) => Value::Int(number),
            ValueRef::Real(number) => Value::Int(number as i64),
            ValueRef::Text(text) => Value::Text(String::from_utf8_lossy(text).into_owned()),
            ValueRef::Blob(bytes) => Value::Bytes(bytes.to_vec()),
        })
    };
    (0..table.columns.len()).map(value).collect()
}
