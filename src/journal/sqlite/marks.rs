//! What marks the database file: whether it is a journal at all, and whether a relay may start on it.
//!
//! Rules: the mark is in the header, which is read with plain file access: opening a foreign database with SQLite could already change
//! it. A commit that was cut off counts as one that never was. The move that a mark tells of is named in a table that is there with it.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use rusqlite::Connection;

use crate::journal::OpenError;
use crate::journal::transfer::{MoveId, State};

use super::private::beside;

/// What marks a file as a journal (`PRAGMA application_id`): "SwJ1".
pub(super) const APPLICATION: i64 = 0x5377_4a31;
/// The same of one that a move fills: "SwJ<".
const FILLING: i64 = 0x5377_4a3c;
/// The same of one whose content was moved to another: "SwJ>".
const MOVED: i64 = 0x5377_4a3e;

/// How long we wait for another process that holds the database: an administrator's shell, a backup.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

/// What marks the file, of which formats up to `newest` are known.
pub(super) fn state(path: &Path, newest: i64) -> Result<State, OpenError> {
    let found = read(path, newest)?;
    if found == Some(APPLICATION) && !has_rollback(path) {
        return Ok(State::Ready);
    }
    let Some(_) = found else { return Ok(State::New) };
    settle(path).map_err(|error| unusable(path, &error))
}

/// What the header says: the mark of one of our files; `None` when there is nothing in it.
fn read(path: &Path, newest: i64) -> Result<Option<i64>, OpenError> {
    let mut header = Vec::with_capacity(100);
    match File::open(path) {
        Ok(file) => file.take(100).read_to_end(&mut header).map_err(|e| unusable(path, &e))?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unusable(path, &error)),
    };
    if header.is_empty() {
        return Ok(None);
    }
    let number =
        |at: usize| header.get(at..at + 4).map_or(0, |b| i64::from(u32::from_be_bytes([b[0], b[1], b[2], b[3]])));
    let mark = number(68);
    if !header.starts_with(b"SQLite format 3\0") || ![APPLICATION, FILLING, MOVED].contains(&mark) {
        let why = "it is no journal of switchyard".to_owned();
        return Err(OpenError::Unusable { place: path.display().to_string(), why });
    }
    match number(60) {
        found if found > newest => {
            let mend = "use the newer switchyard, or move the file away";
            Err(OpenError::Newer { place: path.display().to_string(), found, known: newest, mend })
        }
        _ => Ok(Some(mark)),
    }
}

/// Whether a commit that changed the header may have been cut off.
fn has_rollback(path: &Path) -> bool {
    beside(path, "-journal").exists()
}

/// What marks the file once SQLite has taken back what was cut off.
fn settle(path: &Path) -> rusqlite::Result<State> {
    let conn = Connection::open(path)?;
    conn.busy_timeout(PATIENCE)?;
    let tables: i64 = conn.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    let mark: i64 = conn.query_row("PRAGMA application_id", [], |row| row.get(0))?;
    let by = || conn.query_row("SELECT id FROM move", [], |row| row.get(0)).map(|id: String| MoveId::read(&id));
    Ok(match mark {
        FILLING => State::Filling(by()?),
        MOVED => State::Moved(by()?),
        _ if tables == 0 => State::New,
        _ => State::Ready,
    })
}

/// Marks the file; no one else has it open. Nothing is left beside it, so that the mark is in the header that is looked at.
pub(super) fn set(conn: &Connection, state: State) -> rusqlite::Result<()> {
    conn.busy_timeout(PATIENCE)?;
    conn.execute_batch(&format!(
        "PRAGMA journal_mode = DELETE; PRAGMA synchronous = FULL; BEGIN IMMEDIATE; {} COMMIT;",
        sql(state)
    ))
}

/// What marks the file, in a transaction.
pub(super) fn sql(state: State) -> String {
    let (mark, by) = match state {
        State::New | State::Ready => (APPLICATION, None),
        State::Filling(by) => (FILLING, Some(by)),
        State::Moved(by) => (MOVED, Some(by)),
    };
    let name = |by| format!("CREATE TABLE move (id TEXT NOT NULL); INSERT INTO move VALUES ('{by}');");
    let named = by.map(name).unwrap_or_default();
    format!("PRAGMA application_id = {mark}; DROP TABLE IF EXISTS move; {named}")
}

/// What the system says, as the error of opening.
pub(super) fn unusable(path: &Path, why: &dyn std::error::Error) -> OpenError {
    OpenError::Unusable { place: path.display().to_string(), why: why.to_string() }
}
