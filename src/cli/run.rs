//! `switchyard run`: the daemon, in the foreground, until a signal ends it.

use std::pin::pin;

use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::daemon::{self, Options};
use crate::http::Listeners;
use crate::telemetry::log::Streams;

use super::failure::{Exit, Failure};
use super::locate::Located;
use super::process::{self, Logging, Signals};

/// Runs the daemon in the foreground; logs go to standard error
///
/// Under PM2, only warnings and errors go to standard error, its error.log, and the rest goes to standard output, its out.log.
///
/// A change of the configuration file is live within a second; SIGHUP reloads it at once. SIGINT and SIGTERM stop the daemon in
/// order, and a second one stops it at once. Either way nothing that was acknowledged is lost.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    #[command(flatten)]
    logging: Logging,
}

/// Runs the daemon until it is told to stop.
pub(super) fn run(located: &Located, args: &Args) -> Result<(), Failure> {
    args.logging.start(Streams::Split, "info");
    process::raise_open_files();
    // Now, while this is the only thread: the call reads and clears the environment.
    let listeners = Listeners::inherit()
        .map_err(|error| Failure::new(Exit::Unavailable, format_args!("systemd's sockets cannot be used: {error}")))?;
    process::block_on_many(until_told(located, listeners))
}

async fn until_told(located: &Located, listeners: Listeners) -> Result<(), Failure> {
    // First of all, so that no signal ends a process that is still starting.
    let (hangup, mut signals) = (process::hangup()?, Signals::listen()?);
    let loaded = located.load()?;
    for warning in loaded.warnings.iter() {
        tracing::warn!(line = warning.line, column = warning.column, "{warning}");
    }
    let options = Options { path: located.path(), loaded, listeners, clock: Clock::system(), hangup };
    let stop = CancellationToken::new();
    let mut daemon = pin!(daemon::run(options, stop.clone(), || {}));
    loop {
        tokio::select! {
            outcome = &mut daemon => return Ok(outcome?),
            () = signals.next() => match stop.is_cancelled() {
                false => stop.cancel(),
                true => {
                    let told = "stopped at once; the journal has what was accepted and not yet delivered";
                    return Err(Failure::new(Exit::Negative, told));
                }
            },
        }
    }
}
