//! Redelivery: kept records are handed to a target again, as retried dead letters or by a backfill.
//!
//! Invariants:
//!
//! - A record that is handed out again is posted as [`Outcome::Returned`](crate::policy::outcome::Outcome). It never waits twice at a
//!   target.
//! - Backfilled records wait behind everything else.
//! - The numbers of dead letters rise. When there are too many, the oldest of the project with the most are removed
//!   ([`letters`](super::letters)).

use super::backfill::{Backfill, BackfillStep, Scope, Survey};
use super::letters::{Letter, Pick, WithRecord};
use super::{Call, Cursor, TargetId};

/// Lists refused and withheld records, and hands them out again.
pub trait Redelivery: Send + Sync {
    /// The dead letters meant by `pick` with numbers below `before`, newest first, at most `limit`.
    fn letters(&self, pick: Pick, before: u64, limit: usize) -> Call<'_, Vec<Letter>>;

    /// One dead letter with its record.
    fn letter(&self, id: u64) -> Call<'_, Option<WithRecord>>;

    /// Lets up to `limit` dead letters wait for their upstream again, due at once, the oldest first; posted as
    /// [`Outcome::Returned`](crate::policy::outcome::Outcome). Returns how many; one of a record of which something waits there
    /// already is left alone.
    fn retry_letters(&self, pick: Pick, limit: usize) -> Call<'_, usize>;

    /// Forgets up to `limit` dead letters; returns how many.
    fn discard_letters(&self, pick: Pick, limit: usize) -> Call<'_, usize>;

    /// Counts what a backfill of `scope` would take up, of a bounded number of records behind `after`.
    fn survey(&self, scope: Scope, after: Cursor) -> Call<'_, Survey>;

    /// Does a step of a target's backfill; returns how it stands then, if there ever was one ([`backfill`](super::backfill)).
    fn backfill(&self, target: TargetId, step: BackfillStep) -> Call<'_, Option<Backfill>>;

    /// The last backfill of each target.
    fn backfills(&self) -> Call<'_, Vec<Backfill>>;
}
