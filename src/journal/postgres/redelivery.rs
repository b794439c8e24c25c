//! Redelivery: dead letters and backfills, as the port has them.

use futures_util::future::BoxFuture;

use crate::journal::backfill::{Backfill, BackfillStep, Scope, Survey};
use crate::journal::{Cursor, JournalError, Letter, Pick, Redelivery, TargetId, WithRecord};

use super::{PostgresJournal, backfill, letters, retry};

impl Redelivery for PostgresJournal {
    fn letters(&self, pick: Pick, before: u64, limit: usize) -> BoxFuture<'_, Result<Vec<Letter>, JournalError>> {
        self.call(move |shared| async move { letters::list(&shared, &pick, before, limit).await })
    }

    fn letter(&self, id: u64) -> BoxFuture<'_, Result<Option<WithRecord>, JournalError>> {
        self.call(move |shared| async move { letters::one(&shared, id).await })
    }

    fn retry_letters(&self, pick: Pick, limit: usize) -> BoxFuture<'_, Result<usize, JournalError>> {
        self.call(move |shared| async move { retry::letters(&shared, &pick, limit).await })
    }

    fn discard_letters(&self, pick: Pick, limit: usize) -> BoxFuture<'_, Result<usize, JournalError>> {
        self.call(move |shared| async move { letters::forget(&shared, &pick, limit).await })
    }

    fn survey(&self, scope: Scope, after: Cursor) -> BoxFuture<'_, Result<Survey, JournalError>> {
        self.call(move |shared| async move { backfill::survey(&shared, &scope, after).await })
    }

    fn backfill(&self, target: TargetId, step: BackfillStep) -> BoxFuture<'_, Result<Option<Backfill>, JournalError>> {
        self.call(move |shared| async move { backfill::step(&shared, target, step).await })
    }

    fn backfills(&self) -> BoxFuture<'_, Result<Vec<Backfill>, JournalError>> {
        self.call(|shared| async move { backfill::all(&shared).await })
    }
}
