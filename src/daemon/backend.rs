//! The journal backends: opens the one that a configuration names, for a daemon or for a move.
//!
//! A daemon is assembled on a journal. On one machine that is SQLite, and the configuration file alone is in force. Several relays share a
//! database, whose control plane holds what is in force for all; each also has a file.

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

/// The journal that a daemon is assembled on, with what belongs to it.
pub struct Backend {
    /// The journal.
    pub journal: Arc<dyn Journal>,
    /// The accounts that the journal posts to. They have the journal's totals once it is open.
    pub ledger: Ledger,
    /// The secret that the keys of duplicates are made with. It is made once, kept with the journal, and the same for all its relays.
    pub secret: [u8; SECRET],
}

impl Backend {
    /// Opens the journal that the configuration names.
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

    /// What the relays on the journal share. Values that they share in a database replace those of the file.
    pub(super) async fn control(&self, options: &mut Options) -> Result<Arc<dyn Control>, JournalError> {
        let file = File::new(options.path.clone(), options.loaded.fingerprint);
        Ok(match Arc::clone(&self.journal).control_plane() {
            Some(control_plane) => Arc::new(Sharing::begin(control_plane, file, &mut options.loaded).await?),
            None => Arc::new(file),
        })
    }
}

/// Opens the journal of the settings for a move. The durability of a source is not checked, because a move writes no records to it.
pub(super) async fn store(settings: &Settings, is_source: bool) -> Result<Box<dyn Store>, TransferError> {
    let settings = settings.clone();
    if settings.url.is_none() {
        return Ok(Box::new(tasks::blocking(move || SqliteStore::open(&settings, !is_source)).await?));
    }
    let durability = if is_source { Durability::Single } else { settings.durability };
    Ok(Box::new(PostgresStore::open(&Settings { durability, ..settings }).await?))
}
