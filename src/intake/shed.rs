//! What limits and storms did not let in: lost for every upstream that would have got it, and counted here until the journal has
//! the count.
//!
//! Rule: counted when it is refused, for the upstreams in use at that moment. A crash loses the count of the last second, because
//! no answer waits for it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::journal::TargetId;
use crate::journal::losses::Loss;
use crate::protocol::category::{Category, Quantities};
use crate::protocol::client_report::Reason;

type Counts = BTreeMap<(TargetId, Arc<str>, Reason, Category), u64>;

/// What was shed. Cheap to clone; clones share the counts, which are bounded by targets, projects, reasons and categories.
#[derive(Clone, Debug, Default)]
pub(super) struct Shed(Arc<Mutex<Counts>>);

impl Shed {
    /// Counts what these targets will not get.
    pub(super) fn add(&self, targets: &[TargetId], project: &Arc<str>, reason: Reason, lost: &Quantities) {
        for target in targets {
            for (category, quantity) in lost.iter() {
                self.put(Loss { target: *target, project: Arc::clone(project), reason, category, quantity });
            }
        }
    }

    /// Counts again what could not be kept.
    pub(super) fn put(&self, loss: Loss) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry((loss.target, loss.project, loss.reason, loss.category)).or_default() += loss.quantity;
    }

    /// All of it, which is counted elsewhere from now on.
    pub(super) fn take(&self) -> Vec<Loss> {
        let counts = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        let loss =
            |((target, project, reason, category), quantity)| Loss { target, project, reason, category, quantity };
        counts.into_iter().map(loss).collect()
    }
}
