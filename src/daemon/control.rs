//! What relays on one journal share: the configuration with its primary, and the chores. A chore is done by one relay for all: expire and
//! prune, send client reports and canaries, continue backfills, verify storage at trackers, notify receivers.
//!
//! Rule: a relay asks before each step of a chore whether it leads. If it does, it does the step at once, under the
//! [term](crate::journal::term) that it got, and asks again before the next. A step takes seconds at most. If a relay stalls in a step
//! until another one leads, the journal refuses that step.

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

/// What the relays share. A relay alone has only its file.
pub(super) trait Control: Send + Sync {
    /// Starts tasks that notify of changes of the configuration. They may notify of a change that this relay made itself, and once for
    /// several changes, but miss none.
    fn watch(&self, tasks: &Tasks) -> mpsc::Receiver<()>;

    /// Loads the configuration. With `is_asked` the file counts although it has not changed.
    fn load(&self, is_asked: bool) -> BoxFuture<'_, Result<Loaded, LoadError>>;

    /// Makes an upstream the primary in the configuration that every later [`Control::load`] returns. Returns the one before. The error is
    /// a sentence for the caller.
    fn set_primary(&self, name: &str) -> BoxFuture<'_, Result<Option<String>, String>>;

    /// Makes `before` the primary again, unless the primary was changed since this relay made it `name`.
    fn take_back(&self, name: &str, before: &str) -> BoxFuture<'_, Result<(), String>>;

    /// Whether this relay made `name` the primary in force, as far as is known. If so, it records the switch.
    fn made_primary(&self, name: &str) -> bool;

    /// The term under which this relay may do the next step of a chore; `None` if it does not lead or that is unknown.
    fn leads(&self) -> BoxFuture<'_, Option<Epoch>>;
}

/// The file of a relay that shares nothing: it leads in everything.
pub(super) struct File {
    path: PathBuf,
    /// The fingerprint of the content that was loaded at the start.
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
        // Its own task: a look takes a moment, which must neither delay anything nor be cut off.
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
