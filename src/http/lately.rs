//! What upstreams did not get in this hour and the one before, of the accounts that the journal keeps by the hour.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::policy::outcome::DropReason;
use crate::protocol::category::Category;
use crate::telemetry::status::LatelyStatus;

use super::state::Admin;

const HOUR: Duration = Duration::from_secs(3600);

/// By upstream. Nothing when the journal cannot be read: then it says so itself.
pub(super) async fn of_all(admin: &Admin, now: Timestamp) -> BTreeMap<Arc<str>, LatelyStatus> {
    let evidence = admin.journal.evidence(now - HOUR).await.unwrap_or_default();
    let mut all = BTreeMap::<Arc<str>, LatelyStatus>::new();
    for (key, account) in evidence.accounts {
        let Some(upstream) = key.upstream.filter(|_| Category::counts_items(key.category.name())) else { continue };
        let own = all.entry(upstream).or_default();
        own.lost += account.dropped(DropReason::Expired) + account.dropped(DropReason::Evicted);
        own.refused += account.dropped(DropReason::Rejected);
    }
    all
}
