//! The term of the relay that leads, and what is done under it.
//!
//! Rules: of several relays on one journal one leads at a time, until its term ends. It does chores for all, in steps, each
//! [under](Epoch::under) its term. Once another relay leads, the journal refuses these steps and changes nothing, however long
//! ago they began. The term goes with the task and not as a parameter of each call, so that no call of a step can be without it.

use std::future::Future;

tokio::task_local! {
    static UNDER: Epoch;
}

/// Which term: each has a higher number than the one before.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Epoch(pub i64);

impl Epoch {
    /// The only term of a journal that one relay has for itself.
    pub const ALONE: Self = Self(0);

    /// Does something under this term: what it begins, from the first call on.
    pub async fn under<F: Future>(self, step: impl FnOnce() -> F) -> F::Output {
        UNDER.scope(self, async { step().await }).await
    }

    /// The term under which this task does something now; `None` for what every relay does.
    pub fn current() -> Option<Self> {
        UNDER.try_with(|epoch| *epoch).ok()
    }
}

/// Does something under a term, or as every relay may.
pub(super) async fn under<T>(epoch: Option<Epoch>, step: impl Future<Output = T>) -> T {
    match epoch {
        Some(epoch) => UNDER.scope(epoch, step).await,
        None => step.await,
    }
}
