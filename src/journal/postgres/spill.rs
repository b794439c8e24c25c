//! The store for submissions while no server takes writes: an SQLite journal on this machine, moved over when one does again.
//!
//! Rules: a submission kept here was acknowledged, and is only on this machine's disk until it is moved. Submissions are moved in order,
//! once: each gets a key of its own, so a move that was cut off is recognized as a repeat. Nothing is delivered from here.

use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use crate::clock::Clock;
use crate::journal::sqlite::SqliteJournal;
use crate::journal::{
    JournalError, Log as _, Queues as _, RecordId, Settings, Spilled, Storage as _, Submission, TargetId,
};
use crate::tasks;
use crate::telemetry::ledger::Ledger;

use super::fault::Fault;

/// The only target of the journal on this machine.
const CLUSTER: &str = "the cluster";

/// The journal on this machine; `None` if the configuration wants none.
#[derive(Debug, Default)]
pub(super) struct Spill(pub(super) Option<Kept>);

#[derive(Debug)]
pub(super) struct Kept {
    pub(super) journal: Arc<SqliteJournal>,
    pub(super) target: TargetId,
}

impl Spill {
    /// Opens the journal that the configuration names, with what it still holds.
    pub(super) async fn open(settings: &Settings, clock: Clock) -> Result<Self, Fault> {
        if !settings.spill {
            return Ok(Self(None));
        }
        let settings = Settings { path: settings.spill_path.clone(), url: None, ..settings.clone() };
        let opened = tasks::blocking(move || SqliteJournal::open(&settings, clock, Ledger::default()));
        let journal = Arc::new(opened.await?);
        let target = journal.target(CLUSTER).await?;
        Ok(Self(Some(Kept { journal, target })))
    }

    /// Keeps a submission here. `number` is its record number in the database if an attempt there gave it one.
    pub(super) async fn take(
        &self,
        submission: Box<Submission>,
        number: Option<i64>,
    ) -> Result<RecordId, JournalError> {
        let Some(Kept { journal, target }) = &self.0 else {
            return Err(JournalError::Failed("PostgreSQL takes no writes now".into()));
        };
        let mut submission = *submission;
        submission.keys.push(Uuid::new_v4().as_u128());
        submission.client.spilled = Some(Box::new(Spilled {
            number: number.map(i64::cast_unsigned),
            keys: submission.keys.iter().map(|key| ((key >> 64) as u64, *key as u64)).collect(),
            repeats_since: submission.repeats_since.as_millis(),
            targets: std::mem::replace(&mut submission.targets, vec![*target]),
            withheld: std::mem::take(&mut submission.withheld),
        }));
        journal.append(submission).await
    }

    /// The journal on this machine.
    pub(super) fn journal(&self) -> Option<Arc<SqliteJournal>> {
        self.0.as_ref().map(|kept| Arc::clone(&kept.journal))
    }

    /// The number of submissions that wait here, and their bytes.
    pub(super) async fn waiting(&self) -> (u64, u64) {
        let Some(Kept { journal, target }) = &self.0 else { return (0, 0) };
        journal.backlog(*target).await.map_or((0, 0), |backlog| (backlog.envelopes, backlog.bytes))
    }

    /// Closes the journal.
    pub(super) async fn close(&self, patience: Duration) {
        if let Some(Kept { journal, .. }) = &self.0 {
            journal.close(patience).await;
        }
    }
}
