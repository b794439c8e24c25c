//! What has to be done again and again, in small steps that stand in nobody's way: follow the clock, expire, prune.

use futures_util::future::BoxFuture;

use crate::journal::JournalError;
use crate::policy::outcome::DropReason;
use crate::units::Period;

use super::Daemon;

/// How much is done in one step.
const STEP: usize = 256;
/// How many steps are made each second.
const STEPS: usize = 32;

impl Daemon {
    /// What has to be done again and again: follow the clock, expire, prune.
    pub(super) async fn keep_up(&self) {
        self.clock.resync();
        let now = self.clock.now();
        let oldest = Period::secs(72 * 3600).get();
        for (target, name) in self.journal.targets() {
            let max_age = self.config.upstreams.get(&name).map_or(oldest, |settings| settings.max_age.get());
            let expired = in_steps(|| self.journal.discard(target, now - max_age, DropReason::Expired, STEP)).await;
            if expired > 0 {
                tracing::error!(upstream.name = &*name, envelopes = expired, "expired before they could be delivered");
            }
        }
        in_steps(|| self.journal.prune(now - self.config.journal.retain.get(), STEP)).await;
    }
}

/// Repeats a step as long as it finds as much as it may do, for a while; returns how much was done in all.
async fn in_steps<'a>(mut step: impl FnMut() -> BoxFuture<'a, Result<usize, JournalError>>) -> usize {
    let mut done = 0;
    for _ in 0..STEPS {
        match step().await {
            Ok(n) => done += n,
            Err(error) => {
                tracing::debug!(%error, "upkeep of the journal is put off");
                break;
            }
        }
        if !done.is_multiple_of(STEP) || done == 0 {
            break;
        }
    }
    done
}
