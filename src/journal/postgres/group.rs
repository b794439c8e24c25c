//! Group commit: one task takes the submissions and settlements that arrive together, commits them, and answers after the commit.
//!
//! Rule: a commit with an unknown outcome is tried again, and counts once.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{join_all, try_join_all};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout_at};

use crate::journal::losses::Loss;
use crate::journal::term::Epoch;
use crate::journal::{JournalError, RecordId, Rest, Settlement, Submission, TargetId};
use crate::policy::outcome::{DropReason, Outcome};

use super::append;
use super::bodies;
use super::fault::Fault;
use super::hand::{Leased, MAX_UNCOMMITTED, Place};
use super::handout::Handout;
use super::letters;
use super::losses;
use super::places;
use super::record::ms;
use super::shared::Shared;
use super::term;
use super::work::Work;

/// The most commands that are received at once.
const MOST: usize = 256;
/// The most submissions that may wait for their commit.
pub(super) const INBOX: usize = 1024;
/// How often a transaction is tried again after a conflict with another one.
const TRIES: usize = 5;
/// How long a group is held when no server takes writes: long enough for a server to restart.
const HOLD: Duration = Duration::from_secs(5);
/// The pause before the next attempt.
const AGAIN: Duration = Duration::from_millis(200);
/// How long a few settlements wait for commands to be committed with.
const COMPANY: Duration = Duration::from_millis(5);

/// A command to be committed.
pub(super) enum Command {
    /// A submission.
    Append(Box<Submission>, oneshot::Sender<Result<RecordId, JournalError>>),
    /// The settlement of a leased record.
    Settle(Box<Settle>),
    /// Losses to take off, and the report that tells them.
    Report(Report),
    /// Nothing: answered when all earlier commands are committed.
    Flush(oneshot::Sender<Result<(), JournalError>>),
}

/// The settlement of a leased record of a target.
pub(super) struct Settle {
    pub(super) target: TargetId,
    pub(super) leased: Leased,
    pub(super) settlement: Settlement,
    pub(super) reply: oneshot::Sender<Result<(), JournalError>>,
}

/// Losses that upstreams are told of, and the report that tells them: both are committed, or neither.
pub(super) struct Report {
    pub(super) told: Vec<Loss>,
    /// The report; `None` forgets the losses without one.
    pub(super) submission: Option<Box<Submission>>,
    /// The term under which the losses are told.
    pub(super) epoch: Option<Epoch>,
    pub(super) reply: oneshot::Sender<Result<(), JournalError>>,
}

/// A submission, and the sender for its answer.
pub(super) type Waiting = (Box<Submission>, oneshot::Sender<Result<RecordId, JournalError>>);

/// The commands that are committed together.
#[derive(Default)]
struct Group {
    appends: Vec<Waiting>,
    reports: Vec<Report>,
    settles: Vec<Settle>,
    flushes: Vec<oneshot::Sender<Result<(), JournalError>>>,
    /// The record number of the first submission. Reports have the last numbers. A repeated attempt keeps them.
    first: Option<i64>,
    /// A commit before was to forget losses that nobody is told of.
    forgot: bool,
    handout: Handout,
}

/// The outcomes of reports.
type Told = Vec<Result<(), JournalError>>;

/// The results of a transaction, to be answered after its commit.
#[derive(Default)]
struct Answers {
    appends: append::Answers,
    reports: Told,
    /// The settlements whose lease is lost, by their place in the group.
    lost: HashSet<usize>,
    /// The slices that are no longer ours.
    lost_slices: HashSet<i64>,
}

/// Commits commands until no sender is left. A few settlements alone wait a moment for others: a transaction costs the same with more in
/// it, and a submission that comes in that moment joins it instead of waiting for its end.
pub(super) async fn run(shared: Arc<Shared>, mut inbox: mpsc::UnboundedReceiver<Command>) {
    let (mut commands, mut waiting, mut end) = (Vec::new(), Vec::new(), Instant::now());
    loop {
        let come = inbox.recv_many(&mut commands, MOST);
        let come = if waiting.is_empty() { Some(come.await) } else { timeout_at(end, come).await.ok() };
        let was_waiting = !waiting.is_empty();
        let mut group = Group { settles: std::mem::take(&mut waiting), ..Group::default() };
        for command in commands.drain(..) {
            match command {
                Command::Append(submission, reply) => group.appends.push((submission, reply)),
                Command::Report(report) => group.reports.push(report),
                Command::Settle(settle) => group.settles.push(*settle),
                Command::Flush(reply) => group.flushes.push(reply),
            }
        }
        if come.is_some_and(|come| come > 0) && group.can_wait() {
            end = if was_waiting { end } else { Instant::now() + COMPANY };
            waiting = group.settles;
            continue;
        }
        waiting = group.commit(&shared).await;
        end = Instant::now() + AGAIN;
        if come == Some(0) {
            return;
        }
    }
}

impl Group {
    /// Returns whether the group is a few settlements and nothing else.
    fn can_wait(&self) -> bool {
        let is_alone = self.appends.is_empty() && self.reports.is_empty() && self.flushes.is_empty();
        is_alone && self.settles.len() < MAX_UNCOMMITTED / 2
    }

    /// Commits the group. When no server takes writes it is held for a moment, then submissions are kept on this machine, or refused.
    /// Returns the settlements to try again.
    async fn commit(mut self, shared: &Arc<Shared>) -> Vec<Settle> {
        if self.appends.is_empty() && self.reports.is_empty() && self.settles.is_empty() {
            self.answer(shared, Ok(Answers::default()));
            return vec![];
        }
        let end = Instant::now() + HOLD;
        let mut conflicts = 0;
        loop {
            let outcome = self.attempt(shared, end).await;
            if outcome.is_err() {
                std::mem::take(&mut self.handout).forget(shared);
            }
            match outcome {
                Err(fault) if fault.is_conflict() && conflicts < TRIES => conflicts += 1,
                Err(fault) if fault.is_away() && !shared.is_away() && Instant::now() < end => sleep(AGAIN).await,
                Err(fault) if fault.is_away() => return self.give_up(shared, &fault).await,
                outcome => {
                    self.answer(shared, outcome);
                    return vec![];
                }
            }
        }
    }

    /// Keeps submissions on this machine, or refuses them, because no server takes writes. Refuses everything else but the settlements,
    /// which it returns.
    async fn give_up(self, shared: &Arc<Shared>, fault: &Fault) -> Vec<Settle> {
        if !shared.set_away(true) {
            tracing::error!(%fault, "PostgreSQL takes no writes: it is tried again and again");
        }
        let Self { appends, reports, settles, flushes, first, .. } = self;
        // Begun in order. The local journal commits small ones together, too.
        join_all((0..).zip(appends).map(async |(at, (mut submission, reply))| {
            let kept = match bodies::local(&submission.body) {
                Some(body) => {
                    submission.body = body;
                    shared.spill.take(submission, first.map(|first| first + at)).await
                }
                None => Err(JournalError::Failed("PostgreSQL takes no writes now, and has the body".into())),
            };
            drop(reply.send(kept));
        }))
        .await;
        for reply in flushes.into_iter().chain(reports.into_iter().map(|report| report.reply)) {
            drop(reply.send(Err(JournalError::Failed(fault.to_string()))));
        }
        settles
    }

    /// Tries to commit once, until `end` at the latest, so that a server that hangs delays nobody for longer. Fails at once while no server
    /// takes writes.
    async fn attempt(&mut self, shared: &Arc<Shared>, end: Instant) -> Result<Answers, Fault> {
        let attempt = async {
            let mut work = Work::begin(shared).await?;
            let answers = self.write(&mut work).await;
            work.end(answers).await
        };
        let tried = timeout_at(end, shared.connector.unless_given_up(attempt)).await;
        tried.unwrap_or_else(|_| Err(Fault::Away("the server does not answer".into())))
    }

    /// Refuses reports of a relay that no longer leads: the leader tells the same losses.
    async fn refuse_late(&mut self, work: &Work) -> Result<(), Fault> {
        let Some(epoch) = self.reports.iter().filter_map(|report| report.epoch).max() else { return Ok(()) };
        let is_held = work.holds(epoch).await?;
        for late in self.reports.extract_if(.., |report| report.epoch.is_some_and(|of| !is_held || of < epoch)) {
            drop(late.reply.send(Err(term::over().into())));
        }
        Ok(())
    }

    async fn write(&mut self, work: &mut Work) -> Result<Answers, Fault> {
        self.refuse_late(work).await?;
        let reports = self.reports.iter().filter_map(|report| report.submission.as_deref());
        let submissions: Vec<&Submission> =
            self.appends.iter().map(|(submission, _)| &**submission).chain(reports).collect();
        let (first, handout) = (&mut self.first, &mut self.handout);
        let append::Appended { mut answers, there } = append::append(work, &submissions, first, handout).await?;
        let reports = self.report(work, answers.split_off(self.appends.len()), &there).await?;
        self.forgot |= self.reports.iter().any(|report| report.submission.is_none());
        let mut answers = Answers { appends: answers, reports, ..Answers::default() };
        let mut by_target: BTreeMap<TargetId, Vec<usize>> = BTreeMap::new();
        for (at, settle) in self.settles.iter().enumerate() {
            by_target.entry(settle.target).or_default().push(at);
        }
        let take_out = async |(target, all): (&TargetId, &Vec<usize>)| {
            let stand: Vec<_> = all.iter().map(|at| self.settles[*at].leased.ready.stands()).collect();
            places::take_out(work, *target, &stand).await
        };
        // All of it is sent to the server at once.
        let (handout, taken) = (self.handout.make(work), try_join_all(by_target.iter().map(take_out)));
        let ((), taken) = tokio::try_join!(handout, taken)?;
        for ((target, all), taken) in by_target.iter().zip(taken) {
            self.settle(work, *target, (all, taken), &mut answers).await?;
        }
        letters::bound(work).await?;
        Ok(answers)
    }

    fn answer(self, shared: &Shared, outcome: Result<Answers, Fault>) {
        let is_committed = outcome.is_ok();
        let (answers, why) = match outcome {
            Ok(answers) => (answers, None),
            Err(fault) => (Answers::default(), Some(JournalError::from(fault))),
        };
        let Answers { appends, reports, lost, lost_slices } = answers;
        let (mut appends, mut reports) = (appends.into_iter(), reports.into_iter());
        self.handout.keep(shared);
        let failed = || why.clone().unwrap_or(JournalError::Closed);
        for report in self.reports {
            drop(report.reply.send(reports.next().unwrap_or_else(|| Err(failed()))));
        }
        for (submission, reply) in self.appends {
            let answer = appends.next().unwrap_or_else(|| Err(failed()));
            if answer.is_ok() {
                bodies::keep(&submission.body);
            }
            drop(reply.send(answer));
        }
        self.flushes.into_iter().for_each(|reply| drop(reply.send(Ok(()))));
        let mut settled = BTreeSet::new();
        for (at, settle) in self.settles.into_iter().enumerate() {
            let Settle { target, leased, settlement, reply } = settle;
            settled.insert(target);
            let hand = shared.hand(target);
            let mut state = hand.state();
            state.settled(&leased);
            let answer = match &why {
                _ if lost.contains(&at) => {
                    state.lose(|ready| matches!(ready.place, Place::Slice(slice) if lost_slices.contains(&slice)));
                    Err(JournalError::LeaseLost)
                }
                None => {
                    if let Some(rest) = &settlement.rest {
                        state.note_due(rest.due);
                    }
                    Ok(())
                }
                Some(error) => {
                    state.give_back(leased);
                    Err(error.clone())
                }
            };
            drop(state);
            drop(reply.send(answer));
        }
        for target in settled.into_iter().filter(|_| is_committed) {
            shared.hand(target).changed.notify_one();
        }
    }

    /// Takes off the losses that appended reports tell; returns the outcome of each report. A report that was there already took its losses
    /// off before. Losses to be forgotten without a report may have been forgotten by an earlier attempt, so a later one leaves them to the
    /// next time.
    async fn report(&self, work: &Work, appended: append::Answers, there: &HashSet<i64>) -> Result<Told, Fault> {
        let (mut appended, mut answers) = (appended.into_iter(), Vec::new());
        for report in &self.reports {
            let answer = report.submission.as_ref().and_then(|_| appended.next()).transpose();
            let is_new = match &answer {
                Ok(Some(id)) => !there.contains(&id.number().cast_signed()),
                Ok(None) => !self.forgot,
                Err(_) => false,
            };
            if is_new {
                losses::take_off(work, &report.told).await?;
            }
            answers.push(answer.map(drop));
        }
        Ok(answers)
    }

    /// Writes the settlements of one target.
    async fn settle(
        &self,
        work: &mut Work,
        target: TargetId,
        (all, taken): (&[usize], places::TakenOut),
        answers: &mut Answers,
    ) -> Result<(), Fault> {
        let mut written = Outcomes::default();
        for at in all {
            let Settle { leased, settlement, .. } = &self.settles[*at];
            if taken.has(leased.ready.stands()) {
                written.note(work, target, leased, settlement);
            } else {
                answers.lost.insert(*at);
            }
        }
        answers.lost_slices.extend(taken.lost);
        written.write(work, target).await
    }
}

/// The outcomes of one target's records in one transaction.
#[derive(Default)]
struct Outcomes {
    rests: Vec<(i64, Rest)>,
    missed: Vec<(i64, DropReason)>,
    letters: Vec<letters::New>,
}

impl Outcomes {
    fn note(&mut self, work: &mut Work, target: TargetId, leased: &Leased, settlement: &Settlement) {
        let Settlement { delivered, dropped, rest, dead_letter } = settlement;
        let (ready, now) = (&leased.ready, work.now());
        let (project, id, size) = (ready.project, ready.number(), ready.record.body.len());
        if !delivered.is_empty() {
            work.book.note(now, Some(target), project, Outcome::Delivered, delivered);
            work.book.note_latest(target, ms(now));
        }
        if let Some((reason, much)) = dropped {
            work.book.note_dropped(now, (target, project), *reason, (&ready.record.body, much));
            self.missed.push((id, *reason));
        }
        work.book.leave(target, project, size, &ready.quantities);
        if let Some(rest) = rest {
            work.book.enter(target, project, size, &rest.quantities);
            self.rests.push((id, rest.clone()));
        }
        if let Some(refusal) = dead_letter {
            let quantities = dropped.as_ref().map(|(_, much)| much.clone());
            self.letters.push(letters::New { target, record: id, project, refusal: refusal.clone(), quantities });
        }
    }

    async fn write(self, work: &mut Work, target: TargetId) -> Result<(), Fault> {
        places::put_off(work, target, &self.rests).await?;
        places::note_missed(work, target, self.missed).await?;
        for letter in self.letters {
            letters::write(work, letter).await?;
        }
        Ok(())
    }
}
