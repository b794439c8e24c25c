//! The lookup of events at their upstreams ([`crate::journal::verification`]): a cursor for each target and incarnation, and a row for each
//! event below the cursor that is not known to be stored.
//!
//! Rules: an event that the first lookup finds costs no row. A cursor is the number of a record. A batch is of one incarnation, the one
//! whose next record is the oldest. The positions of a target in each incarnation, at times in the past, are remembered by the relay that
//! does the lookups; another one begins to remember when it takes over. Notes are written by a transaction that has the target to itself.

use crate::clock::Timestamp;
use crate::journal::verification::{
    Batch, Contents, Missing, Notes, PutOff, Repair, Sampled, Standing, Taken, Verification,
};
use crate::journal::{Call, Cursor, TargetId};

use super::PostgresJournal;

pub(super) mod anew;
mod content;
mod event;
mod notes;
mod passed;
mod repair;
mod rows;
mod walk;

pub(super) use content::forget as forget_contents;
pub(super) use passed::Passed;

impl Verification for PostgresJournal {
    fn wanted(&self, target: TargetId, bound: Cursor, now: Timestamp, limit: usize) -> Call<'_, Batch> {
        self.call(move |shared| async move { walk::wanted(&shared, target, (bound, now, limit)).await })
    }

    fn put_off(&self, target: TargetId, now: Timestamp, limit: usize) -> Call<'_, PutOff> {
        self.call(move |shared| async move { rows::put_off(&shared, target, now, limit).await })
    }

    fn note(&self, target: TargetId, notes: Notes) -> Call<'_, ()> {
        self.call(move |shared| async move { notes::note(&shared, target, notes).await })
    }

    fn taken(&self, target: TargetId, since: Timestamp, after: Option<Cursor>, bound: Cursor) -> Call<'_, Taken> {
        self.call(move |shared| async move { walk::taken(&shared, target, since, (after, bound)).await })
    }

    fn missing(&self, target: TargetId, since: Timestamp, sample: usize) -> Call<'_, Missing> {
        self.call(move |shared| async move { rows::missing(&shared, target, since, sample).await })
    }

    fn standings(&self) -> Call<'_, Vec<Standing>> {
        self.call(|shared| async move { rows::standings(&shared).await })
    }

    fn repair(&self, target: TargetId, repair: Repair) -> Call<'_, usize> {
        self.call(move |shared| async move { repair::repair(&shared, target, repair).await })
    }

    fn sampled(&self, target: TargetId, now: Timestamp, kinds: Vec<u64>) -> Call<'_, Sampled> {
        self.call(move |shared| async move { content::sampled(&shared, target, now, kinds).await })
    }

    fn contents(&self, target: TargetId, since: Timestamp) -> Call<'_, Contents> {
        self.call(move |shared| async move { content::contents(&shared, target, since).await })
    }
}
