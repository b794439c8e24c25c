//! Terms of leadership, and the steps that run under one.
//!
//! Rules: one of the relays on a journal leads at a time, until its term ends. It does chores for all in steps, each
//! [under](Epoch::under) its term. Once another relay leads, the journal refuses steps of the earlier term, even those already begun.
//! The term is a task-local value, not a parameter, so that no call within a step can lack it.

use std::future::Future;

tokio::task_local! {
    static UNDER: Epoch;
}

/// The number of a term, higher than that of the term before.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Epoch(pub i64);

impl Epoch {
    /// The only term of a journal that is not shared.
    pub const ALONE: Self = Self(0);

    /// Runs a step under this term.
    pub async fn under<F: Future>(self, step: impl FnOnce() -> F) -> F::Output {
        UNDER.scope(self, async { step().await }).await
    }

    /// The term that this task runs under; `None` for work that every relay does.
    pub fn current() -> Option<Self> {
        UNDER.try_with(|epoch| *epoch).ok()
    }
}

/// Runs a step under a term, or without one when `epoch` is `None`.
pub(super) async fn under<T>(epoch: Option<Epoch>, step: impl Future<Output = T>) -> T {
    match epoch {
        Some(epoch) => UNDER.scope(epoch, step).await,
        None => step.await,
    }
}
