//! [`Verification`] of a SQLite journal: hands its calls to the writer and the reader.

use crate::clock::Timestamp;
use crate::journal::verification::{
    Batch, Contents, Missing, Notes, PutOff, Repair, Sampled, Standing, Taken, Verification,
};
use crate::journal::{Call, Cursor, TargetId};

use super::SqliteJournal;
use super::verification;

impl Verification for SqliteJournal {
    fn wanted(&self, target: TargetId, bound: Cursor, now: Timestamp, limit: usize) -> Call<'_, Batch> {
        Box::pin(async move {
            let target = self.shared.target(target)?;
            self.read(move |reader| verification::wanted(&reader.conn, &reader.shared, &target, (bound, now, limit)))
                .await
        })
    }

    fn put_off(&self, target: TargetId, now: Timestamp, limit: usize) -> Call<'_, PutOff> {
        Box::pin(async move {
            let target = self.shared.target(target)?;
            self.read(move |reader| verification::put_off(&reader.conn, &reader.shared, &target, (now, limit))).await
        })
    }

    fn note(&self, target: TargetId, notes: Notes) -> Call<'_, ()> {
        Box::pin(async move {
            let target = self.shared.target(target)?;
            self.write(move |writer, group| {
                for (project, bytes) in verification::note(writer.conn, &target, &notes, (group.now, &mut group.book))?
                {
                    writer.letters.add(project, bytes);
                    group.letters_come.push(target.id);
                }
                Ok(())
            })
            .await
        })
    }

    fn taken(&self, target: TargetId, since: Timestamp, after: Option<Cursor>, bound: Cursor) -> Call<'_, Taken> {
        Box::pin(async move {
            let target = self.shared.target(target)?;
            let places = (after, bound);
            self.read(move |reader| verification::taken(&reader.conn, &reader.shared, &target, since, places)).await
        })
    }

    fn missing(&self, target: TargetId, since: Timestamp, sample: usize) -> Call<'_, Missing> {
        Box::pin(async move {
            let target = self.shared.target(target)?;
            self.read(move |reader| verification::missing(&reader.conn, &reader.shared, &target, (since, sample))).await
        })
    }

    fn standings(&self) -> Call<'_, Vec<Standing>> {
        Box::pin(self.read(|reader| verification::standings(&reader.conn, &reader.shared)))
    }

    fn repair(&self, target: TargetId, repair: Repair) -> Call<'_, usize> {
        Box::pin(async move {
            let target = self.shared.target(target)?;
            self.write(move |writer, group| {
                let books = (group.now, &mut group.book);
                verification::repair(writer.conn, &target, &repair, books, &mut group.passes)
            })
            .await
        })
    }

    fn sampled(&self, target: TargetId, now: Timestamp, kinds: Vec<u64>) -> Call<'_, Sampled> {
        Box::pin(self.read(move |reader| verification::sampled(&reader.conn, target, now, &kinds)))
    }

    fn contents(&self, target: TargetId, since: Timestamp) -> Call<'_, Contents> {
        Box::pin(self.read(move |reader| verification::contents(&reader.conn, &reader.shared, target, since)))
    }
}
