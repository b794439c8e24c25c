//! What relays on one journal share: the configuration with its primary, and who does the chores. A chore is done once for all:
//! expire and prune, send client reports and canaries, go on with backfills, ask trackers what they store, notify receivers.
//!
//! Rule: a relay asks before each step of a chore whether it leads. If it does, it does the step at once, under the
//! [term](crate::journal::term) that it was told, and asks again before the next. A step takes seconds at most. If a relay stalls
//! in a step until another one leads, the journal refuses that step.

use std::path::{Path, PathBuf};

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, ready};
use tokio::sync::mpsc;

use crate::config::diagnostics::LoadError;
use crate::config::edit::{self, EditError};
use crate::config::watch::{Watch, is_pipe};
use crate::config::{Fingerprint, Loaded, load};
use crate::journal::term::Epoch;
use crate::tasks::{self, Tasks};

/// What the relays share. One relay alone has its file.
pub(super) trait Control: Send + Sync {
    /// Tells, from one of these tasks, when the configuration is another one. It may tell of a change that this relay made itself, and
    /// of several at once; it misses none.
    fn watch(&self, tasks: &Tasks) -> mpsc::Receiver<()>;

    /// The configuration. Somebody may have asked for it: then the file counts although it has not changed.
    fn load(&self, is_asked: bool) -> BoxFuture<'_, Result<Loaded, LoadError>>;

    /// Makes an upstream the primary in the configuration, as every later [`Control::load`] shows it; returns the one before. The error
    /// is a sentence for whoever asked.
    fn set_primary(&self, name: &str) -> BoxFuture<'_, Result<Option<String>, String>>;

    /// Makes `before` the primary again, unless somebody has made another one the primary since this relay made `name` that.
    fn take_back(&self, name: &str, before: &str) -> BoxFuture<'_, Result<(), String>>;

    /// Whether it was this relay that made the primary in force the primary, as far as is known: it keeps the switch.
    fn made_primary(&self, name: &str) -> bool;

    /// The term under which this relay may do the next step of a chore, if it leads. Also `None` while that cannot be told.
    fn leads(&self) -> BoxFuture<'_, Option<Epoch>>;
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

    fn load(&self, _: bool) -> BoxFuture<'_, Result<Loaded, LoadError>> {
        let path = self.path.clone();
        tasks::blocking(move || match is_pipe(&path) {
            true => Err(LoadError::Unfit { path, why: "it is no regular file, and cannot be read again".to_owned() }),
            false => load(&path),
        })
        .boxed()
    }

    fn set_primary(&self, name: &str) -> BoxFuture<'_, Result<Option<String>, String>> {
        let (path, name) = (self.path.clone(), name.to_owned());
        tasks::blocking(move || edit::set_primary(&path, &name).map_err(|error| refusal(&error, &name))).boxed()
    }

    fn take_back(&self, name: &str, before: &str) -> BoxFuture<'_, Result<(), String>> {
        let (path, name, before) = (self.path.clone(), name.to_owned(), before.to_owned());
        tasks::blocking(move || edit::take_back(&path, &name, &before).map_err(|error| error.to_string())).boxed()
    }

    fn made_primary(&self, _: &str) -> bool {
        true
    }

    fn leads(&self) -> BoxFuture<'_, Option<Epoch>> {
        ready(Some(Epoch::ALONE)).boxed()
    }
}

fn refusal(error: &EditError, name: &str) -> String {
    match error {
        EditError::Io { .. } => {
            format!("the daemon cannot change its file: {error}; run `switchyard switch {name}` as a user who can")
        }
        error => error.to_string(),
    }
}
