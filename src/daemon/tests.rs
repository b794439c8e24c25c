//! Chores when another relay leads, and a round of upkeep during which the daemon is told to stop.

use std::path::Path;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, ready};

use super::*;
use crate::clock::Timestamp;
use crate::config::diagnostics::LoadError;
use crate::config::load;
use crate::delivery::settings::LONGEST_AGE;
use crate::journal::backfill::{Backfill, BackfillStep, Scope};
use crate::journal::losses::Loss;
use crate::journal::sqlite::SqliteJournal;
use crate::journal::term::Epoch;
use crate::journal::{Client, Cursor, Submission};
use crate::protocol::category::{Category, Quantities};
use crate::protocol::client_report::Reason;
use crate::protocol::event_id::EventId;
use crate::telemetry::ledger::Ledger;

/// Leads in every chore, or in none.
struct Lead {
    leads: bool,
    /// Cancelled when the daemon asks whether it leads.
    stop: CancellationToken,
}

impl Control for Lead {
    fn watch(&self, _: &Tasks) -> mpsc::Receiver<()> {
        mpsc::channel(1).1
    }

    fn load(&self, _: bool) -> BoxFuture<'_, Result<Loaded, LoadError>> {
        unreachable!("nothing is reloaded")
    }

    fn set_primary(&self, _: &str) -> BoxFuture<'_, Result<Option<String>, String>> {
        unreachable!("nothing is switched")
    }

    fn take_back(&self, _: &str, _: &str) -> BoxFuture<'_, Result<(), String>> {
        unreachable!("nothing is switched")
    }

    fn made_primary(&self, _: &str) -> bool {
        true
    }

    fn leads(&self) -> BoxFuture<'_, Option<Epoch>> {
        self.stop.cancel();
        ready(self.leads.then_some(Epoch::ALONE)).boxed()
    }
}

/// The chores that one relay does for all.
const CHORES: [&str; 7] =
    ["expire", "prune", "client reports", "canaries", "backfills", "verification", "notifications"];

/// A daemon with one upstream with an API and without client reports, with canaries and a receiver. The daemon is told to stop when it
/// first asks whether it leads, if `stop` is given.
async fn daemon(folder: &Path, leads: bool, stop: Option<CancellationToken>) -> Daemon {
    let path = folder.join("config.toml");
    let text = format!(
        "primary = \"a\"\n[journal]\npath = \"{}\"\nmin_free_disk = \"0B\"\n[canary]\ninterval = \"5m\"\n[upstreams.a]\n\
         kind = \"glitchtip\"\nclient_reports = \"0s\"\napi.token = \"hunter2\"\n[[projects]]\nname = \"shop\"\nid = \"1\"\n\
         public_key = \"0123456789abcdef0123456789abcdef\"\n[projects.upstreams]\n\
         a = {{ dsn = \"http://key@127.0.0.1:1/1\", project = \"acme/shop\" }}\n[[notify]]\nurl = \"http://127.0.0.1:1/\"\n",
        folder.join("journal.db").display()
    );
    std::fs::write(&path, text).unwrap();
    let config = load(&path).unwrap_or_else(|error| panic!("{}", error.render(Form::Plain))).config;
    let (clock, ledger) = (Clock::system(), Ledger::default());
    let journal = SqliteJournal::open(&config.journal, clock.clone(), ledger.clone()).unwrap();
    let backend = Backend { secret: journal.secret(), journal: Arc::new(journal), ledger };
    let draining = stop.clone().unwrap_or_default();
    let lead = Arc::new(Lead { leads, stop: stop.unwrap_or_default() });
    Daemon::assemble(backend, lead, String::new(), config, clock, draining).await.unwrap()
}

/// Appends an error that was accepted at that time.
async fn append(daemon: &Daemon, accepted_at: Timestamp, targets: Vec<TargetId>) {
    let submission = Submission {
        accepted_at,
        project: "shop".into(),
        event_id: Some(EventId::from(7)),
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

/// Begins a backfill of the last minute.
async fn begin_backfill(daemon: &Daemon, target: TargetId) {
    let now = daemon.clock.now();
    let begun = Backfill {
        scope: Scope { target, projects: vec!["shop".into()], since: now - Duration::from_secs(60) },
        until: Cursor::START,
        reached: Cursor::START,
        found: 1,
        taken: 0,
        started_at: now,
        ended_at: None,
        cancelled: false,
    };
    daemon.journal.backfill(target, BackfillStep::Begin(Box::new(begun))).await.unwrap();
}

/// The chores that a relay has done after one round of each.
async fn done(leads: bool) -> Vec<&'static str> {
    let folder = tempfile::tempdir().unwrap();
    let mut daemon = daemon(folder.path(), leads, None).await;
    let (a, gone) = (daemon.journal.target("a").await.unwrap(), daemon.journal.target("gone").await.unwrap());
    daemon.targets = daemon.journal.targets().await.unwrap();
    let now = daemon.clock.now();
    let old = now - LONGEST_AGE.get() - Duration::from_secs(3600);
    append(&daemon, old, vec![gone]).await;
    append(&daemon, old, vec![]).await;
    append(&daemon, now, vec![]).await;
    let lost = Loss {
        target: a,
        project: "shop".into(),
        reason: Reason::NetworkError,
        category: Category::Error,
        quantity: 1,
    };
    daemon.journal.lose(vec![lost]).await.unwrap();
    begin_backfill(&daemon, a).await;
    let backfilled = backfilling::round(&*daemon.journal, &daemon.admin, &*daemon.control).await;
    daemon.keep_up().await;
    let notified = daemon.watcher().round(&*daemon.control, &daemon.receivers).await;
    let taken = daemon.journal.backfills().await.unwrap()[0].taken;
    assert_eq!(backfilled.is_some(), taken > 0, "{backfilled:?}");
    let canary = daemon.supervisor.board().canary(&Arc::from("a"), |canary| canary.is_some());
    let is_done = [
        daemon.journal.backlog(gone).await.unwrap().envelopes == 0,
        daemon.journal.prune(now - Duration::from_secs(60), 9).await.unwrap() == 0,
        daemon.journal.losses().await.unwrap().iter().all(|loss| loss.target != a),
        canary == Some(true),
        backfilled.is_some(),
        daemon.verifier.due().is_empty(),
        notified,
    ];
    daemon.stop(Serving::default()).await;
    CHORES.into_iter().zip(is_done).filter(|(_, is_done)| *is_done).map(|(name, _)| name).collect()
}

#[tokio::test]
async fn the_leading_relay_does_every_chore_and_another_does_none() {
    assert_eq!(done(true).await, CHORES);
    assert_eq!(done(false).await, [""; 0]);
}

#[tokio::test]
async fn a_round_ends_after_the_step_in_which_the_daemon_must_stop() {
    let folder = tempfile::tempdir().unwrap();
    let mut daemon = daemon(folder.path(), true, Some(CancellationToken::new())).await;
    let now = daemon.clock.now();
    append(&daemon, now - LONGEST_AGE.get() - Duration::from_secs(3600), vec![]).await;
    daemon.keep_up().await;
    let canary = daemon.supervisor.board().canary(&Arc::from("a"), |canary| canary.is_some());
    assert_ne!(canary, Some(true), "no canary is sent");
    assert_eq!(daemon.journal.prune(now - Duration::from_secs(60), 9).await.unwrap(), 1, "nothing was pruned");
    daemon.stop(Serving::default()).await;
}
