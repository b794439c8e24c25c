//! The command line of the bench.

use std::time::Duration;

use clap::Parser;

use super::contender::Kind;

/// Measures relays side by side.
#[derive(Parser, Debug)]
#[command(name = "relay", about = "Measures relays side by side and prints the table of speed and size")]
pub(crate) struct Options {
    /// Under a minute: one short round, a small backlog
    #[arg(long)]
    pub quick: bool,
    /// Print JSON instead of a table
    #[arg(long)]
    pub json: bool,
    /// Exit with 1 when a must is missed
    #[arg(long)]
    pub strict: bool,
    /// Rounds whose median is reported [default: 5, quick: 1]
    #[arg(long = "rounds", value_name = "N")]
    round_count: Option<usize>,
    /// Seconds of full load in each round [default: 5, quick: 2]
    #[arg(long, value_name = "S")]
    seconds: Option<f64>,
    /// Connections of the load
    #[arg(long, value_name = "N", default_value_t = 32)]
    pub connections: usize,
    /// A new connection for each request, as @sentry/node 10.24 does
    #[arg(long)]
    pub connection_per_request: bool,
    /// Let the upstreams answer with nothing, not with an event id as trackers do: nginx's best case, for its mirror opens a new
    /// connection for each envelope when answers have a body
    #[arg(long)]
    pub bare_answers: bool,
    /// Envelopes waiting in the backlog measure; 0 leaves it out [quick: at most 50000]
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    pub backlog: u64,
    /// Seconds after which the backlog is taken as it is
    #[arg(long, value_name = "S", default_value_t = 150)]
    pub backlog_seconds: u64,
    /// Only these contenders
    #[arg(long, value_delimiter = ',', value_enum)]
    only: Vec<Kind>,
    /// Given by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

impl Options {
    /// Whether `kind` takes part.
    pub(crate) fn wants(&self, kind: Kind) -> bool {
        self.only.is_empty() || self.only.contains(&kind)
    }

    /// The number of rounds.
    pub(crate) fn rounds(&self) -> usize {
        self.round_count.unwrap_or(if self.quick { 1 } else { 5 }).max(1)
    }

    /// The duration of a round's full load.
    pub(crate) fn full_load(&self) -> Duration {
        Duration::from_secs_f64(self.seconds.unwrap_or(if self.quick { 2.0 } else { 5.0 }))
    }

    /// The duration of each paced part of a round.
    pub(crate) fn paced_load(&self) -> Duration {
        Duration::from_secs(if self.quick { 2 } else { 3 })
    }
}
