//! Nothing that a former primary says counts: it has data that no other server has, and lacks data that others have.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::contract::{ENOUGH, at, submission, written};
use crate::journal::postgres::PostgresJournal;
use crate::journal::{Bodies as _, ControlPlane as _, Durability, Journal, Log as _, Submission, TargetId};
use crate::promises::{open, open_with};
use crate::support::eventually::eventually;
use crate::support::net;
use crate::support::postgres::{Database, Server, as_nobody, own};
use crate::support::process::Process;
use crate::support::relay::SOON;
use crate::telemetry::ledger::Ledger;

/// The number of commits with records that wait for a standby; chores commit too.
const WAITING_WITH_RECORDS: &str = "SELECT count(*) FROM pg_stat_activity JOIN pg_locks USING (pid)
     WHERE wait_event = 'SyncRep' AND query = 'COMMIT' AND relation = 'record'::regclass AND mode = 'RowExclusiveLock'";
/// The number of commits that wait for a standby.
const WAITING: &str = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";

fn server() -> Server {
    Server::start(&["fsync=off", "full_page_writes=off"])
}

/// Makes the server's commits wait for this standby; an empty name makes them wait for none.
fn wait_for(server: &Server, standby: &str) {
    server.ask(&format!("ALTER SYSTEM SET synchronous_standby_names = '{standby}'"));
    server.ask("SELECT pg_reload_conf()");
}

/// Starts a process that confirms the server's commits as a standby of this name.
fn follow(server: &Server, name: &str) -> Process {
    let folder = server.home().join(name);
    std::fs::create_dir(&folder).expect("a folder");
    own(&folder);
    let place = format!("host=127.0.0.1 port={} user=relay application_name={name}", server.port());
    let mut follow = as_nobody("pg_receivewal");
    follow.args(["--synchronous", "-d", &place, "-D"]).arg(&folder);
    Process::start("pg_receivewal", &mut follow, &server.home().join(format!("{name}.log")), None)
}

/// Makes a server end its commits with a warning, as when the wait for a standby is cancelled, until this is dropped.
struct Former {
    server: &'static Server,
    is_over: Arc<AtomicBool>,
}

impl Former {
    async fn begin(server: &'static Server) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        wait_for(server, "nobody");
        eventually("commits wait", SOON, async || {
            // Each relay renews its sign of life all the time, so there are commits.
            if server.ask(WAITING) == "0" { Err("none does".to_owned()) } else { Ok(()) }
        })
        .await;
        let is_known = Arc::clone(&is_over);
        std::thread::spawn(move || {
            while !is_known.load(Ordering::Acquire) {
                server.ask("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'");
            }
        });
        Self { server, is_over }
    }

    /// Makes the server the primary again.
    fn end(self) {
        wait_for(self.server, "");
    }
}

impl Drop for Former {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Release);
    }
}

fn one_of(project: &str, target: TargetId) -> Submission {
    Submission { project: project.into(), ..submission(at(1), &[target]) }
}

/// A new server that runs until the process ends.
fn kept() -> &'static Server {
    Box::leak(Box::new(server()))
}

fn relay(database: &Database, name: &str) -> Arc<PostgresJournal> {
    open(database, name, ENOUGH, Ledger::default())
}

#[tokio::test]
async fn an_unreplicated_commit_is_never_reported_as_done() {
    let server = kept();
    let database = server.database();
    let journal = relay(&database, "one");
    journal.plane("a", "").await.expect("a primary");
    let a = journal.target("a").await.unwrap();
    let former = Former::begin(server).await;
    journal.share_primary("b").await.expect_err("a switch that may be gone");
    journal.target("b").await.expect_err("an upstream that may be gone");
    assert!(Arc::clone(&journal).begin(Some("shop".into())).await.is_err(), "a large body that may be gone");
    journal.append(one_of("shop", a)).await.expect_err("a record that may be gone");
    assert!(journal.leads().await.is_none(), "a term that another one may have");
    former.end();
    eventually("the relay goes on", SOON, async || journal.target("c").await.map_err(|error| error.to_string())).await;
}

#[tokio::test]
async fn a_project_number_that_one_server_alone_gave_is_never_used() {
    let server = kept();
    let database = server.database();
    let journal = relay(&database, "one");
    let a = journal.target("a").await.unwrap();
    let former = Former::begin(server).await;
    journal.append(one_of("shop", a)).await.expect_err("a record that may be gone");
    // The primary has given the number to another project.
    database.execute("UPDATE project SET name = 'other' WHERE name = 'shop'");
    assert_eq!(database.number("SELECT count(*) FROM project WHERE name = 'other'"), 1);
    former.end();
    eventually("it is kept", SOON, async || journal.append(one_of("shop", a)).await.map_err(|error| error.to_string()))
        .await;
    let of_it = "SELECT count(*) FROM record r JOIN project p ON p.id = r.project WHERE p.name = ";
    assert_eq!(database.number(&format!("{of_it}'shop'")), 1);
    assert_eq!(database.number(&format!("{of_it}'other'")), 0);
}

#[tokio::test]
async fn a_server_that_does_not_know_a_relay_yet_cannot_replace_it() {
    let server = kept();
    let database = server.database();
    let journal = relay(&database, "one");
    let a = journal.target("a").await.unwrap();
    let former = Former::begin(server).await;
    database.execute("ALTER TABLE node RENAME TO known; CREATE TABLE node (LIKE known INCLUDING ALL)");
    journal.append(one_of("shop", a)).await.expect_err("nobody takes it");
    assert!(!journal.replaced().is_cancelled());
    database.execute("DROP TABLE node; ALTER TABLE known RENAME TO node");
    former.end();
    eventually("the relay goes on", SOON, async || journal.target("c").await.map_err(|error| error.to_string())).await;
}

#[tokio::test]
async fn counts_that_one_server_alone_reports_are_never_posted() {
    let (server, ledger) = (kept(), Ledger::default());
    let database = server.database();
    let journal = open(&database, "one", ENOUGH, ledger.clone());
    let a = journal.target("a").await.unwrap();
    journal.append(one_of("shop", a)).await.expect("kept");
    let accepted = || ledger.accounts().values().map(|account| account.accepted).sum::<u64>();
    assert_eq!(accepted(), 2);
    let former = Former::begin(server).await;
    database
        .execute("INSERT INTO ledger SELECT hour, incarnation + 1, target, project, category, outcome, 7 FROM ledger");
    // A session reports its statistics at its end at the latest.
    let looks =
        || database.number("SELECT seq_scan + coalesce(idx_scan, 0) FROM pg_stat_user_tables WHERE relname = 'ledger'");
    let before = looks();
    eventually("it is looked there", SOON, async || match looks() - before {
        looks if looks >= 4 => Ok(()),
        looks => Err(format!("{looks} looks")),
    })
    .await;
    assert_eq!(accepted(), 2);
    former.end();
    eventually("it is posted when it is certain", SOON, async || match accepted() {
        16 => Ok(()),
        count => Err(count.to_string()),
    })
    .await;
}

#[tokio::test]
async fn a_dropped_body_is_removed_although_the_former_primary_lacks_it() {
    let server = kept();
    let database = server.database();
    let journal: Arc<dyn Journal> = relay(&database, "one");
    let body = written(&journal, &vec![7; 3 << 20]).await.unwrap();
    let former = Former::begin(server).await;
    // The removal finds no row that it may delete.
    database.execute("UPDATE large SET record = 0");
    drop(body);
    let looks =
        || database.number("SELECT seq_scan + coalesce(idx_scan, 0) FROM pg_stat_user_tables WHERE relname = 'large'");
    let before = looks();
    eventually("it is looked there", SOON, async || match looks() - before {
        looks if looks >= 8 => Ok(()),
        looks => Err(format!("{looks} looks")),
    })
    .await;
    assert_eq!(database.number("SELECT count(*) FROM large"), 1);
    database.execute("UPDATE large SET record = NULL");
    former.end();
    eventually("it is removed", SOON, async || match database.number("SELECT count(*) FROM large") {
        0 => Ok(()),
        count => Err(count.to_string()),
    })
    .await;
}

/// Admits the relay to the server `there` only.
fn move_to(there: &Server, from: &Server, database: &str) {
    there.ask(&format!("ALTER DATABASE {database} ALLOW_CONNECTIONS true"));
    from.ask(&format!("ALTER DATABASE {database} ALLOW_CONNECTIONS false"));
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = ";
    from.ask(&format!("{end}'{database}'"));
}

#[tokio::test]
async fn a_former_primarys_commit_is_not_taken_for_one_at_the_primary() {
    let (before, port) = (server(), net::free_port());
    let database = before.database();
    let url = format!("postgres://relay@127.0.0.1:{},127.0.0.1:{port}/t0", before.port());
    let journal = relay(&Database { url }, "one");
    let a = journal.target("a").await.unwrap();
    journal.append(one_of("shop", a)).await.expect("kept");
    let after = before.twin(port);
    move_to(&after, &before, "t0");
    for _ in 0..5 {
        journal.append(one_of("shop", a)).await.expect("kept by the new primary");
    }
    // The former primary goes on as if it were the primary.
    wait_for(&before, "nobody");
    move_to(&before, &after, "t0");
    let returns = async {
        eventually("its commit waits", SOON, async || {
            let commits = database.number(WAITING_WITH_RECORDS);
            if commits == 1 { Ok(()) } else { Err(format!("{commits} wait")) }
        })
        .await;
        move_to(&after, &before, "t0");
    };
    let (appended, ()) = tokio::join!(journal.append(one_of("shop", a)), returns);
    appended.expect("kept by the new primary");
    let there = Database { url: format!("postgres://relay@127.0.0.1:{port}/t0") };
    assert_eq!(there.number("SELECT count(*) FROM record"), 7);
    drop(database);
}

#[tokio::test]
async fn a_server_told_to_wait_for_no_standby_gets_no_more_records() {
    let server = server();
    let database = server.database();
    let _standby = follow(&server, "second");
    wait_for(&server, "second");
    eventually("commits are confirmed", Duration::from_secs(30), async || {
        let confirmed = server.ask("SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'");
        if confirmed == "1" { Ok(()) } else { Err("there is no standby".to_owned()) }
    })
    .await;
    let journal = open_with(&database, ("one", Durability::Quorum), ENOUGH, Ledger::default());
    let a = journal.target("a").await.unwrap();
    journal.append(one_of("shop", a)).await.expect("kept");
    wait_for(&server, "");
    assert_eq!(server.ask("SHOW synchronous_standby_names"), "");
    journal.append(one_of("shop", a)).await.expect_err("it would be on one machine");
    wait_for(&server, "second");
    eventually("it is kept", SOON, async || journal.append(one_of("shop", a)).await.map_err(|error| error.to_string()))
        .await;
}
