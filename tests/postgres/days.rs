//! Bodies are kept by day, and a past day is dropped whole.

use std::process::Command;
use std::sync::Arc;

use bytes::Bytes;

use crate::contract::{ENOUGH, Subject, at, bytes_of, delivered, submission};
use crate::journal::body::Body;
use crate::journal::{Journal, Submission, TargetId};
use crate::promises::{Alone, of_that_day, open};
use crate::support::eventually::eventually;
use crate::support::postgres::{Database, Server};
use crate::support::relay::SOON;
use crate::telemetry::ledger::Ledger;
use crate::units::ByteSize;

/// The second after the day of [`at`], which is long past.
const DAY: u64 = 24 * 3600;
const MADE: &str = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'body'::regclass";
const OF_THAT_DAY: &str = "SELECT count(*) FROM pg_class WHERE relname = 'body_0'";
const WITH_THEIR_RECORDS: &str = "SELECT count(body) FROM record";

fn of(seconds: u64, targets: &[TargetId]) -> Submission {
    let body = Body::from(Bytes::from(vec![u8::try_from(seconds).expect("a small number"); 9000]));
    Submission { body, ..submission(at(seconds), targets) }
}

/// Appends records at these seconds and settles the first `settled`.
async fn filled(journal: &Arc<dyn Journal>, target: TargetId, seconds: u64, settled: usize) {
    for second in 1..=seconds {
        journal.append(of(second, &[target])).await.unwrap();
    }
    for claim in journal.claim(target, at(100), settled).await.unwrap() {
        journal.settle(&claim.lease, delivered(1)).await.unwrap();
    }
    assert_eq!(journal.prune(at(0), 0).await.unwrap(), 0, "that is committed");
}

fn subject(database: &Database, max_size: ByteSize) -> Subject {
    of_that_day(database);
    Subject::new(Box::new(Alone { database: database.clone(), max_size }))
}

#[tokio::test]
async fn a_past_day_is_dropped_whole_and_waiting_records_keep_their_bodies() {
    let database = Server::shared().database();
    let mut subject = subject(&database, ENOUGH);
    let a = subject.journal().target("a").await.unwrap();
    filled(&subject.journal(), a, 5, 4).await;
    assert_eq!((database.number("SELECT count(*) FROM body_0"), database.number(WITH_THEIR_RECORDS)), (5, 0));
    assert_eq!(subject.journal().prune(at(DAY - 1), 10).await.unwrap(), 4);
    assert_eq!(database.number("SELECT count(*) FROM body_0"), 5, "none is deleted by itself");
    assert_eq!(subject.journal().prune(at(DAY), 10).await.unwrap(), 0);
    assert_eq!(database.number(WITH_THEIR_RECORDS), 1, "the last one leaves");
    assert_eq!(subject.journal().prune(at(DAY), 10).await.unwrap(), 0);
    assert_eq!(database.number(OF_THAT_DAY), 0);
    subject.crash();
    let claims = subject.journal().claim(a, at(100), 9).await.unwrap();
    let bodies: Vec<Vec<u8>> = claims.iter().map(|claim| bytes_of(&claim.record.body)).collect();
    assert_eq!(bodies, [vec![5; 9000]]);
}

#[tokio::test]
async fn a_day_is_dropped_when_its_last_record_was_pruned_before_its_end() {
    let database = Server::shared().database();
    let subject = subject(&database, ENOUGH);
    let a = subject.journal().target("a").await.unwrap();
    filled(&subject.journal(), a, 3, 3).await;
    assert_eq!(subject.journal().prune(at(DAY - 1), 10).await.unwrap(), 3);
    assert_eq!(database.number("SELECT count(*) FROM body_0"), 3);
    assert_eq!(subject.journal().prune(at(DAY), 10).await.unwrap(), 0);
    assert_eq!(database.number(OF_THAT_DAY), 0);
}

#[tokio::test]
async fn a_day_with_many_waiting_records_stays_without_the_pruned_bodies() {
    let database = Server::shared().database();
    let subject = subject(&database, ENOUGH);
    let a = subject.journal().target("a").await.unwrap();
    filled(&subject.journal(), a, 1, 1).await;
    database.execute(
        "INSERT INTO record SELECT id + n, accepted_at, project, targets, size, room, quantities, NULL, '', client, NULL, NULL
             FROM record CROSS JOIN generate_series(1, 257) AS s(n);
         INSERT INTO body SELECT 0, record + n, bytes FROM body CROSS JOIN generate_series(1, 257) AS s(n)",
    );
    assert_eq!(subject.journal().prune(at(DAY), 10).await.unwrap(), 1);
    assert_eq!((database.number("SELECT count(*) FROM body_0"), database.number(WITH_THEIR_RECORDS)), (257, 0));
    database.execute("DELETE FROM record WHERE id = (SELECT max(id) FROM record)");
    for left in [192, 128, 64, 0] {
        assert_eq!(subject.journal().prune(at(DAY), 10).await.unwrap(), 0);
        assert_eq!(database.number("SELECT count(*) FROM record WHERE body IS NULL"), left);
    }
    assert_eq!(subject.journal().prune(at(DAY), 10).await.unwrap(), 0);
    assert_eq!(database.number(OF_THAT_DAY), 0);
}

#[tokio::test]
async fn records_evicted_for_want_of_room_free_their_room_at_once() {
    let database = Server::shared().database();
    let subject = subject(&database, ByteSize::mib(1));
    let (journal, mut ids) = (subject.journal(), vec![]);
    let a = journal.target("a").await.unwrap();
    for _ in 0..20 {
        for second in 1..=16 {
            ids.push(journal.append(of(second, &[a])).await.unwrap().number());
        }
        for claim in journal.claim(a, at(100), 16).await.unwrap() {
            journal.settle(&claim.lease, delivered(1)).await.unwrap();
        }
    }
    let kept = database.number("SELECT count(*) FROM record");
    assert!((50..130).contains(&kept), "{kept} of {}", ids.len());
    assert_eq!(database.number("SELECT count(*) FROM body_0"), kept);
}

#[tokio::test]
async fn a_long_reader_delays_the_drop_of_a_day_and_holds_nobody_up() {
    let database = Server::shared().database();
    let subject = subject(&database, ENOUGH);
    let (journal, a) = (subject.journal(), subject.journal().target("a").await.unwrap());
    filled(&journal, a, 1, 1).await;
    let reader = database.open();
    reader.say("BEGIN; SELECT count(*) FROM body;");
    let held = "SELECT count(*) FROM pg_locks WHERE relation = 'body_0'::regclass AND mode = 'AccessShareLock'
         AND pid <> pg_backend_pid() AND pid IN (SELECT pid FROM pg_stat_activity WHERE state = 'idle in transaction')";
    eventually("it reads", SOON, async || if database.number(held) > 0 { Ok(()) } else { Err("not yet".to_owned()) })
        .await;
    assert_eq!(journal.prune(at(DAY), 10).await.unwrap(), 1);
    assert_eq!(database.number(OF_THAT_DAY), 1);
    journal.append(of(2, &[a])).await.expect("it is taken");
    drop(reader);
    eventually("it is dropped", SOON, async || {
        journal.prune(at(DAY), 10).await.unwrap();
        if database.number(OF_THAT_DAY) == 0 { Ok(()) } else { Err("it is there".to_owned()) }
    })
    .await;
    let claims = journal.claim(a, at(100), 9).await.unwrap();
    assert_eq!(claims.len(), 1);
}

#[tokio::test]
async fn a_relay_unaware_of_a_dropped_day_keeps_bodies_with_their_records() {
    let database = Server::shared().database();
    let subject = subject(&database, ENOUGH);
    let (journal, a) = (subject.journal(), subject.journal().target("a").await.unwrap());
    filled(&journal, a, 1, 1).await;
    for n in 2..6 {
        database.execute("DROP TABLE body_0");
        journal.append(of(n, &[a])).await.expect("it is taken");
        assert_eq!(database.number(WITH_THEIR_RECORDS), 1, "its body stands with it");
        database.execute("DELETE FROM record; CREATE TABLE body_0 PARTITION OF body FOR VALUES IN (0)");
        eventually("the day is used again", SOON, async || {
            journal.append(of(9, &[a])).await.unwrap();
            if database.number("SELECT count(*) FROM body_0") > 0 { Ok(()) } else { Err("not yet".to_owned()) }
        })
        .await;
        database.execute("DELETE FROM record");
    }
}

#[tokio::test]
async fn partitions_of_today_and_tomorrow_exist_before_any_record() {
    let database = Server::shared().database();
    let _relays =
        [open(&database, "one", ENOUGH, Ledger::default()), open(&database, "two", ENOUGH, Ledger::default())];
    let made = || database.number(MADE);
    eventually("they are made", SOON, async || if made() == 2 { Ok(()) } else { Err(made().to_string()) }).await;
    let today =
        "SELECT count(*) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE inhparent = 'body'::regclass
         AND substr(relname, 6)::int - floor(extract(epoch FROM now()) / 86400) IN (0, 1)";
    assert_eq!(database.number(today), 2);
}

#[tokio::test]
async fn a_move_into_another_database_takes_bodies_from_every_table() {
    let (database, other) = (Server::shared().database(), Server::shared().database());
    let mut subject = subject(&database, ENOUGH);
    let a = subject.journal().target("a").await.unwrap();
    filled(&subject.journal(), a, 2, 0).await;
    let on_another_day = Submission { accepted_at: at(2 * DAY), ..of(3, &[a]) };
    subject.journal().append(on_another_day).await.unwrap();
    assert_eq!((database.number("SELECT count(*) FROM body_0"), database.number(WITH_THEIR_RECORDS)), (2, 1));
    subject.journal().close(SOON).await;
    let mut verb = Command::new(env!("CARGO_BIN_EXE_switchyard"));
    verb.args(["journal", "move", "--single", "--from", &database.url, "--to", &other.url]);
    let moved = tokio::task::spawn_blocking(move || verb.output().expect("it runs")).await.expect("it ends");
    assert!(moved.status.success(), "{}", String::from_utf8_lossy(&moved.stderr));
    subject = Subject::new(Box::new(Alone { database: other, max_size: ENOUGH }));
    let claims = subject.journal().claim(a, at(9 * DAY), 9).await.unwrap();
    let bodies: Vec<u8> = claims.iter().map(|claim| bytes_of(&claim.record.body)[8999]).collect();
    assert_eq!(bodies, [1, 2, 3]);
}
