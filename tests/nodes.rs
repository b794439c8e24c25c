//! Several relays on one journal: a backend in memory, checked against the promises of every port, and whole relays on it.

use switchyard::{clock, journal, policy, protocol, telemetry, units};

#[cfg(test)]
#[path = "../src/journal/contract/mod.rs"]
mod contract;
#[path = "nodes/promises.rs"]
mod promises;
#[path = "nodes/relays.rs"]
mod relays;
mod support;
#[path = "nodes/toy/mod.rs"]
mod toy;
