//! Which journal backends there are: the one that a configuration names is opened here, for a daemon or for a move.
//!
//! A daemon is assembled on a journal and on what the relays on it share. On one machine that is SQLite and the configuration file;
//! several relays share a database, and each has a file.

use std::sync::Arc;

use crate::journal::postgres::{PostgresJournal, PostgresStore};
use crate::journal::sqlite::{SqliteJournal, SqliteStore};
use crate::journal::transfer::{Store, TransferError};
use crate::journal::{Durability, Journal, Settings};
use crate::policy::dedup::SECRET;
use crate::tasks;
use crate::telemetry::ledger::Ledger;

use super::control::{Control, File};
use super::sharing::Sharing;
use super::{DaemonError, Options};

/// What a daemon is assembled on.
pub struct Backend {
    /// Everything that is kept.
    pub journal: Arc<dyn Journal>,
    /// The accounts that the journal posts to. Whoever opens the journal has posted the totals.
    pub ledger: Ledger,
    /// Under which the keys of repeats are made: made once, kept with the journal, the same for all relays on it.
    pub secret: [u8; SECRET],
    /// What the relays on the journal share.
    pub control: Arc<dyn Control>,
}

impl Backend {
    /// The one that the configuration names. The primary of all relays is put over that of the file.
    pub(super) async fn of(options: &mut Options) -> Result<Self, DaemonError> {
        let (settings, clock) = (options.loaded.config.journal.clone(), options.clock.clone());
        let (ledger, file) = (Ledger::default(), File::new(options.path.clone(), options.loaded.fingerprint));
        if settings.url.is_none() {
            let posted = ledger.clone();
            let journal = tasks::blocking(move || SqliteJournal::open(&settings, clock, posted)).await?;
            return Ok(Self { secret: journal.secret(), journal: Arc::new(journal), ledger, control: Arc::new(file) });
        }
        let journal = Arc::new(PostgresJournal::open(&settings, clock, ledger.clone()).await?);
        let control = Arc::new(Sharing::begin(Arc::clone(&journal), file, &mut options.loaded).await?);
        Ok(Self { secret: journal.secret(), journal, ledger, control })
    }
}

/// Takes the journal that the settings name, for a move. Of a source it is not asked how durable it is: it is only read, once it is
/// brought up to date.
pub(super) async fn store(settings: &Settings, is_source: bool) -> Result<Box<dyn Store>, TransferError> {
    let settings = settings.clone();
    if settings.url.is_none() {
        return Ok(Box::new(tasks::blocking(move || SqliteStore::open(&settings, !is_source)).await?));
    }
    let durability = if is_source { Durability::Single } else { settings.durability };
    Ok(Box::new(PostgresStore::open(&Settings { durability, ..settings }).await?))
}
