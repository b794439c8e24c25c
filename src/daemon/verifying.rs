//! Verifies that trackers store what they took: each upstream with an `api` section is asked, in tasks of their own.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::config::Config;
use crate::delivery::verifier::Tracker;
use crate::journal::TargetId;

use super::Daemon;

impl Daemon {
    /// Follows a changed configuration.
    pub(super) fn follow_trackers(&self, config: &Config, targets: &HashMap<Arc<str>, TargetId>) {
        let mut trackers = BTreeMap::new();
        for (name, settings) in &config.upstreams {
            let tracker = targets.get(name).and_then(|to| Tracker::of((name, *to), settings, &config.projects));
            trackers.extend(tracker.map(|tracker| (Arc::clone(name), tracker)));
        }
        self.verifier.configure(&config.verify, trackers);
    }

    /// Starts the verification steps that are due, if this relay leads.
    pub(super) async fn keep_verifying(&self) {
        let Some(epoch) = self.control.leads().await else { return };
        for name in self.verifier.due() {
            let (verifier, stop) = (self.verifier.clone(), self.tasks.stopping().clone());
            self.tasks.spawn_detached(async move {
                stop.run_until_cancelled(epoch.under(|| verifier.step(&name))).await;
            });
        }
    }
}
