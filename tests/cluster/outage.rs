//! The length of an outage.

use std::time::Duration;

use tokio::time::Instant;

use super::scene::Scene;
use crate::support::load::Load;

impl Scene {
    /// Sends at each relay until `long` has passed since `began`.
    pub(super) async fn more_until(&self, loads: &[Load], began: Instant, long: Duration) {
        while began.elapsed() < long {
            self.more(loads, 10).await;
        }
    }
}

/// The length of an outage: `SWITCHYARD_OUTAGE` seconds, or 20.
pub(super) fn outage() -> Duration {
    let seconds = std::env::var("SWITCHYARD_OUTAGE").map(|text| text.parse().expect("SWITCHYARD_OUTAGE is a number"));
    Duration::from_secs(seconds.unwrap_or(20))
}
