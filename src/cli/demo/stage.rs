//! The demo's surroundings: a folder, ports on the loopback interface, a configuration, two stand-in trackers.

use std::fs::DirBuilder;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::TcpListener;

use crate::cli::failure::{Exit, Failure};
use crate::clock::Clock;
use crate::http::sink::{Behaviour, Sink};
use crate::tasks::Tasks;

use super::traffic::KEY;

/// A range below the ports that systems assign to outgoing connections.
const PORTS: std::ops::Range<u16> = 24_000..32_000;
/// How long a tracker may take to go down.
const PATIENCE: Duration = Duration::from_secs(2);

/// A folder that is removed with this value, unless it is to be kept.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    keep: bool,
}

impl Folder {
    /// A temporary folder whose name ends with `end`.
    pub(super) fn own(end: &str) -> Result<Self, Failure> {
        Self::at(std::env::temp_dir().join(format!("switchyard-demo-{}{end}", std::process::id())), false)
    }

    /// The folder at `keep`, or a temporary one.
    pub(super) fn make(keep: Option<&Path>) -> Result<Self, Failure> {
        keep.map_or_else(|| Self::own(""), |path| Self::at(path.to_owned(), true))
    }

    fn at(path: PathBuf, keep: bool) -> Result<Self, Failure> {
        // Nobody else may look into the folder, and an existing one belongs to somebody else.
        match DirBuilder::new().mode(0o700).create(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && keep => {
                if !is_empty(&path) {
                    let why = format_args!("{} is there: name a new folder, or one that is empty", path.display());
                    return Err(Failure::new(Exit::CannotCreate, why));
                }
            }
            Err(error) => return Err(Failure::file(&path, "created", &error)),
            Ok(()) => {}
        }
        let path = std::fs::canonicalize(&path).map_err(|error| Failure::file(&path, "read", &error))?;
        Ok(Self { path, keep })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

fn is_empty(path: &Path) -> bool {
    std::fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none())
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !self.keep {
            // Content that cannot be removed stays in the system's folder for temporary files.
            drop(std::fs::remove_dir_all(&self.path));
        }
    }
}

/// A stand-in tracker that can be stopped and brought back at the same address.
#[derive(Debug)]
pub(super) struct Tracker {
    pub(super) name: &'static str,
    pub(super) sink: Sink,
    address: SocketAddr,
    running: Tasks,
    /// The listener that accepts connections and never answers, while the tracker is silent.
    silent: Option<std::net::TcpListener>,
}

impl Tracker {
    /// Starts a tracker.
    pub(super) fn start(name: &'static str, ports: &mut Ports) -> Result<Self, Failure> {
        let listener = ports.listener()?;
        let address = listener.local_addr().map_err(no_port)?;
        let sink = Sink::new(name, Behaviour::default(), Clock::system());
        let mut tracker = Self { name, sink, address, running: Tasks::new(), silent: None };
        tracker.serve(listener)?;
        Ok(tracker)
    }

    fn serve(&mut self, listener: std::net::TcpListener) -> Result<(), Failure> {
        let listener =
            listener.set_nonblocking(true).and_then(|()| TcpListener::from_std(listener)).map_err(no_port)?;
        self.running = Tasks::new();
        self.running.spawn("a tracker", self.sink.clone().serve(listener, self.running.clone()));
        Ok(())
    }

    /// Takes the tracker off the network: connections are refused.
    pub(super) async fn go_down(&self) -> Result<(), Failure> {
        match self.running.stop(PATIENCE).await {
            true => Ok(()),
            false => Err(Failure::new(Exit::Internal, format_args!("{} does not stop", self.name))),
        }
    }

    /// Makes the tracker accept connections and never answer.
    pub(super) async fn fall_silent(&mut self) -> Result<(), Failure> {
        self.go_down().await?;
        self.silent = Some(std::net::TcpListener::bind(self.address).map_err(no_port)?);
        Ok(())
    }

    /// Brings the tracker back.
    pub(super) async fn come_back(&mut self) -> Result<(), Failure> {
        self.silent = None;
        let listener = TcpListener::bind(self.address).await.and_then(TcpListener::into_std).map_err(no_port)?;
        self.serve(listener)
    }

    fn dsn(&self, project: u32) -> String {
        format!("http://{KEY}@{}/{project}", self.address)
    }
}

fn no_port(error: io::Error) -> Failure {
    Failure::new(Exit::Unavailable, format_args!("the demo finds no port on 127.0.0.1: {error}"))
}

/// Free ports, each given once.
#[derive(Debug)]
pub(super) struct Ports(u16);

impl Ports {
    /// Begins at a different port in each process, spaced further than one demo needs.
    pub(super) fn new() -> Self {
        let spread = std::process::id().wrapping_mul(16) % u32::from(PORTS.end - PORTS.start);
        Self(PORTS.start + u16::try_from(spread).unwrap_or(0))
    }

    fn listener(&mut self) -> Result<std::net::TcpListener, Failure> {
        let mut last = io::Error::other("all are in use");
        for _ in PORTS {
            self.0 = if self.0 + 1 < PORTS.end { self.0 + 1 } else { PORTS.start };
            match std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, self.0)) {
                Ok(listener) => return Ok(listener),
                Err(error) => last = error,
            }
        }
        Err(no_port(last))
    }

    /// An address at which nobody listens now.
    pub(super) fn address(&mut self) -> Result<SocketAddr, Failure> {
        self.listener()?.local_addr().map_err(no_port)
    }
}

/// The demo's configuration, as a person would write it. `journal` holds the lines of its section.
pub(super) fn config(journal: &str, relay: SocketAddr, admin: SocketAddr, trackers: &[Tracker; 2]) -> String {
    let [sentry, glitchtip] = trackers;
    format!(
        "# The configuration of `switchyard demo`. It is live: save a change, and it is in force.\n\
         \n\
         primary = \"sentry\"        # flip this line\n\
         mirror = true\n\
         \n\
         [server]\n\
         listen = [\"{relay}\"]\n\
         \n\
         [admin]\n\
         listen = \"{admin}\"\n\
         \n\
         [journal]\n\
         {journal}\n\
         min_free_disk = \"16MiB\"\n\
         \n\
         [upstreams.sentry]\n\
         [upstreams.glitchtip]\n\
         \n\
         [[projects]]\n\
         name = \"shop\"\n\
         id = \"1\"\n\
         public_key = \"{KEY}\"\n\
         \n\
         [projects.upstreams]\n\
         sentry = \"{}\"\n\
         glitchtip = \"{}\"\n",
        sentry.dsn(4507),
        glitchtip.dsn(3),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_removed_unless_it_is_to_be_kept() {
        let around = tempfile::tempdir().unwrap();
        let kept = around.path().join("kept");
        drop(Folder::make(Some(&kept)).unwrap());
        assert!(kept.is_dir());
        std::fs::write(kept.join("something"), "").unwrap();
        assert_eq!(Folder::make(Some(&kept)).unwrap_err().code(), 73);
        let own = Folder::make(None).unwrap();
        let path = own.path().to_owned();
        assert!(path.is_dir());
        drop(own);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn the_demos_configuration_is_valid() {
        let mut ports = Ports::new();
        let trackers = ["sentry", "glitchtip"].map(|name| Tracker::start(name, &mut ports).unwrap());
        let (relay, admin) = (ports.address().unwrap(), ports.address().unwrap());
        let text = config("path = \"/tmp/journal.db\"", relay, admin, &trackers);
        let loaded = crate::config::parse("config.toml", &text, &|_| None).unwrap();
        assert!(loaded.warnings.is_empty(), "{}", loaded.warnings);
    }
}
