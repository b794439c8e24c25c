//! The outcome balance: for each upstream, project and category, accepted + returned = delivered + dropped + pending.
//!
//! The journal posts every change here when it is committed, and loads the stored totals at the start. So the accounts match what is on
//! disk, and continue through restarts. Pending quantities are not counted here but in the queues.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use crate::policy::outcome::Cause;
use crate::policy::outcome::{DropReason, Outcome};
use crate::protocol::category::Category;

/// The key of an account.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct AccountKey {
    /// The upstream's name; `None` for the intake, which knows only [`Outcome::Accepted`].
    pub upstream: Option<Arc<str>>,
    /// The project's name.
    pub project: Arc<str>,
    /// The category.
    pub category: Category,
}

/// The totals of an account since the journal began.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Account {
    /// Accepted for this upstream.
    pub accepted: u64,
    /// Answered with 2xx by the upstream.
    pub delivered: u64,
    /// Dropped first, and waiting again later: retried dead letters and backfilled records.
    pub returned: u64,
    /// The part of the withheld quantity that a backfill took up later.
    pub backfilled: u64,
    /// The part of the refused quantity that was retried later.
    pub retried: u64,
    /// Found in the upstream through its API.
    pub stored: u64,
    /// Found once, and not found at a later look.
    pub vanished: u64,
    /// Missing until it was sent again, given up, or could no longer be kept.
    pub lost: u64,
    dropped: [u64; DropReason::ALL.len()],
}

impl Account {
    /// The quantity dropped for `reason`.
    pub const fn dropped(&self, reason: DropReason) -> u64 {
        self.dropped[reason as usize]
    }

    /// The quantity dropped for any reason.
    pub fn dropped_total(&self) -> u64 {
        self.dropped.iter().sum()
    }

    /// The quantity dropped for reasons with this cause.
    pub fn dropped_by(&self, cause: Cause) -> u64 {
        DropReason::ALL.into_iter().filter(|reason| reason.cause() == cause).map(|reason| self.dropped(reason)).sum()
    }

    /// The quantity withheld from the upstream now, without what a backfill took up later.
    pub fn withheld(&self) -> u64 {
        self.dropped_by(Cause::Withheld).saturating_sub(self.backfilled)
    }

    /// The quantity that the upstream has refused for good, without what was retried later.
    pub fn refused(&self) -> u64 {
        self.dropped_by(Cause::Refused).saturating_sub(self.retried)
    }

    /// The quantity stored in the upstream as far as is known now.
    pub const fn stored_now(&self) -> u64 {
        self.stored.saturating_sub(self.vanished)
    }

    /// The quantity that must be pending if none was lost. Negative when more came out than went in.
    pub fn expected_pending(&self) -> i64 {
        let out = self.delivered + self.dropped_total();
        i64::try_from(i128::from(self.accepted + self.returned) - i128::from(out)).unwrap_or(i64::MIN)
    }

    /// Posts a change.
    pub fn post(&mut self, outcome: Outcome, quantity: u64) {
        match outcome {
            Outcome::Accepted => self.accepted += quantity,
            Outcome::Delivered => self.delivered += quantity,
            Outcome::Dropped(reason) => self.dropped[reason as usize] += quantity,
            Outcome::Returned => self.returned += quantity,
            Outcome::Backfilled => self.backfilled += quantity,
            Outcome::Retried => self.retried += quantity,
            Outcome::Stored => self.stored += quantity,
            Outcome::Vanished => self.vanished += quantity,
            Outcome::Lost => self.lost += quantity,
        }
    }
}

/// The number of items dropped for reasons with this cause, from the numbers by reason.
pub fn dropped_by(by_reason: &BTreeMap<String, u64>, cause: Cause) -> u64 {
    by_reason.iter().filter(|(reason, _)| Cause::of(reason) == Some(cause)).map(|(_, items)| items).sum()
}

/// One change of one account.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Posting {
    /// The key of the account.
    pub key: AccountKey,
    /// The side of the account.
    pub outcome: Outcome,
    /// The quantity.
    pub quantity: u64,
}

/// All accounts. Cheap to clone; clones share them.
#[derive(Clone, Debug, Default)]
pub struct Ledger(Arc<Mutex<BTreeMap<AccountKey, Account>>>);

impl Ledger {
    /// Posts changes that have just become durable.
    pub fn post<'a>(&self, postings: impl IntoIterator<Item = &'a Posting>) {
        let mut accounts = self.lock();
        for posting in postings {
            match accounts.get_mut(&posting.key) {
                Some(account) => account.post(posting.outcome, posting.quantity),
                None => accounts.entry(posting.key.clone()).or_default().post(posting.outcome, posting.quantity),
            }
        }
    }

    /// A copy of the accounts.
    pub fn accounts(&self) -> BTreeMap<AccountKey, Account> {
        self.lock().clone()
    }

    /// A copy of the accounts of an upstream.
    pub fn of(&self, upstream: &str) -> Vec<(AccountKey, Account)> {
        let accounts = self.lock();
        let own = accounts.iter().filter(|(key, _)| key.upstream.as_deref() == Some(upstream));
        own.map(|(key, account)| (key.clone(), *account)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<AccountKey, Account>> {
        // Nothing panics while holding the lock, and the accounts would still be right if something did.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_gives_the_quantity_that_must_be_pending() {
        let ledger = Ledger::default();
        let key = AccountKey { upstream: Some("a".into()), project: "p".into(), category: Category::Error };
        let post = |outcome, quantity| ledger.post([&Posting { key: key.clone(), outcome, quantity }]);
        post(Outcome::Accepted, 10);
        post(Outcome::Delivered, 6);
        post(Outcome::Dropped(DropReason::Expired), 1);
        let account = ledger.accounts()[&key];
        assert_eq!((account.expected_pending(), account.dropped(DropReason::Expired)), (3, 1));
        post(Outcome::Returned, 1);
        let account = ledger.accounts()[&key];
        assert_eq!((account.expected_pending(), account.dropped(DropReason::Expired)), (4, 1));
    }
}
