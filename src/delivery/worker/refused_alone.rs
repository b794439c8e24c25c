//! Handles records that an upstream refuses while it takes the project's other envelopes: a request that is no envelope, if the upstream
//! has no such endpoint or a closed one; and an envelope that something between this relay and the tracker rejects.
//!
//! Rule: only the refused record pays, never the project's other envelopes, unless more than a few in a row are refused.

use std::time::Duration;

use crate::clock::Timestamp;
use crate::journal::Settlement;
use crate::policy::backoff::Backoff;
use crate::policy::hold;
use crate::policy::outcome::DropReason;
use crate::policy::verdict::POISON_STRIKES;

use super::{Sent, Worker};

/// How much later than the others an envelope is tried whose refusal held up its project.
const OTHERS_FIRST: Duration = Duration::from_secs(5);

impl Worker {
    /// Drops a record for which the upstream has no endpoint. The upstream will not take the next one either, and a dead letter for each
    /// would help nobody.
    pub(super) fn unsupported(&self, sent: &Sent) -> Settlement {
        self.around.watch.unsupported(&sent.claim.record, &sent.what_went_wrong());
        let dropped = Some((DropReason::Unsupported, sent.load.send.quantities.clone()));
        Settlement { dropped, ..Settlement::default() }
    }

    /// Whether the record was refused while others are taken. For a request that is no envelope: whether the project's DSN is good, so that
    /// the refusal is about the endpoint. For an envelope: whether it was tried before, and others were taken since.
    pub(super) fn is_refused_alone(&self, sent: &Sent, now: Timestamp) -> bool {
        let record = &sent.claim.record;
        match record.client.request {
            Some(_) => self.holds.is_good(&record.project),
            None => sent.claim.progress.attempts > 0 && self.holds.takes_others(&record.project, now),
        }
    }

    /// Retries soon the first few records that are refused after something of their project was taken. After one more the project waits.
    /// Then other records of it go first: if they are taken, the refused one is at fault itself.
    pub(super) fn hold_up(&mut self, sent: &Sent, now: Timestamp) -> Settlement {
        let (project, strikes) = (&sent.claim.record.project, sent.claim.progress.strikes);
        if self.holds.doubt(project, sent.claim.progress.attempts == 0) {
            return self.retry(sent, now + hold::AGAIN, strikes);
        }
        self.around.watch.misconfigured(project, &sent.what_went_wrong());
        let until = self.holds.refused(project, now);
        self.tell_refused(project, until, now);
        self.retry(sent, until + OTHERS_FIRST, strikes)
    }

    /// Retries a refused record without holding up its project, a few times more and long enough to find out whether the DSN is at fault
    /// after all.
    pub(super) fn refused_alone(&self, sent: &Sent, now: Timestamp) -> Settlement {
        let strikes = sent.claim.progress.strikes + 1;
        if strikes >= POISON_STRIKES {
            return self.refused(sent, now, "refused");
        }
        self.retry(sent, now + Backoff::MISCONFIGURED.after(strikes), strikes)
    }
}
