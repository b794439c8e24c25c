//! Which projects browsers use: what the file says, else what was seen: a request that was let in and names the origin of a page.
//!
//! Rule: one project's browsers say nothing of another. What was seen outlives a reload, and is said once in the log.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The projects, by name. Bounded by those that are configured. Cheap to clone; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Browsers(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// What the file says.
    said: BTreeMap<Arc<str>, bool>,
    seen: BTreeSet<Arc<str>>,
}

impl Browsers {
    /// Whether browsers use this project.
    pub fn use_it(&self, project: &str) -> bool {
        let state = self.state();
        state.said.get(project).copied().unwrap_or_else(|| state.seen.contains(project))
    }

    /// Takes over what the file says; returns what was seen.
    pub(super) fn configure(&self, said: &BTreeMap<Arc<str>, bool>) -> BTreeSet<Arc<str>> {
        let mut state = self.state();
        state.said.clone_from(said);
        state.seen.clone()
    }

    /// Takes note of a browser of this project, and has `limit` make of it what it means, one at a time.
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
