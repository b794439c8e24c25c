//! Losses: what was dropped for a target and has to be told it, in a client report.
//!
//! Rules: a loss is counted in the transaction that drops, and taken off in the transaction that appends the report which tells of
//! it, so that a crash neither forgets nor repeats one. Rows are bounded by targets, projects, reasons and categories. The
//! report is a record like any other but for its quantities: it has none, which marks it as ours. No client sent it: it is
//! in no account and in no comparison, and dropping it is no loss. The same holds for canaries, which also have an event id.

use std::sync::Arc;

use super::TargetId;
use super::body::Body;
use crate::protocol::category::Category;
use crate::protocol::client_report::{self, Reason};
use crate::protocol::item::ItemType;

/// So much of a category was lost for a target, and it does not know yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    /// The target.
    pub target: TargetId,
    /// The project's name.
    pub project: Arc<str>,
    /// Why.
    pub reason: Reason,
    /// The category.
    pub category: Category,
    /// How much.
    pub quantity: u64,
}

/// For backends: how many spans are lost with the transactions in a body; 0 when it cannot be read. Reads a large one, and blocks.
pub fn spans_in(body: &Body) -> u64 {
    let Ok(outline) = body.outline() else { return 0 };
    let transactions = outline.items().iter().filter(|item| item.kind == ItemType::Transaction);
    transactions.map(|item| body.payload(item).map_or(1, |payload| client_report::spans(&payload))).sum()
}
