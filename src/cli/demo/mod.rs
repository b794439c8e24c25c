//! `switchyard demo`: the whole product on this machine, with nothing to configure. A relay, two stand-in trackers, recorded traffic, a
//! switch, an outage, and the proof that nothing was lost.
//!
//! The daemon is the real one and runs in this process. The demo asks it over its listeners, as anybody would.

use std::future::Future;
use std::path::PathBuf;
use std::pin::pin;

use tokio::signal::unix::Signal;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::config::load;
use crate::daemon::{self, Options};
use crate::http::Listeners;
use crate::telemetry::log::Streams;

use super::admin::AdminClient;
use super::failure::{Exit, Failure};
use super::locate::Contact;
use super::process::{self, Logging, Signals};
use super::terminal;

mod cluster;
mod guarded;
mod script;
mod server;
mod stage;
mod traffic;
mod watch;

use script::Script;
use stage::{Folder, Ports, Tracker};
use traffic::Traffic;
use watch::show_arrivals;

/// Shows the whole thing on this machine, with nothing to configure
///
/// Starts a relay and two stand-in trackers on the loopback interface, sends recorded traffic of real SDKs, switches the primary,
/// takes a tracker down and brings it back, and shows that nothing was lost. Then it stays for you to play with.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Ends by itself: exit 0 when everything went as it should, 1 when not
    #[arg(long)]
    exit: bool,
    /// Shows three relays that share one journal, one of them killed: needs the server of PostgreSQL on this machine
    #[arg(long, conflicts_with = "keep")]
    cluster: bool,
    /// Takes place in this folder and leaves it behind, instead of one that goes away
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    #[command(flatten)]
    logging: Logging,
}

/// Plays the demo.
pub(super) fn demo(args: &Args) -> Result<(), Failure> {
    args.logging.start(Streams::Error, "error");
    if args.cluster {
        return process::block_on_many(async {
            until_told(Ends::listen()?, cluster::play(args.exit), args.exit).await
        });
    }
    let folder = Folder::make(args.keep.as_deref())?;
    // Before other threads start. The sockets that systemd passed are not for the demo.
    let listeners = Listeners::inherit().map_err(|error| Failure::new(Exit::Internal, error))?;
    process::block_on_many(perform(args, &folder, listeners))
}

async fn perform(args: &Args, folder: &Folder, listeners: Listeners) -> Result<(), Failure> {
    let ends = Ends::listen()?;
    let mut ports = Ports::new();
    let trackers = [Tracker::start("sentry", &mut ports)?, Tracker::start("glitchtip", &mut ports)?];
    let (relay, admin) = (ports.address()?, ports.address()?);
    let path = folder.path().join("config.toml");
    let journal = format!("path = {:?}", folder.path().join("journal.db"));
    let text = stage::config(&journal, relay, admin, &trackers);
    std::fs::write(&path, text).map_err(|error| Failure::file(&path, "written", &error))?;
    let loaded = load(&path).map_err(|error| Failure::new(Exit::Internal, error))?;
    let client = AdminClient::new(Contact::of(admin, None))?;
    let script = Script::new(path.clone(), relay, client, Traffic::new(relay)?, trackers);

    let (stop, ready) = (CancellationToken::new(), CancellationToken::new());
    let options = Options { path, loaded, listeners, clock: Clock::system(), hangup: process::hangup()? };
    let mut daemon = pin!(daemon::run(options, stop.clone(), || ready.cancel()));
    let outcome = tokio::select! {
        ended = &mut daemon => return Ok(ended?),
        outcome = until_told(ends, play(script, &ready, args.exit), args.exit) => outcome,
    };
    stop.cancel();
    let ended = daemon.await;
    outcome.and(ended.map_err(Failure::from))
}

async fn play(mut script: Script, ready: &CancellationToken, exit: bool) -> Result<(), Failure> {
    ready.cancelled().await;
    script.play().await?;
    if exit {
        return Ok(());
    }
    script.invite()?;
    show_arrivals(script.sinks()).await
}

/// The signals that end a demo early.
struct Ends {
    signals: Signals,
    /// The demo's terminal was closed.
    hangup: Signal,
}

impl Ends {
    fn listen() -> Result<Self, Failure> {
        Ok(Self { signals: Signals::listen()?, hangup: process::hangup()? })
    }
}

/// Plays until the end or until a signal. With `exit`, a signal is a failure: the demo has not shown everything.
async fn until_told(
    Ends { mut signals, mut hangup }: Ends,
    play: impl Future<Output = Result<(), Failure>>,
    exit: bool,
) -> Result<(), Failure> {
    tokio::select! {
        outcome = play => return outcome,
        () = signals.next() => terminal::say("")?,
        // The terminal is gone, so nothing is printed.
        _ = hangup.recv() => {}
    }
    if exit { Err(watch::failed("it was told to end")) } else { Ok(()) }
}
