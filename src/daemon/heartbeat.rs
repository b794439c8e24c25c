//! Notes when the relay stood still. Nobody can count what services sent meanwhile, just as while it does not run.

use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use crate::clock::Clock;
use crate::journal::JournalError;
use crate::journal::evidence::Observation;
use crate::telemetry::pulse::Pulse;
use crate::telemetry::words;

use super::Daemon;

/// The time between two beats.
const EACH: Duration = Duration::from_secs(1);

impl Daemon {
    /// Starts the heartbeat. It is its own task, so that a journal that does not answer delays no beat.
    pub(super) fn start_beating(&self) {
        let (pulse, clock, stop) = (self.observed.pulse.clone(), self.clock.clone(), self.tasks.stopping().clone());
        self.tasks.spawn("the heartbeat", async move {
            let mut beats = interval(EACH);
            beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
            while stop.run_until_cancelled(beats.tick()).await.is_some() {
                beat(&pulse, &clock);
            }
        });
    }

    /// Records each gap in the journal: ends the running time before it, and begins the next after it.
    pub(super) async fn keep_gaps(&mut self) -> Result<(), JournalError> {
        while let Some(gap) = self.observed.pulse.untold() {
            let (started, now) = (self.observed.started, gap.from);
            let (upstreams, intake, steps, canaries) = (vec![], vec![], vec![], vec![]);
            // A gap is no crash.
            let stopping = true;
            self.journal.observe(Observation { started, now, stopping, upstreams, intake, steps, canaries }).await?;
            self.observed.started = gap.to;
            self.observed.pulse.note_told();
        }
        Ok(())
    }
}

/// Notes that the relay runs, and whether it stood still since the last beat.
pub(super) fn beat(pulse: &Pulse, clock: &Clock) {
    clock.resync();
    if let Some(length) = pulse.beat(clock.now(), clock.since_boot()) {
        let length = words::span(length);
        tracing::warn!(length, "the relay stood still: what services sent meanwhile is lost unless they sent it again");
    }
}
