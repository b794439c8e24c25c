//! The counts of the intake since the start, the part that the journal does not have yet, and whether submissions are being lost.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus::core::Collector as _;
use prometheus::proto::MetricFamily;
use tokio::time::Instant;

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

    /// The counts since the start: `duplicate` items by category, `refused` requests by reason, and `refused_item`s by reason.
    pub fn intake_counts(&self) -> IntakeCounts {
        let counters = [
            ("duplicate", "category", &self.duplicate_items_total),
            ("refused", "reason", &self.refused_requests_total),
            ("refused_item", "reason", &self.refused_items_total),
        ];
        let mut counts = IntakeCounts::new();
        for (what, label, counter) in counters {
            for metric in counter.collect().iter().flat_map(MetricFamily::get_metric) {
                let kind = metric.get_label().iter().find(|pair| pair.name() == label);
                let kind = kind.map(|pair| pair.value().to_owned()).unwrap_or_default();
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
