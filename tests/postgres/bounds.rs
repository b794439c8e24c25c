//! The maximum work of one call, however large the backlog is.

use std::sync::Arc;

use bytes::Bytes;

use crate::contract::{ENOUGH, at, submission};
use crate::journal::body::Body;
use crate::journal::{Journal, Submission, TargetId};
use crate::policy::outcome::DropReason;
use crate::promises::open;
use crate::support::eventually::eventually;
use crate::support::postgres::{Database, Server};
use crate::support::relay::SOON;
use crate::telemetry::ledger::Ledger;

/// A relay with the targets `a` and `b`.
async fn relay(database: &Database, name: &str) -> (Arc<dyn Journal>, [TargetId; 2]) {
    let journal: Arc<dyn Journal> = open(database, name, ENOUGH, Ledger::default());
    let targets = [journal.target("a").await.unwrap(), journal.target("b").await.unwrap()];
    (journal, targets)
}

/// Inserts `many` records of the relay for `b`, and after them one for `a`, all accepted long ago.
fn take(database: &Database, many: usize) {
    database.execute(&format!(
        "INSERT INTO project (name) VALUES ('shop') ON CONFLICT DO NOTHING;
         INSERT INTO record (id, accepted_at, project, targets, size, room, quantities, keys, client, body)
             SELECT (n.incarnation::bigint << 40) + i, 1, p.id, CASE WHEN i > {many} THEN 1 ELSE 2 END, 3, 515, 'error=1', '', '{{}}', '{{}}\n'
             FROM (SELECT max(incarnation) AS incarnation FROM node) n, project p, generate_series(1, {many} + 1) AS i"
    ));
}

const REACHED: &str = "SELECT max(reached) & 1099511627775 FROM frontier WHERE target = 0";

#[tokio::test]
async fn a_claim_skips_a_bounded_number_of_other_targets_records() {
    let database = Server::shared().database();
    let (one, [a, _]) = relay(&database, "one").await;
    take(&database, 10_000);
    assert!(one.claim(a, at(9), 16).await.unwrap().is_empty(), "what is meant for it lies farther than one look goes");
    assert_eq!(database.number(REACHED), 16 * 512, "so far it came");
    eventually("it is handed out", SOON, async || match one.claim(a, at(9), 16).await.unwrap().len() {
        1 => Ok(()),
        count => Err(format!("{count} claims")),
    })
    .await;
}

#[tokio::test]
async fn a_discard_skips_a_bounded_number_of_other_targets_records() {
    let database = Server::shared().database();
    let (one, [a, _]) = relay(&database, "one").await;
    take(&database, 20_000);
    let discard = async || one.discard(a, at(9), DropReason::Expired, 9).await.unwrap();
    assert_eq!(discard().await, 0, "what may go lies farther than one look goes");
    assert_eq!(database.number(REACHED), 16 * 1024, "so far it came");
    assert_eq!(discard().await, 1);
}

#[tokio::test]
async fn a_claim_takes_a_few_mebibytes_of_another_relays_backlog() {
    let database = Server::shared().database();
    let ((one, [a, _]), (two, _)) = (relay(&database, "one").await, relay(&database, "two").await);
    for _ in 0..10 {
        let body = Body::from(Bytes::from(vec![7; 1_000_000]));
        two.append(Submission { body, ..submission(at(1), &[a]) }).await.unwrap();
    }
    assert!(!one.claim(a, at(9), 64).await.unwrap().is_empty());
    let most = "SELECT max(cardinality(records)) FROM slice";
    assert_eq!(database.number(most), 4);
}

#[tokio::test]
async fn a_relay_hands_itself_no_record_far_behind_its_frontier() {
    let database = Server::shared().database();
    let (one, [a, b]) = relay(&database, "one").await;
    assert!(one.claim(a, at(9), 16).await.unwrap().is_empty());
    one.append(submission(at(1), &[a])).await.unwrap();
    let slices = "SELECT count(*) FROM slice";
    assert_eq!(one.claim(a, at(9), 16).await.unwrap().len(), 1);
    let before = database.number(slices);
    for _ in 0..5 {
        let appends = (0..250).map(|_| one.append(submission(at(1), &[b])));
        assert!(futures_util::future::join_all(appends).await.iter().all(Result::is_ok));
    }
    one.append(submission(at(1), &[a])).await.unwrap();
    assert_eq!(database.number(slices), before, "who has the time looks at what lies between");
    eventually("it is handed out", SOON, async || match one.claim(a, at(9), 16).await.unwrap().len() {
        1 => Ok(()),
        count => Err(format!("{count} claims")),
    })
    .await;
}
