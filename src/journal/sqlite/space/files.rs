//! The files of the database, and the bytes that they take on the disk.

use std::path::{Path, PathBuf};

use crate::journal::sqlite::private::beside;

/// The suffix of the WAL, and that of its index.
pub(super) const LOG: &str = "-wal";
const INDEX: &str = "-shm";

/// The database, its WAL and the WAL's index. Large bodies have a folder of their own, and the spool counts them.
#[derive(Debug)]
pub(in crate::journal::sqlite) struct Files([PathBuf; 3]);

impl Files {
    pub(in crate::journal::sqlite) fn of(database: &Path) -> Self {
        Self([database.to_owned(), beside(database, LOG), beside(database, INDEX)])
    }

    /// Their lengths in bytes. A count of pages would include those that are only in the WAL so far, and count them twice.
    pub(in crate::journal::sqlite) fn bytes(&self) -> u64 {
        self.0.iter().map(|file| length(file)).sum()
    }
}

/// The files that hold committed data: the database and its WAL. The index is rebuilt from the WAL.
pub(in crate::journal::sqlite) fn durable(database: &Path) -> [PathBuf; 2] {
    [database.to_owned(), beside(database, LOG)]
}

/// The length of a file; 0 if there is none.
pub(super) fn length(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |meta| meta.len())
}
