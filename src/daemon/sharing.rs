//! The configuration of a relay that shares its journal: its own file, under the primary of all.
//!
//! Rules: the database says which upstream is the primary; the first relay to start says it there. A file that names another one is
//! told of and changes nothing, but a change of its line while the relay runs is a switch. Without the database the primary stays.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::sync::mpsc;

use crate::config::Loaded;
use crate::config::diagnostics::LoadError;
use crate::journal::JournalError;
use crate::journal::postgres::{PostgresJournal, SharedPrimary};
use crate::tasks::Tasks;

use super::control::{Chore, Control, File};

/// What relays on a database share.
pub(super) struct Sharing {
    journal: Arc<PostgresJournal>,
    file: File,
    seen: Mutex<Seen>,
}

/// What was seen last.
#[derive(Clone)]
struct Seen {
    /// The primary that the file names.
    own: Arc<str>,
    shared: SharedPrimary,
}

impl Sharing {
    /// Puts the primary of all over what the file says.
    pub(super) async fn begin(
        journal: Arc<PostgresJournal>,
        file: File,
        loaded: &mut Loaded,
    ) -> Result<Self, JournalError> {
        let own = Arc::clone(&loaded.config.primary);
        let shared = journal.shared_primary(&own).await?;
        put_over(loaded, &shared).map_err(JournalError::Failed)?;
        Ok(Self { journal, file, seen: Mutex::new(Seen { own, shared }) })
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The primary of all, after a change of the file's line has become a switch.
    async fn follow(&self, own: &Arc<str>) -> Result<SharedPrimary, JournalError> {
        let Seen { own: before, shared: known } = self.seen().clone();
        if *own != before {
            self.journal.share_primary(own).await?;
        }
        let shared = match self.journal.shared_primary(own).await {
            Ok(shared) => shared,
            Err(_) if *own == before => known,
            Err(error) => return Err(error),
        };
        *self.seen() = Seen { own: Arc::clone(own), shared: shared.clone() };
        Ok(shared)
    }
}

/// Puts the primary of all over what the file says.
fn put_over(loaded: &mut Loaded, shared: &SharedPrimary) -> Result<(), String> {
    let (config, name) = (&mut loaded.config, shared.name.as_str());
    if !config.upstreams.contains_key(name) {
        return Err(format!("{name} is the primary of all relays on this journal, and this file has no such upstream"));
    }
    if *config.primary != *name {
        tracing::warn!(
            file = &*config.primary,
            primary = name,
            "the file names another primary than all relays have: theirs holds"
        );
    }
    config.primary = name.into();
    Ok(())
}

impl Control for Sharing {
    fn watch(&self, tasks: &Tasks) -> mpsc::Receiver<()> {
        let (tell, told) = mpsc::channel(1);
        let mut own = self.file.watch(tasks);
        let mut shared = self.journal.watch_primary(self.seen().shared.revision);
        let stop = tasks.stopping().clone();
        let files = tell.clone();
        tasks.spawn("the watch over the file", async move {
            while own.recv().await.is_some() && files.send(()).await.is_ok() {}
        });
        tasks.spawn("the watch over the primary", async move {
            while stop.run_until_cancelled(shared.changed()).await.is_some() && tell.send(()).await.is_ok() {}
        });
        let (set, replaced) = (tasks.clone(), self.journal.replaced().clone());
        tasks.spawn("the watch over the name", async move {
            if set.stopping().clone().run_until_cancelled(replaced.cancelled()).await.is_some() {
                set.fail(
                    "another relay has started under the name of this one: give each a journal.node of its own".into(),
                );
            }
        });
        told
    }

    fn load(&self) -> BoxFuture<'_, Result<Loaded, LoadError>> {
        async {
            let mut loaded = self.file.load().await?;
            let unfit = |why: String| LoadError::Apart { path: self.file.path().to_owned(), why };
            let shared = self.follow(&loaded.config.primary).await;
            let shared = shared.map_err(|error| unfit(format!("the primary cannot be switched: {error}")))?;
            put_over(&mut loaded, &shared).map_err(unfit)?;
            Ok(loaded)
        }
        .boxed()
    }

    fn set_primary(&self, name: &str) -> BoxFuture<'_, Result<Option<String>, String>> {
        let name = name.to_owned();
        async move {
            let shared = self.journal.share_primary(&name).await;
            shared.map_err(|error| format!("the primary of all relays cannot be changed: {error}"))
        }
        .boxed()
    }

    fn made_primary(&self, name: &str) -> bool {
        let shared = &self.seen().shared;
        shared.is_ours && shared.name == name
    }

    fn leads(&self, chore: Chore) -> BoxFuture<'_, bool> {
        self.journal.leads(name_of(chore)).boxed()
    }
}

/// What the database calls it.
fn name_of(chore: Chore) -> &'static str {
    match chore {
        Chore::Expire => "expire",
        Chore::Prune => "prune",
        Chore::ClientReports => "client_reports",
        Chore::Canaries => "canaries",
        Chore::Backfills => "backfills",
        Chore::Verification => "verification",
        Chore::Notifications => "notifications",
    }
}
