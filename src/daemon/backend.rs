//! What a daemon is assembled on: a journal, and what the relays on it share. On one machine that is SQLite and the configuration file.

use std::sync::Arc;

use crate::journal::sqlite::SqliteJournal;
use crate::journal::{Journal, OpenError};
use crate::policy::dedup::SECRET;
use crate::tasks;
use crate::telemetry::ledger::Ledger;

use super::Options;
use super::control::{Control, File};

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
    /// SQLite and the file, of the only relay.
    pub(super) async fn of_one_machine(options: &Options) -> Result<Self, OpenError> {
        let (settings, clock) = (options.loaded.config.journal.clone(), options.clock.clone());
        let ledger = Ledger::default();
        let posted = ledger.clone();
        let journal = tasks::blocking(move || SqliteJournal::open(&settings, clock, posted)).await?;
        let control = File::shared(options.path.clone(), options.loaded.fingerprint);
        Ok(Self { secret: journal.secret(), journal: Arc::new(journal), ledger, control })
    }
}
