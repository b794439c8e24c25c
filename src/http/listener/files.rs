//! Divides the files that the process may have open: connections from SDKs get what nothing else needs.

use std::collections::BTreeMap;
use std::sync::Arc;

use rustix::process::{Resource, getrlimit};

use crate::delivery::settings::Settings;
use crate::tasks;

/// Files that are always open, and those of a few short tasks: the journal, the listeners, the runtime, notifications.
const ALWAYS: usize = 48;
/// The most connections of operators: people, scrapers and health checks.
const OPERATORS: usize = 64;
/// The most requests at the primary at once.
const PROXIED: usize = 64;
/// The most connections of one listener.
pub(super) const MOST: usize = 16_384;
/// The least number of files that connections from SDKs leave free, or half of all if that is less.
const RESERVED: usize = 2048;

/// The number of files that may be open.
#[derive(Clone, Copy, Debug)]
pub(in crate::http) struct Files(usize);

impl Files {
    /// The number that the system allows this process.
    pub(in crate::http) fn allowed() -> Self {
        Self(getrlimit(Resource::Nofile).current.and_then(|files| usize::try_from(files).ok()).unwrap_or(usize::MAX))
    }

    /// The most connections of operators.
    pub(super) fn operators(self) -> usize {
        (self.0 / 8).clamp(8, OPERATORS)
    }

    /// The most requests at the primary at once, a connection each.
    pub(in crate::http) fn proxied(self) -> usize {
        (self.0 / 16).clamp(4, PROXIED)
    }

    /// The most connections of SDKs beside this many files of deliveries, and whether everything else has the files that it may need.
    pub(super) fn clients(self, deliveries: usize) -> (usize, bool) {
        let needed = ALWAYS + self.operators() + self.proxied() + tasks::threads(self.0) + deliveries;
        let left = self.0.saturating_sub(needed.max(RESERVED.min(self.0 / 2)));
        // SDKs get some connections in any case.
        let least = (self.0 / 4).max(1);
        (left.clamp(least, MOST.max(least)).min(MOST), left >= least)
    }
}

/// The files that deliveries may have open: a connection and a body for each request that may be in flight, and per upstream two more
/// connections for questions to a tracker's API.
pub(in crate::http) fn of_deliveries(upstreams: &BTreeMap<Arc<str>, Settings>) -> usize {
    upstreams.values().map(|settings| 2 * usize::from(settings.max_in_flight.get()) + 2).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_files_for_everything_else() {
        let one = of_deliveries(&[("a".into(), Settings::default())].into());
        assert_eq!(one, 18);
        for (files, connections, is_enough) in [
            (1, 1, false),
            (64, 16, false),
            (256, 110, true),
            (1024, 512, true),
            (4096, 2048, true),
            (16_384, 14_336, true),
            (1 << 20, MOST, true),
            (usize::MAX, MOST, true),
        ] {
            assert_eq!(Files(files).clients(one), (connections, is_enough), "{files}");
        }
        assert_eq!(Files(256).clients(8 * one), (64, false), "many upstreams take from the connections, but not all");
    }

    #[test]
    fn all_needs_together_fit_into_the_files_there_are() {
        for files in 256..5000 {
            let files = Files(files);
            let (clients, is_enough) = files.clients(18);
            let all = ALWAYS + files.operators() + files.proxied() + tasks::threads(files.0) + 18 + clients;
            assert!(is_enough && all <= files.0, "{all} of {files:?}");
        }
    }
}
