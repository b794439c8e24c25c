//! [`Archive`], [`Redelivery`], [`Facts`] and [`Storage`] of a SQLite journal: hands their calls to the writer and the reader.

use std::collections::HashMap;
use std::future::ready;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::oneshot;

use crate::clock::Timestamp;
use crate::journal::archive::{Comparison, Kept};
use crate::journal::backfill::{Backfill, BackfillStep, Scope, Survey};
use crate::journal::evidence::{Evidence, Figures, Observation, Outage};
use crate::journal::losses::Loss;
use crate::journal::{
    Archive, Call, Cursor, Facts, JournalError, Letter, Measures, Pick, Primaries, Record, RecordId, Redelivery, Space,
    Storage, Submission, Switch, TargetId, WithRecord,
};
use crate::protocol::event_id::EventId;

use super::SqliteJournal;
use super::queue::Target;
use super::writer::group::Command;
use super::{backfill, compare, decode, evidence, letters, losses, verification};

impl Redelivery for SqliteJournal {
    fn letters(&self, pick: Pick, before: u64, limit: usize) -> Call<'_, Vec<Letter>> {
        Box::pin(self.read(move |reader| letters::list(&reader.conn, &reader.shared, &pick, before, limit)))
    }

    fn letter(&self, id: u64) -> Call<'_, Option<WithRecord>> {
        Box::pin(self.read(move |reader| letters::one(&reader.conn, &reader.shared, id)))
    }

    fn retry_letters(&self, pick: Pick, limit: usize) -> Call<'_, usize> {
        Box::pin(self.take_out(pick, limit, true))
    }

    fn discard_letters(&self, pick: Pick, limit: usize) -> Call<'_, usize> {
        Box::pin(self.take_out(pick, limit, false))
    }

    fn survey(&self, scope: Scope, after: Cursor) -> Call<'_, Survey> {
        Box::pin(self.read(move |reader| backfill::survey(&reader.conn, &reader.shared, &scope, after)))
    }

    fn backfill(&self, target: TargetId, step: BackfillStep) -> Call<'_, Option<Backfill>> {
        Box::pin(async move {
            let target = self.shared.target(target)?;
            self.write(move |writer, group| {
                let at = (group.last, group.now, &mut group.book);
                backfill::step(writer.conn, &writer.shared, &target, step, at, &mut group.passes)
            })
            .await
        })
    }

    fn backfills(&self) -> Call<'_, Vec<Backfill>> {
        Box::pin(self.read(|reader| backfill::all(&reader.conn)))
    }
}

impl SqliteJournal {
    /// Takes out the dead letters that `pick` selects, and lets them wait again if it is a `retry`.
    async fn take_out(&self, pick: Pick, limit: usize, retry: bool) -> Result<usize, JournalError> {
        self.write(move |writer, group| {
            let books = (group.now, &mut group.book);
            writer.letters.take_out(writer.conn, &writer.shared, (&pick, limit, retry), books, &mut group.passes)
        })
        .await
    }
}

impl Archive for SqliteJournal {
    fn record(&self, record: RecordId) -> Call<'_, Option<Arc<Record>>> {
        Box::pin(self.read(move |reader| decode::one(&reader.conn, &reader.shared, record)))
    }

    fn record_of(&self, event_id: EventId) -> Call<'_, Option<Arc<Record>>> {
        Box::pin(self.read(move |reader| verification::record_of(&reader.conn, &reader.shared, event_id)))
    }

    fn kept(&self, after: Cursor) -> Call<'_, Kept> {
        Box::pin(self.read(move |reader| verification::kept(&reader.conn, &reader.shared, after)))
    }

    fn compare(&self, (a, b): (TargetId, TargetId), since: Timestamp, after: Cursor) -> Call<'_, Comparison> {
        Box::pin(async move {
            let (a, b) = (self.shared.target(a)?, self.shared.target(b)?);
            self.read(move |reader| compare::compare(&reader.conn, &reader.shared, (&a, &b), since, after)).await
        })
    }
}

impl Facts for SqliteJournal {
    fn record_switch(&self, switch: Switch) -> Call<'_, ()> {
        Box::pin(self.write(move |writer, _| evidence::write_switch(writer.conn, &switch)))
    }

    fn switches(&self, limit: usize) -> Call<'_, Vec<Switch>> {
        Box::pin(self.read(move |reader| reader.switches(limit)))
    }

    fn observe(&self, observation: Observation) -> Call<'_, ()> {
        Box::pin(self.write(move |writer, _| {
            evidence::write(writer.conn, &observation)?;
            for (target, at) in observation.canaries {
                if let Ok(target) = writer.shared.target(target) {
                    target.queue().latest.note_canary(at);
                }
            }
            Ok(())
        }))
    }

    fn evidence(&self, since: Timestamp) -> Call<'_, Evidence> {
        Box::pin(self.read(move |reader| evidence::read(&reader.conn, &reader.shared, since)))
    }

    fn outages(&self, since: Timestamp, limit: usize) -> Call<'_, Vec<Outage>> {
        Box::pin(self.read(move |reader| evidence::outages(&reader.conn, &reader.shared, since, limit)))
    }

    fn figures(&self) -> Call<'_, HashMap<TargetId, Figures>> {
        let of = |target: &Arc<Target>| {
            let queue = target.queue();
            (target.id, Figures { dead_letters: queue.dead_letters, latest: queue.latest })
        };
        Box::pin(ready(Ok(self.shared.targets().iter().map(of).collect())))
    }

    fn lose(&self, losses: Vec<Loss>) -> Call<'_, ()> {
        Box::pin(self.write(move |writer, group| {
            for loss in losses {
                let project = writer.projects.number(writer.conn, &writer.shared, &loss.project)?;
                group.book.note_loss(project, &loss);
            }
            Ok(())
        }))
    }

    fn losses(&self) -> Call<'_, Vec<Loss>> {
        Box::pin(self.read(|reader| losses::read(&reader.conn, &reader.shared)))
    }

    fn report(&self, told: Vec<Loss>, report: Option<Submission>) -> Call<'_, ()> {
        Box::pin(self.try_to(move |writer, group| writer.report(&told, report, group)))
    }
}

impl Storage for SqliteJournal {
    fn protect(&self, primaries: Primaries) {
        *self.shared.primaries.write().unwrap_or_else(PoisonError::into_inner) = Some(primaries);
    }

    fn split(&self, projects: Vec<Arc<str>>) {
        self.shared.change_shares(|shares| shares.split(projects));
    }

    fn measure(&self) -> Call<'_, Measures> {
        let shared = &self.shared;
        let (used, files) = (shared.used.load(Ordering::Relaxed), shared.files.bytes());
        let disk_free = Some(shared.disk.free()).filter(|free| *free < u64::MAX);
        let space = Space { used, files: files + shared.spool.taken(), disk_free };
        let (shares, stats) = (shared.shares().told(), shared.counters.stats());
        Box::pin(ready(Ok(Measures { space, shares, stats, ..Measures::default() })))
    }

    fn writable(&self) -> Call<'_, ()> {
        let trouble = match self.shared.closed.load(Ordering::Acquire) {
            true => Some(JournalError::Closed),
            false => self.shared.trouble(),
        };
        Box::pin(ready(trouble.map_or_else(|| self.shared.disk.check(0), Err)))
    }

    fn close(&self, patience: Duration) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            if self.shared.closed.swap(true, Ordering::AcqRel) {
                return;
            }
            let (reply, answer) = oneshot::channel();
            let sent = self.commands.as_ref().is_some_and(|c| c.try_send((Command::Close(reply), None)).is_ok());
            // The inbox has capacity beyond the places. A thread that is gone has nothing left to commit.
            if sent && tokio::time::timeout(patience, answer).await.is_err() {
                tracing::warn!("the journal is still writing; what is not committed will be delivered again");
            }
        })
    }
}
