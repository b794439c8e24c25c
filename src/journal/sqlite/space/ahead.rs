//! Moving the log into the database file beside the writer, so that nobody who sends waits while thousands of pages are copied.
//!
//! Rule: it is a head start and no more. The writer's own pass moves what came meanwhile, syncs all of it and tells what fails; only
//! after that the log starts over.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread::JoinHandle;

use rusqlite::Connection;

/// The thread that moves the log beside the writer.
#[derive(Debug)]
pub(in crate::journal::sqlite) struct Ahead {
    begin: Option<SyncSender<()>>,
    ended: Receiver<()>,
    is_under_way: bool,
    thread: Option<JoinHandle<()>>,
}

impl Ahead {
    /// Starts the thread, which moves the log through a connection of its own. `database` is the file that the log is moved into.
    pub(in crate::journal::sqlite) fn start(conn: Connection, database: Arc<File>) -> io::Result<Self> {
        let (begin, begun) = sync_channel(1);
        let (end, ended) = sync_channel(1);
        let run = move || {
            for () in begun {
                // What fails here fails again in the writer's pass, which tells it.
                drop(conn.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())));
                drop(database.sync_data());
                if end.send(()).is_err() {
                    break;
                }
            }
        };
        let thread = std::thread::Builder::new().name("journal-mover".into()).spawn(run)?;
        Ok(Self { begin: Some(begin), ended, is_under_way: false, thread: Some(thread) })
    }

    /// Begins when it is not under way. Whether it has ended, and the rest is for the writer to move; waits for that when it `must` end.
    pub(super) fn has_ended(&mut self, must: bool) -> bool {
        if !self.is_under_way {
            // Without its thread the writer moves all.
            self.is_under_way = self.begin.as_ref().is_some_and(|begin| begin.try_send(()).is_ok());
            return !self.is_under_way;
        }
        if must {
            self.wait();
        } else {
            self.is_under_way = self.ended.try_recv() == Err(TryRecvError::Empty);
        }
        !self.is_under_way
    }

    /// Waits for the end of what is under way.
    pub(super) fn wait(&mut self) {
        if std::mem::take(&mut self.is_under_way) {
            // A thread that is gone moves nothing.
            self.ended.recv().unwrap_or_default();
        }
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.begin = None;
        if let Some(thread) = self.thread.take() {
            // The connection is closed with it. A panic in it left all to the writer.
            drop(thread.join());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moved(conn: &Connection) -> (i64, i64) {
        conn.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| Ok((row.get(1)?, row.get(2)?))).unwrap()
    }

    #[test]
    fn the_log_is_moved_beside_the_writer_who_moves_what_came_meanwhile() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.db");
        let conn = Connection::open(&path).unwrap();
        conn.execute_batch("PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0; CREATE TABLE a (b)").unwrap();
        let write = || conn.execute("INSERT INTO a VALUES (zeroblob(100000))", []).unwrap();
        write();
        let empty = std::fs::metadata(&path).unwrap().len();
        let database = Arc::new(File::options().write(true).open(&path).unwrap());
        let mut ahead = Ahead::start(Connection::open(&path).unwrap(), database).unwrap();
        assert!(!ahead.has_ended(false), "it begins");
        assert!(ahead.has_ended(true), "and is waited for");
        assert!(std::fs::metadata(&path).unwrap().len() > empty + 100_000, "before the writer moves anything");
        write();
        let (log, all) = moved(&conn);
        assert!(log == all && log > 0);
    }

    #[test]
    fn without_its_thread_the_writer_moves_all() {
        let (begin, _) = sync_channel(1);
        let (_, ended) = sync_channel(1);
        let mut ahead = Ahead { begin: Some(begin), ended, is_under_way: false, thread: None };
        assert!(ahead.has_ended(false));
        ahead.is_under_way = true;
        assert!(ahead.has_ended(false), "also when it ends under way");
        ahead.is_under_way = true;
        assert!(ahead.has_ended(true));
    }
}
