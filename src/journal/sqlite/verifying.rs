//! What [`Verification`] asks of the journal, handed to the writer and the reader.

use futures_util::future::BoxFuture;

use crate::clock::Timestamp;
use crate::journal::verification::{
    Batch, Contents, Missing, Notes, PutOff, Repair, Sampled, Standing, Taken, Verification,
};
use crate::journal::{Cursor, JournalError, TargetId};

use super::SqliteJournal;
use super::group::Command;
use super::reader::Question;

impl Verification for SqliteJournal {
    fn wanted(
        &self,
        target: TargetId,
        bound: Cursor,
        now: Timestamp,
        limit: usize,
    ) -> BoxFuture<'_, Result<Batch, JournalError>> {
        Box::pin(async move {
            let target = self.shared.target(target)?;
            self.read(|reply| Question::Wanted(target, (bound, now, limit), reply)).await
        })
    }

    fn put_off(&self, target: TargetId, now: Timestamp, limit: usize) -> BoxFuture<'_, Result<PutOff, JournalError>> {
        Box::pin(async move {
            let target = self.shared.target(target)?;
            self.read(|reply| Question::PutOff(target, (now, limit), reply)).await
        })
    }

    fn note(&self, target: TargetId, notes: Notes) -> BoxFuture<'_, Result<(), JournalError>> {
        Box::pin(async move {
            let target = self.shared.target(target)?;
            self.ask(|reply| Command::Note(target, Box::new(notes), reply)).await
        })
    }

    fn taken(
        &self,
        target: TargetId,
        since: Timestamp,
        after: Option<Cursor>,
        bound: Cursor,
    ) -> BoxFuture<'_, Result<Taken, JournalError>> {
        Box::pin(async move {
            let target = self.shared.target(target)?;
            self.read(|reply| Question::Taken(target, since, (after, bound), reply)).await
        })
    }

    fn missing(
        &self,
        target: TargetId,
        since: Timestamp,
        sample: usize,
    ) -> BoxFuture<'_, Result<Missing, JournalError>> {
        Box::pin(async move {
            let target = self.shared.target(target)?;
            self.read(|reply| Question::Missing(target, since, sample, reply)).await
        })
    }

    fn standings(&self) -> BoxFuture<'_, Result<Vec<Standing>, JournalError>> {
        Box::pin(self.read(Question::Standings))
    }

    fn repair(&self, target: TargetId, repair: Repair) -> BoxFuture<'_, Result<usize, JournalError>> {
        Box::pin(async move {
            let target = self.shared.target(target)?;
            self.ask(|reply| Command::Repair(target, repair, reply)).await
        })
    }

    fn sampled(
        &self,
        target: TargetId,
        now: Timestamp,
        kinds: Vec<u64>,
    ) -> BoxFuture<'_, Result<Sampled, JournalError>> {
        Box::pin(self.read(move |reply| Question::Sampled(target, now, kinds, reply)))
    }

    fn contents(&self, target: TargetId, since: Timestamp) -> BoxFuture<'_, Result<Contents, JournalError>> {
        Box::pin(self.read(move |reply| Question::Contents(target, since, reply)))
    }
}
