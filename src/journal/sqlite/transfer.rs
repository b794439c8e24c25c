//! A journal in a SQLite file as the source or target of a move: the file, its lock and its marks ([`crate::journal::transfer`]).
//!
//! Rules: the lock is held for as long as the move lasts. The source is brought up to date as by any start, then only read, except for its
//! mark. The target is written with a rollback journal, so that its mark is in the header, which is read before the file is opened.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use futures_util::future::BoxFuture;
use rusqlite::Connection;
use tokio::sync::mpsc;

use crate::journal::transfer::{Contents, Entry, MoveId, State, Store, TransferError};
use crate::journal::{OpenError, Settings, Sync};
use crate::tasks;

use super::{marks, private, schema};

mod contents;
mod export;
mod import;

/// A journal in a SQLite file, locked for this process.
#[derive(Debug)]
pub struct SqliteStore {
    path: PathBuf,
    sync: Sync,
    /// Locked while this process owns the file.
    _lock: File,
}

impl SqliteStore {
    /// Opens the journal at `settings.path`. Makes it if there is none, but only if it `may_be_new`.
    pub fn open(settings: &Settings, may_be_new: bool) -> Result<Self, TransferError> {
        if !may_be_new && !settings.path.exists() {
            return Err(TransferError::Refused(format!("{} does not exist", settings.path.display())));
        }
        let path = schema::whereabouts(&settings.path)?;
        let lock = schema::lock(&path)?;
        private::close(&path);
        if schema::state(&path)? == State::Ready {
            // A journal of an older format is brought up to date, as by any start.
            drop(schema::open(&Settings { path: path.clone(), ..settings.clone() })?);
        }
        Ok(Self { path, sync: settings.sync, _lock: lock })
    }

    /// Runs `act` on the file, in a thread where it may block.
    fn with<T: Send + 'static>(
        &self,
        act: impl FnOnce(&Path) -> Result<T, Trouble> + Send + 'static,
    ) -> BoxFuture<'_, Result<T, TransferError>> {
        let path = self.path.clone();
        Box::pin(tasks::blocking(move || act(&path).map_err(|trouble| told(&path, trouble))))
    }
}

impl Store for SqliteStore {
    fn place(&self) -> String {
        self.path.display().to_string()
    }

    fn state(&self) -> BoxFuture<'_, Result<State, TransferError>> {
        self.with(|path| Ok(schema::state(path)?))
    }

    /// The lock ensures that no relay runs on it.
    fn expect_idle(&self) -> BoxFuture<'_, Result<(), TransferError>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn contents(&self) -> BoxFuture<'_, Result<Contents, TransferError>> {
        self.with(|path| match schema::state(path)? {
            State::New => Ok(Contents::default()),
            _ => Ok(contents::read(&schema::open_reader(path)?)?),
        })
    }

    fn export(&self, to: mpsc::Sender<Entry>) -> BoxFuture<'_, Result<(), TransferError>> {
        self.with(move |path| export::run(path, &schema::open_reader(path)?, &to))
    }

    fn import(
        &self,
        by: MoveId,
        from: mpsc::Receiver<Entry>,
        kept: Arc<AtomicU64>,
    ) -> BoxFuture<'_, Result<(), TransferError>> {
        let sync = self.sync;
        self.with(move |path| import::run(path, (by, sync), from, &kept))
    }

    fn mark(&self, state: State) -> BoxFuture<'_, Result<(), TransferError>> {
        self.with(move |path| {
            let conn = Connection::open(path)?;
            Ok(marks::set(&conn, state)?)
        })
    }
}

/// An error of the database, of a file or of the move.
type Trouble = Box<dyn std::error::Error>;

fn told(path: &Path, trouble: Trouble) -> TransferError {
    let other = match trouble.downcast::<TransferError>() {
        Ok(error) => return *error,
        Err(other) => other,
    };
    match other.downcast::<OpenError>() {
        Ok(error) => TransferError::Open(*error),
        Err(other) => TransferError::Open(schema::unusable(path, &*other)),
    }
}
