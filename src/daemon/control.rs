//! What relays on one journal share: the configuration with its primary, and who of them does what is to be done once.
//!
//! Rule: a relay asks before each step of a chore. If it leads, it does the step at once and asks again before the next. A step takes
//! seconds at most. One that stalls in the middle may overlap with the next leader's: a step may be done twice.

use std::path::{Path, PathBuf};

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, ready};
use tokio::sync::mpsc;

use crate::config::diagnostics::LoadError;
use crate::config::edit::{self, EditError};
use crate::config::watch::Watch;
use crate::config::{Fingerprint, Loaded, load};
use crate::tasks::{self, Tasks};

/// What one relay at a time does for all.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Chore {
    /// What waited too long is dropped.
    Expire,
    /// What was kept long enough goes.
    Prune,
    /// Upstreams are told what was dropped.
    ClientReports,
    /// Events of ours are sent through to the upstreams.
    Canaries,
    /// Upstreams are given what they were not meant to get.
    Backfills,
    /// Events are looked for at their upstreams.
    Verification,
    /// Somebody is told when something breaks.
    Notifications,
}

/// What the relays share. One relay alone has its file.
pub trait Control: Send + Sync {
    /// Tells, from one of these tasks, when the configuration is another one. It may tell of a change that this relay made itself, and
    /// of several at once; it misses none.
    fn watch(&self, tasks: &Tasks) -> mpsc::Receiver<()>;

    /// The configuration.
    fn load(&self) -> BoxFuture<'_, Result<Loaded, LoadError>>;

    /// Makes an upstream the primary in the configuration, as every later [`Control::load`] shows it; returns the one before. The error
    /// is a sentence for whoever asked.
    fn set_primary(&self, name: &str) -> BoxFuture<'_, Result<Option<String>, String>>;

    /// Whether it was this relay that made the primary in force the primary, as far as is known: it keeps the switch.
    fn made_primary(&self, name: &str) -> bool;

    /// Whether this relay may do the next step of the chore. Also `false` while that cannot be told.
    fn leads(&self, chore: Chore) -> BoxFuture<'_, bool>;
}

/// The file of one relay, which does everything itself.
pub(super) struct File {
    path: PathBuf,
    /// Its content when it was loaded first.
    first: Fingerprint,
}

impl File {
    pub(super) fn new(path: PathBuf, first: Fingerprint) -> Self {
        Self { path, first }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Control for File {
    fn watch(&self, tasks: &Tasks) -> mpsc::Receiver<()> {
        // A task of its own: a look takes a moment, in which nothing else may wait or be forgotten.
        let (tell, told) = mpsc::channel(1);
        let (mut watch, stop) = (Watch::new(&self.path, self.first), tasks.stopping().clone());
        tasks.spawn("the watch over the configuration", async move {
            while stop.run_until_cancelled(watch.changed()).await.is_some() && tell.send(()).await.is_ok() {}
        });
        told
    }

    fn load(&self) -> BoxFuture<'_, Result<Loaded, LoadError>> {
        let path = self.path.clone();
        tasks::blocking(move || load(&path)).boxed()
    }

    fn set_primary(&self, name: &str) -> BoxFuture<'_, Result<Option<String>, String>> {
        let (path, name) = (self.path.clone(), name.to_owned());
        tasks::blocking(move || edit::set_primary(&path, &name).map_err(|error| refusal(&error, &name))).boxed()
    }

    fn made_primary(&self, _: &str) -> bool {
        true
    }

    fn leads(&self, _: Chore) -> BoxFuture<'_, bool> {
        ready(true).boxed()
    }
}

fn refusal(error: &EditError, name: &str) -> String {
    match error {
        EditError::Io { .. } => format!(
            "the daemon cannot change its file: {error}; who can does it with `switchyard switch {name}`, and then it is live, too"
        ),
        error => error.to_string(),
    }
}
