//! Commits with an unknown outcome.

use std::sync::Arc;

use tempfile::TempDir;

use crate::clock::Clock;
use crate::contract::{ENOUGH, at, submission, written};
use crate::journal::postgres::PostgresJournal;
use crate::journal::{
    Durability, Journal, JournalError, Log as _, RecordId, Settings, Storage as _, Submission, TargetId,
};
use crate::support::eventually::eventually;
use crate::support::line::Line;
use crate::support::postgres::{Database, Server};
use crate::support::relay::SOON;
use crate::telemetry::ledger::Ledger;
use crate::units::ByteSize;

/// Makes every commit with a record take a second from now on.
const SLOW: &str = "
    CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(1); RETURN NULL; END';
    CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON record DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION slow()";
const COMMITTING: &str = "SELECT count(*) FROM pg_stat_activity
    WHERE query = 'COMMIT' AND wait_event = 'PgSleep' AND datname = current_database()";
const RECORDS: &str = "SELECT count(*) FROM record";
const ACCEPTED: &str = "SELECT sum(quantity) FROM ledger WHERE outcome = 'accepted' AND target = -1";

fn accepted(ledger: &Ledger) -> u64 {
    let accounts = ledger.accounts();
    accounts.iter().filter(|(key, _)| key.upstream.is_none()).map(|(_, account)| account.accepted).sum()
}

/// A relay that reaches its database over a line, and has taken one record.
pub(crate) struct Scene {
    pub(crate) database: Database,
    pub(crate) line: Line,
    pub(crate) journal: Arc<PostgresJournal>,
    ledger: Ledger,
    pub(crate) target: TargetId,
    pub(crate) home: TempDir,
}

impl Scene {
    async fn begin(spill: bool) -> Self {
        Self::of(spill, ENOUGH).await
    }

    pub(crate) async fn of(spill: bool, max_size: ByteSize) -> Self {
        let (server, ledger, home) = (Server::shared(), Ledger::default(), TempDir::new().expect("a folder"));
        let database = server.database();
        let line = Line::to(server.port()).await;
        let url = database.url.replace(&server.port().to_string(), &line.port().to_string());
        let url = Some(serde_json::from_value(url.into()).expect("an address"));
        let (node, spill_path) = (Some("one".to_owned()), home.path().join("spill.db"));
        let durability = Durability::Single;
        let settings = Settings { url, durability, node, spill, spill_path, max_size, ..Settings::default() };
        let journal = PostgresJournal::open(&settings, Clock::system(), ledger.clone()).await;
        let journal = Arc::new(journal.unwrap_or_else(|error| panic!("{error}")));
        let target = journal.target("a").await.unwrap();
        journal.append(submission(at(1), &[target])).await.unwrap();
        Self { database, line, journal, ledger, target, home }
    }

    async fn append(&self) -> Result<RecordId, JournalError> {
        self.journal.append(submission(at(1), &[self.target])).await
    }

    /// Appends a record that is committed while the line is cut.
    async fn append_into_the_dark(&self) -> Result<RecordId, JournalError> {
        self.append_this_into_the_dark(submission(at(1), &[self.target])).await
    }

    async fn append_this_into_the_dark(&self, submission: Submission) -> Result<RecordId, JournalError> {
        self.database.execute(SLOW);
        let cut = async {
            eventually("it is being committed", SOON, async || match self.database.number(COMMITTING) {
                1 => Ok(()),
                count => Err(format!("{count} commits")),
            })
            .await;
            self.line.cut(true);
        };
        let (appended, ()) = tokio::join!(self.journal.append(submission), cut);
        assert_eq!(self.database.number(RECORDS), 2, "it took place");
        self.database.execute("DROP TRIGGER slow ON record");
        appended
    }

    /// Waits until no record is spilled any more.
    async fn moved(&self) {
        self.keeps(0).await;
    }

    /// Waits until `count` records are spilled.
    pub(crate) async fn keeps(&self, count: u64) {
        eventually("some are moved, and some are not", SOON, async || {
            let nodes = self.journal.measure().await.map_err(|error| error.to_string())?.nodes;
            match nodes.iter().find(|node| node.is_own).map(|node| node.spilled) {
                Some(spilled) if spilled == count => Ok(()),
                spilled => Err(format!("{spilled:?} are kept")),
            }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn counts_of_an_unknown_commit_are_posted_once_it_is_known() {
    let scene = Scene::begin(false).await;
    scene.append_into_the_dark().await.expect_err("nobody knows");
    assert_eq!((accepted(&scene.ledger), scene.database.number(ACCEPTED)), (1, 2));
    scene.line.cut(false);
    eventually("the relay goes on", SOON, async || scene.append().await.map_err(|error| error.to_string())).await;
    assert_eq!((accepted(&scene.ledger), scene.database.number(ACCEPTED)), (3, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn records_of_an_unknown_commit_are_not_kept_twice() {
    let scene = Scene::begin(true).await;
    scene.append_into_the_dark().await.expect("it is kept on this machine");
    scene.line.cut(false);
    scene.moved().await;
    assert_eq!(scene.database.number(RECORDS), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_body_of_an_unknown_commit_is_not_kept_twice() {
    let scene = Scene::begin(true).await;
    let journal: Arc<dyn Journal> = scene.journal.clone();
    let body = written(&journal, &vec![7; 3 << 20]).await.unwrap();
    let large = Submission { body, ..submission(at(1), &[scene.target]) };
    scene.append_this_into_the_dark(large).await.expect("it is kept on this machine");
    scene.line.cut(false);
    scene.moved().await;
    assert_eq!(scene.database.number(RECORDS), 2);
    assert_eq!(scene.database.number("SELECT sum(length(bytes)) FROM piece"), 3 << 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spilled_record_is_moved_though_another_record_has_its_number() {
    let scene = Scene::begin(true).await;
    scene.append_into_the_dark().await.expect("it is kept on this machine");
    // The new primary has another record with this number.
    scene.database.execute("UPDATE record SET accepted_at = accepted_at + 1");
    scene.line.cut(false);
    scene.moved().await;
    assert_eq!(scene.database.number(RECORDS), 3);
}
