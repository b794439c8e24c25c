//! Upkeep of what gone relays have left behind, and of old data.

use crate::contract::{ENOUGH, Subject, at, delivered, eventually, fill};
use crate::policy::outcome::DropReason;
use crate::promises::{Alone, open};
use crate::support::postgres::{Database, Server};
use crate::telemetry::ledger::Ledger;

/// The number of rows of incarnations other than 0, and of old hours and steps.
const LEFT: &str = "SELECT (SELECT count(*) FROM ledger WHERE incarnation <> 0 OR hour BETWEEN 1 AND 9)
    + (SELECT count(*) FROM waiting WHERE incarnation <> 0) + (SELECT count(*) FROM room WHERE incarnation <> 0)
    + (SELECT count(*) FROM latest WHERE incarnation <> 0) + (SELECT count(*) FROM step WHERE at % 3600000 <> 0)
    + (SELECT count(*) FROM attempt) + (SELECT count(*) FROM large)";

#[tokio::test]
async fn counts_of_gone_relays_and_of_old_hours_are_summed_up() {
    let database = Server::shared().database();
    let mut subject = Subject::new(Box::new(Alone { database: database.clone(), max_size: ENOUGH }));
    let a = subject.journal().target("a").await.unwrap();
    fill(&subject.journal(), 5, &[a]).await;
    let claims = subject.journal().claim(a, at(9), 3).await.unwrap();
    for claim in claims {
        subject.journal().settle(&claim.lease, delivered(1)).await.unwrap();
    }
    let (accounts, latest) = (subject.ledger().accounts(), subject.journal().figures().await.unwrap());
    let used = subject.journal().measure().await.unwrap().space.used;
    database.execute(
        "UPDATE ledger SET hour = 5 WHERE hour = 0;
         INSERT INTO attempt VALUES (5, 0, 'delivered', 1);
         INSERT INTO large (owner, size) SELECT max(incarnation), 7 FROM node;
         INSERT INTO step SELECT (extract(epoch FROM now())::bigint / 3600 - 60) * 3600000 + n * 300000, 0, 3, 2, 1, n, n
             FROM generate_series(0, 11) AS s(n)",
    );
    for _ in 0..2 {
        subject.crash();
        eventually("it is summed up", async || database.number(LEFT) == 0).await;
        assert_eq!(subject.ledger().accounts(), accounts);
        assert_eq!(subject.journal().figures().await.unwrap(), latest);
        assert_eq!(subject.journal().measure().await.unwrap().space.used, used);
        assert_eq!(subject.journal().backlog(a).await.unwrap().envelopes, 2);
        subject.assert_balanced().await;
    }
    let sums = "SELECT accepted * 10000 + delivered * 100 + lost + waiting * 10000000 FROM step";
    assert_eq!(database.number(sums), 36 * 10_000 + 24 * 100 + 12 + 11 * 10_000_000);
}

#[tokio::test]
async fn upkeep_that_finds_nothing_old_waits_for_no_lock() {
    let database = Server::shared().database();
    let subject = Subject::new(Box::new(Alone { database: database.clone(), max_size: ENOUGH }));
    let journal = subject.journal();
    let a = journal.target("a").await.unwrap();
    fill(&journal, 3, &[a]).await;
    let other = database.open();
    other.say(
        "BEGIN; SELECT pg_advisory_xact_lock(x'53774a74'::int, id) FROM target; SELECT FROM committed FOR UPDATE;",
    );
    eventually("somebody has it", async || {
        database.number(
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND classid = x'53774a74'::int::oid AND granted
             AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
        ) > 0
    })
    .await;
    assert_eq!(journal.discard(a, at(0), DropReason::Expired, 9).await.unwrap(), 0);
    assert_eq!(journal.prune(at(0), 9).await.unwrap(), 0);
}

/// Inserts three gone relays that counted two errors per project in each of the last `hours` hours.
fn gone(database: &Database, hours: i64, projects: i64) {
    database.execute(&format!(
        "INSERT INTO project (name) SELECT 'p' || p FROM generate_series(1, {projects}) AS p;
         INSERT INTO target VALUES (0, 'a');
         WITH entered AS (
             INSERT INTO node (name, version, started_at, alive_until, replaced)
             SELECT 'gone', '0', 0, now(), true FROM generate_series(1, 3) RETURNING incarnation)
         INSERT INTO ledger SELECT extract(epoch FROM now())::bigint / 3600 - h, incarnation, 0, p.id, 'error', 'accepted', 2
             FROM entered, generate_series(1, {hours}) AS h, project p"
    ));
}

#[tokio::test]
async fn counts_of_gone_relays_are_summed_up_in_bounded_steps() {
    let database = Server::shared().database();
    drop(open(&database, "before", ENOUGH, Ledger::default()));
    gone(&database, 100, 200);
    let ledger = Ledger::default();
    let _relay = open(&database, "one", ENOUGH, ledger.clone());
    eventually("it is summed up", async || {
        assert_eq!(database.number("SELECT sum(quantity) FROM ledger"), 120_000);
        database.number("SELECT count(*) FROM node WHERE replaced AND NOT merged") == 0
    })
    .await;
    assert_eq!(database.number("SELECT count(*) FROM ledger WHERE incarnation <> 0"), 0);
    let accounts = ledger.accounts();
    assert_eq!((accounts.len(), accounts.values().map(|account| account.accepted).sum::<u64>()), (200, 120_000));
    let steps = database.number("SELECT count(DISTINCT xmin::text) FROM ledger");
    assert!(steps >= 3, "60,000 rows in {steps} transactions");
}

#[tokio::test]
async fn one_upkeep_task_that_fails_does_not_stop_the_others() {
    let database = Server::shared().database();
    drop(open(&database, "before", ENOUGH, Ledger::default()));
    gone(&database, 1, 1);
    database.execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE ''no''; END';
         CREATE TRIGGER refuse BEFORE DELETE ON ledger FOR EACH ROW EXECUTE FUNCTION refuse();
         INSERT INTO attempt VALUES (5, 0, 'delivered', 1)",
    );
    let _relay = open(&database, "one", ENOUGH, Ledger::default());
    eventually("what is old is forgotten", async || database.number("SELECT count(*) FROM attempt") == 0).await;
    assert!(
        database.number("SELECT count(*) FROM node WHERE NOT merged AND replaced") >= 3,
        "they cannot be summed up"
    );
}

#[tokio::test]
async fn a_relay_starts_however_long_the_accounts_take_to_read() {
    let database = Server::shared().database();
    drop(open(&database, "before", ENOUGH, Ledger::default()));
    gone(&database, 10, 10);
    let other = database.open();
    other.say("BEGIN; LOCK TABLE ledger;");
    let locked = "SELECT count(*) FROM pg_locks WHERE relation = 'ledger'::regclass AND mode = 'AccessExclusiveLock' AND granted";
    eventually("it is locked", async || database.number(locked) > 0).await;
    let (ledger, place) = (Ledger::default(), database.clone());
    let own = ledger.clone();
    let starting = tokio::task::spawn_blocking(move || open(&place, "one", ENOUGH, own));
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
         AND query_start < now() - interval '11 seconds'";
    eventually("it has waited", async || starting.is_finished() || database.number(waits) > 0).await;
    drop(other);
    let _relay = starting.await.expect("it starts");
    assert_eq!(ledger.accounts().values().map(|account| account.accepted).sum::<u64>(), 600);
}

/// The number of incarnations with data, without the journal's own.
const KEPT: &str = "SELECT count(DISTINCT incarnation) FROM (
    SELECT incarnation FROM node UNION ALL SELECT incarnation FROM committed UNION ALL SELECT incarnation FROM frontier
    UNION ALL SELECT incarnation FROM waiting UNION ALL SELECT incarnation FROM room UNION ALL SELECT incarnation FROM latest
    UNION ALL SELECT incarnation FROM verification) AS of WHERE incarnation > 0";

#[tokio::test]
async fn a_past_start_leaves_nothing_once_its_records_are_gone() {
    let database = Server::shared().database();
    let mut subject = Subject::new(Box::new(Alone { database: database.clone(), max_size: ENOUGH }));
    let a = subject.journal().target("a").await.unwrap();
    fill(&subject.journal(), 3, &[a]).await;
    let first = database.number("SELECT max(incarnation) FROM node");
    for _ in 0..4 {
        subject.crash();
    }
    database.execute("UPDATE node SET alive_until = clock_timestamp() - interval '2 days' WHERE replaced");
    // A start cleans up at once, but the first relay has a record that waits.
    subject.crash();
    eventually("two are left", async || database.number(KEPT) == 3).await;
    assert_eq!(database.number("SELECT min(incarnation) FROM node"), first);
    let figures = subject.journal().figures().await.unwrap();
    for claim in subject.journal().claim(a, at(9), 3).await.unwrap() {
        subject.journal().settle(&claim.lease, delivered(1)).await.unwrap();
    }
    subject.flush().await;
    subject.journal().prune(at(99), 10).await.unwrap();
    assert_eq!(database.number("SELECT count(*) FROM record"), 0);
    subject.crash();
    database.execute("UPDATE node SET alive_until = clock_timestamp() - interval '2 days' WHERE replaced");
    subject.crash();
    eventually("the first one is gone, too", async || database.number("SELECT min(incarnation) FROM node") > first)
        .await;
    assert!(database.number(KEPT) <= 3);
    assert_eq!(subject.journal().figures().await.unwrap().len(), figures.len());
    subject.assert_balanced().await;
}
