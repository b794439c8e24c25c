//! What becomes of what an upstream refuses while it takes the project's other envelopes: a request that is no envelope, where
//! the upstream has no such endpoint or a closed one; and an envelope that something between us and the tracker rejects.
//!
//! Rule: only what is refused pays, never the project's other envelopes, unless more than a few in a row are refused.

use std::time::Duration;

use crate::clock::Timestamp;
use crate::journal::Settlement;
use crate::policy::backoff::Backoff;
use crate::policy::hold;
use crate::policy::outcome::DropReason;
use crate::policy::verdict::POISON_STRIKES;

use super::{Sent, Worker};

/// By how much an envelope whose refusal held up its project is tried later than the others.
const OTHERS_FIRST: Duration = Duration::from_secs(5);

impl Worker {
    /// The upstream has no such endpoint: it will not take the next one either, and a dead letter for each would help nobody.
    pub(super) fn unsupported(&self, sent: &Sent) -> Settlement {
        self.around.watch.unsupported(&sent.claim.record, &sent.what_went_wrong());
        let dropped = Some((DropReason::Unsupported, sent.load.send.quantities.clone()));
        Settlement { dropped, ..Settlement::default() }
    }

    /// It was refused where others are taken. A request that is no envelope: where the project's envelopes are, so that it is about
    /// the endpoint. An envelope: only when it was tried before, and others were taken since.
    pub(super) fn is_refused_alone(&self, sent: &Sent, now: Timestamp) -> bool {
        let record = &sent.claim.record;
        match record.client.request {
            Some(_) => self.holds.is_good(&record.project),
            None => sent.claim.progress.attempts > 0 && self.holds.takes_others(&record.project, now),
        }
    }

    /// The first few that are refused since something of their project was taken are tried again soon. After one more the project
    /// waits; then others of it go first: if they are taken, it was this one's own fault.
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
