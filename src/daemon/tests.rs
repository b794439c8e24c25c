//! Chores of which another relay has the lead.

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, ready};

use super::*;
use crate::clock::Timestamp;
use crate::config::diagnostics::LoadError;
use crate::config::load;
use crate::delivery::settings::LONGEST_AGE;
use crate::journal::sqlite::SqliteJournal;
use crate::journal::{Client, Submission};
use crate::protocol::category::{Category, Quantities};
use crate::protocol::event_id::EventId;
use crate::telemetry::ledger::Ledger;

/// Leads every chore, or none.
struct Lead(bool);

impl Control for Lead {
    fn watch(&self, _: &Tasks) -> mpsc::Receiver<()> {
        mpsc::channel(1).1
    }

    fn load(&self) -> BoxFuture<'_, Result<Loaded, LoadError>> {
        unreachable!("nothing is reloaded")
    }

    fn set_primary(&self, _: &str) -> BoxFuture<'_, Result<Option<String>, String>> {
        unreachable!("nothing is switched")
    }

    fn made_primary(&self, _: &str) -> bool {
        true
    }

    fn leads(&self, _: Chore) -> BoxFuture<'_, bool> {
        ready(self.0).boxed()
    }
}

/// After one round of upkeep: what waits of a record that is too old, how many losses there are, how many settled records are still
/// kept, and whether a canary was sent.
async fn kept_up(leads: bool) -> (u64, usize, usize, bool) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.toml");
    let text = format!(
        "primary = \"a\"\n[journal]\npath = \"{}\"\nmin_free_disk = \"0B\"\n[canary]\ninterval = \"5m\"\n[upstreams.a]\n[[projects]]\n\
         name = \"shop\"\nid = \"1\"\npublic_key = \"0123456789abcdef0123456789abcdef\"\n[projects.upstreams]\na = \"http://key@127.0.0.1:1/1\"\n",
        folder.path().join("journal.db").display()
    );
    std::fs::write(&path, text).unwrap();
    let config = load(&path).unwrap_or_else(|error| panic!("{}", error.render(Form::Plain))).config;
    let clock = Clock::system();
    let ledger = Ledger::default();
    let journal = SqliteJournal::open(&config.journal, clock.clone(), ledger.clone()).unwrap();
    let (secret, control) = (journal.secret(), Arc::new(Lead(leads)));
    let backend = Backend { journal: Arc::new(journal), ledger, secret, control };
    let mut daemon = Daemon::assemble(backend, String::new(), config, clock.clone()).await.unwrap();
    let gone = daemon.journal.target("gone").await.unwrap();
    daemon.targets = daemon.journal.targets().await.unwrap();
    let id = EventId::from(7);
    for targets in [vec![gone], vec![]] {
        let submission = Submission {
            accepted_at: clock.now() - LONGEST_AGE.get() - Duration::from_secs(3600),
            project: "shop".into(),
            event_id: Some(id),
            quantities: Quantities::from_iter([(Category::Error, 1)]),
            keys: vec![],
            repeats_since: Timestamp::default(),
            client: Client::default(),
            body: bytes::Bytes::from_static(b"{}\n").into(),
            targets,
            withheld: vec![],
            spans: None,
        };
        daemon.journal.append(submission).await.unwrap();
    }
    daemon.keep_up().await;
    let waits = daemon.journal.backlog(gone).await.unwrap().envelopes;
    let lost = daemon.journal.losses().await.unwrap().len();
    let canary = daemon.supervisor.board().canary(&Arc::from("a"), |canary| canary.is_some());
    let kept = daemon.journal.prune(clock.now(), 9).await.unwrap();
    daemon.stop(Tasks::new()).await;
    (waits, lost, kept, canary == Some(true))
}

#[tokio::test]
async fn a_chore_whose_lead_is_elsewhere_does_nothing() {
    assert_eq!(kept_up(true).await, (0, 1, 0, true));
    assert_eq!(kept_up(false).await, (1, 0, 1, false));
}
