//! The backend of the contract tests: a journal in a folder of its own, which a crash copies as it stands.

use std::path::PathBuf;

use super::*;
use crate::journal::contract::Backend;

/// A folder with a journal.
pub(super) struct Disk {
    pub(super) settings: Settings,
    /// The journal that was opened last; `None` after a crash.
    pub(super) journal: Option<Arc<SqliteJournal>>,
    pub(super) folder: tempfile::TempDir,
}

impl Disk {
    pub(super) fn new(folder: tempfile::TempDir, change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = in_folder(folder.path());
        change(&mut settings);
        Self { settings, journal: None, folder }
    }
}

impl Backend for Disk {
    fn open(&mut self, ledger: Ledger) -> Arc<dyn Journal> {
        let journal = Arc::new(SqliteJournal::open(&self.settings, Clock::system(), ledger).unwrap());
        self.journal = Some(Arc::clone(&journal));
        journal
    }

    fn crash(&mut self, running: Arc<dyn Journal>) {
        let copy = tempfile::tempdir().unwrap();
        copy_files(self.folder.path(), copy.path());
        drop((running, self.journal.take()));
        self.folder = copy;
        self.settings.path = self.folder.path().join("journal.db");
    }
}

impl Subject {
    pub(super) fn sqlite() -> Self {
        Self::sqlite_with(|_| {})
    }

    pub(super) fn sqlite_with(change: impl FnOnce(&mut Settings)) -> Self {
        Self::new(Box::new(Disk::new(tempfile::tempdir().unwrap(), change)))
    }
}

/// Copies the files that a journal keeps.
pub(super) fn copy_files(from: &Path, to: &Path) {
    std::fs::create_dir_all(to.join(BODIES)).unwrap();
    let bodies = std::fs::read_dir(from.join(BODIES)).unwrap();
    let bodies: Vec<PathBuf> = bodies.map(|file| PathBuf::from(BODIES).join(file.unwrap().file_name())).collect();
    for name in bodies.iter().chain(&["journal.db".into(), "journal.db-wal".into()]) {
        if from.join(name).exists() {
            std::fs::copy(from.join(name), to.join(name)).unwrap();
        }
    }
}

/// The folder of large bodies.
pub(super) const BODIES: &str = "journal.db-bodies";

/// The promises of the ports, for a journal on disk.
mod promises {
    use super::*;
    use crate::journal::contract;

    fn on_disk(max_size: ByteSize) -> Box<dyn Backend> {
        Box::new(Disk::new(tempfile::tempdir().unwrap(), |settings| settings.max_size = max_size))
    }

    contract::suite!(on_disk);
}

/// Makes the storage refuse to grow beyond `pages` pages, as a full disk does.
pub(super) async fn cap(journal: &SqliteJournal, pages: i64) {
    let sql = format!("PRAGMA max_page_count = {pages}");
    journal.write(move |writer, _| writer.conn.query_row(&sql, [], |_| Ok(()))).await.unwrap();
}
