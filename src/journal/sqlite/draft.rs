//! Large bodies that are written to a file while they arrive.
//!
//! Rule: a file takes room in the journal before its bytes are written. It is open only during a write, so that a body that arrives slowly
//! keeps no file open.

use std::fs::File;
use std::future::ready;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

use crate::journal::bodies::{Bodies, Draft};
use crate::journal::body::Body;
use crate::journal::{Call, JournalError};
use crate::tasks;

use super::SqliteJournal;
use super::file::{BodyFile, Reservation};
use super::spool::failure;

/// The least room that is taken at once, in bytes.
const ROOM_STEP: u64 = 1 << 20;
/// After this many bytes a growing file is synced. Syncing all of it at its end would hold up the commits of others.
const SYNC_STEP: u64 = 8 << 20;

impl Bodies for SqliteJournal {
    fn begin(self: Arc<Self>, project: Option<Arc<str>>) -> Call<'static, Box<dyn Draft>> {
        Box::pin(async move {
            let spool = Arc::clone(&self.shared.spool);
            let file = tasks::blocking(move || spool.create()).await.map_err(|error| failure(&error))?;
            Ok(Box::new(FileDraft { journal: self, project, file, unsynced: 0 }) as Box<dyn Draft>)
        })
    }
}

impl SqliteJournal {
    /// Takes room for bytes of a file, for a project.
    pub(super) async fn take_room(&self, project: Option<Arc<str>>, bytes: u64) -> Result<Reservation, JournalError> {
        self.try_to(move |writer, group| writer.reserve(project, bytes, group)).await
    }
}

/// A file that is being written.
#[derive(Debug)]
struct FileDraft {
    journal: Arc<SqliteJournal>,
    /// The project, if it is known.
    project: Option<Arc<str>>,
    file: BodyFile,
    unsynced: u64,
}

impl FileDraft {
    /// Takes room for `bytes` more bytes, if it has not enough.
    async fn reserve(&mut self, bytes: u64) -> Result<(), JournalError> {
        if self.file.len() + bytes <= self.file.room().bytes() {
            return Ok(());
        }
        let (project, bytes) = (self.project.clone(), bytes.max(ROOM_STEP));
        self.file.room().add(self.journal.take_room(project, bytes).await?);
        Ok(())
    }
}

impl Draft for FileDraft {
    fn append(&mut self, mut bytes: Vec<u8>) -> Call<'_, Vec<u8>> {
        Box::pin(async move {
            let many = bytes.len() as u64;
            self.reserve(many).await?;
            self.unsynced += many;
            let sync = self.journal.shared.spool.durable && self.unsynced >= SYNC_STEP;
            let (path, at) = (self.file.path().to_owned(), self.file.len());
            let written = tasks::blocking(move || {
                let file = to_write(&path)?;
                file.write_all_at(&bytes, at)?;
                if sync {
                    file.sync_data()?;
                }
                bytes.clear();
                Ok(bytes)
            });
            let buffer = written.await.map_err(|error: io::Error| failure(&error))?;
            self.file.grow(many);
            if sync {
                self.unsynced = 0;
            }
            Ok(buffer)
        })
    }

    fn overwrite(&mut self, at: u64, bytes: Vec<u8>) -> Call<'_, ()> {
        let path = self.file.path().to_owned();
        let written = tasks::blocking(move || to_write(&path)?.write_all_at(&bytes, at));
        Box::pin(async move { written.await.map_err(|error| failure(&error)) })
    }

    fn finish(mut self: Box<Self>) -> Call<'static, Body> {
        let len = self.file.len();
        self.file.room().shrink(len);
        Box::pin(ready(Ok(self.file.into_body())))
    }
}

fn to_write(path: &Path) -> io::Result<File> {
    File::options().write(true).open(path)
}
