//! The journal under test, and what the tests say of records in few words.

use std::io::Read as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::clock::{Clock, Timestamp};
use crate::journal::body::Body;
use crate::journal::evidence::Figures;
use crate::journal::sqlite::SqliteJournal;
use crate::journal::*;
use crate::policy::outcome::DropReason;
use crate::protocol::category::{Category, Quantities};
use crate::protocol::event_id::EventId;
use crate::telemetry::ledger::Ledger;
use crate::units::ByteSize;

/// A journal under test, with the ledger it posts to.
pub(in crate::journal) struct Subject {
    pub(in crate::journal) folder: tempfile::TempDir,
    pub(in crate::journal) settings: Settings,
    /// `None` once it was closed.
    pub(in crate::journal) journal: Option<Arc<SqliteJournal>>,
    pub(in crate::journal) ledger: Ledger,
}

impl Subject {
    pub(in crate::journal) fn sqlite() -> Self {
        Self::sqlite_with(|_| {})
    }

    pub(in crate::journal) fn sqlite_with(change: impl FnOnce(&mut Settings)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.db");
        let mut settings = Settings { path, min_free_disk: ByteSize::bytes(0), ..Settings::default() };
        change(&mut settings);
        let ledger = Ledger::default();
        let journal = SqliteJournal::open(&settings, Clock::system(), ledger.clone()).unwrap();
        Self { folder, settings, journal: Some(Arc::new(journal)), ledger }
    }

    pub(in crate::journal) fn journal(&self) -> Arc<dyn Journal> {
        Arc::clone(self.journal.as_ref().unwrap()) as Arc<dyn Journal>
    }

    pub(in crate::journal) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// The files as a crash would leave them, opened again. Whatever was not committed is gone.
    pub(in crate::journal) fn crash(&mut self) {
        let copy = tempfile::tempdir().unwrap();
        copy_files(self.folder.path(), copy.path());
        drop(self.journal.take());
        self.folder = copy;
        self.settings.path = self.folder.path().join("journal.db");
        self.ledger = Ledger::default();
        let journal = SqliteJournal::open(&self.settings, Clock::system(), self.ledger.clone()).unwrap();
        self.journal = Some(Arc::new(journal));
    }

    /// Waits until every settlement made so far is committed: an empty command goes through the same commit.
    pub(in crate::journal) async fn flush(&self) {
        assert_eq!(self.journal().prune(at(0), 0).await.unwrap(), 0);
    }

    /// For each account: accepted = delivered + dropped + pending.
    pub(in crate::journal) async fn assert_balanced(&self) {
        self.flush().await;
        let journal = self.journal();
        let mut pending = std::collections::BTreeMap::new();
        for (id, name) in journal.targets().await.unwrap().iter() {
            for (project, category, quantity) in journal.backlog(id).await.unwrap().quantities {
                pending.insert((name.to_string(), project.to_string(), category), quantity);
            }
        }
        for (key, account) in self.ledger().accounts() {
            if let Some(upstream) = &key.upstream {
                let waiting = pending.remove(&(upstream.to_string(), key.project.to_string(), key.category));
                assert_eq!(account.expected_pending(), waiting.unwrap_or(0) as i64, "{key:?} {account:?}");
            }
        }
        assert!(pending.is_empty(), "pending without an account: {pending:?}");
    }
}

pub(in crate::journal) fn copy_files(from: &std::path::Path, to: &std::path::Path) -> PathBuf {
    std::fs::create_dir_all(to.join(BODIES)).unwrap();
    let bodies = std::fs::read_dir(from.join(BODIES)).unwrap();
    let bodies: Vec<PathBuf> = bodies.map(|file| PathBuf::from(BODIES).join(file.unwrap().file_name())).collect();
    for name in bodies.iter().chain(&["journal.db".into(), "journal.db-wal".into()]) {
        if from.join(name).exists() {
            std::fs::copy(from.join(name), to.join(name)).unwrap();
        }
    }
    to.join("journal.db")
}

/// The folder of large bodies.
pub(in crate::journal) const BODIES: &str = "journal.db-bodies";

/// All of a body.
pub(in crate::journal) fn bytes_of(body: &Body) -> Vec<u8> {
    let mut bytes = Vec::new();
    body.reader().unwrap().read_to_end(&mut bytes).unwrap();
    bytes
}

/// What is known of a target.
pub(in crate::journal) async fn figures(journal: &dyn Journal, target: TargetId) -> Figures {
    journal.figures().await.unwrap()[&target]
}

/// Its dead letters.
pub(in crate::journal) async fn dead_letters(journal: &dyn Journal, target: TargetId) -> u64 {
    figures(journal, target).await.dead_letters
}

/// Room taken.
pub(in crate::journal) async fn space(journal: &dyn Journal) -> Space {
    journal.measure().await.unwrap().space
}

/// Lets time pass for whoever reads tokio's clock.
pub(in crate::journal) async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

/// Asks again and again until the answer is yes.
pub(in crate::journal) async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while !holds().await {
        assert!(std::time::Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub(in crate::journal) fn at(seconds: u64) -> Timestamp {
    Timestamp::from_millis(seconds * 1000)
}

pub(in crate::journal) fn errors(n: u64) -> Quantities {
    [(Category::Error, n)].into_iter().collect()
}

pub(in crate::journal) fn submission(accepted_at: Timestamp, targets: &[TargetId]) -> Submission {
    Submission {
        accepted_at,
        project: "shop".into(),
        event_id: Some(EventId::from(7)),
        quantities: errors(1),
        keys: vec![],
        client: Client::default(),
        body: Bytes::from_static(b"{}\n").into(),
        targets: targets.to_vec(),
        withheld: vec![],
        spans: None,
    }
}

pub(in crate::journal) fn delivered(n: u64) -> Settlement {
    Settlement { delivered: errors(n), ..Settlement::default() }
}

pub(in crate::journal) fn retry(due: Timestamp, attempts: u32, n: u64) -> Settlement {
    let progress = Progress { attempts, ..Progress::default() };
    Settlement { rest: Some(Rest { due, progress, quantities: errors(n) }), ..Settlement::default() }
}

pub(in crate::journal) fn rejected() -> Settlement {
    let reason = "refused".into();
    let letter = DeadLetter { at: at(9), reason, status: Some(400), answer: "no".into(), attempts: 1, items: None };
    let dropped = Some((DropReason::Rejected, errors(1)));
    Settlement { dropped, dead_letter: Some(letter), ..Settlement::default() }
}

pub(in crate::journal) fn ids(claims: &[Claim]) -> Vec<u64> {
    claims.iter().map(|claim| claim.record.id.0).collect()
}

/// Appends `n` records accepted at 1 s, 2 s, … and returns their numbers.
pub(in crate::journal) async fn fill(journal: &Arc<dyn Journal>, n: u64, targets: &[TargetId]) -> Vec<u64> {
    let mut ids = Vec::new();
    for second in 1..=n {
        ids.push(journal.append(submission(at(second), targets)).await.unwrap().0);
    }
    ids
}
