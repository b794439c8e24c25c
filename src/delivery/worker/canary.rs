//! Tells the board what becomes of a canary at this upstream.
//!
//! Rule: only the end is told. A canary that is tried again waits like any other record.

use crate::clock::Timestamp;
use crate::journal::Settlement;
use crate::policy::verdict::Verdict;

use super::{Sent, Worker};

impl Worker {
    /// Tells that a canary was taken, or never will be, if the record is one and this settlement ends it.
    pub(super) fn tell_canary(&self, sent: &Sent, verdict: Verdict, settlement: &Settlement, now: Timestamp) {
        let Some(id) = sent.claim.record.canary().filter(|_| settlement.rest.is_none()) else { return };
        self.around.board.canary(&self.upstream, |canary| match (canary, verdict) {
            (None, _) => {}
            (Some(canary), Verdict::Delivered) => canary.took(id, now),
            (Some(canary), _) => canary.refused(id, &sent.what_went_wrong()),
        });
    }
}
