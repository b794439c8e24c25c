//! The daemon. (Being assembled.)

use std::path::PathBuf;

use tokio_util::sync::CancellationToken;

use crate::config::Loaded;
use crate::http::Listeners;
use crate::journal::OpenError;

/// What a daemon starts with.
#[derive(Debug)]
pub struct Options {
    /// The configuration file, watched while running.
    pub path: PathBuf,
    /// Its content.
    pub loaded: Loaded,
    /// The sockets systemd gave, if any.
    pub listeners: Listeners,
}

/// Why a daemon did not start, or could not go on.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The journal cannot be opened: exit code 74.
    #[error(transparent)]
    Journal(#[from] OpenError),
    /// A listener cannot be bound: exit code 69.
    #[error("cannot listen on {address}: {why}")]
    Listen {
        /// The address of the configuration.
        address: std::net::SocketAddr,
        /// What the system says.
        why: std::io::Error,
    },
    /// A part of it failed while running: exit code 70.
    #[error("{0}")]
    Failed(String),
}

/// Runs until `stop` is cancelled; calls `ready` once, when requests are accepted.
pub async fn run(options: Options, stop: CancellationToken, ready: impl FnOnce()) -> Result<(), DaemonError> {
    drop(options);
    ready();
    stop.cancelled().await;
    Ok(())
}
