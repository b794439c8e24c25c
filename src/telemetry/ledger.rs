//! The outcome balance: for each upstream, project and category, accepted + returned = delivered + dropped + pending.
//!
//! The journal posts every change here in the moment it is committed, and begins with the totals it kept, so that the
//! accounts stand for what is on disk and go on through restarts. Pending is not kept here: it is counted where it waits.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use crate::policy::outcome::Cause;
use crate::policy::outcome::{DropReason, Outcome};
use crate::protocol::category::Category;

/// Whose account an entry belongs to.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct AccountKey {
    /// The upstream's name; `None` for the intake, which knows only [`Outcome::Accepted`].
    pub upstream: Option<Arc<str>>,
    /// The project's name.
    pub project: Arc<str>,
    /// The category.
    pub category: Category,
}

/// The totals of one account since the journal began.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Account {
    /// Accepted for this upstream.
    pub accepted: u64,
    /// Answered with 2xx by it.
    pub delivered: u64,
    /// Dropped first, and waiting again later: retried dead letters, backfilled records.
    pub returned: u64,
    /// Of what was not meant for it, how much a backfill took up later.
    pub backfilled: u64,
    /// Of what it refused, how much was retried later.
    pub retried: u64,
    /// Found in the upstream by its API.
    pub stored: u64,
    /// Found once, and not there at a later look.
    pub vanished: u64,
    /// Missing until it was sent again, given up, or could be kept no longer.
    pub lost: u64,
    dropped: [u64; DropReason::ALL.len()],
}

impl Account {
    /// How much was dropped for `reason`.
    pub const fn dropped(&self, reason: DropReason) -> u64 {
        self.dropped[reason as usize]
    }

    /// How much was dropped for any reason.
    pub fn dropped_total(&self) -> u64 {
        self.dropped.iter().sum()
    }

    /// How much was dropped for reasons of that cause.
    pub fn dropped_by(&self, cause: Cause) -> u64 {
        DropReason::ALL.into_iter().filter(|reason| reason.cause() == cause).map(|reason| self.dropped(reason)).sum()
    }

    /// How much is kept from it: what was not meant for it, less what a backfill took up later.
    pub fn withheld(&self) -> u64 {
        self.dropped_by(Cause::Withheld).saturating_sub(self.backfilled)
    }

    /// How much it has refused for good: less what was retried later.
    pub fn refused(&self) -> u64 {
        self.dropped_by(Cause::Refused).saturating_sub(self.retried)
    }

    /// Stored there as far as is known now.
    pub const fn stored_now(&self) -> u64 {
        self.stored.saturating_sub(self.vanished)
    }

    /// What must be pending if nothing was lost. Negative when more came out than went in.
    pub fn expected_pending(&self) -> i64 {
        let out = self.delivered + self.dropped_total();
        i64::try_from(i128::from(self.accepted + self.returned) - i128::from(out)).unwrap_or(i64::MIN)
    }

    /// Books a change.
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

/// Of items dropped by the names of reasons: those of that cause.
pub fn dropped_by(by_reason: &BTreeMap<String, u64>, cause: Cause) -> u64 {
    by_reason.iter().filter(|(reason, _)| Cause::of(reason) == Some(cause)).map(|(_, items)| items).sum()
}

/// One change of one account.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Posting {
    /// Whose account.
    pub key: AccountKey,
    /// Which side of it.
    pub outcome: Outcome,
    /// How much.
    pub quantity: u64,
}

/// All accounts. Cheap to clone; clones share the accounts.
#[derive(Clone, Debug, Default)]
pub struct Ledger(Arc<Mutex<BTreeMap<AccountKey, Account>>>);

impl Ledger {
    /// Books changes that have just become durable.
    pub fn post<'a>(&self, postings: impl IntoIterator<Item = &'a Posting>) {
        let mut accounts = self.lock();
        for posting in postings {
            match accounts.get_mut(&posting.key) {
                Some(account) => account.post(posting.outcome, posting.quantity),
                None => accounts.entry(posting.key.clone()).or_default().post(posting.outcome, posting.quantity),
            }
        }
    }

    /// The accounts now.
    pub fn accounts(&self) -> BTreeMap<AccountKey, Account> {
        self.lock().clone()
    }

    /// The accounts of an upstream now.
    pub fn of(&self, upstream: &str) -> Vec<(AccountKey, Account)> {
        let accounts = self.lock();
        let own = accounts.iter().filter(|(key, _)| key.upstream.as_deref() == Some(upstream));
        own.map(|(key, account)| (key.clone(), *account)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<AccountKey, Account>> {
        // Nothing panics while holding it; the figures stay true even if something did.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_tells_what_must_be_pending() {
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
