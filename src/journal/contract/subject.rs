//! The journal under test, and shorthand for records and settlements.

use std::io::Read as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::clock::Timestamp;
use crate::journal::body::Body;
use crate::journal::evidence::Figures;
use crate::journal::*;
use crate::policy::outcome::DropReason;
use crate::protocol::category::{Category, Quantities};
use crate::protocol::event_id::EventId;
use crate::telemetry::ledger::Ledger;
use crate::units::ByteSize;

/// The size of the journal for most promises.
pub(crate) const ENOUGH: ByteSize = ByteSize::mib(1024);

/// Storage in which a journal is opened.
pub(crate) trait Backend {
    /// Opens a journal that holds everything that was committed so far, and posts to `ledger`.
    fn open(&mut self, ledger: Ledger) -> Arc<dyn Journal>;

    /// Ends a journal of this backend as a crash does. The next one that is opened lacks what it had not committed when this was called.
    fn crash(&mut self, running: Arc<dyn Journal>);
}

/// A journal under test, with the ledger it posts to.
pub(crate) struct Subject<B: Backend + ?Sized = dyn Backend> {
    /// `None` between a crash and the next start.
    journal: Option<Arc<dyn Journal>>,
    ledger: Ledger,
    pub(crate) backend: Box<B>,
}

impl<B: Backend + ?Sized> Subject<B> {
    pub(crate) fn new(mut backend: Box<B>) -> Self {
        let ledger = Ledger::default();
        Self { journal: Some(backend.open(ledger.clone())), ledger, backend }
    }

    pub(crate) fn journal(&self) -> Arc<dyn Journal> {
        Arc::clone(self.journal.as_ref().unwrap())
    }

    pub(crate) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Crashes the journal, and opens what is left. Uncommitted changes are gone.
    pub(crate) fn crash(&mut self) {
        self.backend.crash(self.journal.take().unwrap());
        self.ledger = Ledger::default();
        self.journal = Some(self.backend.open(self.ledger.clone()));
    }

    /// Waits until every settlement made so far is committed: an empty command goes through the same commit.
    pub(crate) async fn flush(&self) {
        assert_eq!(self.journal().prune(at(0), 0).await.unwrap(), 0);
    }

    /// Checks for each account that accepted = delivered + dropped + pending.
    pub(crate) async fn assert_balanced(&self) {
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

/// All bytes of a body.
pub(crate) fn bytes_of(body: &Body) -> Vec<u8> {
    let mut bytes = Vec::new();
    body.reader().unwrap().read_to_end(&mut bytes).unwrap();
    bytes
}

/// The figures of a target.
pub(crate) async fn figures(journal: &dyn Journal, target: TargetId) -> Figures {
    journal.figures().await.unwrap()[&target]
}

/// The number of a target's dead letters.
pub(crate) async fn dead_letters(journal: &dyn Journal, target: TargetId) -> u64 {
    figures(journal, target).await.dead_letters
}

/// The room that is taken.
pub(crate) async fn space(journal: &dyn Journal) -> Space {
    journal.measure().await.unwrap().space
}

/// Moves tokio's clock forward.
pub(crate) async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

/// Checks again and again until `holds` returns true; panics after 20 s.
pub(crate) async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while !holds().await {
        assert!(std::time::Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub(crate) fn at(seconds: u64) -> Timestamp {
    Timestamp::from_millis(seconds * 1000)
}

pub(crate) fn errors(n: u64) -> Quantities {
    [(Category::Error, n)].into_iter().collect()
}

pub(crate) fn submission(accepted_at: Timestamp, targets: &[TargetId]) -> Submission {
    Submission {
        accepted_at,
        project: "shop".into(),
        event_id: Some(EventId::from(7)),
        quantities: errors(1),
        keys: vec![],
        repeats_since: Timestamp::default(),
        client: Client::default(),
        body: Bytes::from_static(b"{}\n").into(),
        targets: targets.to_vec(),
        withheld: vec![],
        spans: None,
    }
}

pub(crate) fn delivered(n: u64) -> Settlement {
    Settlement { delivered: errors(n), ..Settlement::default() }
}

pub(crate) fn retry(due: Timestamp, attempts: u32, n: u64) -> Settlement {
    let progress = Progress { attempts, ..Progress::default() };
    Settlement { rest: Some(Rest { due, progress, quantities: errors(n) }), ..Settlement::default() }
}

pub(crate) fn rejected() -> Settlement {
    let reason = "refused".into();
    let letter = DeadLetter { at: at(9), reason, status: Some(400), answer: "no".into(), attempts: 1, items: None };
    let dropped = Some((DropReason::Rejected, errors(1)));
    Settlement { dropped, dead_letter: Some(letter), ..Settlement::default() }
}

pub(crate) fn ids(claims: &[Claim]) -> Vec<u64> {
    claims.iter().map(|claim| claim.record.id.number()).collect()
}

/// Appends `n` records accepted at 1 s, 2 s, … and returns their numbers.
pub(crate) async fn fill(journal: &Arc<dyn Journal>, n: u64, targets: &[TargetId]) -> Vec<u64> {
    let mut ids = Vec::new();
    for second in 1..=n {
        ids.push(journal.append(submission(at(second), targets)).await.unwrap().number());
    }
    ids
}
