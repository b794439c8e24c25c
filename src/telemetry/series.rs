//! The performance of upstreams over time, in steps of five minutes: the data of charts and sparklines.
//!
//! Rule: like all observations, steps are handed over every few seconds and not with each delivery. A step that could not be kept is
//! handed over with the next one. Steps count items, as the accounts do, and waiting envelopes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::policy::outcome::Cause;
use crate::protocol::category::Category;

use super::lags::Lags;
use super::ledger::{Account, AccountKey};
use super::observations::Observed;

/// The length of a step.
pub const STEP: Duration = Duration::from_secs(300);
/// How long steps are kept before the steps of an hour are merged into one.
pub const FINE: Duration = Duration::from_secs(48 * 3600);

/// The performance of one upstream in one step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// When the step begins.
    pub at: Timestamp,
    /// Items accepted for it, and items that wait again.
    pub accepted: u64,
    /// Items that it took.
    pub delivered: u64,
    /// Items that could not be kept long enough ([`Cause::Lost`]).
    pub lost: u64,
    /// Envelopes that waited at the end of the step; in the step of an hour, the most of its steps.
    pub waiting: u64,
    /// The 99th percentile of the lags in milliseconds; in the step of an hour, the greatest of its steps.
    pub lag_p99: Option<u64>,
}

impl Step {
    const fn is_quiet(&self) -> bool {
        self.accepted == 0 && self.delivered == 0 && self.lost == 0 && self.waiting == 0 && self.lag_p99.is_none()
    }
}

/// The totals of an upstream since the journal began.
#[derive(Clone, Copy, Debug, Default)]
struct Totals {
    accepted: u64,
    delivered: u64,
    lost: u64,
}

/// The state at the last look, from which the next steps are computed.
#[derive(Clone, Debug, Default)]
pub struct Series {
    at: Timestamp,
    totals: BTreeMap<Arc<str>, Totals>,
    lags: BTreeMap<Arc<str>, Lags>,
}

impl Series {
    /// A series that begins with these accounts; the quantities in them belong to no step.
    pub fn new(accounts: &BTreeMap<AccountKey, Account>) -> Self {
        Self { totals: totals(accounts), ..Self::default() }
    }

    /// The steps since the last look, and the series to continue with once they are kept.
    pub fn look(
        &self,
        now: Timestamp,
        accounts: &BTreeMap<AccountKey, Account>,
        news: &[(Arc<str>, Observed)],
        waiting: &BTreeMap<Arc<str>, u64>,
    ) -> (Vec<(Arc<str>, Step)>, Self) {
        let at = beginning(now);
        let mut lags = if at == self.at { self.lags.clone() } else { BTreeMap::new() };
        for (name, observed) in news {
            let own = lags.entry(Arc::clone(name)).or_default();
            observed.hours.values().for_each(|performance| own.merge(&performance.lags));
        }
        let totals = totals(accounts);
        let names = totals.keys().chain(waiting.keys()).collect::<std::collections::BTreeSet<_>>();
        let step = |name: &Arc<str>| {
            let (before, after) =
                (self.totals.get(name).copied().unwrap_or_default(), totals.get(name).copied().unwrap_or_default());
            let p99 = lags.get(name).and_then(|lags| lags.quantile(0.99));
            Step {
                at,
                accepted: after.accepted.saturating_sub(before.accepted),
                delivered: after.delivered.saturating_sub(before.delivered),
                lost: after.lost.saturating_sub(before.lost),
                waiting: waiting.get(name).copied().unwrap_or(0),
                lag_p99: p99.map(|lag| u64::try_from(lag.as_millis()).unwrap_or(u64::MAX)),
            }
        };
        let steps = names.into_iter().map(|name| (Arc::clone(name), step(name)));
        let steps = steps.filter(|(_, step)| !step.is_quiet()).collect();
        (steps, Self { at, totals, lags })
    }
}

/// The beginning of the step that contains this time.
pub fn beginning(at: Timestamp) -> Timestamp {
    let step = STEP.as_millis() as u64;
    Timestamp::from_millis(at.as_millis() / step * step)
}

fn totals(accounts: &BTreeMap<AccountKey, Account>) -> BTreeMap<Arc<str>, Totals> {
    let mut all = BTreeMap::<Arc<str>, Totals>::new();
    for (key, account) in accounts {
        let Some(upstream) = &key.upstream else { continue };
        if !Category::counts_items(key.category.name()) {
            continue;
        }
        let own = all.entry(Arc::clone(upstream)).or_default();
        own.accepted += account.accepted + account.returned;
        own.delivered += account.delivered;
        own.lost += account.dropped_by(Cause::Lost);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::outcome::Outcome;
    use crate::policy::verdict::Verdict;
    use crate::telemetry::observations::Observations;

    #[test]
    fn a_step_is_the_difference_to_the_last_look_that_was_kept() {
        let (a, mut account) = (Arc::<str>::from("a"), Account::default());
        let at = |second: u64| Timestamp::from_millis(second * 1000);
        let key = AccountKey { upstream: Some(Arc::clone(&a)), project: "p".into(), category: Category::Error };
        account.post(Outcome::Accepted, 5);
        let series = Series::new(&BTreeMap::from([(key.clone(), account)]));
        account.post(Outcome::Accepted, 2);
        account.post(Outcome::Delivered, 3);
        let observed = Observations::default();
        observed.attempted(&a, at(610), Verdict::Delivered, Some(Duration::from_millis(40)));
        let accounts = BTreeMap::from([(key, account)]);
        let waiting = BTreeMap::from([(Arc::clone(&a), 4)]);
        let step = Step { at: at(600), accepted: 2, delivered: 3, lost: 0, waiting: 4, lag_p99: Some(40) };
        let news = observed.take();
        for _ in 0..2 {
            let (steps, _) = series.look(at(610), &accounts, &news, &waiting);
            assert_eq!(steps, [(Arc::clone(&a), step.clone())], "the first was not kept");
        }
        let (_, kept) = series.look(at(610), &accounts, &news, &waiting);
        let (steps, _) = kept.look(at(620), &accounts, &[], &BTreeMap::new());
        let quiet = Step { at: at(600), lag_p99: Some(40), ..Step::default() };
        assert_eq!(steps, [(Arc::clone(&a), quiet)], "the lag is that of the step so far");
        assert_eq!(kept.look(at(900), &accounts, &[], &BTreeMap::new()).0, [], "nothing comes of nothing");
    }
}
