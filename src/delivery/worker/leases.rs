//! The leases of claimed records: extended until the record is settled.
//!
//! Rule: a settlement that the journal does not take loses nothing. The lease ends, and the record is claimed again.

use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _};
use tokio::time::{Instant, Interval, MissedTickBehavior};

use crate::clock::Timestamp;
use crate::journal::{JournalError, LEASE, Lease, Settlement};

use super::{JOURNAL_PAUSE, Worker};

/// How often leases are checked, and the journal is asked for records whose lease at another relay has ended.
const BEAT: Duration = Duration::from_secs(LEASE.as_secs() / 4);

/// The journal's answer to a settlement.
type Answer = BoxFuture<'static, Result<(), JournalError>>;

/// The leases of one worker, and its settlements without an answer from the journal.
#[derive(Default)]
pub(super) struct Leases {
    held: Vec<Lease>,
    unanswered: FuturesUnordered<Answer>,
}

impl Leases {
    /// The interval of [`Worker::keep_leases`].
    pub(super) fn beat() -> Interval {
        let mut beat = tokio::time::interval_at(Instant::now() + BEAT, BEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        beat
    }

    /// Keeps these leases from now on.
    pub(super) fn hold(&mut self, leases: impl Iterator<Item = Lease>) {
        self.held.extend(leases);
    }

    /// Keeps this lease no longer.
    pub(super) fn let_go(&mut self, lease: &Lease) {
        if let Some(at) = self.held.iter().position(|held| held.number == lease.number) {
            self.held.swap_remove(at);
        }
    }

    /// The next answer to a settlement; `None` when none is awaited.
    pub(super) async fn answer(&mut self) -> Option<Result<(), JournalError>> {
        self.unanswered.next().await
    }

    /// The leases that end within half of a lease's time.
    fn ending(&self) -> Vec<Lease> {
        let soon = Instant::now() + LEASE / 2;
        self.held.iter().filter(|lease| lease.ends < soon).copied().collect()
    }
}

impl Worker {
    /// Hands a settlement to the journal. The worker does not wait for the answer, which most journals have at once.
    pub(super) fn journal_settle(&mut self, lease: &Lease, settlement: Settlement) {
        self.leases.let_go(lease);
        let mut answer = self.around.journal.settle(lease, settlement);
        match (&mut answer).now_or_never() {
            Some(answer) => self.answered(answer),
            None => self.leases.unanswered.push(answer),
        }
    }

    /// Takes in the journal's answer to a settlement.
    pub(super) fn answered(&self, answer: Result<(), JournalError>) {
        if let Err(error) = answer {
            self.around.watch.unsettled(&error);
        }
    }

    /// Extends the leases that end soon. The request of a lost lease goes on, and its settlement reports the loss.
    pub(super) async fn keep_leases(&mut self) {
        let ending = self.leases.ending();
        if ending.is_empty() {
            return;
        }
        match self.around.journal.extend(ending.clone()).await {
            Ok(kept) => {
                ending.iter().for_each(|lease| self.leases.let_go(lease));
                self.leases.hold(kept.into_iter());
            }
            Err(error) => self.around.watch.not_extended(&error),
        }
    }

    /// When the next record that was put off comes due.
    pub(super) async fn next_due(&mut self) -> Option<Timestamp> {
        let due = self.around.journal.next_due(self.target).await;
        due.unwrap_or_else(|error| {
            self.around.watch.journal_fails(&error);
            Some(self.around.clock.now() + JOURNAL_PAUSE)
        })
    }

    /// Ends the requests under way, and waits for the journal's answers.
    pub(super) async fn finish(mut self, mut beat: Interval) {
        loop {
            tokio::select! {
                biased;
                _ = beat.tick() => self.keep_leases().await,
                ended = self.in_flight.next() => match ended {
                    Some(ended) => self.all_ended(ended),
                    None => break,
                }
            }
        }
        self.give_back();
        self.pace.leave();
        while let Some(answer) = self.leases.answer().await {
            self.answered(answer);
        }
    }
}
