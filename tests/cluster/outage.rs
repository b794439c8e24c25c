//! How long what is to last lasts.

use std::time::Duration;

use tokio::time::Instant;

use super::scene::Scene;
use crate::support::load::Load;

impl Scene {
    /// Sends at each relay until so much time has passed since `began`.
    pub(super) async fn more_until(&self, loads: &[Load], began: Instant, long: Duration) {
        while began.elapsed() < long {
            self.more(loads, 10).await;
        }
    }
}

/// How long what is to last lasts: `SWITCHYARD_OUTAGE`, in seconds.
pub(super) fn outage() -> Duration {
    let seconds = std::env::var("SWITCHYARD_OUTAGE").map(|text| text.parse().expect("SWITCHYARD_OUTAGE is a number"));
    Duration::from_secs(seconds.unwrap_or(20))
}
