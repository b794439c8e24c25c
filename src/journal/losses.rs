//! Losses: what was dropped for a target and is still to be told to it in a client report.
//!
//! Rules: the transaction that drops counts the loss, and the transaction that appends the client report takes it off, so that a
//! crash neither forgets nor repeats one. Rows are bounded by targets, projects, reasons and categories. The client report is a
//! record without quantities, which marks it as our own: it is in no account and no comparison, and dropping it is no loss. The same
//! holds for canaries, which also have an event id.

use std::sync::Arc;

use super::TargetId;
use super::body::Body;
use crate::protocol::category::Category;
use crate::protocol::client_report::{self, Reason};
use crate::protocol::item::ItemType;

/// A loss that the target has not been told of yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    /// The target.
    pub target: TargetId,
    /// The project's name.
    pub project: Arc<str>,
    /// The reason of the client report.
    pub reason: Reason,
    /// The category.
    pub category: Category,
    /// The quantity, in the category's unit.
    pub quantity: u64,
}

/// For backends: how many spans are in the transactions of a body; 0 when it cannot be read. Blocks if the body is large.
pub fn spans_in(body: &Body) -> u64 {
    let Ok(outline) = body.outline() else { return 0 };
    let transactions = outline.items().iter().filter(|item| item.kind == ItemType::Transaction);
    transactions.map(|item| body.payload(item).map_or(1, |payload| client_report::spans(&payload))).sum()
}
