//! Divides the inbound limits among the relays on one journal.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::protocol::category::Category;

use super::Intake;

impl Intake {
    /// The limits in which this relay has a part, to tell the other relays.
    pub fn busy(&self) -> BTreeSet<(Arc<str>, Category)> {
        self.view.load().limiter.load().busy(self.clock.uptime())
    }

    /// Divides the limits among `relays` relays. `others` is the number of other relays with a part, by limit.
    pub fn divide(&self, relays: u32, others: &BTreeMap<(Arc<str>, Category), u32>) {
        self.view.load().limiter.load().divide(relays, Some(others), self.clock.uptime());
    }

    /// Divides the limits equally among `relays` relays, before anything is known of the others.
    pub fn divide_among(&self, relays: u32) {
        self.view.load().limiter.load().divide(relays, None, self.clock.uptime());
    }

    /// Divides the limits equally, because nothing is heard of the other relays.
    pub fn divide_unheard(&self) {
        self.view.load().limiter.load().divide_unheard(self.clock.uptime());
    }
}
