//! The daily caps of shadows across restarts and reloads: counting goes on from today's accounts in the journal.
//!
//! Rule: an upstream is looked up when it gets a cap, and not again while it has one. Without caps nothing is read.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::clock::Timestamp;
use crate::config::Config;
use crate::journal::{Journal, JournalError};
use crate::policy::outcome::Cause;
use crate::policy::shadow::caps::{Caps, day_of};
use crate::protocol::category::Category;
use crate::telemetry::ledger::Account;

/// Sets the counts of upstreams that have newly got a cap in this configuration.
pub(super) async fn follow(
    caps: &Caps,
    config: &Config,
    journal: &dyn Journal,
    now: Timestamp,
) -> Result<(), JournalError> {
    let capped = config.upstreams.iter().filter(|(_, settings)| !settings.shadow.daily_cap.is_empty());
    let unknown = caps.follow(capped.map(|(name, _)| name), now);
    if unknown.is_empty() {
        return Ok(());
    }
    let mut used: BTreeMap<Arc<str>, Vec<(Category, u64)>> = BTreeMap::new();
    for (key, account) in journal.evidence(day_of(now)).await?.accounts {
        if let Some(upstream) = key.upstream {
            used.entry(upstream).or_default().push((key.category, let_through(&account)));
        }
    }
    for upstream in unknown {
        caps.begin(&upstream, used.remove(&upstream).unwrap_or_default(), now);
    }
    Ok(())
}

/// The quantity of a category that shadow rules let through to an upstream.
fn let_through(account: &Account) -> u64 {
    account.accepted.saturating_sub(account.dropped_by(Cause::Withheld))
}
