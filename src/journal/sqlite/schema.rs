//! The database file: its tables, its settings, and how it is recognised before anything in it is touched.
//!
//! Rules: a file that is not ours, or that a newer version wrote, is left exactly as it was found. A file of the newest format is opened
//! without writing, so that the daemon starts and answers on a full disk, too.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use crate::journal::transfer::{MoveId, State};
use crate::journal::{OpenError, Settings, Sync};

use super::marks::{self, APPLICATION};
pub(super) use super::marks::{PATIENCE, unusable};
use super::private;

/// The newest format this version reads and writes (`PRAGMA user_version`).
pub(super) const FORMAT: i64 = FORMATS.len() as i64;
/// Bytes of a page in a new journal; an older journal keeps its page size. A commit writes whole pages, so small pages write less: at 1,000
/// envelopes of 4 KiB a second 18 KB for each instead of 24 KB. Still smaller pages cost more system calls than they save.
pub(super) const PAGE: u32 = 2048;
/// The most that stays of the WAL's file when it starts over: more than it grows to between checkpoints, because overwriting blocks is much
/// cheaper than allocating them. While the journal is quiet the file is cut to nothing.
const LOG_KEPT: u32 = 16 << 20;

/// The changes of each format, the oldest first. A journal of format n is brought up to date by those that follow its first n.
///
/// `record` stays narrow so that a scan of it is cheap. Bodies are apart, and those over 1 MiB in files that `file` names.
///
/// A record is settled for a target when its number is not above the target's watermark and no `pending` row names it. Above the watermark
/// every record with the target's bit waits. So an untried record costs no row.
pub(super) const FORMATS: [&str; 14] = [
    "
CREATE TABLE meta (id INTEGER PRIMARY KEY CHECK (id = 1), next_record INTEGER NOT NULL);
INSERT INTO meta VALUES (1, 1);
CREATE TABLE project (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE target (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, watermark INTEGER NOT NULL);
CREATE TABLE record (
    id INTEGER PRIMARY KEY, accepted_at INTEGER NOT NULL, project INTEGER NOT NULL, targets INTEGER NOT NULL,
    size INTEGER NOT NULL, quantities TEXT NOT NULL, event_id BLOB, keys BLOB
);
CREATE TABLE body (id INTEGER PRIMARY KEY, client TEXT NOT NULL, bytes BLOB NOT NULL);
CREATE TABLE pending (
    target INTEGER NOT NULL, record INTEGER NOT NULL, due INTEGER NOT NULL, attempts INTEGER NOT NULL,
    strikes INTEGER NOT NULL, items BLOB, quantities TEXT, PRIMARY KEY (target, record)
) WITHOUT ROWID;
CREATE INDEX pending_due ON pending (target, due);
CREATE TABLE ledger (
    hour INTEGER NOT NULL, target INTEGER NOT NULL, project INTEGER NOT NULL, category TEXT NOT NULL,
    outcome TEXT NOT NULL, quantity INTEGER NOT NULL, PRIMARY KEY (hour, target, project, category, outcome)
) WITHOUT ROWID;
CREATE TABLE dead_letter (
    id INTEGER PRIMARY KEY, target INTEGER NOT NULL, record INTEGER NOT NULL, at INTEGER NOT NULL, reason TEXT NOT NULL,
    status INTEGER, answer TEXT NOT NULL, attempts INTEGER NOT NULL
);
CREATE INDEX dead_letter_record ON dead_letter (record);
CREATE TABLE switch (
    id INTEGER PRIMARY KEY, at INTEGER NOT NULL, project TEXT, before TEXT, after TEXT NOT NULL, reason TEXT, author TEXT
);
",
    "
CREATE TABLE file (record INTEGER PRIMARY KEY, name TEXT NOT NULL, size INTEGER NOT NULL);
",
    // The evidence. `missed` names what a target will not get of a record that is still kept.
    "
CREATE TABLE attempt (
    hour INTEGER NOT NULL, target INTEGER NOT NULL, result TEXT NOT NULL, quantity INTEGER NOT NULL,
    PRIMARY KEY (hour, target, result)
) WITHOUT ROWID;
CREATE TABLE lag (
    hour INTEGER NOT NULL, target INTEGER NOT NULL, histogram BLOB NOT NULL, PRIMARY KEY (hour, target)
) WITHOUT ROWID;
CREATE TABLE intake (
    hour INTEGER NOT NULL, what TEXT NOT NULL, kind TEXT NOT NULL, quantity INTEGER NOT NULL,
    PRIMARY KEY (hour, what, kind)
) WITHOUT ROWID;
CREATE TABLE outage (
    id INTEGER PRIMARY KEY, target INTEGER NOT NULL, began INTEGER NOT NULL, ended INTEGER, cause TEXT NOT NULL
);
CREATE TABLE stretch (started INTEGER PRIMARY KEY, seen INTEGER NOT NULL, stopped INTEGER NOT NULL);
CREATE TABLE missed (
    record INTEGER NOT NULL, target INTEGER NOT NULL, reason TEXT NOT NULL, PRIMARY KEY (record, target)
) WITHOUT ROWID;
",
    "
ALTER TABLE dead_letter ADD COLUMN items BLOB;
ALTER TABLE dead_letter ADD COLUMN quantities TEXT;
",
    // The last backfill of each target.
    "
CREATE TABLE backfill (
    target INTEGER PRIMARY KEY, projects TEXT NOT NULL, since INTEGER NOT NULL, until INTEGER NOT NULL,
    reached INTEGER NOT NULL, found INTEGER NOT NULL, taken INTEGER NOT NULL, started_at INTEGER NOT NULL,
    ended_at INTEGER, cancelled INTEGER NOT NULL
);
",
    // What was lost for a target, and not told it yet.
    "
CREATE TABLE loss (
    target INTEGER NOT NULL, project INTEGER NOT NULL, reason TEXT NOT NULL, category TEXT NOT NULL,
    quantity INTEGER NOT NULL, PRIMARY KEY (target, project, reason, category)
) WITHOUT ROWID;
",
    // The secret under which the keys of repeats are made. Those made before without one are recognised no more.
    "
ALTER TABLE meta ADD COLUMN secret BLOB;
UPDATE meta SET secret = randomblob(32);
",
    // Whose dead letters they are: the project that has the most of them gives way first.
    "
ALTER TABLE dead_letter ADD COLUMN project INTEGER NOT NULL DEFAULT 0;
UPDATE dead_letter SET project = coalesce((SELECT project FROM record WHERE id = dead_letter.record), 0);
CREATE INDEX dead_letter_project ON dead_letter (project);
",
    // How far each target's events were looked for, and those below that which are not known to be stored. A state is 0 while
    // it is looked for, 1 when it is missing, 2 when nobody can say.
    "
CREATE TABLE verification (target INTEGER PRIMARY KEY, reached INTEGER NOT NULL);
CREATE TABLE look (
    target INTEGER NOT NULL, record INTEGER NOT NULL, project INTEGER NOT NULL, state INTEGER NOT NULL,
    due INTEGER NOT NULL, looks INTEGER NOT NULL, since INTEGER NOT NULL, repairs INTEGER NOT NULL,
    PRIMARY KEY (target, record)
) WITHOUT ROWID;
CREATE INDEX look_due ON look (target, due);
",
    // The room that a record takes. Of those made before it is not known, and taken to be a little more than their bodies.
    "
ALTER TABLE record ADD COLUMN room INTEGER;
",
    // How targets fared, in steps of five minutes; after 48 hours, of an hour.
    "
CREATE TABLE step (
    at INTEGER NOT NULL, target INTEGER NOT NULL, accepted INTEGER NOT NULL, delivered INTEGER NOT NULL,
    lost INTEGER NOT NULL, waiting INTEGER NOT NULL, lag INTEGER, PRIMARY KEY (at, target)
) WITHOUT ROWID;
",
    // How many events of a target were compared with what was sent, which kinds of them, and what differs.
    "
CREATE TABLE compared (
    hour INTEGER NOT NULL, target INTEGER NOT NULL, project INTEGER NOT NULL, events INTEGER NOT NULL,
    differing INTEGER NOT NULL, PRIMARY KEY (hour, target, project)
) WITHOUT ROWID;
CREATE TABLE compared_kind (
    target INTEGER NOT NULL, kind INTEGER NOT NULL, at INTEGER NOT NULL, PRIMARY KEY (target, kind)
) WITHOUT ROWID;
CREATE TABLE difference (
    id INTEGER PRIMARY KEY, target INTEGER NOT NULL, project INTEGER NOT NULL, event_id BLOB NOT NULL, at INTEGER NOT NULL,
    field TEXT NOT NULL, sent TEXT NOT NULL, there TEXT NOT NULL
);
",
    // When each target last took something of a service, and a canary. Of the time before, the steps tell the former.
    "
ALTER TABLE target ADD COLUMN delivered_at INTEGER;
ALTER TABLE target ADD COLUMN canary_at INTEGER;
UPDATE target SET delivered_at = (SELECT max(at) FROM step WHERE step.target = target.id AND delivered > 0);
",
    // AUTOINCREMENT: the number of a dead letter that is gone is never another's.
    "
ALTER TABLE dead_letter RENAME TO former;
CREATE TABLE dead_letter (
    id INTEGER PRIMARY KEY AUTOINCREMENT, target INTEGER NOT NULL, record INTEGER NOT NULL, at INTEGER NOT NULL,
    reason TEXT NOT NULL, status INTEGER, answer TEXT NOT NULL, attempts INTEGER NOT NULL, items BLOB, quantities TEXT,
    project INTEGER NOT NULL
);
INSERT INTO dead_letter SELECT id, target, record, at, reason, status, answer, attempts, items, quantities, project FROM former;
DROP TABLE former;
CREATE INDEX dead_letter_record ON dead_letter (record);
CREATE INDEX dead_letter_project ON dead_letter (project);
",
];

/// Opens the connection that writes, and makes the file if there is none.
pub(super) fn open(settings: &Settings) -> Result<Connection, OpenError> {
    recognise(&settings.path)?;
    let conn = Connection::open(&settings.path).map_err(|e| unusable(&settings.path, &e))?;
    prepare(&conn, settings.sync).map_err(|e| unusable(&settings.path, &e))?;
    Ok(conn)
}

/// Opens a connection that only moves the WAL into the file.
pub(super) fn open_mover(path: &Path) -> Result<Connection, OpenError> {
    let mover = || {
        let conn = Connection::open(path)?;
        conn.execute_batch("PRAGMA synchronous = FULL; PRAGMA mmap_size = 0; PRAGMA wal_autocheckpoint = 0;")?;
        Ok(conn)
    };
    mover().map_err(|e: rusqlite::Error| unusable(path, &e))
}

/// Opens a connection that only reads.
pub(super) fn open_reader(path: &Path) -> Result<Connection, OpenError> {
    reader(path).map_err(|e| unusable(path, &e))
}

/// The same, for callers that do not open the journal.
pub(super) fn reader(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags)?;
    conn.busy_timeout(PATIENCE)?;
    keep_plans(&conn)?;
    conn.execute_batch("PRAGMA cache_size = -512; PRAGMA mmap_size = 0; PRAGMA temp_store = MEMORY;")?;
    conn.set_prepared_statement_cache_capacity(24);
    Ok(conn)
}

/// The path of the file with every link followed. The files beside it are named after this path: two names of one journal have one lock.
/// Makes missing folders, and an empty file if there is none.
pub(super) fn whereabouts(path: &Path) -> Result<PathBuf, OpenError> {
    let found = || {
        if let Some(folder) = path.parent() {
            private::make_folder(folder)?;
        }
        if !path.exists() {
            File::options().append(true).create(true).mode(private::FILE).open(path)?;
        }
        std::fs::canonicalize(path)
    };
    found().map_err(|e| unusable(path, &e))
}

/// Locks the journal for this process, until the returned file is dropped.
pub(super) fn lock(path: &Path) -> Result<File, OpenError> {
    let name = private::beside(path, ".lock");
    let file = File::options().create(true).truncate(false).write(true).mode(private::FILE).open(name);
    let file = file.map_err(|e| unusable(path, &e))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(OpenError::InUse { place: path.display().to_string() }),
        Err(std::fs::TryLockError::Error(error)) => Err(unusable(path, &error)),
    }
}

/// The state that the file's mark tells.
pub(super) fn state(path: &Path) -> Result<State, OpenError> {
    marks::state(path, FORMAT)
}

/// Fails unless a relay may start on the journal.
fn recognise(path: &Path) -> Result<(), OpenError> {
    let place = path.display().to_string();
    match state(path)? {
        State::New | State::Ready => Ok(()),
        State::Filling(_) => Err(OpenError::Filling { place }),
        State::Moved(_) => Err(OpenError::Moved { place }),
    }
}

/// Makes the tables in an empty file and marks it as filling.
pub(super) fn begin(conn: &Connection, by: MoveId) -> rusqlite::Result<()> {
    conn.execute_batch(&format!(
        "PRAGMA page_size = {PAGE}; PRAGMA auto_vacuum = INCREMENTAL; PRAGMA synchronous = FULL; PRAGMA temp_store = MEMORY;
         BEGIN IMMEDIATE; {} {} PRAGMA user_version = {FORMAT}; COMMIT;",
        marks::sql(State::Filling(by)),
        FORMATS.concat()
    ))?;
    conn.set_prepared_statement_cache_capacity(64);
    Ok(())
}

/// Makes SQLite plan a statement once. Otherwise a statement whose plan could depend on its parameters is planned again for each use.
fn keep_plans(conn: &Connection) -> rusqlite::Result<()> {
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true).map(drop)
}

fn prepare(conn: &Connection, sync: Sync) -> rusqlite::Result<()> {
    conn.busy_timeout(PATIENCE)?;
    keep_plans(conn)?;
    conn.set_prepared_statement_cache_capacity(64);
    let found = conn.query_row("PRAGMA user_version", [], |row| row.get::<_, u32>(0))? as usize;
    if found == 0 {
        // Page size and vacuum can only be chosen before the first table. Choosing vacuum is a write, which fails on a full disk.
        conn.execute_batch(&format!("PRAGMA page_size = {PAGE}; PRAGMA auto_vacuum = INCREMENTAL;"))?;
    }
    let missing = FORMATS.get(found..).unwrap_or_default().concat();
    if !missing.is_empty() {
        conn.execute_batch(&format!(
            "BEGIN IMMEDIATE; PRAGMA application_id = {APPLICATION}; {missing} PRAGMA user_version = {FORMAT}; COMMIT;"
        ))?;
    }
    let sync = match sync {
        Sync::Full => "FULL",
        Sync::Normal => "NORMAL",
    };
    // The writer checkpoints by itself, after answering: see `space`.
    conn.execute_batch(&format!(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = {sync}; PRAGMA cache_size = -2048; PRAGMA mmap_size = 0;
         PRAGMA temp_store = MEMORY; PRAGMA wal_autocheckpoint = 0; PRAGMA journal_size_limit = {LOG_KEPT};
         PRAGMA foreign_keys = OFF;"
    ))
}
