//! The number of rows that a claim reads, and the bytes that it brings into memory.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::try_join_all;
use tokio::task::JoinSet;

use crate::contract::{ENOUGH, Subject, at, errors, submission};
use crate::journal::body::Body;
use crate::journal::{Journal, Progress, Rest, Settlement, Submission};
use crate::promises;
use crate::support::eventually::eventually;
use crate::support::postgres::{Database, SESSIONS, Server};
use crate::support::relay::SOON;
use crate::telemetry::ledger::Ledger;

/// The size of a body that is kept in a row.
const SIZE: usize = 1_000_000;
/// The maximum number of such bodies that one claim brings.
const MOST: usize = 4;

#[tokio::test]
async fn records_due_together_are_read_a_few_mebibytes_at_a_time() {
    let subject = Subject::new(promises::in_a_database(ENOUGH));
    let journal = subject.journal();
    let a = journal.target("a").await.unwrap();
    for _ in 0..10 {
        let body = Body::from(Bytes::from(vec![7; SIZE]));
        journal.append(Submission { body, ..submission(at(1), &[a]) }).await.unwrap();
    }
    for due in [5, 9] {
        let mut left = 10;
        while left > 0 {
            let claims = journal.claim(a, at(due), 64).await.unwrap();
            assert!((1..=MOST).contains(&claims.len()), "{} at once", claims.len());
            left -= claims.len();
            for claim in claims {
                let rest = Rest { due: at(due + 1), progress: Progress::default(), quantities: errors(1) };
                journal.settle(&claim.lease, Settlement { rest: Some(rest), ..Settlement::default() }).await.unwrap();
            }
        }
    }
}

/// The number of records that a relay leaves behind, and the number that one claim may hand out.
const LEFT: usize = 1500;
const SLICE: usize = 64;

#[tokio::test]
async fn claims_of_another_relays_backlog_read_only_what_they_hand_out() {
    let database = Server::shared().database();
    let open = |name| -> Arc<dyn Journal> { promises::open(&database, name, ENOUGH, Ledger::default()) };
    let (one, two) = (open("one"), open("two"));
    let a = one.target("a").await.unwrap();
    try_join_all((0..LEFT).map(|_| one.append(submission(at(1), &[a])))).await.unwrap();
    drop(one);
    let before = reads(&database);
    let mut claimed = 0;
    while claimed < LEFT {
        claimed += two.claim(a, at(9), SLICE).await.unwrap().len();
    }
    drop(two);
    eventually("their sessions have ended, and told what they read", SOON, async || match database.number(SESSIONS) {
        0 => Ok(()),
        count => Err(count.to_string()),
    })
    .await;
    let read = usize::try_from(reads(&database) - before).expect("more than before");
    // A claim reads each record once to choose it and once for its body. It sees up to 512 leftover records at a time.
    assert!(read < 4 * LEFT, "{read} were read to hand out {LEFT}");
}

fn reads(database: &Database) -> i64 {
    database.number("SELECT coalesce(sum(idx_tup_fetch), 0) FROM pg_stat_user_tables WHERE relname = 'record'")
}

#[tokio::test]
async fn a_record_seen_but_not_claimed_is_found_by_a_later_claim() {
    let mut subject = Subject::new(promises::in_a_database(ENOUGH));
    let a = subject.journal().target("a").await.unwrap();
    let mut left = vec![];
    for _ in 0..2 {
        left.push(subject.journal().append(submission(at(1), &[a])).await.unwrap());
    }
    subject.crash();
    let journal = subject.journal();
    let first = journal.claim(a, at(9), 1).await.unwrap();
    assert_eq!(first[0].record.id, left[0]);
    // Records that another start has left come first, so this one is not handed out at once.
    left.push(journal.append(submission(at(2), &[a])).await.unwrap());
    let rest = Rest { due: at(20), progress: Progress::default(), quantities: errors(1) };
    journal.settle(&first[0].lease, Settlement { rest: Some(rest), ..Settlement::default() }).await.unwrap();
    subject.flush().await;
    assert!(journal.claim(a, at(20), 0).await.unwrap().is_empty(), "a look at what is due");
    for id in &left[1..] {
        let claims = journal.claim(a, at(9), 1).await.unwrap();
        assert_eq!(claims.iter().map(|claim| claim.record.id).collect::<Vec<_>>(), [*id]);
    }
}

#[tokio::test]
async fn a_relay_whose_connections_all_wait_stays_alive_and_gives_up_none() {
    let database = Server::shared().database();
    let journal: Arc<dyn Journal> = promises::open(&database, "one", ENOUGH, Ledger::default());
    let mut targets = vec![];
    for name in ["a", "b", "c", "d", "e", "f"] {
        targets.push(journal.target(name).await.unwrap());
    }
    let other = database.open();
    other.say("BEGIN; SELECT pg_advisory_xact_lock(x'53774a74'::int, id) FROM target;");
    let advisory = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND classid = x'53774a74'::int::oid
         AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) AND granted = ";
    let locks = async |granted: bool, count| {
        eventually("the locks are taken or waited for", SOON, async || {
            match database.number(&format!("{advisory}{granted}")) {
                found if found == count => Ok(()),
                found => Err(format!("{found} of {count}, granted: {granted}")),
            }
        })
        .await;
    };
    locks(true, 6).await;
    for target in &targets {
        journal.append(submission(at(1), &[*target])).await.unwrap();
    }
    let mut claims = JoinSet::new();
    for target in targets {
        let journal = Arc::clone(&journal);
        claims.spawn(async move { journal.claim(target, at(9), 1).await });
    }
    locks(false, 6).await;
    let heard = "SELECT extract(epoch FROM max(alive_until))::bigint FROM node";
    let before = database.number(heard);
    eventually("it says that it lives", SOON, async || match database.number(heard) - before {
        3.. => Ok(()),
        seconds => Err(format!("for {seconds} s")),
    })
    .await;
    drop(other);
    while let Some(claim) = claims.join_next().await {
        assert_eq!(claim.unwrap().unwrap().len(), 1, "it was waited for to its end");
    }
}
