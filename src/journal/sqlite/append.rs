//! Writes submissions to the disk.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};

use rusqlite::{Connection, Statement, params};

use crate::journal::body::Body;
use crate::journal::{Record, RecordId, Submission};
use crate::policy::outcome::Outcome;

use super::accounts::Book;
use super::decode::{self, LARGE};
use super::file::BodyFile;
use super::shared::Shared;
use super::space;

/// A record that the current transaction appends.
#[derive(Debug)]
pub(super) struct Appended {
    pub(super) record: Arc<Record>,
    pub(super) project: u32,
    /// The targets it waits for, a bit each.
    pub(super) mask: i64,
}

impl Appended {
    /// After the commit: gives the body's file to the record.
    pub(super) fn keep_file(&self) {
        if let Some(file) = BodyFile::of(&self.record.body) {
            file.keep();
        }
    }
}

/// The numbers of the projects, as the writer knows them. The names are published in [`Shared::projects`].
#[derive(Debug)]
pub(super) struct Projects(HashMap<Arc<str>, u32>);

impl Projects {
    pub(super) fn new(shared: &Shared) -> Self {
        Self((0..).zip(shared.projects().iter()).map(|(number, name)| (Arc::clone(name), number)).collect())
    }

    /// The number of a project; a new one gets the next.
    pub(super) fn number(&mut self, conn: &Connection, shared: &Shared, name: &Arc<str>) -> rusqlite::Result<u32> {
        if let Some(number) = self.0.get(name) {
            return Ok(*number);
        }
        let mut names = shared.projects.write().unwrap_or_else(PoisonError::into_inner);
        let number = u32::try_from(names.len()).unwrap_or(u32::MAX);
        // A rollback takes the row away; `cut` then forgets the number.
        conn.execute("INSERT INTO project VALUES (?1, ?2)", params![number, &**name])?;
        names.push(Arc::clone(name));
        shared.change_shares(|shares| shares.know(Arc::clone(name)));
        self.0.insert(Arc::clone(name), number);
        Ok(number)
    }

    /// After a rollback: forgets the projects from `count` on, whose rows are gone.
    pub(super) fn cut(&mut self, shared: &Shared, count: usize) {
        shared.projects.write().unwrap_or_else(PoisonError::into_inner).truncate(count);
        shared.change_shares(|shares| shares.cut(count));
        self.0.retain(|_, number| (*number as usize) < count);
    }
}

/// The client of a submission as it is written, and the room that client and body take within the database.
pub(super) struct Written {
    client: String,
    room: u64,
}

impl Written {
    /// `page` is the size of the file's pages.
    pub(super) fn of(submission: &Submission, page: u64) -> rusqlite::Result<Self> {
        let client = serde_json::to_string(&submission.client)
            .map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
        let keys = size_of::<u128>() * submission.keys.len();
        let row = space::of_a_row(submission.body.in_memory() + client.len(), page);
        let room = space::OVERHEAD + keys as u64 + row;
        Ok(Self { client, room })
    }

    /// The room within the database, in bytes.
    pub(super) const fn room(&self) -> u64 {
        self.room
    }

    /// The same, with the body's file.
    pub(super) fn with_file(&self, submission: &Submission) -> u64 {
        self.room + submission.body.len() - submission.body.in_memory() as u64
    }
}

/// The statements of each commit and each record. Finding one by its text would cost a fifth of running it.
#[derive(Debug)]
pub(super) struct Statements<'c> {
    conn: &'c Connection,
    pub(super) begin: Statement<'c>,
    pub(super) commit: Statement<'c>,
    record: Statement<'c>,
    body: Statement<'c>,
}

impl<'c> Statements<'c> {
    /// The kept statements; prepares them if there are none.
    pub(super) fn of<'s>(kept: &'s mut Option<Self>, conn: &'c Connection) -> rusqlite::Result<&'s mut Self> {
        Ok(match kept {
            Some(statements) => statements,
            none => none.insert(Self::new(conn)?),
        })
    }

    fn new(conn: &'c Connection) -> rusqlite::Result<Self> {
        Ok(Self {
            conn,
            begin: conn.prepare("BEGIN IMMEDIATE")?,
            commit: conn.prepare("COMMIT")?,
            record: conn.prepare("INSERT INTO record VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)")?,
            body: conn.prepare("INSERT INTO body VALUES (?1, ?2, ?3)")?,
        })
    }
}

/// Writes a submission of a project under the number `id`.
pub(super) fn append(
    statements: &mut Statements<'_>,
    shared: &Shared,
    (project, written): (u32, &Written),
    book: &mut Book,
    id: u64,
    submission: Submission,
) -> rusqlite::Result<Appended> {
    let known = shared.targets().len();
    let targets = submission.targets.iter().filter(|target| usize::from(target.0) < known);
    let mask = targets.clone().fold(0_i64, |mask, target| mask | 1 << target.0);
    let keys: Option<Vec<u8>> = match submission.keys.as_slice() {
        [] => None,
        keys => Some(keys.iter().flat_map(|key| key.to_le_bytes()).collect()),
    };
    statements.record.execute(params![
        id.cast_signed(),
        submission.accepted_at.as_millis().cast_signed(),
        project,
        mask,
        submission.body.len().cast_signed(),
        submission.quantities.to_string(),
        submission.event_id.map(|id| id.as_u128().to_be_bytes()),
        keys,
        written.with_file(&submission).cast_signed(),
    ])?;
    write_body(statements, id, &submission.body, &written.client)?;
    let (at, quantities) = (submission.accepted_at, &submission.quantities);
    book.note(at, None, project, Outcome::Accepted, quantities);
    for target in shared.targets().iter().filter(|target| mask & target.bit() != 0) {
        book.note(at, Some(target.id), project, Outcome::Accepted, quantities);
    }
    for (target, reason) in &submission.withheld {
        book.note_withheld(at, (*target, project), *reason, (&submission.body, quantities));
    }
    Ok(Appended { record: Arc::new(submission.into_record(RecordId(id))), project, mask })
}

fn write_body(statements: &mut Statements<'_>, id: u64, body: &Body, client: &str) -> rusqlite::Result<()> {
    let (id, conn) = (id.cast_signed(), statements.conn);
    let body = match body {
        Body::Memory(bytes) => bytes,
        Body::Large(_) => {
            let file = BodyFile::of(body).ok_or_else(|| decode::unreadable("its body"))?;
            conn.prepare_cached("INSERT INTO body VALUES (?1, ?2, x'')")?.execute(params![id, client])?;
            let mut insert = conn.prepare_cached("INSERT INTO file VALUES (?1, ?2, ?3)")?;
            return insert.execute(params![id, file.name(), file.len().cast_signed()]).map(drop);
        }
    };
    if body.len() <= LARGE {
        let written = statements.body.execute(params![id, client, &body[..]]);
        // The binding is a copy of the body.
        statements.body.clear_bindings();
        return written.map(drop);
    }
    let size = body.len() as i64;
    conn.prepare_cached("INSERT INTO body VALUES (?1, ?2, zeroblob(?3))")?.execute(params![id, client, size])?;
    let mut blob = conn.blob_open("main", "body", "bytes", id, false)?;
    for (at, piece) in (0..).step_by(LARGE).zip(body.chunks(LARGE)) {
        blob.write_at(piece, at)?;
    }
    blob.close()
}
