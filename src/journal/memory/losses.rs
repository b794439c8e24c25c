//! The losses in memory.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::journal::TargetId;
use crate::journal::body::Body;
use crate::journal::losses::{Loss, spans_in};
use crate::policy::outcome::DropReason;
use crate::protocol::category::{Category, Quantities};
use crate::protocol::client_report::Reason;

/// What is to be told.
#[derive(Debug, Default)]
pub(super) struct Losses(BTreeMap<(TargetId, Arc<str>, Reason, Category), u64>);

impl Losses {
    /// Adds one.
    pub(super) fn add(&mut self, loss: Loss) {
        if loss.category.can_be_reported() && loss.quantity > 0 {
            *self.0.entry((loss.target, loss.project, loss.reason, loss.category)).or_default() += loss.quantity;
        }
    }

    /// Adds what is dropped of a record.
    pub(super) fn dropped(
        &mut self,
        target: TargetId,
        project: &Arc<str>,
        reason: DropReason,
        (body, quantities): (&Body, &Quantities),
    ) {
        let Some(reason) = reason.reported_as() else { return };
        let transactions = quantities.iter().find(|(category, _)| *category == Category::Transaction);
        let spans = transactions.map(|(_, count)| (Category::Span, spans_in(body).max(count)));
        for (category, quantity) in quantities.iter().chain(spans) {
            self.add(Loss { target, project: Arc::clone(project), reason, category, quantity });
        }
    }

    pub(super) fn all(&self) -> Vec<Loss> {
        let loss =
            |((target, project, reason, category), quantity): (&(TargetId, Arc<str>, Reason, Category), &u64)| {
                let (target, reason, category) = (*target, *reason, *category);
                Loss { target, project: Arc::clone(project), reason, category, quantity: *quantity }
            };
        self.0.iter().map(loss).collect()
    }

    pub(super) fn take_off(&mut self, told: Vec<Loss>) {
        for Loss { target, project, reason, category, quantity } in told {
            self.0.entry((target, project, reason, category)).and_modify(|left| *left = left.saturating_sub(quantity));
        }
        self.0.retain(|_, left| *left > 0);
    }
}
