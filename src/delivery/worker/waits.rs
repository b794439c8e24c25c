//! What ends a worker's waits: limits and holds that are over, what was mended, a clock that is set.
//!
//! Rule: what was put off is brought forward in small steps, and only tried as fast as the circuit permits: a start in front of an
//! upstream that is down costs a few requests, however often it starts.

use std::sync::Arc;

use crate::clock::Timestamp;

use super::Worker;

/// How many records are brought forward at once.
const STEP: usize = 256;

impl Worker {
    /// Ends what has ended by now.
    pub(super) async fn end_waits(&mut self, now: Timestamp) {
        self.follow_clock();
        self.end_limits(now);
        self.end_holds(now).await;
    }

    /// All that was to be waited for was a span of time. When the clock is set back, the moments at which the waits end move with
    /// it; the due times in the journal are brought forward.
    fn follow_clock(&mut self) {
        let epoch = self.around.clock.epoch();
        let back = std::mem::replace(&mut self.epoch, epoch).since(epoch);
        if back.is_zero() {
            return;
        }
        self.circuit.set_back(back);
        self.holds.set_back(back);
        self.cooldown.set_back(back);
        self.around.cooldowns.tell(&self.upstream, &self.cooldown);
        self.last_success = self.last_success - back;
        self.mended = true;
        self.publish();
    }

    fn end_limits(&mut self, now: Timestamp) {
        if self.cooldown.forget_ended(now) {
            self.around.cooldowns.tell(&self.upstream, &self.cooldown);
            // What the limit held back comes out slowly.
            self.circuit.slow_start(now);
            self.publish();
        }
    }

    /// A new configuration may have mended what a project is held for: its records are tried now, not when the hold would
    /// have ended, or when the upstream takes note of it. Others that were put off come along, which costs each of them one early
    /// try.
    async fn end_holds(&mut self, now: Timestamp) {
        let routing = self.around.routing.load_full();
        if !Arc::ptr_eq(&routing, &self.routing) {
            self.routing = routing;
            self.mended |= self.holds.any() | std::mem::take(&mut self.homeless);
            self.holds.mended(now, self.quirks().cool_off);
        }
        if self.mended && self.holds.last_end(now).is_none() {
            match self.around.journal.hasten(self.target, STEP).await {
                Ok(count) => self.mended = count == STEP,
                Err(error) => {
                    tracing::debug!(upstream.name = &*self.upstream, %error, "records are brought forward later")
                }
            }
        }
    }
}
