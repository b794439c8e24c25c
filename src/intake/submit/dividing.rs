//! The inbound limits, divided among the relays on one journal.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::protocol::category::Category;

use super::Intake;

impl Intake {
    /// The limits of which this relay has a part, as the others on the journal are told.
    pub fn busy(&self) -> BTreeSet<(Arc<str>, Category)> {
        self.view.load().limiter.load().busy(self.clock.uptime())
    }

    /// Divides the limits among so many relays; `others` says how many besides have a part, by limit.
    pub fn divide(&self, relays: u32, others: &BTreeMap<(Arc<str>, Category), u32>) {
        self.view.load().limiter.load().divide(relays, Some(others), self.clock.uptime());
    }

    /// Divides the limits among so many relays, of which nothing is heard yet: each takes its part of all.
    pub fn divide_among(&self, relays: u32) {
        self.view.load().limiter.load().divide(relays, None, self.clock.uptime());
    }

    /// Nothing is heard of the other relays: each takes its part of all.
    pub fn divide_unheard(&self) {
        self.view.load().limiter.load().divide_unheard(self.clock.uptime());
    }
}
