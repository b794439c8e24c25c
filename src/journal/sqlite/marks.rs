//! The mark of the database file: whether it is a journal at all, and whether a relay may start on it.
//!
//! Rules: the mark is in the header and is read with plain file access, because opening a foreign database with SQLite could already change
//! it. A commit that was cut off does not count. A table, written together with the mark, names the move that the mark tells of.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use rusqlite::Connection;

use crate::journal::OpenError;
use crate::journal::transfer::{MoveId, State};

use super::private::beside;

/// The mark of a journal (`PRAGMA application_id`): "SwJ1".
pub(super) const APPLICATION: i64 = 0x5377_4a31;
/// The mark of a journal that a move fills: "SwJ<".
const FILLING: i64 = 0x5377_4a3c;
/// The mark of a journal whose content was moved to another: "SwJ>".
const MOVED: i64 = 0x5377_4a3e;

/// How long a statement waits for another process that holds the database: an administrator's shell, a backup.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

/// The state that the file's mark tells. Formats up to `newest` are known.
pub(super) fn state(path: &Path, newest: i64) -> Result<State, OpenError> {
    let found = read(path, newest)?;
    if found == Some(APPLICATION) && !has_rollback(path) {
        return Ok(State::Ready);
    }
    let Some(_) = found else { return Ok(State::New) };
    settle(path).map_err(|error| unusable(path, &error))
}

/// The mark in the header; `None` if the file is missing or empty. Fails for a file that is not ours, or of a newer format.
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

/// The state that the mark tells once SQLite has rolled back a commit that was cut off.
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

/// Marks the file, which nobody else has open. Leaves nothing beside the file, so that the mark is in its header.
pub(super) fn set(conn: &Connection, state: State) -> rusqlite::Result<()> {
    conn.busy_timeout(PATIENCE)?;
    conn.execute_batch(&format!(
        "PRAGMA journal_mode = DELETE; PRAGMA synchronous = FULL; BEGIN IMMEDIATE; {} COMMIT;",
        sql(state)
    ))
}

/// The SQL that marks the file, within a transaction.
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

/// The error of opening a journal that fails with `why`.
pub(super) fn unusable(path: &Path, why: &dyn std::error::Error) -> OpenError {
    OpenError::Unusable { place: path.display().to_string(), why: why.to_string() }
}
