//! What every process needs of the system: a runtime, signals, file descriptors, logging.

use std::future::Future;
use std::io;
use std::pin::Pin;

use clap::Args;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::tasks;
use crate::telemetry::log::{self, Streams};

use super::failure::{Exit, Failure};
use super::terminal;

/// The maximum number of worker threads; more would find nothing to do.
const MOST_WORKERS: usize = 4;

/// How the process logs, for the verbs that run for long.
#[derive(Args, Clone, Debug)]
pub(super) struct Logging {
    /// How log lines look [default: journald under systemd, else text]
    #[arg(long, value_name = "FORMAT", env = "SWITCHYARD_LOG_FORMAT")]
    log_format: Option<log::Format>,
    /// What is logged, in the syntax of RUST_LOG, which is read too: `info`, `debug`, `switchyard::delivery=debug,info`
    #[arg(long = "log", value_name = "FILTER", env = "SWITCHYARD_LOG")]
    filter: Option<String>,
}

impl Logging {
    /// Starts logging, with `filter` unless another one was asked for.
    pub(super) fn start(&self, streams: Streams, filter: &str) {
        let asked = self.filter.clone().or_else(|| std::env::var("RUST_LOG").ok());
        let asked = asked.filter(|asked| !asked.trim().is_empty());
        let format = self.log_format.unwrap_or_else(log::Format::detect);
        log::start(format, streams, asked.as_deref().unwrap_or(filter));
    }
}

/// The command that starts this program in another terminal: its name if a shell finds it by that, else its path.
pub(super) fn as_called() -> String {
    const NAME: &str = "switchyard";
    let Ok(own) = std::env::current_exe().and_then(std::fs::canonicalize) else { return NAME.to_owned() };
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join(NAME)).find(|file| file.is_file());
    let is_found = found.and_then(|file| std::fs::canonicalize(file).ok()).is_some_and(|file| file == own);
    if is_found { NAME.to_owned() } else { terminal::as_word(&own) }
}

/// Runs a future to its end on this thread, for verbs that only send requests.
pub(super) fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    runtime(Builder::new_current_thread())?.block_on(boxed(work))
}

/// Runs a future to its end with threads for the daemon's tasks.
pub(super) fn block_on_many<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let workers = std::thread::available_parallelism().map_or(1, usize::from).min(MOST_WORKERS);
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(workers).max_blocking_threads(tasks::threads(open_files()));
    let runtime = runtime(builder)?;
    let outcome = runtime.block_on(boxed(work));
    // Tasks that still run had their time; everything that was accepted is in the journal.
    runtime.shutdown_background();
    outcome
}

/// Boxes a future, so that the runtime's code is compiled once for each type of outcome and not for each verb.
fn boxed<'w, T>(work: impl Future<Output = T> + 'w) -> Pin<Box<dyn Future<Output = T> + 'w>> {
    Box::pin(work)
}

fn runtime(mut builder: Builder) -> Result<Runtime, Failure> {
    let built = builder.enable_all().build();
    built.map_err(|error| Failure::new(Exit::Internal, format_args!("the runtime cannot be started: {error}")))
}

/// SIGHUP, which asks a daemon to load its file again. Once this was called, the signal no longer ends the process.
pub(super) fn hangup() -> Result<Signal, Failure> {
    signal(SignalKind::hangup()).map_err(deaf)
}

fn deaf(error: io::Error) -> Failure {
    Failure::new(Exit::Internal, format_args!("signals cannot be listened to: {error}"))
}

/// SIGINT and SIGTERM, which ask the process to end. Once this exists, they no longer end it by themselves.
#[derive(Debug)]
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// Begins to handle the signals.
    pub(super) fn listen() -> Result<Self, Failure> {
        let all = || -> io::Result<Self> {
            Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
        };
        all().map_err(deaf)
    }

    /// Waits for the next signal.
    pub(super) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// The number of files that the process may have open at once.
fn open_files() -> usize {
    getrlimit(Resource::Nofile).current.and_then(|files| usize::try_from(files).ok()).unwrap_or(usize::MAX)
}

/// Raises the limit of open files as far as the system allows: each connection is one.
pub(super) fn raise_open_files() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current == maximum {
        return;
    }
    match setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        Ok(()) => tracing::info!(before = current, now = maximum, "the limit of open files was raised"),
        Err(error) => tracing::warn!(%error, current, "the limit of open files cannot be raised"),
    }
}
