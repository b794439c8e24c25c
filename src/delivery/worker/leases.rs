//! The leases of what the worker has claimed and not settled: kept while it has them, given up with the settlement.
//!
//! Rule: a settlement that the journal does not take loses nothing. The lease is left to end, and the record comes again.

use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _};
use tokio::time::{Instant, Interval, MissedTickBehavior};

use crate::clock::Timestamp;
use crate::journal::{JournalError, LEASE, Lease, Settlement};

use super::{JOURNAL_PAUSE, Worker};

/// How often the leases are looked at, and the journal is asked for what comes again because another's lease has ended.
const BEAT: Duration = Duration::from_secs(LEASE.as_secs() / 4);

/// What the journal says to a settlement.
type Answer = BoxFuture<'static, Result<(), JournalError>>;

/// The leases of one worker, and its settlements that the journal has not answered.
#[derive(Default)]
pub(super) struct Leases {
    held: Vec<Lease>,
    unanswered: FuturesUnordered<Answer>,
}

impl Leases {
    /// The beat at which [`Worker::keep_leases`] is called.
    pub(super) fn beat() -> Interval {
        let mut beat = tokio::time::interval_at(Instant::now() + BEAT, BEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        beat
    }

    /// Keeps these from now on.
    pub(super) fn hold(&mut self, leases: impl Iterator<Item = Lease>) {
        self.held.extend(leases);
    }

    /// Keeps this one no longer.
    pub(super) fn let_go(&mut self, lease: &Lease) {
        if let Some(at) = self.held.iter().position(|held| held.number == lease.number) {
            self.held.swap_remove(at);
        }
    }

    /// The next answer to a settlement, when one is awaited.
    pub(super) async fn answer(&mut self) -> Option<Result<(), JournalError>> {
        self.unanswered.next().await
    }

    /// Takes the ones that end within half of a lease's time.
    fn ending(&self) -> Vec<Lease> {
        let soon = Instant::now() + LEASE / 2;
        self.held.iter().filter(|lease| lease.ends < soon).copied().collect()
    }
}

impl Worker {
    /// Hands a settlement to the journal. Nobody waits for the answer here: most journals have it at once.
    pub(super) fn journal_settle(&mut self, lease: &Lease, settlement: Settlement) {
        self.leases.let_go(lease);
        let mut answer = self.around.journal.settle(lease, settlement);
        match (&mut answer).now_or_never() {
            Some(answer) => self.answered(answer),
            None => self.leases.unanswered.push(answer),
        }
    }

    /// The journal has answered a settlement.
    pub(super) fn answered(&self, answer: Result<(), JournalError>) {
        if let Err(error) = answer {
            self.around.watch.unsettled(&error);
        }
    }

    /// Extends the leases that end soon. Of a lost one the request goes on: its settlement will tell.
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

    /// When the next record put off comes due. Until then the beat asks.
    pub(super) async fn next_due(&mut self) -> Option<Timestamp> {
        let due = self.around.journal.next_due(self.target).await;
        due.unwrap_or_else(|error| {
            self.around.watch.journal_fails(&error);
            Some(self.around.clock.now() + JOURNAL_PAUSE)
        })
    }

    /// Brings what is under way to its end, and waits for the journal's answers.
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
