//! The commands of the writer, and the groups that it commits together.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::clock::Timestamp;
use crate::journal::sqlite::accounts::Book;
use crate::journal::sqlite::append::Appended;
use crate::journal::sqlite::settlement::Pass;
use crate::journal::sqlite::shared::{Placed, Reply, Shared};
use crate::journal::{JournalError, RecordId, Submission, TargetId};

use super::Writer;

/// The most commands that wait in the writer's inbox.
pub(in crate::journal::sqlite) const INBOX: usize = 1024;
/// The most commands in one commit, and the bytes of bodies after which it takes no more.
const GROUP: usize = 256;
const GROUP_BYTES: usize = 4 << 20;
/// After a commit of this many commands, the next one waits [`PAUSE`] for more: larger commits cost less for each record, and at this rate
/// a client waits for others' commits anyway.
const SHARED: usize = 4;
/// See [`SHARED`].
const PAUSE: Duration = Duration::from_micros(300);
/// How long a commit waits for a crowded worker, and how often it checks meanwhile.
const LINGER: Duration = Duration::from_millis(2);
/// See [`LINGER`].
const LOOK: Duration = Duration::from_micros(200);
/// How long settlements wait for an append to share its commit.
const COMPANY: Duration = Duration::from_millis(10);

/// A command to the writer.
pub(in crate::journal::sqlite) enum Command {
    Append(Box<Submission>, Reply<RecordId>),
    /// Another task in the transaction.
    Do(Box<dyn Task>),
    Target(Arc<str>, Reply<TargetId>),
    /// Settlements await a commit.
    Wake {
        hurry: bool,
    },
    Close(oneshot::Sender<()>),
}

/// A task in the transaction, for a caller that awaits its answer.
pub(in crate::journal::sqlite) trait Task: Send {
    /// Runs the task, once.
    fn act(&mut self, writer: &mut Writer<'_>, group: &mut Group) -> rusqlite::Result<()>;

    /// Gives the task's answer, or `failed` in its place. The caller may be gone.
    fn answer(self: Box<Self>, failed: Option<&JournalError>);
}

/// A [`Task`] made of a function. Its inner error refuses this task alone.
struct Asked<T, F> {
    act: Option<F>,
    answer: Result<T, JournalError>,
    reply: Reply<T>,
}

impl<T, F> Task for Asked<T, F>
where
    T: Send,
    F: FnOnce(&mut Writer<'_>, &mut Group) -> rusqlite::Result<Result<T, JournalError>> + Send,
{
    fn act(&mut self, writer: &mut Writer<'_>, group: &mut Group) -> rusqlite::Result<()> {
        if let Some(act) = self.act.take() {
            self.answer = act(writer, group)?;
        }
        Ok(())
    }

    fn answer(self: Box<Self>, failed: Option<&JournalError>) {
        drop(self.reply.send(failed.cloned().map_or(self.answer, Err)));
    }
}

impl Command {
    /// The command that runs `act` in the transaction.
    pub(in crate::journal::sqlite) fn of<T: Send + 'static>(
        act: impl FnOnce(&mut Writer<'_>, &mut Group) -> rusqlite::Result<Result<T, JournalError>> + Send + 'static,
        reply: Reply<T>,
    ) -> Self {
        Self::Do(Box::new(Asked { act: Some(act), answer: Err(JournalError::Closed), reply }))
    }
}

/// An answer that awaits the commit.
pub(super) enum Answer {
    Record(Reply<RecordId>, Result<RecordId, JournalError>),
    Of(Box<dyn Task>),
    /// Holds even if the commit fails: the next successful commit writes the target's row.
    Target(Reply<TargetId>, Result<TargetId, JournalError>),
}

impl Answer {
    /// Gives the answer, or `failed` in its place if the failed commit undoes it. The caller may be gone.
    pub(super) fn give(self, failed: Option<&JournalError>) {
        match self {
            Self::Record(reply, answer) => drop(reply.send(failed.cloned().map_or(answer, Err))),
            Self::Of(task) => task.answer(failed),
            Self::Target(reply, answer) => drop(reply.send(answer)),
        }
    }
}

/// Wakes the writer for settlements, unless a wake command is under way.
pub(in crate::journal::sqlite) fn wake(shared: &Shared, commands: &SyncSender<Placed<Command>>, hurry: bool) {
    let flag = if hurry { &shared.hurried } else { &shared.woken };
    if !flag.swap(true, Ordering::AcqRel) && commands.try_send((Command::Wake { hurry }, None)).is_err() {
        // A full inbox wakes the writer as well.
        flag.store(false, Ordering::Release);
    }
}

/// The commands and settlements of one commit.
#[derive(Default)]
pub(in crate::journal::sqlite) struct Group {
    /// When the transaction began.
    pub(in crate::journal::sqlite) now: Timestamp,
    pub(super) commands: VecDeque<Command>,
    pub(super) bytes: usize,
    pub(super) closing: Option<oneshot::Sender<()>>,
    pub(super) hurry: bool,
    /// Whether the group took a wake command, and one that does not wait for an append.
    pub(super) woken: bool,
    pub(super) hurried: bool,
    /// Whether all settlements are committed, in order or not, because a command may build on them.
    pub(super) settles_all: bool,
    pub(in crate::journal::sqlite) book: Book,
    pub(super) appended: Vec<Appended>,
    pub(in crate::journal::sqlite) passes: Vec<Pass>,
    /// Upstreams that are to become targets. They are no commands, because naming a target cannot fail for lack of room.
    pub(super) names: Vec<(Arc<str>, Reply<TargetId>)>,
    pub(super) answers: Vec<Answer>,
    pub(super) refused: Option<JournalError>,
    /// Projects beyond their part for which nothing can give way, as found in this transaction.
    pub(super) fruitless: Vec<Option<u32>>,
    /// The last record of the previous commit.
    pub(in crate::journal::sqlite) last: u64,
    /// The target of each dead letter that was removed because there were too many.
    pub(super) letters_gone: Vec<TargetId>,
    /// The target of each dead letter that no settlement wrote.
    pub(in crate::journal::sqlite) letters_come: Vec<TargetId>,
}

impl Group {
    pub(super) fn take(&mut self, (command, place): Placed<Command>) {
        drop(place);
        match command {
            Command::Close(reply) => self.closing = Some(reply),
            Command::Wake { hurry: false } => self.woken = true,
            Command::Wake { hurry: true } => (self.hurry, self.hurried) = (true, true),
            Command::Target(name, reply) => {
                self.names.push((name, reply));
                self.hurry = true;
            }
            command => {
                match &command {
                    Command::Append(submission, _) => self.bytes += submission.body.in_memory(),
                    _ => self.settles_all = true,
                }
                self.commands.push_back(command);
            }
        }
    }

    /// Clears the flags of the wake commands that the group took: from here on a settlement wakes the writer again.
    pub(super) fn wakes(&self, shared: &Shared) {
        for (taken, flag) in [(self.woken, &shared.woken), (self.hurried, &shared.hurried)] {
            if taken {
                flag.store(false, Ordering::Release);
            }
        }
    }

    fn is_whole(&self) -> bool {
        self.commands.len() >= GROUP || self.bytes >= GROUP_BYTES || self.closing.is_some()
    }

    /// Whether so many commands share this commit that others are likely to be on their way.
    pub(super) fn is_shared(&self) -> bool {
        self.commands.len() >= SHARED
    }

    /// Takes the commands that have arrived. Settlements alone wait up to [`COMPANY`] for an append to share their commit. After a shared
    /// commit it first pauses for [`PAUSE`]. While a worker is `crowded` it waits up to [`LINGER`], because records that memory cannot take
    /// have to be read back from the disk.
    pub(super) fn gather(&mut self, inbox: &Receiver<Placed<Command>>, after_shared: bool, crowded: impl Fn() -> bool) {
        if after_shared {
            std::thread::sleep(PAUSE);
        }
        let until = Instant::now() + LINGER;
        while crowded() && Instant::now() < until {
            std::thread::sleep(LOOK);
        }
        let until = Instant::now() + COMPANY;
        while !self.is_whole() {
            if let Ok(command) = inbox.try_recv() {
                self.take(command);
                continue;
            }
            let left = until.saturating_duration_since(Instant::now());
            if self.hurry || !self.commands.is_empty() || left.is_zero() {
                break;
            }
            match inbox.recv_timeout(left) {
                Ok(command) => self.take(command),
                Err(_) => break,
            }
        }
    }
}

/// Answers a command that was not run.
pub(super) fn refuse(command: Command, error: &JournalError) {
    match command {
        Command::Append(_, reply) => drop(reply.send(Err(error.clone()))),
        Command::Do(task) => task.answer(Some(error)),
        Command::Target(..) | Command::Wake { .. } | Command::Close(_) => {}
    }
}
