//! The port of redelivery: dead letters and backfills.

use crate::journal::backfill::{Backfill, BackfillStep, Scope, Survey};
use crate::journal::{Call, Cursor, Letter, Pick, Redelivery, TargetId, WithRecord};

use super::{PostgresJournal, backfill, letters, retry};

impl Redelivery for PostgresJournal {
    fn letters(&self, pick: Pick, before: u64, limit: usize) -> Call<'_, Vec<Letter>> {
        self.call(move |shared| async move { letters::list(&shared, &pick, before, limit).await })
    }

    fn letter(&self, id: u64) -> Call<'_, Option<WithRecord>> {
        self.call(move |shared| async move { letters::one(&shared, id).await })
    }

    fn retry_letters(&self, pick: Pick, limit: usize) -> Call<'_, usize> {
        self.call(move |shared| async move { retry::letters(&shared, &pick, limit).await })
    }

    fn discard_letters(&self, pick: Pick, limit: usize) -> Call<'_, usize> {
        self.call(move |shared| async move { letters::forget(&shared, &pick, limit).await })
    }

    fn survey(&self, scope: Scope, after: Cursor) -> Call<'_, Survey> {
        self.call(move |shared| async move { backfill::survey(&shared, &scope, after).await })
    }

    fn backfill(&self, target: TargetId, step: BackfillStep) -> Call<'_, Option<Backfill>> {
        self.call(move |shared| async move { backfill::step(&shared, target, step).await })
    }

    fn backfills(&self) -> Call<'_, Vec<Backfill>> {
        self.call(|shared| async move { backfill::all(&shared).await })
    }
}
