//! Claims and settles records of the backlog; the rest of the port is in [`waiting`](super::waiting) and [`discard`](super::discard).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::future::{FutureExt as _, ready};
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use crate::clock::Timestamp;
use crate::journal::queue::tell_lapsed;
use crate::journal::{Backlog, Call, Claim, Differences, JournalError, LEASE, Lease, Queues, Settlement, TargetId};
use crate::policy::outcome::DropReason;

use super::group::{Command, Settle};
use super::{PostgresJournal, claim, discard, waiting};

impl PostgresJournal {
    fn owner(&self) -> u64 {
        u64::from(self.shared.incarnation.cast_unsigned())
    }
}

impl Queues for PostgresJournal {
    fn claim(&self, target: TargetId, now: Timestamp, max: usize) -> Call<'_, Vec<Claim>> {
        Box::pin(async move {
            let hand = self.shared.hand(target);
            if self.shared.is_closed.load(Ordering::Acquire) {
                return Err(JournalError::Closed);
            }
            let lapsed = hand.lapse(Instant::now());
            if !lapsed.is_empty() {
                tell_lapsed(self.shared.names().upstream(target), lapsed.len());
                self.call(move |shared| async move { waiting::pass_by(&shared, target, lapsed, now).await }).await?;
            }
            if hand.lacks(now) {
                self.call(move |shared| async move {
                    let hand = shared.hand(target);
                    let _fetching = hand.fetching.lock().await;
                    if hand.lacks(now) { claim::fetch(&shared, target, now, max).await } else { Ok(()) }
                })
                .await?;
            }
            let _fetching = hand.fetching.lock().await;
            if self.shared.may_be_gone() {
                // Records that are still ours are looked up before any is handed out again.
                hand.forget();
                return Ok(vec![]);
            }
            Ok(hand.state().take((target, self.owner()), Instant::now(), max))
        })
    }

    fn settle(&self, lease: &Lease, settlement: Settlement) -> Call<'static, ()> {
        let failed = |error| ready(Err(error)).boxed();
        if self.shared.is_closed.load(Ordering::Acquire) {
            return failed(JournalError::Closed);
        }
        if lease.owner != self.owner() {
            return failed(JournalError::LeaseLost);
        }
        let Some(leased) = self.shared.hand(lease.target).state().end(lease) else {
            return failed(JournalError::LeaseLost);
        };
        let (reply, answer) = oneshot::channel();
        match self.send(Command::Settle(Box::new(Settle { target: lease.target, leased, settlement, reply }))) {
            Ok(()) => answer.map(|answer| answer.unwrap_or(Err(JournalError::Closed))).boxed(),
            Err(error) => failed(error),
        }
    }

    fn extend(&self, mut leases: Vec<Lease>) -> Call<'_, Vec<Lease>> {
        let (ends, owner) = (Instant::now() + LEASE, self.owner());
        leases.retain_mut(|lease| {
            lease.ends = ends;
            lease.owner == owner && self.shared.hand(lease.target).state().extend(lease, ends)
        });
        Box::pin(ready(Ok(leases)))
    }

    fn changed(&self, target: TargetId) -> Arc<Notify> {
        Arc::clone(&self.shared.hand(target).changed)
    }

    fn next_due(&self, target: TargetId) -> Call<'_, Option<Timestamp>> {
        let hand = self.shared.hand(target);
        // A look that found nothing more has just read the next due time.
        if !hand.more.load(Ordering::Acquire) {
            let due = hand.state().next_due;
            return ready(Ok(due)).boxed();
        }
        self.call(move |shared| async move { waiting::next_due(&shared, target).await })
    }

    fn discard(&self, target: TargetId, before: Timestamp, reason: DropReason, limit: usize) -> Call<'_, usize> {
        self.call(move |shared| async move { discard::old(&shared, target, (before, reason, limit)).await })
    }

    fn hasten(&self, target: TargetId, limit: usize) -> Call<'_, usize> {
        self.call(move |shared| async move { waiting::hasten(&shared, target, limit).await })
    }

    fn backlog(&self, target: TargetId) -> Call<'_, Backlog> {
        self.call(move |shared| async move { waiting::backlog(&shared, target).await })
    }

    fn differences(&self, target: TargetId) -> Call<'_, Option<Differences>> {
        self.call(move |shared| async move { waiting::differences(&shared, target).await.map(Some) })
    }
}
