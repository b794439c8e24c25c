//! The writer thread: it gathers commands that have arrived, commits them together, then answers.
//!
//! Rule: nothing is answered, posted or handed on before its commit, and a failed commit leaves everything in memory as it was.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use rusqlite::{Connection, params};
use tokio::sync::oneshot;

use crate::journal::JournalError;
use crate::telemetry::log::{self, Line};

use super::accounts;
use super::accounts::Totals;
use super::append::{Appended, Projects, Statements};
use super::letters::{self, Letters};
use super::losses::Bodies;
use super::queue::Target;
use super::settlement::{Eviction, Pass};
use super::shared::{Placed, Shared, failure};
use super::space::{self, Order, Room};
use group::{Answer, Command, Group, refuse};

mod admission;
pub(super) mod group;
mod naming;
mod room;
mod start;
pub(super) use start::Start;

/// How soon a failed commit is tried again.
const RETRY: Duration = Duration::from_millis(250);
/// How long settlements wait for those of older records when nothing else is to be committed.
const OLDER: Duration = Duration::from_millis(20);
/// The quiet time after which the files are tidied up.
const QUIET: Duration = Duration::from_secs(1);
/// How long pages must stay free while the journal is busy: longer than the second after which delivered records go with `retain = "0s"`.
const SLACK: Duration = Duration::from_secs(3);
/// The journal is not full while this many bytes fit.
const SMALL: u64 = 64 << 10;

/// The user of the connection that writes.
#[derive(Debug)]
pub(super) struct Writer<'c> {
    pub(super) conn: &'c Connection,
    statements: Option<Statements<'c>>,
    pub(super) shared: Arc<Shared>,
    pub(super) room: Room,
    eviction: Eviction,
    pub(super) order: Order,
    pub(super) letters: Letters,
    bodies: Rc<Bodies>,
    pub(super) projects: Projects,
    totals: Totals,
    /// Targets without a row yet. Every commit writes these first, so that nothing on disk names a target without a row.
    unwritten: Vec<Arc<Target>>,
    /// The number of the next record.
    next: u64,
    tidying: bool,
    /// When the writer last checked whether there is something to tidy up.
    looked: Instant,
    /// The hour of the last roll-up of the ledger.
    rolled: u64,
}

impl Writer<'_> {
    /// Serves until a close command, or until all senders are gone. Returns the sender that awaits the close.
    fn run(mut self, inbox: &Receiver<Placed<Command>>) -> Option<oneshot::Sender<()>> {
        let mut shared = false;
        loop {
            let mut group = Group::default();
            match inbox.recv_timeout(self.patience()) {
                Ok(command) => group.take(command),
                Err(RecvTimeoutError::Timeout) => {
                    self.idle();
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => return None,
            }
            let targets = self.shared.targets();
            group.gather(inbox, shared, || targets.iter().any(|target| target.queue().is_crowded()));
            shared = group.is_shared();
            let closing = group.closing.take();
            self.commit(group);
            if closing.is_some() {
                self.close(inbox);
                return closing;
            }
        }
    }

    fn close(mut self, inbox: &Receiver<Placed<Command>>) {
        loop {
            // Commands that were sent before the close was known are served. The last round commits the settlements.
            let mut group = Group { hurry: true, settles_all: true, ..Group::default() };
            group.gather(inbox, false, || false);
            let last = group.commands.is_empty();
            self.commit(group);
            if last {
                break;
            }
        }
        if let Err(error) = self.room.truncate_log(self.conn) {
            tracing::warn!(%error, "the journal's log could not be moved; the next start does it");
        }
    }

    fn patience(&self) -> Duration {
        match (self.shared.trouble(), self.tidying) {
            (Some(_), _) => RETRY,
            (None, true) => Duration::from_millis(1),
            (None, false) if self.awaits_older() => OLDER,
            (None, false) if self.room.untidy() => QUIET,
            (None, false) => Duration::from_secs(3600),
        }
    }

    /// Whether settlements wait for those of older records.
    fn awaits_older(&self) -> bool {
        self.shared.targets().iter().any(|target| !Pass::idle(target, true))
    }

    fn idle(&mut self) {
        if self.shared.trouble().is_none() && self.awaits_older() {
            return self.commit(Group { settles_all: true, ..Group::default() });
        }
        self.tidy();
        if self.shared.trouble().is_some() {
            // Tries whether commits work again.
            self.commit(Group::default());
        }
    }

    fn tidy(&mut self) {
        self.looked = Instant::now();
        match self.room.tidy(self.conn) {
            Ok(more) => self.tidying = more,
            Err(error) => {
                self.tidying = false;
                self.failed(&error);
            }
        }
        self.room.publish(&self.shared);
    }

    fn commit(&mut self, mut group: Group) {
        // To be done before the settlements are taken.
        group.wakes(&self.shared);
        self.name_targets(&mut group);
        let targets = self.shared.targets();
        let probing = self.shared.trouble().is_some();
        let is_empty = group.commands.is_empty() && group.answers.is_empty();
        if is_empty && !probing && targets.iter().all(|target| Pass::idle(target, group.settles_all)) {
            return;
        }
        let (began, first, projects) = (Instant::now(), self.next, self.shared.projects().len());
        match self.transact(&mut group, &targets) {
            Ok(()) => {
                self.shared.counters.committed(began.elapsed());
                self.finish(group, &targets);
            }
            Err(error) => {
                self.next = first;
                self.projects.cut(&self.shared, projects);
                self.undo(group, &targets, &error);
            }
        }
    }

    fn transact(&mut self, group: &mut Group, targets: &[Arc<Target>]) -> rusqlite::Result<()> {
        let now = self.shared.clock.now();
        group.now = now;
        group.book.reads(&self.bodies);
        Statements::of(&mut self.statements, self.conn)?.begin.execute([])?;
        if self.shared.trouble().is_some() {
            self.probe()?;
        }
        for target in &self.unwritten {
            let watermark = target.queue().watermark.cast_signed();
            self.conn.execute(
                "INSERT INTO target (id, name, watermark) VALUES (?1, ?2, ?3)",
                params![target.id.0, &*target.name, watermark],
            )?;
        }
        let last = self.next - 1;
        group.last = last;
        for target in targets {
            if Pass::idle(target, group.settles_all) {
                Pass::catch_up(self.conn, target, (last, now), &mut group.passes)?;
            } else {
                let when = (now, group.settles_all);
                Pass::settle(self.conn, target, when, &mut group.book, &mut group.passes)?;
            }
        }
        while let Some(command) = group.commands.pop_front() {
            self.apply(command, group)?;
        }
        group.passes.iter().flat_map(Pass::letters).for_each(|(project, bytes)| self.letters.add(project, bytes));
        group.letters_gone = self.letters.bound(self.conn)?;
        group.book.write(self.conn, &mut self.totals)?;
        self.room.keep_up(self.conn)?;
        Statements::of(&mut self.statements, self.conn)?.commit.execute([]).map(drop)
    }

    /// Runs one command within the transaction. Its answer is in the group even if it fails.
    fn apply(&mut self, command: Command, group: &mut Group) -> rusqlite::Result<()> {
        match command {
            Command::Append(submission, reply) => self.append(*submission, reply, group),
            Command::Do(mut task) => {
                let done = task.act(self, group);
                group.answers.push(Answer::Of(task));
                done
            }
            Command::Target(..) | Command::Wake { .. } | Command::Close(_) => Ok(()),
        }
    }

    /// Writes a small row. Fails if records have appeared that this writer did not append, because its view of the journal is stale then.
    fn probe(&self) -> rusqlite::Result<()> {
        if space::next_record(self.conn)? > self.next {
            let why = "another process has written to it: end that one, then start this one again";
            let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CONSTRAINT);
            return Err(rusqlite::Error::SqliteFailure(code, Some(why.into())));
        }
        // A WAL that a foreign reader keeps from starting over grows with every write. Nothing is written here until that reader ends.
        if self.room.is_held_by_a_reader() {
            return Ok(());
        }
        space::keep_next_record(self.conn, self.next)
    }

    fn finish(&mut self, group: Group, targets: &[Arc<Target>]) {
        let bytes = group.bytes as u64;
        self.unwritten.clear();
        group.appended.iter().for_each(Appended::keep_file);
        self.shared.ledger.post(&group.book.postings(&self.shared));
        for target in targets {
            hand_over(target, &group.appended);
        }
        group.passes.into_iter().for_each(Pass::finish);
        letters::count(targets, &group.letters_come, &group.letters_gone);
        targets.iter().for_each(|target| Pass::thaw(target));
        let full = matches!(self.shared.trouble(), Some(JournalError::Full(_))) && !self.room.fits(SMALL);
        let still = if full { self.shared.trouble() } else { None };
        self.shared.set_trouble(group.refused.or(still));
        self.room.publish(&self.shared);
        group.answers.into_iter().for_each(|answer| answer.give(None));
        self.after(bytes);
    }

    /// The work that is done after the answers are out.
    fn after(&mut self, bytes: u64) {
        self.room.remove_files(&self.shared);
        self.eviction.tell(&self.shared.targets());
        let hour = self.shared.clock.now().hour();
        let moved = self.room.log(self.conn, bytes);
        let rolled = if self.rolled == hour { Ok(()) } else { accounts::roll_up(self.conn, self.shared.clock.now()) };
        if std::mem::replace(&mut self.rolled, hour) != hour {
            self.totals = Totals::default();
        }
        if let Err(error) = moved.and(rolled) {
            self.failed(&error);
        }
        if self.looked.elapsed() >= if self.tidying { QUIET } else { SLACK } {
            self.looked = Instant::now();
            if self.tidying || self.room.slack() {
                self.tidy();
            }
        }
    }

    fn undo(&mut self, group: Group, targets: &[Arc<Target>], error: &rusqlite::Error) {
        if !self.conn.is_autocommit() {
            // A failed rollback leaves the transaction open. The next BEGIN fails then, and the rollback is tried again.
            drop(self.conn.execute_batch("ROLLBACK"));
        }
        group.passes.into_iter().rev().for_each(Pass::undo);
        targets.iter().for_each(|target| Pass::thaw(target));
        self.room.undo(self.conn);
        self.totals = Totals::default();
        drop(self.room.measure(self.conn));
        drop(self.letters.measure(self.conn));
        let answer = self.failed(error);
        group.answers.into_iter().for_each(|waiting| waiting.give(Some(&answer)));
        group.commands.into_iter().for_each(|command| refuse(command, &answer));
    }

    /// Counts a failure of the storage and keeps it as the journal's trouble. Only the first of a series is logged.
    fn failed(&self, error: &rusqlite::Error) -> JournalError {
        self.shared.counters.errors.fetch_add(1, Ordering::Relaxed);
        if self.shared.trouble().is_none()
            && let Some(Line { suppressed }) = log::admit("journal fails", "")
        {
            let message = "the journal cannot write; submissions are refused until it can";
            tracing::error!(%error, suppressed, "{message}");
        }
        let answer = failure(error);
        self.shared.set_trouble(Some(answer.clone()));
        answer
    }
}

fn hand_over(target: &Target, appended: &[Appended]) {
    let mut queue = target.queue();
    let mut any = false;
    for appended in appended.iter().filter(|appended| appended.mask & target.bit() != 0) {
        queue.arrived(&appended.record, appended.project);
        any = true;
    }
    drop(queue);
    if any {
        target.changed.notify_one();
    }
}
