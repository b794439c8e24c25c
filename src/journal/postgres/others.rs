//! The changes that other relays made in the accounts, as far as they were read.
//!
//! Rules: the ledger is posted every change once, when it is read. Of each account the current hour and the one before are known apart, and
//! all earlier hours as one, so memory is bounded by the number of accounts, however old they are. A former primary may show changes that
//! were never committed: they are posted after a later commit that was waited for.

use std::collections::BTreeMap;

use crate::policy::outcome::Outcome;
use crate::protocol::category::Category;
use crate::telemetry::ledger::Posting;

use super::accounts::{Whose, hour, key};
use super::fault::Fault;
use super::shared::Shared;

/// The time limit for reading the accounts of all hours, which scans the whole table.
const PATIENCE: &str = "SET LOCAL statement_timeout = '5min'";

/// The sums over all other incarnations, as they were read last.
#[derive(Debug, Default)]
pub(super) struct Others {
    known: BTreeMap<(Whose, Outcome), i64>,
    /// The first hour that is known apart from those before. It never falls, even if the clock is set back: merged hours cannot be told
    /// apart again.
    apart: i32,
}

impl Others {
    /// Reads the accounts of all other incarnations, of all hours or of those known apart, and posts the changes.
    pub(super) async fn read(&mut self, shared: &Shared, has_all_hours: bool) -> Result<(), Fault> {
        self.fold(hour(shared.clock.now()) - 1);
        let since = if has_all_hours { 0 } else { self.apart };
        let mut client = shared.client().await?;
        let tx = client.transaction().await?;
        tx.batch_execute(PATIENCE).await?;
        let statement = tx
            .prepare_cached(
                "SELECT CASE WHEN hour < $3 THEN 0 ELSE hour END AS at, target, project, category, outcome, sum(quantity)::bigint
                 FROM ledger WHERE incarnation <> $1 AND (hour = 0 OR hour >= $2) GROUP BY at, target, project, category, outcome",
            )
            .await?;
        let rows = tx.query(&statement, &[&shared.incarnation, &since, &self.apart]).await?;
        tx.commit().await?;
        shared.know_names().await?;
        let mut news = Vec::new();
        for row in rows {
            let (category, outcome): (&str, &str) = (row.get(3), row.get(4));
            // Categories and outcomes of a newer version are left to it.
            let (Some(category), Some(outcome)) = (Category::from_name(category), Outcome::from_name(outcome)) else {
                continue;
            };
            let (target, project): (i16, i32) = (row.get(1), row.get(2));
            let (now, whose) = (row.get::<_, i64>(5), (row.get(0), target, project, category));
            let before = self.known.get(&(whose, outcome)).copied().unwrap_or_default();
            if now > before
                && let Some(key) = key(shared, target, project, category)
            {
                let quantity = (now - before).cast_unsigned();
                news.push(((whose, outcome), now, Posting { key, outcome, quantity }));
            }
        }
        if !news.is_empty() {
            client.make_certain().await?;
        }
        let post = |(whose, now, posting)| {
            self.known.insert(whose, now);
            posting
        };
        let postings: Vec<_> = news.into_iter().map(post).collect();
        shared.ledger.post(&postings);
        Ok(())
    }

    /// Merges the hours before this one into the hour 0.
    fn fold(&mut self, apart: i32) {
        if apart <= self.apart {
            return;
        }
        self.apart = apart;
        let is_old = |hour: i32| hour > 0 && hour < apart;
        let old: Vec<_> = self.known.extract_if(.., |((hour, ..), _), _| is_old(*hour)).collect();
        for (((_, target, project, category), outcome), quantity) in old {
            *self.known.entry(((0, target, project, category), outcome)).or_default() += quantity;
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::protocol::category::Category;

    use super::*;

    #[test]
    fn merged_hours_stay_merged_when_the_clock_is_set_back() {
        let whose = |hour| ((hour, 0, 1, Category::Error), Outcome::Accepted);
        let known = [(0, 5), (6, 7), (8, 9)].map(|(hour, quantity)| (whose(hour), quantity));
        let mut others = Others { known: known.into(), apart: 6 };
        others.fold(7);
        assert_eq!(others.known, BTreeMap::from([(0, 12), (8, 9)].map(|(hour, quantity)| (whose(hour), quantity))));
        others.fold(5);
        assert_eq!(others.apart, 7);
    }
}
