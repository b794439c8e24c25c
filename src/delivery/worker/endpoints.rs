//! What becomes of requests that are no envelopes where an upstream does not take them as it takes envelopes.
//!
//! Rule: a closed or missing endpoint costs its own requests, never the project's envelopes.

use crate::clock::Timestamp;
use crate::journal::Settlement;
use crate::policy::backoff::Backoff;
use crate::policy::outcome::DropReason;
use crate::policy::verdict::POISON_STRIKES;

use super::{Sent, Worker};

impl Worker {
    /// The upstream has no such endpoint: it will not take the next one either, and a dead letter for each would help nobody.
    pub(super) fn unsupported(&self, sent: &Sent) -> Settlement {
        self.around.watch.unsupported(&sent.claim.record, &sent.what_went_wrong());
        let dropped = Some((DropReason::Unsupported, sent.load.send.quantities.clone()));
        Settlement { dropped, ..Settlement::default() }
    }

    /// It was refused where the project's envelopes are taken: the DSN is good, the endpoint is closed.
    pub(super) fn is_about_the_endpoint(&self, sent: &Sent) -> bool {
        let record = &sent.claim.record;
        record.client.request.is_some() && self.holds.is_good(&record.project)
    }

    /// It does not hold up the project. It is tried a few times more, long enough for an envelope to find out that it was the
    /// DSN after all.
    pub(super) fn refused_alone(&self, sent: &Sent, now: Timestamp) -> Settlement {
        let strikes = sent.claim.progress.strikes + 1;
        if strikes >= POISON_STRIKES {
            return self.refused(sent, now, "refused");
        }
        self.retry(sent, now + Backoff::MISCONFIGURED.after(strikes), strikes)
    }
}
