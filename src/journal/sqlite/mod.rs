//! The journal in one SQLite file.
//!
//! ```text
//!  intake ──append──▶ writer thread ──after the commit──▶ queues in memory ──claim──▶ workers
//!  workers ─settle──▶ queue.ended ──next transaction──▲         ▲
//!                                    reader thread ─────────────┘  only when a target fell behind
//! ```
//!
//! Rules: one thread writes. What arrives together is committed together. Answers, postings and hand-off come after the commit. In steady
//! state nothing is read back. No lock is held across a read, a commit or an await. A third thread copies committed pages from the WAL into
//! the database file, for a moment at a time (`space::ahead`).

mod accounts;
mod append;
mod backfill;
mod compare;
mod decode;
mod disk;
mod draft;
mod evidence;
mod file;
mod front;
mod held;
mod letters;
mod load;
mod losses;
mod marks;
mod private;
mod queue;
mod reader;
mod schema;
mod settlement;
mod shared;
mod space;
mod spool;
mod steps;
mod tally;
#[cfg(test)]
mod tests;
mod threads;
mod transfer;
mod verification;
mod verifying;
mod writer;

use std::fs::File;
use std::future::ready;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;

use crate::clock::{Clock, Timestamp};
use crate::policy::dedup::SECRET;
use crate::policy::outcome::DropReason;
use crate::telemetry::ledger::Ledger;

use super::body::Body;
use super::queue::tell_lapsed;
use super::{
    Backlog, Call, Claim, Cursor, Journal, JournalError, LEASE, Lease, Log, OpenError, Queues, RecentKeys, RecordId,
    Settings, Settlement, Submission, TargetId, Targets,
};
use queue::{Claimant, Take};
use reader::{Question, Reader, SEATS};
use schema::unusable;
use settlement::Pass;
use shared::{Placed, Reply, Shared, failure, send};
use space::Ahead;
pub use transfer::SqliteStore;
use writer::Writer;
use writer::group::{self, Command, Group, INBOX};

/// The owner number of the next journal that this process opens: leases of an earlier one do not hold in a later one.
static OPENED: AtomicU64 = AtomicU64::new(1);

/// A journal in one SQLite file.
#[derive(Debug)]
pub struct SqliteJournal {
    shared: Arc<Shared>,
    commands: Option<SyncSender<Placed<Command>>>,
    questions: Option<SyncSender<Placed<Question>>>,
    places: Arc<Semaphore>,
    seats: Arc<Semaphore>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// The owner of its leases: the number of this journal among those that this process opened.
    owner: u64,
    /// Kept open until all connections are closed: closing any handle of a file drops the locks that SQLite has on it in this process.
    database: Option<Arc<File>>,
    /// Locked while this process owns the files.
    lock: File,
}

impl SqliteJournal {
    /// Opens the journal at `settings.path`, or makes it, and posts the stored totals to `ledger`.
    pub fn open(settings: &Settings, clock: Clock, ledger: Ledger) -> Result<Self, OpenError> {
        let settings = &Settings { path: schema::whereabouts(&settings.path)?, ..settings.clone() };
        let path = settings.path.as_path();
        private::close(path);
        let lock = schema::lock(path)?;
        let conn = schema::open(settings)?;
        let spool = load::spool(&conn, settings)?;
        let shared = load::load(&conn, settings, spool, clock, ledger).map_err(|e| unusable(path, &e))?;
        let shared = Arc::new(shared);
        let (commands, inbox) = std::sync::mpsc::sync_channel(INBOX + 8);
        let (questions, asked) = std::sync::mpsc::sync_channel(SEATS);
        let reading = schema::open_reader(path)?;
        let database = File::options().write(true).open(path).map_err(|e| unusable(path, &e))?;
        let database = Arc::new(database);
        let ahead = Ahead::new(schema::open_mover(path)?, Arc::clone(&database));
        let writer = writer::Start::new(conn, ahead, Arc::clone(&shared), settings).map_err(|e| unusable(path, &e))?;
        let reader = Reader::new(reading, Arc::clone(&shared), commands.clone());
        let threads = vec![
            threads::start("journal-reader", move || reader.run(&asked)).map_err(|e| unusable(path, &e))?,
            threads::start("journal-writer", move || writer.run(&inbox)).map_err(|e| unusable(path, &e))?,
        ];
        Ok(Self {
            shared,
            commands: Some(commands),
            questions: Some(questions),
            places: Arc::new(Semaphore::new(INBOX)),
            seats: Arc::new(Semaphore::new(SEATS)),
            threads: Mutex::new(threads),
            owner: OPENED.fetch_add(1, Ordering::Relaxed),
            database: Some(database),
            lock,
        })
    }

    /// The secret for the keys of repeats: random, made once, and kept with the journal.
    pub fn secret(&self) -> [u8; SECRET] {
        self.shared.secret
    }

    /// Waits for a place in the inbox, sends a command and awaits its answer.
    async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, JournalError> {
        send(&self.shared, &self.places, self.commands.as_ref(), command).await
    }

    /// Runs `act` in the writer's transaction.
    async fn write<T: Send + 'static>(
        &self,
        act: impl FnOnce(&mut Writer<'_>, &mut Group) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, JournalError> {
        self.try_to(move |writer, group| act(writer, group).map(Ok)).await
    }

    /// The same, for an `act` that may be refused.
    async fn try_to<T: Send + 'static>(
        &self,
        act: impl FnOnce(&mut Writer<'_>, &mut Group) -> rusqlite::Result<Result<T, JournalError>> + Send + 'static,
    ) -> Result<T, JournalError> {
        self.ask(move |reply| Command::of(act, reply)).await
    }

    /// Runs `look` in the reader's thread, on what is committed.
    async fn read<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Reader) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, JournalError> {
        let question = |reply: Reply<T>| -> Question {
            // The caller may be gone.
            Box::new(move |reader| drop(reply.send(look(reader).map_err(|error| failure(&error)))))
        };
        send(&self.shared, &self.seats, self.questions.as_ref(), question).await
    }

    /// Hands a settlement to the writer. Leases exist only in this process, not on disk.
    fn settle_now(&self, lease: &Lease, settlement: Settlement) -> Result<(), JournalError> {
        if self.shared.closed.load(Ordering::Acquire) {
            return Err(JournalError::Closed);
        }
        if lease.owner != self.owner {
            return Err(JournalError::LeaseLost);
        }
        let ended = self.shared.target(lease.target)?.queue().settle(lease, settlement);
        self.wake(ended.ok_or(JournalError::LeaseLost)?);
        Ok(())
    }

    fn wake(&self, hurry: bool) {
        if let Some(commands) = &self.commands {
            group::wake(&self.shared, commands, hurry);
        }
    }
}

impl Drop for SqliteJournal {
    fn drop(&mut self) {
        // Without `close` this is like a crash: uncommitted changes are lost.
        self.commands = None;
        self.questions = None;
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            // A thread that panics ends the process.
            drop(thread.join());
        }
        self.database = None;
        drop(self.lock.unlock());
    }
}

impl Log for SqliteJournal {
    fn target(&self, name: &str) -> Call<'_, TargetId> {
        let name: Arc<str> = name.into();
        let known = self.shared.targets().iter().find(|target| target.name == name).map(|target| target.id);
        Box::pin(async move {
            match known {
                Some(id) => Ok(id),
                None => self.ask(|reply| Command::Target(name, reply)).await,
            }
        })
    }

    fn targets(&self) -> Call<'_, Targets> {
        let known = self.shared.targets().iter().map(|target| (target.id, Arc::clone(&target.name))).collect();
        Box::pin(ready(Ok(known)))
    }

    fn append(&self, submission: Submission) -> Call<'_, RecordId> {
        // Boxed from the start, because a future copies what it holds whenever it moves.
        let submission = Box::new(submission);
        Box::pin(async move {
            if let Body::Large(_) = &submission.body {
                self.shared.spool.sync(&submission.body).await?;
            }
            self.ask(|reply| Command::Append(submission, reply)).await
        })
    }

    fn recent_keys(&self, since: Timestamp, before: Option<Cursor>, limit: usize) -> Call<'_, RecentKeys> {
        Box::pin(self.read(move |reader| reader.keys(since, before, limit)))
    }

    fn prune(&self, before: Timestamp, limit: usize) -> Call<'_, usize> {
        Box::pin(self.write(move |writer, group| {
            let age = writer.order.age(before, group.now);
            writer.room.prune(writer.conn, &writer.shared, age, limit)
        }))
    }
}

impl Queues for SqliteJournal {
    fn claim(&self, target: TargetId, now: Timestamp, max: usize) -> Call<'_, Vec<Claim>> {
        Box::pin(async move {
            let target = self.shared.target(target)?;
            loop {
                if self.shared.closed.load(Ordering::Acquire) {
                    return Err(JournalError::Closed);
                }
                // Leased at once, without an await: a cancelled caller takes no lease with it.
                let claimant = Claimant { target: target.id, owner: self.owner, at: Instant::now() };
                let (lapsed, take) = {
                    let mut queue = target.queue();
                    (queue.lapse(claimant.at, now), queue.take(claimant, now, max))
                };
                if lapsed > 0 {
                    // Their records have to be written as due.
                    self.wake(true);
                    tell_lapsed(&target.name, lapsed);
                }
                match take {
                    Take::Claims(claims) => return Ok(claims),
                    lacking => {
                        let target = Arc::clone(&target);
                        self.read(move |reader| reader.make_ready(&target, &lacking, now)).await?;
                    }
                }
            }
        })
    }

    fn settle(&self, lease: &Lease, settlement: Settlement) -> Call<'static, ()> {
        Box::pin(ready(self.settle_now(lease, settlement)))
    }

    fn extend(&self, mut leases: Vec<Lease>) -> Call<'_, Vec<Lease>> {
        let ends = Instant::now() + LEASE;
        leases.retain_mut(|lease| {
            lease.ends = ends;
            let target = self.shared.target(lease.target);
            lease.owner == self.owner && target.is_ok_and(|target| target.queue().extend(lease, ends))
        });
        Box::pin(ready(Ok(leases)))
    }

    fn changed(&self, target: TargetId) -> Arc<Notify> {
        self.shared.target(target).map(|target| Arc::clone(&target.changed)).unwrap_or_default()
    }

    fn next_due(&self, target: TargetId) -> Call<'_, Option<Timestamp>> {
        Box::pin(ready(self.shared.target(target).map(|target| target.queue().due())))
    }

    fn discard(&self, target: TargetId, before: Timestamp, reason: DropReason, limit: usize) -> Call<'_, usize> {
        Box::pin(async move {
            let target = self.shared.target(target)?;
            self.write(move |writer, group| {
                let what = (writer.order.age(before, group.now), reason, limit);
                Pass::discard(writer.conn, &target, what, (group.now, &mut group.book), &mut group.passes)
            })
            .await
        })
    }

    fn hasten(&self, target: TargetId, limit: usize) -> Call<'_, usize> {
        Box::pin(async move {
            let target = self.shared.target(target)?;
            self.write(move |writer, group| {
                Pass::hasten(writer.conn, &target, limit, (group.now, &mut group.book), &mut group.passes)
            })
            .await
        })
    }

    fn backlog(&self, target: TargetId) -> Call<'_, Backlog> {
        Box::pin(async move {
            let target = self.shared.target(target)?;
            self.read(move |reader| reader.backlog(&target)).await
        })
    }
}

impl Journal for SqliteJournal {
    fn verification(&self) -> &dyn super::verification::Verification {
        self
    }
}
