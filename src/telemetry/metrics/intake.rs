//! The counts of the intake since the start, the part that the journal does not have yet, and whether submissions are being lost.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus::core::Collector as _;
use prometheus::proto::MetricFamily;
use tokio::time::Instant;

use crate::policy::outcome::RefusalReason;
use crate::protocol::category::Category;

use super::{Metrics, Refused};

/// How long submissions count as being refused after one was.
const GOES_ON: Duration = Duration::from_secs(60);

/// The counts of the intake, by what it did and of which kind.
pub type IntakeCounts = BTreeMap<(&'static str, String), u64>;

/// The state beside the counters. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Memory(Arc<Mutex<Remembered>>);

#[derive(Debug, Default)]
struct Remembered {
    /// The counts that the journal has.
    kept: IntakeCounts,
    /// When a submission was last refused for lack of room.
    lost_at: Option<Instant>,
    /// When an item was last refused because every upstream in use limits it.
    limited_at: Option<Instant>,
}

impl Memory {
    fn lock(&self) -> MutexGuard<'_, Remembered> {
        // Nothing panics while holding the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Metrics {
    /// Counts a request that is refused as a whole.
    pub fn refused(&self, reason: Refused) {
        self.refused_requests_total.with_label_values(&[reason.name()]).inc();
        if reason.is_for_want_of_room() {
            self.memory.lock().lost_at = Some(Instant::now());
        }
    }

    /// Whether a submission was refused for lack of room within the last minute.
    pub fn is_refusing(&self) -> bool {
        self.memory.lock().lost_at.is_some_and(|at| at.elapsed() < GOES_ON)
    }

    /// Counts items of a submission that are not accepted.
    pub fn refused_items(&self, project: &str, category: Category, why: RefusalReason, quantity: u64) {
        self.refused_items_total.with_label_values(&[project, category.name(), why.name()]).inc_by(quantity);
        if why == RefusalReason::UpstreamLimited {
            self.memory.lock().limited_at = Some(Instant::now());
        }
    }

    /// Whether an item was refused within the last minute because every upstream in use limits it.
    pub fn is_limiting(&self) -> bool {
        self.memory.lock().limited_at.is_some_and(|at| at.elapsed() < GOES_ON)
    }

    /// The counts since the start: `duplicate` items by category, `refused` requests by reason, and `refused_item`s by reason. The last
    /// leave out the categories that count bytes.
    pub fn intake_counts(&self) -> IntakeCounts {
        let counters = [
            ("duplicate", "category", &self.duplicate_items_total),
            ("refused", "reason", &self.refused_requests_total),
            ("refused_item", "reason", &self.refused_items_total),
        ];
        let mut counts = IntakeCounts::new();
        for (what, label, counter) in counters {
            for metric in counter.collect().iter().flat_map(MetricFamily::get_metric) {
                let of = |label: &str| metric.get_label().iter().find(|pair| pair.name() == label);
                if what == "refused_item" && of("category").is_some_and(|pair| !Category::counts_items(pair.value())) {
                    continue;
                }
                let kind = of(label).map(|pair| pair.value().to_owned()).unwrap_or_default();
                *counts.entry((what, kind)).or_default() += metric.get_counter().get_value() as u64;
            }
        }
        counts
    }

    /// The increase of these counts over those that the journal has, without zeros.
    pub fn news_of(&self, counts: &IntakeCounts) -> IntakeCounts {
        let remembered = self.memory.lock();
        let risen = counts
            .iter()
            .map(|(key, count)| (key.clone(), count.saturating_sub(remembered.kept.get(key).copied().unwrap_or(0))));
        risen.filter(|(_, count)| *count > 0).collect()
    }

    /// Records that the journal has these counts.
    pub fn note_kept(&self, counts: IntakeCounts) {
        self.memory.lock().kept = counts;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn refusals_for_limits_of_upstreams_count_items_and_go_on_for_a_minute() {
        let metrics = Metrics::new();
        metrics.refused_items("shop", Category::Error, RefusalReason::RateLimited, 5);
        assert!(!metrics.is_limiting(), "a limit of ours");
        metrics.refused_items("shop", Category::Attachment, RefusalReason::UpstreamLimited, 70_000);
        metrics.refused_items("shop", Category::AttachmentItem, RefusalReason::UpstreamLimited, 1);
        metrics.refused_items("web", Category::Error, RefusalReason::UpstreamLimited, 2);
        let counts = metrics.intake_counts();
        assert_eq!(counts[&("refused_item", "upstream_limited".to_owned())], 3, "bytes are no items");
        assert!(metrics.is_limiting());
        tokio::time::advance(GOES_ON).await;
        assert!(!metrics.is_limiting());
    }
}
