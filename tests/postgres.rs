//! The journal in PostgreSQL: checked against the promises of every port, and shared by whole relays.

use switchyard::{clock, journal, policy, protocol, telemetry, units};

#[cfg(test)]
#[path = "postgres/append.rs"]
mod append;
#[cfg(test)]
#[path = "postgres/bounds.rs"]
mod bounds;
#[cfg(test)]
#[path = "postgres/claim.rs"]
mod claim;
#[cfg(test)]
#[path = "../src/journal/contract/mod.rs"]
mod contract;
#[path = "postgres/control.rs"]
mod control;
#[cfg(test)]
#[path = "postgres/days.rs"]
mod days;
#[cfg(test)]
#[path = "postgres/drain.rs"]
mod drain;
#[cfg(test)]
#[path = "postgres/former.rs"]
mod former;
#[cfg(test)]
#[path = "postgres/handout.rs"]
mod handout;
#[cfg(test)]
#[path = "postgres/large.rs"]
mod large;
#[path = "postgres/moved.rs"]
mod moved;
#[cfg(test)]
#[path = "postgres/pace.rs"]
mod pace;
#[cfg(test)]
#[path = "postgres/plane.rs"]
mod plane;
#[path = "postgres/promises.rs"]
mod promises;
#[path = "postgres/relays.rs"]
mod relays;
#[path = "postgres/room.rs"]
mod room;
mod support;
#[cfg(test)]
#[path = "postgres/term.rs"]
mod term;
#[cfg(test)]
#[path = "postgres/unknown.rs"]
mod unknown;
#[cfg(test)]
#[path = "postgres/upgrade.rs"]
mod upgrade;
#[cfg(test)]
#[path = "postgres/upkeep.rs"]
mod upkeep;
#[cfg(test)]
#[path = "postgres/verification.rs"]
mod verification;
#[cfg(test)]
#[path = "postgres/verified.rs"]
mod verified;
