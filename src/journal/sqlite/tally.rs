//! The counted backlog of one target: kept in memory beside the rows, and counted from the rows at every start.

use std::sync::Arc;

use crate::protocol::category::{Category, Quantities};

/// Records, bytes and quantities by project.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Records.
    pub(super) envelopes: u64,
    /// Their bodies in bytes.
    pub(super) bytes: u64,
    /// Quantities by the project's number, then by category.
    projects: Vec<[u64; Category::ALL.len()]>,
}

impl Tally {
    /// Adds a record that begins to wait.
    pub(super) fn enter(&mut self, project: u32, size: u64, quantities: &Quantities) {
        self.envelopes += 1;
        self.bytes += size;
        self.add(project, quantities);
    }

    /// Takes off a record that waits no longer.
    pub(super) fn leave(&mut self, project: u32, size: u64, quantities: &Quantities) {
        self.envelopes = self.envelopes.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(size);
        self.take(project, quantities);
    }

    /// Changes the quantities of a record, part of which waits no longer.
    pub(super) fn change(&mut self, project: u32, before: &Quantities, after: &Quantities) {
        self.take(project, before);
        self.add(project, after);
    }

    /// The quantities with the projects' names.
    pub(super) fn quantities(&self, names: &[Arc<str>]) -> Vec<(Arc<str>, Category, u64)> {
        let mut all = Vec::new();
        for (name, counts) in names.iter().zip(&self.projects) {
            for category in Category::ALL {
                if counts[category as usize] > 0 {
                    all.push((Arc::clone(name), category, counts[category as usize]));
                }
            }
        }
        all
    }

    fn add(&mut self, project: u32, quantities: &Quantities) {
        let at = project as usize;
        if self.projects.len() <= at {
            self.projects.resize(at + 1, Default::default());
        }
        for (category, n) in quantities.iter() {
            self.projects[at][category as usize] += n;
        }
    }

    fn take(&mut self, project: u32, quantities: &Quantities) {
        let Some(counts) = self.projects.get_mut(project as usize) else { return };
        for (category, n) in quantities.iter() {
            counts[category as usize] = counts[category as usize].saturating_sub(n);
        }
    }
}
