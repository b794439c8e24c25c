//! The relays that share the journal, as `switchyard status` shows them.

use crate::clock::Timestamp;
use crate::telemetry::status::{RelayStatus, StandbyStatus, Status};
use crate::telemetry::words;

use super::terminal::{Tone, harmless, tint};

/// A line for each relay and standby; `None` for a journal in a file.
pub(super) fn render(status: &Status) -> Option<String> {
    let relays = status.journal.relays.iter().map(|relay| of_relay(status.now, relay));
    let lines: Vec<String> = relays.chain(status.journal.standbys.iter().map(of_standby)).collect();
    (!lines.is_empty()).then(|| format!("\nrelays\n{}", lines.join("\n")))
}

fn of_relay(now: Timestamp, relay: &RelayStatus) -> String {
    let own = if relay.own { "this one, " } else { "" };
    let mut line = format!(
        "  {}: {own}version {}, {}, {} in hand",
        harmless(&relay.name, 100),
        harmless(&relay.version, 40),
        words::life(now, relay),
        words::count(relay.leases),
    );
    if relay.leads {
        line += ", leads";
    }
    if let Some(differs) = words::differing(relay) {
        line += &format!(", {}", harmless(&differs, 400));
    }
    if relay.spilled > 0 {
        line += &format!(", {} kept on its machine", words::kept(relay));
    }
    if relay.alive { line } else { tint(Tone::Bad, line) }
}

fn of_standby(standby: &StandbyStatus) -> String {
    format!("  standby {}: {}", harmless(&standby.name, 100), words::behind(standby))
}
