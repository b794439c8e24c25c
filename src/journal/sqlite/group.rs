//! What the writer is asked, and what it commits together.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::clock::Timestamp;
use crate::journal::backfill::{Backfill, BackfillStep};
use crate::journal::evidence::Observation;
use crate::journal::losses::Loss;
use crate::journal::verification::{Notes, Repair};
use crate::journal::{JournalError, Pick, RecordId, Submission, Switch, TargetId};
use crate::policy::outcome::DropReason;

use super::accounts::Book;
use super::append::Appended;
use super::file::Reservation;
use super::queue::Target;
use super::settlement::Pass;
use super::shared::{Placed, Reply, Shared};

/// The most commands that wait for the writer.
pub(super) const INBOX: usize = 1024;
/// The most commands in one commit, and the bytes of bodies after which no more are taken in.
const GROUP: usize = 256;
const GROUP_BYTES: usize = 4 << 20;
/// When so many commands shared the last commit, the next one waits this long for as many: larger commits cost less for each
/// record, and at this rate a client waits for others' commits anyway.
const SHARED: usize = 4;
/// See [`SHARED`].
const PAUSE: Duration = Duration::from_micros(300);
/// How long a commit waits for workers that fall behind, and how often it looks after them meanwhile.
const LINGER: Duration = Duration::from_millis(2);
/// See [`LINGER`].
const LOOK: Duration = Duration::from_micros(200);
/// How long settlements wait for an append to share its commit.
const COMPANY: Duration = Duration::from_millis(10);

/// What the writer is asked to do.
#[derive(Debug)]
pub(super) enum Command {
    Append(Box<Submission>, Reply<RecordId>),
    Discard {
        target: Arc<Target>,
        before: Timestamp,
        reason: DropReason,
        limit: usize,
        reply: Reply<usize>,
    },
    Hasten {
        target: Arc<Target>,
        limit: usize,
        reply: Reply<usize>,
    },
    Prune {
        before: Timestamp,
        limit: usize,
        reply: Reply<usize>,
    },
    /// Retries or forgets dead letters.
    Letters {
        retry: bool,
        pick: Pick,
        limit: usize,
        reply: Reply<usize>,
    },
    Backfill(Arc<Target>, BackfillStep, Reply<Option<Backfill>>),
    /// Keeps what was found of the events of a target.
    Note(Arc<Target>, Box<Notes>, Reply<()>),
    /// Lets missing events of a target wait again.
    Repair(Arc<Target>, Repair, Reply<usize>),
    /// Room for bytes of a file, for a project.
    Room(Option<Arc<str>>, u64, Reply<Reservation>),
    Target(Arc<str>, Reply<TargetId>),
    Switch(Box<Switch>, Reply<()>),
    Observe(Box<Observation>, Reply<()>),
    /// Losses that no record tells of.
    Lose(Vec<Loss>, Reply<()>),
    /// Takes losses off, and appends the report that tells of them, if there is one.
    Report(Vec<Loss>, Option<Box<Submission>>, Reply<()>),
    /// Settlements wait for a commit.
    Wake {
        hurry: bool,
    },
    Close(oneshot::Sender<()>),
    /// Makes the storage refuse to grow beyond that many pages, as a full disk does.
    #[cfg(test)]
    Cap(i64, Reply<()>),
    /// Makes the writer panic.
    #[cfg(test)]
    Panic,
}

/// An answer that waits for the commit.
#[derive(Debug)]
pub(super) enum Answer {
    Record(Reply<RecordId>, Result<RecordId, JournalError>),
    Count(Reply<usize>, usize),
    Backfill(Reply<Option<Backfill>>, Option<Backfill>),
    /// A reservation that nobody gets gives its room back.
    Room(Reply<Reservation>, Result<Reservation, JournalError>),
    /// Holds even if the commit fails: the next one that works writes the target's row.
    Target(Reply<TargetId>, Result<TargetId, JournalError>),
    Done(Reply<()>),
    Reported(Reply<()>, Result<(), JournalError>),
}

impl Answer {
    /// Gives the answer, or `failed` in its place where that undoes it. Whoever asked may be gone.
    pub(super) fn give(self, failed: Option<&JournalError>) {
        match self {
            Self::Record(reply, answer) => drop(reply.send(failed.cloned().map_or(answer, Err))),
            Self::Count(reply, count) => drop(reply.send(failed.cloned().map_or(Ok(count), Err))),
            Self::Backfill(reply, now) => drop(reply.send(failed.cloned().map_or(Ok(now), Err))),
            Self::Room(reply, answer) => drop(reply.send(failed.cloned().map_or(answer, Err))),
            Self::Target(reply, answer) => drop(reply.send(answer)),
            Self::Done(reply) => drop(reply.send(failed.cloned().map_or(Ok(()), Err))),
            Self::Reported(reply, answer) => drop(reply.send(failed.cloned().map_or(answer, Err))),
        }
    }
}

/// Wakes the writer for settlements, unless that is under way.
pub(super) fn wake(shared: &Shared, commands: &SyncSender<Placed<Command>>, hurry: bool) {
    let flag = if hurry { &shared.hurried } else { &shared.woken };
    if !flag.swap(true, Ordering::AcqRel) && commands.try_send((Command::Wake { hurry }, None)).is_err() {
        // A full inbox wakes the writer as well.
        flag.store(false, Ordering::Release);
    }
}

/// What is committed together.
#[derive(Debug, Default)]
pub(super) struct Group {
    pub(super) commands: VecDeque<Command>,
    pub(super) bytes: usize,
    pub(super) closing: Option<oneshot::Sender<()>>,
    pub(super) hurry: bool,
    /// It has taken out a command that wakes the writer, and one that does without waiting for company.
    pub(super) woken: bool,
    pub(super) hurried: bool,
    /// All that is settled is committed, in order or not: something was asked for that may build on it.
    pub(super) settles_all: bool,
    pub(super) book: Book,
    pub(super) appended: Vec<Appended>,
    pub(super) passes: Vec<Pass>,
    /// Upstreams that are to be targets; none of the commands, because making one known cannot fail for want of room.
    pub(super) names: Vec<(Arc<str>, Reply<TargetId>)>,
    pub(super) answers: Vec<Answer>,
    pub(super) refused: Option<JournalError>,
    /// Projects beyond their part for which nothing gives way, as was seen in this transaction.
    pub(super) fruitless: Vec<Option<u32>>,
    /// The last record of the commit before.
    pub(super) last: u64,
    /// The targets of dead letters that went because there were too many, one each.
    pub(super) letters_gone: Vec<TargetId>,
    /// The targets of dead letters that no settlement brought, one each.
    pub(super) letters_come: Vec<TargetId>,
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

    /// Whoever settles from here on wakes the writer again, where nothing in the inbox does.
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

    /// Whether so many share this commit that others are likely to be on their way.
    pub(super) fn is_shared(&self) -> bool {
        self.commands.len() >= SHARED
    }

    /// Takes in what has arrived; settlements alone wait a moment for an append to share its commit. After a commit that many
    /// shared it pauses for as many again. While a worker is `crowded` it waits a little longer: what cannot be handed on in
    /// memory has to be read back from the disk.
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

    /// The count that the last command is answered with.
    pub(super) fn counted(&mut self, count: usize) {
        if let Some(Answer::Count(_, answer)) = self.answers.last_mut() {
            *answer = count;
        }
    }
}

/// Answers a command that was not tried.
pub(super) fn refuse(command: Command, error: &JournalError) {
    match command {
        Command::Append(_, reply) => Answer::Record(reply, Err(JournalError::Closed)).give(Some(error)),
        Command::Discard { reply, .. }
        | Command::Hasten { reply, .. }
        | Command::Prune { reply, .. }
        | Command::Letters { reply, .. }
        | Command::Repair(_, _, reply) => {
            Answer::Count(reply, 0).give(Some(error));
        }
        Command::Room(_, _, reply) => Answer::Room(reply, Err(JournalError::Closed)).give(Some(error)),
        Command::Backfill(_, _, reply) => Answer::Backfill(reply, None).give(Some(error)),
        Command::Switch(_, reply)
        | Command::Note(_, _, reply)
        | Command::Observe(_, reply)
        | Command::Lose(_, reply)
        | Command::Report(_, _, reply) => Answer::Done(reply).give(Some(error)),
        #[cfg(test)]
        Command::Cap(_, reply) => Answer::Done(reply).give(Some(error)),
        #[cfg(test)]
        Command::Panic => {}
        Command::Target(..) | Command::Wake { .. } | Command::Close(_) => {}
    }
}
