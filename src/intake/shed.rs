//! Counts items that limits and storms refused, as lost for each upstream that would have got them, until the journal has the counts.
//!
//! Rule: a loss is counted when it is refused, for the upstreams in use at that moment. No answer waits for the journal, so a crash loses
//! the counts of the last second.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::journal::TargetId;
use crate::journal::losses::Loss;
use crate::protocol::category::{Category, Quantities};
use crate::protocol::client_report::Reason;

type Counts = BTreeMap<(TargetId, Arc<str>, Reason, Category), u64>;

/// The losses. Cheap to clone; clones share the counts, which are bounded by targets, projects, reasons and categories.
#[derive(Clone, Debug, Default)]
pub(super) struct Shed(Arc<Mutex<Counts>>);

impl Shed {
    /// Counts quantities that these targets will not get.
    pub(super) fn add(&self, targets: &[TargetId], project: &Arc<str>, reason: Reason, lost: &Quantities) {
        for target in targets {
            for (category, quantity) in lost.iter() {
                self.put(Loss { target: *target, project: Arc::clone(project), reason, category, quantity });
            }
        }
    }

    /// Adds a loss, such as one that the journal could not keep.
    pub(super) fn put(&self, loss: Loss) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry((loss.target, loss.project, loss.reason, loss.category)).or_default() += loss.quantity;
    }

    /// Removes and returns all losses.
    pub(super) fn take(&self) -> Vec<Loss> {
        let counts = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        let loss =
            |((target, project, reason, category), quantity)| Loss { target, project, reason, category, quantity };
        counts.into_iter().map(loss).collect()
    }
}
