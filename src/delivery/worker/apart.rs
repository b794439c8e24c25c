//! Sends alone what a GlitchTip 5 is known to lose together with everything else in the same batch.
//!
//! Rule: the record that has the turn is held here for the few seconds until nothing else is under way. No other record is ever held.

use std::sync::Arc;

use crate::clock::Timestamp;
use crate::delivery::batch_poison::Cause;
use crate::delivery::load::Load;
use crate::delivery::settings::OnRateLimit;
use crate::journal::body::Pieces;
use crate::journal::verification::LOST_BY_TRACKER;
use crate::journal::{Claim, DeadLetter, Settlement};
use crate::policy::apart::{Place, Step};
use crate::policy::outcome::DropReason;

use super::Worker;

/// A record that has the turn, and its opened body if it is a large one.
pub(super) type Held = (Claim, Option<Arc<dyn Pieces>>);

impl Worker {
    /// Sends the record that has the turn when it may go. Returns whether others may begin; the error says when to look again.
    pub(super) fn turn(&mut self, now: Timestamp) -> Result<(), Option<Timestamp>> {
        match self.apart.step(self.in_flight.len(), now) {
            Step::Open => return Ok(()),
            Step::Wait(until) => return Err(until),
            Step::Go => {}
        }
        let Some((claim, pieces)) = self.held.take() else {
            self.apart.forgo();
            return Ok(());
        };
        if self.circuit.permits(now, 1, 0) == 0 {
            self.apart.forgo();
            self.put_off(&claim, now);
            return Ok(());
        }
        self.apart.goes();
        self.start(claim, pieces, now);
        if self.in_flight.is_empty() {
            self.apart.forgo();
            return Ok(());
        }
        Err(None)
    }

    /// Takes in a claimed record that must be sent alone.
    pub(super) fn set_apart(&mut self, claim: Claim, pieces: Option<Arc<dyn Pieces>>, load: &Load, now: Timestamp) {
        self.note_poison(&claim.record.project, load, now);
        match self.apart.place(now) {
            Place::Turn => self.held = Some((claim, pieces)),
            Place::Later(at) => self.put_off(&claim, at),
            Place::None => {
                let settlement = no_place(&claim, load, now);
                self.around.watch.refused(&claim.record, LOST_BY_TRACKER, "an hour of such events waits already");
                self.journal_settle(&claim.lease, settlement);
            }
        }
    }

    /// Whether the upstream may be a GlitchTip 5, because its API does not say otherwise.
    pub(super) fn may_lose_a_batch(&self) -> bool {
        !self.around.board.report(&self.upstream).is_some_and(|report| report.loses_no_batch)
    }

    /// Tells the board that a project sends events with which others are lost.
    pub(super) fn note_poison(&self, project: &Arc<str>, load: &Load, now: Timestamp) {
        let Some(cause) = load.batch_poison.filter(|_| self.may_lose_a_batch()) else { return };
        self.around.board.update(&self.upstream, |report| report.note_poison(project, cause, now));
    }

    /// Gives the record that has the turn back to the journal.
    pub(super) fn give_back(&mut self) {
        if let Some((claim, _)) = self.held.take() {
            self.put_off(&claim, self.around.clock.now());
        }
    }
}

/// The settlement of a record for which the line is full: it becomes a dead letter, because a storm of such events would hold up the
/// records after it.
fn no_place(claim: &Claim, load: &Load, now: Timestamp) -> Settlement {
    let why = load.batch_poison.map_or("", Cause::why);
    let dead_letter = DeadLetter {
        at: now,
        reason: LOST_BY_TRACKER.into(),
        status: None,
        answer: format!(
            "not sent: a GlitchTip 5 loses it together with other events ({why}), and an hour of such events waits already"
        ),
        attempts: claim.progress.attempts,
        items: load.positions(),
    };
    let rest = load.remainder(OnRateLimit::Hold, claim.progress.clone(), now);
    let dropped = Some((DropReason::Rejected, load.send.quantities.clone()));
    Settlement { dropped, dead_letter: Some(dead_letter), ..rest }
}
