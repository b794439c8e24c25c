//! The files of the database, and what they take on the disk.

use std::path::{Path, PathBuf};

use crate::journal::sqlite::private::beside;

/// What the name of the log ends with, and that of its index.
pub(super) const LOG: &str = "-wal";
const INDEX: &str = "-shm";

/// The database, its log and the log's index. Large bodies have a folder of their own, and the spool counts them.
#[derive(Debug)]
pub(in crate::journal::sqlite) struct Files([PathBuf; 3]);

impl Files {
    pub(in crate::journal::sqlite) fn of(database: &Path) -> Self {
        Self([database.to_owned(), beside(database, LOG), beside(database, INDEX)])
    }

    /// The bytes that they take as they stand. Counting pages would count those twice that are in the log and in no file yet.
    pub(in crate::journal::sqlite) fn bytes(&self) -> u64 {
        self.0.iter().map(|file| length(file)).sum()
    }
}

/// The files that hold what is committed: the database and its log. The index is made anew from the log.
pub(in crate::journal::sqlite) fn durable(database: &Path) -> [PathBuf; 2] {
    [database.to_owned(), beside(database, LOG)]
}

/// The length of a file; a file that is not there has none.
pub(super) fn length(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |meta| meta.len())
}
