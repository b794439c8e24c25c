//! Which journal backends there are: the one that a configuration names is opened here, for a daemon or for a move.
//!
//! A daemon is assembled on a journal. On one machine that is SQLite, and the configuration file alone says what holds. Several relays
//! share a database, whose control plane says what holds for all: each has a file besides.

use std::sync::Arc;

use crate::clock::Clock;
use crate::journal::postgres::{PostgresJournal, PostgresStore};
use crate::journal::sqlite::{SqliteJournal, SqliteStore};
use crate::journal::transfer::{Store, TransferError};
use crate::journal::{Durability, Journal, JournalError, OpenError, Settings};
use crate::policy::dedup::SECRET;
use crate::tasks;
use crate::telemetry::ledger::Ledger;

use super::Options;
use super::control::{Control, File};
use super::sharing::Sharing;

/// What a daemon is assembled on.
pub struct Backend {
    /// Everything that is kept.
    pub journal: Arc<dyn Journal>,
    /// The accounts that the journal posts to. Whoever opens the journal has posted the totals.
    pub ledger: Ledger,
    /// Under which the keys of repeats are made: made once, kept with the journal, the same for all relays on it.
    pub secret: [u8; SECRET],
}

impl Backend {
    /// The one that the configuration names.
    pub(super) async fn of(settings: &Settings, clock: Clock) -> Result<Self, OpenError> {
        let (settings, ledger) = (settings.clone(), Ledger::default());
        if settings.url.is_some() {
            let journal = PostgresJournal::open(&settings, clock, ledger.clone()).await?;
            return Ok(Self { secret: journal.secret(), journal: Arc::new(journal), ledger });
        }
        let posted = ledger.clone();
        let journal = tasks::blocking(move || SqliteJournal::open(&settings, clock, posted)).await?;
        Ok(Self { secret: journal.secret(), journal: Arc::new(journal), ledger })
    }

    /// What the relays on it share. Where they share something besides the journal, that is put over what the file says.
    pub(super) async fn control(&self, options: &mut Options) -> Result<Arc<dyn Control>, JournalError> {
        let file = File::new(options.path.clone(), options.loaded.fingerprint);
        Ok(match Arc::clone(&self.journal).control_plane() {
            Some(control_plane) => Arc::new(Sharing::begin(control_plane, file, &mut options.loaded).await?),
            None => Arc::new(file),
        })
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
