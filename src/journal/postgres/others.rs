//! What other relays changed in the accounts, as far as it was read.
//!
//! Rules: a ledger is posted every change once, when it is read. What a server shows that was the primary may never have been committed:
//! it is posted once a commit that came after it was waited for.

use std::collections::BTreeMap;

use crate::journal::evidence::KEPT;
use crate::policy::outcome::Outcome;
use crate::protocol::category::Category;
use crate::telemetry::ledger::Posting;

use super::accounts::{Whose, hour, key};
use super::fault::Fault;
use super::shared::Shared;

/// The changes that others made, as far as they were read: what all other incarnations together say.
#[derive(Debug, Default)]
pub(super) struct Others(BTreeMap<(Whose, Outcome), i64>);

impl Others {
    /// Reads the accounts of all others since that hour (0: all), and posts what changed. Hours before the oldest that is kept apart are
    /// read as one.
    pub(super) async fn read(&mut self, shared: &Shared, since: i32) -> Result<(), Fault> {
        let oldest = hour(shared.clock.now() - KEPT);
        self.fold(oldest);
        let client = shared.client().await?;
        let statement = client
            .prepare_cached(
                "SELECT CASE WHEN hour < $3 THEN 0 ELSE hour END AS at, target, project, category, outcome, sum(quantity)::bigint
                 FROM ledger WHERE incarnation <> $1 AND (hour = 0 OR hour >= $2) GROUP BY at, target, project, category, outcome",
            )
            .await?;
        let rows = client.query(&statement, &[&shared.incarnation, &since, &oldest]).await?;
        shared.know_names().await?;
        let mut news = Vec::new();
        for row in rows {
            let (category, outcome): (&str, &str) = (row.get(3), row.get(4));
            // What a newer version counts is left to it.
            let (Some(category), Some(outcome)) = (Category::from_name(category), Outcome::from_name(outcome)) else {
                continue;
            };
            let (target, project): (i16, i32) = (row.get(1), row.get(2));
            let (now, whose) = (row.get::<_, i64>(5), (row.get(0), target, project, category));
            let before = self.0.get(&(whose, outcome)).copied().unwrap_or_default();
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
            self.0.insert(whose, now);
            posting
        };
        let postings: Vec<_> = news.into_iter().map(post).collect();
        shared.ledger.post(&postings);
        Ok(())
    }

    /// Adds hours before that one to the hour 0: whoever leads does so in the table, now or then.
    fn fold(&mut self, oldest: i32) {
        let is_old = |hour: i32| hour > 0 && hour < oldest;
        let old: Vec<_> = self.0.iter().filter(|(((hour, ..), _), _)| is_old(*hour)).map(|(k, n)| (*k, *n)).collect();
        for (key, quantity) in old {
            self.0.remove(&key);
            let ((_, target, project, category), outcome) = key;
            *self.0.entry(((0, target, project, category), outcome)).or_default() += quantity;
        }
    }
}
