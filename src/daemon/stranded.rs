//! Projects that are removed from the file while envelopes wait for them.
//!
//! Rule: the journal knows a project by its name. Nobody guesses where its envelopes belong now; the log and the status say how many items
//! wait.

use crate::policy::routing::Routing;

use super::Daemon;

impl Daemon {
    /// Warns about items that wait for projects which a reload has removed.
    pub(super) async fn note_stranded(&self, before: &Routing) {
        let is_gone = |name: &str| self.config.projects.iter().all(|project| *project.name != *name);
        let gone: Vec<&str> =
            before.projects.iter().map(|project| &*project.name).filter(|name| is_gone(name)).collect();
        if gone.is_empty() {
            return;
        }
        for (target, upstream) in self.targets.iter() {
            // If the journal does not answer for this upstream, it does not for the others.
            let Ok(backlog) = self.journal.backlog(target).await else { return };
            for project in &gone {
                let own = backlog.quantities.iter().filter(|(name, ..)| **name == **project);
                let items: u64 = own.map(|(.., quantity)| quantity).sum();
                if items > 0 {
                    let message =
                        "items wait for a project that is not in the file any more: put its name back, or they expire";
                    tracing::warn!(upstream.name = &**upstream, project.name = project, items, "{message}");
                }
            }
        }
    }
}
