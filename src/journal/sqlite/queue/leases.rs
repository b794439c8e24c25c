//! Leases: whether one holds, how it is extended, and what happens to its record when it ends.
//!
//! Rule: an ended lease is settled as put off and due at once. So its record goes through the writer like any other, and a failed commit
//! takes it back.

use tokio::time::Instant;

use crate::clock::Timestamp;
use crate::journal::{LEASE, Lease, Rest, Settlement};

use super::Queue;

impl Queue {
    /// Revokes the leases that ended by `at`. Their records are due `now`, as if they had been put off. Returns how many.
    pub(in crate::journal::sqlite) fn lapse(&mut self, at: Instant, now: Timestamp) -> usize {
        if self.first_end.is_some_and(|first| at < first) {
            return 0;
        }
        let ended = self.leases.iter().filter(|(_, lease)| lease.ends.is_some_and(|ends| ends <= at));
        let ended: Vec<(u64, Rest)> = ended
            .map(|(id, lease)| {
                let (progress, quantities) = (lease.progress.clone(), lease.quantities.clone());
                (*id, Rest { due: now, progress, quantities })
            })
            .collect();
        let count = ended.len();
        for (id, rest) in ended {
            self.end(id, Settlement { rest: Some(rest), ..Settlement::default() });
        }
        // Leases given from now on end no earlier than `at + LEASE`.
        self.first_end = self.leases.values().filter_map(|lease| lease.ends).chain([at + LEASE]).min();
        count
    }

    /// Whether the lease holds.
    fn holds(&self, lease: &Lease) -> bool {
        self.leases.get(&lease.record.0).is_some_and(|leased| leased.number == lease.number)
    }

    /// Extends a lease until `ends`. False if it is lost.
    pub(in crate::journal::sqlite) fn extend(&mut self, lease: &Lease, ends: Instant) -> bool {
        let holds = self.holds(lease);
        if let Some(leased) = self.leases.get_mut(&lease.record.0).filter(|_| holds) {
            leased.ends = Some(ends);
        }
        holds
    }

    /// Ends a lease with a settlement. `None` if it is lost; otherwise whether its commit should not wait.
    pub(in crate::journal::sqlite) fn settle(&mut self, lease: &Lease, settlement: Settlement) -> Option<bool> {
        if self.holds(lease) { self.end(lease.record.0, settlement) } else { None }
    }
}
