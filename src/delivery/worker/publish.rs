//! Takes in ended requests, and tells the board once for all that have ended.

use futures_util::{FutureExt as _, StreamExt as _};

use crate::clock::Timestamp;

use super::{Ended, LOOK_UP, Worker};

impl Worker {
    /// Takes in requests that have ended by now, [`LOOK_UP`] at most, and tells the board once.
    pub(super) fn all_ended(&mut self, first: Ended) {
        self.follow_settings();
        self.ended(first);
        for _ in 1..LOOK_UP {
            let Some(Some(ended)) = self.in_flight.next().now_or_never() else { break };
            self.ended(ended);
        }
        self.publish();
    }

    /// Tells the board the state of the upstream.
    pub(super) fn publish(&mut self) {
        let now = self.around.clock.now();
        self.tell_circuit(now);
        let (limits, error, refusal) = (self.cooldown.by_category(now), self.error.take(), self.refusal.take());
        self.around.watch.limited(&limits, now);
        self.around.board.update(&self.upstream, |report| {
            (report.circuit, report.up, report.limits) = (self.circuit.state(), self.up, limits);
            (report.refused, report.in_doubt) = (self.holds.projects(), self.refusals.in_doubt());
            report.alone = self.suspects.told();
            report.last_delivery = Some(self.last_success).filter(|at| *at != Timestamp::default());
            report.last_error = error.or(report.last_error.take());
            report.refusal = refusal.or(report.refusal.take());
        });
    }
}
