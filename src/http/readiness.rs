//! Whether the daemon can accept submissions now, for both listeners.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::journal::Journal;

/// Whether the daemon can accept submissions now. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Readiness {
    journal: Arc<dyn Journal>,
    draining: CancellationToken,
}

impl Readiness {
    /// Ready as long as the journal takes records and `draining` has not begun.
    pub fn new(journal: Arc<dyn Journal>, draining: CancellationToken) -> Self {
        Self { journal, draining }
    }

    /// Why the daemon is not ready; `None` if it is. An upstream's outage is no reason.
    pub async fn not_ready(&self) -> Option<String> {
        if self.draining.is_cancelled() {
            return Some("shutting down".to_owned());
        }
        self.journal.writable().await.err().map(|error| error.to_string())
    }
}
