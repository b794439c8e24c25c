//! No verification: the relays on this backend have no tracker with an API.

use super::*;
use crate::journal::verification::{Batch, Contents, Missing, Notes, PutOff, Repair, Sampled, Standing, Taken};

impl Verification for Node {
    fn wanted(&self, _: TargetId, bound: Cursor, _: Timestamp, _: usize) -> BoxFuture<'_, Result<Batch, JournalError>> {
        self.call(move |_| Ok(Batch { from: bound, reached: bound, settled: bound, ..Batch::default() }))
    }

    fn put_off(&self, _: TargetId, _: Timestamp, _: usize) -> BoxFuture<'_, Result<PutOff, JournalError>> {
        self.call(|_| Ok(PutOff::default()))
    }

    fn note(&self, _: TargetId, _: Notes) -> BoxFuture<'_, Result<(), JournalError>> {
        self.call(|_| Ok(()))
    }

    fn taken(
        &self,
        _: TargetId,
        _: Timestamp,
        _: Option<Cursor>,
        _: Cursor,
    ) -> BoxFuture<'_, Result<Taken, JournalError>> {
        self.call(|_| Ok(Taken::default()))
    }

    fn missing(&self, _: TargetId, _: Timestamp, _: usize) -> BoxFuture<'_, Result<Missing, JournalError>> {
        self.call(|_| Ok(Missing::default()))
    }

    fn standings(&self) -> BoxFuture<'_, Result<Vec<Standing>, JournalError>> {
        self.call(|_| Ok(vec![]))
    }

    fn repair(&self, _: TargetId, _: Repair) -> BoxFuture<'_, Result<usize, JournalError>> {
        self.call(|_| Ok(0))
    }

    fn sampled(&self, _: TargetId, _: Timestamp, _: Vec<u64>) -> BoxFuture<'_, Result<Sampled, JournalError>> {
        self.call(|_| Ok(Sampled::default()))
    }

    fn contents(&self, _: TargetId, _: Timestamp) -> BoxFuture<'_, Result<Contents, JournalError>> {
        self.call(|_| Ok(Contents::default()))
    }
}
