//! Moves the WAL into the database file beside the writer, so that no sender waits while thousands of pages are copied.
//!
//! Rule: the WAL starts over only when all of it is in the database file and on the disk. SQLite syncs the pages that its last pass copies.
//! [`Ahead`] syncs those of earlier passes, the writer's included, because SQLite does not sync after a pass that does not reach the end of
//! the WAL.

use std::fs::File;
use std::sync::Arc;
use std::thread::JoinHandle;

use rusqlite::Connection;

use crate::journal::sqlite::threads;

/// Moves the WAL in a thread of its own, one pass at a time.
#[derive(Debug)]
pub(in crate::journal::sqlite) struct Ahead {
    /// `None` from the beginning of a pass until it was waited for, and after a thread failed to start: then the writer moves all.
    mover: Option<Connection>,
    pass: Option<JoinHandle<Connection>>,
    database: Arc<File>,
}

impl Ahead {
    /// Moves through a connection of its own. `database` is the file that the WAL is moved into.
    pub(in crate::journal::sqlite) fn new(conn: Connection, database: Arc<File>) -> Self {
        Self { mover: Some(conn), pass: None, database }
    }

    /// Begins a pass. False while there is one that nobody has [waited for](Self::wait), or without a thread.
    pub(super) fn begin(&mut self) -> bool {
        let Some(mover) = self.mover.take() else { return false };
        let database = Arc::clone(&self.database);
        self.pass = threads::start("journal-mover", move || pass(mover, &database)).ok();
        self.pass.is_some()
    }

    /// Whether a pass is under way.
    pub(super) fn is_under_way(&self) -> bool {
        self.pass.as_ref().is_some_and(|pass| !pass.is_finished())
    }

    /// Waits for the end of the pass that was begun.
    pub(super) fn wait(&mut self) {
        if let Some(pass) = self.pass.take() {
            self.mover = pass.join().ok();
        }
    }

    /// Moves the WAL with the writer's connection by a checkpoint of the mode `how`. Returns whether all of it is in the file. The pages in
    /// the file are on the disk in any case.
    pub(super) fn move_here(&self, writer: &Connection, how: &str) -> rusqlite::Result<bool> {
        let moved = writer.query_row(&format!("PRAGMA wal_checkpoint({how})"), [], |row| {
            Ok(!row.get::<_, bool>(0)? && row.get::<_, i64>(1)? == row.get::<_, i64>(2)?)
        });
        if !matches!(moved, Ok(true)) {
            self.sync();
        }
        moved
    }

    /// Syncs the database file, or ends the process.
    pub(super) fn sync(&self) {
        sync(&self.database);
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.wait();
    }
}

fn pass(mover: Connection, database: &File) -> Connection {
    // A failure here happens again in the writer's own pass, which reports it.
    drop(mover.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())));
    sync(database);
    mover
}

/// The kernel reports an error once for each open handle: this handle still gets one that SQLite's handle was told of.
fn sync(database: &File) {
    if let Err(error) = database.sync_data() {
        // SQLite would never copy pages again that the kernel may have thrown away. The next start copies the whole WAL.
        tracing::error!(%error, "what was moved into the journal's file cannot be brought to the disk: ending, to begin from its log");
        std::process::abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mover_copies_the_log_and_the_writer_copies_the_rest() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.db");
        let conn = Connection::open(&path).unwrap();
        conn.execute_batch("PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0; CREATE TABLE a (b)").unwrap();
        let write = || conn.execute("INSERT INTO a VALUES (zeroblob(100000))", []).unwrap();
        write();
        let empty = std::fs::metadata(&path).unwrap().len();
        let database = Arc::new(File::options().write(true).open(&path).unwrap());
        let mut ahead = Ahead::new(Connection::open(&path).unwrap(), database);
        assert!(ahead.begin());
        assert!(!ahead.begin(), "one at a time");
        ahead.wait();
        assert!(std::fs::metadata(&path).unwrap().len() > empty + 100_000, "before the writer moves anything");
        assert!(ahead.begin(), "again");
        write();
        ahead.wait();
        let moved = conn.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| Ok((row.get(1)?, row.get(2)?)));
        let (log, moved): (i64, i64) = moved.unwrap();
        assert!(log == moved && log > 0, "{moved} of {log}");
    }

    #[test]
    fn without_its_thread_the_writer_moves_all() {
        let mut ahead = Ahead { mover: None, pass: None, database: Arc::new(tempfile::tempfile().unwrap()) };
        assert!(!ahead.begin() && !ahead.is_under_way());
    }
}
