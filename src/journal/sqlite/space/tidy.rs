//! Tidies up: moves the WAL into the database file, and gives free pages back to the file system.

use std::time::Duration;

use rusqlite::Connection;

use super::{KEPT_FREE, Room};
use crate::journal::sqlite::schema::PATIENCE;

/// Bytes in the WAL after which it is moved into the database file.
const LOG_FULL: u64 = 4 << 20;
/// With this many bytes the writer moves the WAL itself, after the pass that is under way beside it.
const LOG_OVERFULL: u64 = 6 << 20;
/// Bytes of pages that one step gives back.
const VACUUM_STEP: u64 = 2 << 20;

impl Room {
    /// Whether so many pages stayed free since the last call that the file should shrink even while the journal is busy. Pages that are
    /// freed and soon used again stay: they would be moved, cut off and allocated again each time.
    pub(in crate::journal::sqlite) fn slack(&mut self) -> bool {
        let stayed = std::mem::replace(&mut self.least_free, self.pages.1);
        self.spare() > 0 && stayed > self.pages.0 / 4
    }

    /// Counts bytes that went into the WAL. A full WAL is moved into the database file: most of it beside the writer, and here the pages
    /// that came meanwhile. Then the next commit starts it over.
    pub(in crate::journal::sqlite) fn log(&mut self, conn: &Connection, bytes: u64) -> rusqlite::Result<()> {
        let written = bytes + 4 * self.page;
        self.uncounted += written;
        self.logged += written;
        if self.logged < LOG_FULL {
            return Ok(());
        }
        if self.logged < LOG_OVERFULL && (self.ahead.begin() || self.ahead.is_under_way()) {
            return Ok(());
        }
        self.ahead.wait();
        self.logged = 0;
        self.ahead.move_here(conn, "PASSIVE").map(drop)
    }

    /// Free pages beyond those that are kept.
    const fn spare(&self) -> u64 {
        self.pages.1.saturating_sub(KEPT_FREE / self.page)
    }

    /// Whether there is something to tidy up when nothing else is to be done.
    pub(in crate::journal::sqlite) fn untidy(&self) -> bool {
        self.logged > 0 || self.spare() > 0
    }

    /// Gives free pages at the end of the file back, a step at a time, then truncates the WAL. True when there is more to do.
    pub(in crate::journal::sqlite) fn tidy(&mut self, conn: &Connection) -> rusqlite::Result<bool> {
        self.measure(conn)?;
        let step = self.spare().min(VACUUM_STEP / self.page);
        if step > 0 {
            let mut vacuum = conn.prepare(&format!("PRAGMA incremental_vacuum({step})"))?;
            let mut rows = vacuum.query([])?;
            while rows.next()?.is_some() {}
            drop(rows);
            self.log(conn, step * self.page)?;
            self.measure(conn)?;
        }
        if self.spare() > 0 && step > 0 {
            return Ok(true);
        }
        self.truncate_log(conn)?;
        Ok(false)
    }

    /// Moves the WAL and truncates its file to nothing, unless somebody reads.
    pub(in crate::journal::sqlite) fn truncate_log(&mut self, conn: &Connection) -> rusqlite::Result<()> {
        self.ahead.wait();
        // Pages that are cut off cannot be copied again, whoever moved them: they must be on the disk.
        self.ahead.sync();
        // Callers should not wait while we wait for a reader that may never end.
        conn.busy_timeout(Duration::ZERO)?;
        let moved = self.ahead.move_here(conn, "TRUNCATE");
        conn.busy_timeout(PATIENCE)?;
        if moved? {
            self.logged = 0;
        }
        self.measure(conn)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::sync::Arc;

    use super::*;
    use crate::journal::Settings;
    use crate::journal::sqlite::schema;
    use crate::journal::sqlite::space::Ahead;
    use crate::journal::sqlite::spool::Spool;

    #[test]
    fn only_pages_that_stay_free_are_slack() {
        let folder = tempfile::tempdir().unwrap();
        let settings = Settings { path: folder.path().join("journal.db"), ..Settings::default() };
        let conn = schema::open(&settings).unwrap();
        let spool = Arc::new(Spool::open(&settings.path, settings.sync).unwrap());
        let database = Arc::new(File::open(&settings.path).unwrap());
        let ahead = Ahead::new(schema::open_mover(&settings.path).unwrap(), database);
        let mut room = Room::new(&conn, ahead, spool, &settings).unwrap();
        let mut run = |sql: &str| {
            conn.execute_batch(sql).unwrap();
            room.measure(&conn).unwrap();
        };
        let (fill, free) = ("INSERT INTO body VALUES (1, '', zeroblob(8000000))", "DELETE FROM body");
        for _ in 0..3 {
            run(fill);
            run(free);
        }
        assert!(!room.slack(), "it was used since");
        room.measure(&conn).unwrap();
        assert!(room.slack(), "it was free since the last look");
    }
}
