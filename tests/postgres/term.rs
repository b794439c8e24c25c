//! Leadership: one relay leads at a time, and the journal refuses the chores of a former leader.

use std::time::Duration;

use crate::contract::{at, delivered, submission};
use crate::journal::backfill::{Backfill, BackfillStep, Scope};
use crate::journal::losses::Loss;
use crate::journal::postgres::PostgresJournal;
use crate::journal::term::Epoch;
use crate::journal::verification::{Notes, Verification as _};
use crate::journal::{
    ControlPlane as _, Cursor, Facts as _, JournalError, Log as _, Queues as _, Redelivery as _, TargetId,
};
use crate::plane::relay;
use crate::policy::outcome::DropReason;
use crate::protocol::category::{Category, Quantities};
use crate::protocol::client_report::Reason;
use crate::support::eventually::eventually;
use crate::support::postgres::{Database, Server};

/// The chores that the leader does for all relays.
const CHORES: [&str; 6] = ["expire", "prune", "client report", "canary", "backfill", "verification"];

/// Gives the term to the relay that started last, as if it had asked for a free one.
fn pass_on(database: &Database) {
    database.execute(
        "UPDATE term SET epoch = epoch + 1, owner = (SELECT max(incarnation) FROM node), ends = now() + interval '5 seconds'",
    );
}

#[tokio::test]
async fn one_relay_leads_at_a_time_and_each_term_has_a_higher_epoch() {
    let database = Server::shared().database();
    let one = relay(&database, "one");
    let first = one.leads().await.expect("a term");
    let two = relay(&database, "two");
    for _ in 0..3 {
        assert_eq!((one.leads().await, two.leads().await), (Some(first), None));
    }
    database.execute("UPDATE node SET replaced = true WHERE name = 'one'");
    let second = two.leads().await.expect("the relay that led is gone");
    assert!(second > first);
    let three = relay(&database, "three");
    assert_eq!(three.leads().await, None);
    // The relay ends without giving up its term.
    drop(two);
    let third = eventually("a term ends", Duration::from_secs(7), async || {
        three.leads().await.ok_or_else(|| "another leads".to_owned())
    })
    .await;
    assert!(third > second);
}

/// Creates work for each chore; returns the target of that work.
async fn prepare(journal: &PostgresJournal) -> TargetId {
    let (target, shadow) = (journal.target("a").await.unwrap(), journal.target("b").await.unwrap());
    let settled = journal.append(submission(at(1), &[target])).await.unwrap();
    let claims = journal.claim(target, at(100), 1).await.unwrap();
    assert_eq!(claims[0].record.id, settled);
    journal.settle(&claims[0].lease, delivered(1)).await.unwrap();
    journal.append(submission(at(2), &[target])).await.unwrap();
    journal.lose(vec![lost(target)]).await.unwrap();
    let begun = Backfill {
        scope: Scope { target: shadow, projects: vec!["shop".into()], since: at(0) },
        until: Cursor::START,
        reached: Cursor::START,
        found: 2,
        taken: 0,
        started_at: at(3),
        ended_at: None,
        cancelled: false,
    };
    journal.backfill(shadow, BackfillStep::Begin(Box::new(begun))).await.unwrap();
    target
}

fn lost(target: TargetId) -> Loss {
    let (reason, category) = (Reason::NetworkError, Category::Error);
    Loss { target, project: "shop".into(), reason, category, quantity: 2 }
}

/// Runs a step of a chore.
async fn act(journal: &PostgresJournal, target: TargetId, chore: &str) -> Result<(), JournalError> {
    let ours = || crate::journal::Submission { quantities: Quantities::new(), ..submission(at(50), &[target]) };
    match chore {
        "expire" => journal.discard(target, at(60), DropReason::Expired, 9).await.map(drop),
        "prune" => journal.prune(at(60), 9).await.map(drop),
        "client report" => journal.report(vec![lost(target)], Some(ours())).await,
        "canary" => journal.report(vec![], Some(ours())).await,
        "backfill" => journal.backfill(TargetId::new(1), BackfillStep::GoOn(9)).await.map(drop),
        _ => journal.note(target, Notes::default()).await,
    }
}

#[tokio::test]
async fn the_journal_takes_no_step_of_a_leader_past_its_term() {
    const KEPT: &str = "SELECT (SELECT count(*) FROM record) * 1000 + (SELECT sum(quantity) FROM loss) * 100
        + (SELECT taken FROM backfill) * 10 + (SELECT count(*) FROM missed)";
    let database = Server::shared().database();
    let one = relay(&database, "one");
    let (old, target) = (one.leads().await.expect("a term"), prepare(&one).await);
    let two = relay(&database, "two");
    pass_on(&database);
    let new = two.leads().await.expect("a term");
    let kept = database.number(KEPT);
    let step = async |journal: &PostgresJournal, epoch: Epoch, chore| epoch.under(|| act(journal, target, chore)).await;
    for chore in CHORES {
        let told = step(&one, old, chore).await.expect_err(chore).to_string();
        assert!(told.contains("another relay leads"), "{chore}: {told}");
        assert_eq!(database.number(KEPT), kept, "{chore}");
    }
    for chore in ["client report", "canary", "backfill", "verification", "expire", "prune"] {
        step(&two, new, chore).await.expect(chore);
    }
    assert_ne!(database.number(&KEPT.replace("sum(quantity)", "coalesce(sum(quantity), 0)")), kept);
    act(&one, target, "prune").await.expect("what is no step of a chore is done by every relay");
}

#[tokio::test]
async fn a_term_begins_when_the_transactions_of_the_last_one_have_ended() {
    let database = Server::shared().database();
    let epoch = |database: &Database| database.number("SELECT epoch FROM term");
    let one = relay(&database, "one");
    let first = one.leads().await.expect("a term").0;
    // A chore's transaction is under way.
    let held = database.open();
    held.say(&format!("BEGIN; SELECT 1 FROM term WHERE epoch = {first} FOR KEY SHARE;"));
    eventually("the term is held", Duration::from_secs(5), async || {
        let locks = "SELECT count(*) FROM pg_locks l JOIN pg_class c ON c.oid = l.relation WHERE c.relname = 'term' AND l.mode = 'RowShareLock'";
        if database.number(locks) > 0 { Ok(()) } else { Err("not yet".to_owned()) }
    })
    .await;
    let ends = "SELECT extract(epoch FROM ends)::bigint FROM term";
    let before = database.number(ends);
    eventually("a renewal is not in the way of it", Duration::from_secs(5), async || {
        one.leads().await.ok_or("it leads no more")?;
        if database.number(ends) > before { Ok(()) } else { Err("not yet".to_owned()) }
    })
    .await;
    // The term ends.
    database.execute("UPDATE term SET owner = NULL");
    let two = relay(&database, "two");
    assert_eq!(two.leads().await, None, "what was begun may still change something");
    assert_eq!(epoch(&database), first);
    drop(held);
    eventually("the next term begins", Duration::from_secs(5), async || {
        two.leads().await;
        if epoch(&database) > first { Ok(()) } else { Err("not yet".to_owned()) }
    })
    .await;
}
