//! What [`Verification`] asks of the journal, handed to the writer and the reader.

use std::sync::Arc;

use futures_util::future::BoxFuture;

use crate::clock::Timestamp;
use crate::journal::verification::{
    Batch, Contents, Kept, Missing, Notes, PutOff, Repair, Sampled, Standing, Taken, Verification,
};
use crate::journal::{JournalError, Record, RecordId, TargetId};
use crate::protocol::event_id::EventId;

use super::SqliteJournal;
use super::group::Command;
use super::reader::Question;

impl Verification for SqliteJournal {
    fn wanted(
        &self,
        target: TargetId,
        bound: RecordId,
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
        after: Option<RecordId>,
    ) -> BoxFuture<'_, Result<Taken, JournalError>> {
        Box::pin(async move {
            let target = self.shared.target(target)?;
            self.read(|reply| Question::Taken(target, since, after, reply)).await
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

    fn record_of(&self, event_id: EventId) -> BoxFuture<'_, Result<Option<Arc<Record>>, JournalError>> {
        Box::pin(self.read(move |reply| Question::RecordOf(event_id, reply)))
    }

    fn record(&self, record: RecordId) -> BoxFuture<'_, Result<Option<Arc<Record>>, JournalError>> {
        Box::pin(self.read(move |reply| Question::Record(record, reply)))
    }

    fn kept(&self, after: RecordId) -> BoxFuture<'_, Result<Kept, JournalError>> {
        Box::pin(self.read(move |reply| Question::Kept(after, reply)))
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
