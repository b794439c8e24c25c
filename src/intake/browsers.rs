//! Which projects browsers use: as the configuration says, otherwise those for which an accepted request named the origin of a page.
//!
//! Rule: projects do not affect each other. A project that browsers were seen to use stays one after a reload, and is logged once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The projects, by name. Bounded by the configuration. Cheap to clone; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Browsers(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// The answers of the configuration.
    said: BTreeMap<Arc<str>, bool>,
    seen: BTreeSet<Arc<str>>,
}

impl Browsers {
    /// Whether browsers use this project.
    pub fn use_it(&self, project: &str) -> bool {
        let state = self.state();
        state.said.get(project).copied().unwrap_or_else(|| state.seen.contains(project))
    }

    /// Replaces the answers of the configuration; returns the projects that browsers were seen to use.
    pub(super) fn configure(&self, said: &BTreeMap<Arc<str>, bool>) -> BTreeSet<Arc<str>> {
        let mut state = self.state();
        state.said.clone_from(said);
        state.seen.clone()
    }

    /// Records that a browser uses this project, and calls `limit` with all such projects. Calls of `limit` do not overlap.
    pub(super) fn remember(&self, project: &Arc<str>, limit: impl FnOnce(&BTreeSet<Arc<str>>)) {
        let mut state = self.state();
        if state.seen.insert(Arc::clone(project)) {
            tracing::info!(
                project.name = &**project,
                "browsers send for this project: what no limit is written for has a default one from now on; `browsers = false` \
                 in [[projects]] takes it away, `browsers = true` has it from the start"
            );
        }
        limit(&state.seen);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
