//! Settles a record by the verdict on the answer: delivered, limited, tried again, refused for good.

use crate::clock::Timestamp;
use crate::delivery::load::{self, limited};
use crate::delivery::settings::OnRateLimit;
use crate::journal::{Rest, Settlement};
use crate::policy::cooldown;
use crate::policy::outcome::DropReason;

use super::{Sent, Worker};

impl Worker {
    pub(super) fn delivered(&mut self, sent: &Sent, now: Timestamp) -> Settlement {
        self.last_success = now;
        self.taken(&sent.claim.record.project, sent.took, now);
        if let Some(cause) = sent.load.batch_poison.filter(|_| self.may_lose_a_batch()) {
            self.note_poison(&sent.claim.record.project, &sent.load, now);
            self.around.watch.batch_poison(&sent.claim.record, cause);
        }
        let rest = sent.load.remainder(self.settings().on_rate_limit, sent.progress(0), now);
        Settlement { delivered: sent.load.send.quantities.clone(), ..rest }
    }

    pub(super) fn rate_limited(&self, sent: &Sent, now: Timestamp) -> Settlement {
        let strikes = sent.claim.progress.strikes;
        // A 429 that names no limits need not be the tracker's, which took the rest: what stands before it answers so, too.
        let takes_the_rest = sent.quirks().takes_the_rest_on_429 && sent.names_limits();
        match limited::divide(&sent.claim, &sent.load, &self.cooldown, (sent.quirks(), takes_the_rest), now) {
            Ok((taken, left)) => {
                let rest = left.remainder(self.settings().on_rate_limit, sent.progress(strikes), now);
                Settlement { delivered: taken, ..rest }
            }
            // An answer that limits nothing of what was sent delays the record as well.
            Err(until) => self.retry(sent, until.unwrap_or(now + cooldown::BARE_429), strikes),
        }
    }

    pub(super) fn retry(&self, sent: &Sent, due: Timestamp, strikes: u32) -> Settlement {
        let rest = Rest { due, progress: sent.progress(strikes), quantities: load::pending(&sent.claim) };
        Settlement { rest: Some(rest), ..Settlement::default() }
    }

    pub(super) fn refused(&self, sent: &Sent, now: Timestamp, reason: &'static str) -> Settlement {
        self.around.watch.refused(&sent.claim.record, reason, &sent.what_went_wrong());
        // Items that were not sent, because they are limited or come later, were not refused either.
        let rest = sent.load.remainder(OnRateLimit::Hold, sent.progress(0), now);
        let dropped = Some((DropReason::Rejected, sent.load.send.quantities.clone()));
        Settlement { dropped, dead_letter: Some(sent.dead_letter(now, reason)), ..rest }
    }
}
