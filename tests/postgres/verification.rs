//! Verification of events that two relays took: which events are wanted when, and how findings are kept.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::{Clock, Timestamp};
use crate::contract::{ENOUGH, at, delivered, eventually, fill, rejected, retry, submission};
use crate::journal::postgres::PostgresJournal;
use crate::journal::verification::{
    Advance, Batch, Compared, Finding, LOST_BY_TRACKER, Notes, Repair, State, Verification as _, Wanted,
};
use crate::journal::{Cursor, Log as _, Pick, Queues as _, RecordId, Redelivery as _, Submission, TargetId};
use crate::promises::open;
use crate::protocol::event_id::EventId;
use crate::support::postgres::{Database, Server};
use crate::telemetry::ledger::{Account, Ledger};
use crate::telemetry::verification::FieldDifference;

/// Two relays with one target.
struct Scene {
    one: Arc<PostgresJournal>,
    two: Arc<PostgresJournal>,
    ledger: Ledger,
    target: TargetId,
    database: Database,
}

impl Scene {
    async fn begin() -> Self {
        let (database, ledger) = (Server::shared().database(), Ledger::default());
        let one = open(&database, "one", ENOUGH, ledger.clone());
        let two = open(&database, "two", ENOUGH, Ledger::default());
        let target = one.target("a").await.unwrap();
        Self { one, two, ledger, target, database }
    }

    /// Appends two events at each relay; returns their numbers.
    async fn with_events() -> (Self, [Vec<u64>; 2]) {
        let scene = Self::begin().await;
        let (first, second) =
            (append(&scene.one, scene.target, [1, 3]).await, append(&scene.two, scene.target, [2, 4]).await);
        (scene, [first, second])
    }

    /// Delivers `count` records at the first relay.
    async fn deliver(&self, count: usize) {
        let mut left = count;
        eventually("they can be claimed", async || {
            for claim in self.one.claim(self.target, at(10_000_000_000), left).await.unwrap() {
                self.one.settle(&claim.lease, delivered(1)).await.unwrap();
                left -= 1;
            }
            left == 0
        })
        .await;
        self.one.prune(at(0), 0).await.unwrap();
    }

    /// The events that are wanted now among those tried by now.
    async fn wanted(&self, relay: &PostgresJournal, now: Timestamp) -> Batch {
        let settled = relay.wanted(self.target, Cursor::START, now, 100).await.unwrap().settled;
        relay.wanted(self.target, settled, now, 100).await.unwrap()
    }

    /// Waits until there are events behind the cursor.
    async fn fresh(&self, relay: &PostgresJournal) -> Batch {
        let mut found = Batch::default();
        eventually("there is something", async || {
            found = self.wanted(relay, at(9)).await;
            found.reached != found.from
        })
        .await;
        found
    }

    /// Notes the same finding for all events behind the cursor.
    async fn note_all(&self, finding: Finding, count: usize) {
        let mut left = count;
        while left > 0 {
            let batch = self.fresh(&self.one).await;
            left -= batch.fresh.len();
            self.one.note(self.target, all(&batch, &finding)).await.unwrap();
        }
    }

    async fn again(&self, found: Vec<(u64, Finding)>) {
        let again = found.into_iter().map(|(id, finding)| (RecordId::from_number(id), finding)).collect();
        self.one.note(self.target, Notes { again, ..Notes::default() }).await.unwrap();
    }

    /// The account, and the number of missing events.
    async fn account(&self) -> (Account, u64) {
        self.one.prune(at(0), 0).await.unwrap();
        let account = self.ledger.accounts().into_iter().find(|(key, _)| key.upstream.is_some()).unwrap().1;
        let standings = self.two.standings().await.unwrap();
        (account, standings.iter().map(|standing| standing.missing).sum())
    }

    async fn repair(&self) -> usize {
        let (spacing, settle, apart) = (Duration::from_secs(300), Duration::from_secs(60), Duration::from_secs(4));
        let repair = Repair { since: at(0), below: 3, spacing, settle, limit: 100, apart };
        self.one.repair(self.target, repair).await.unwrap()
    }
}

async fn append(relay: &PostgresJournal, target: TargetId, seconds: [u64; 2]) -> Vec<u64> {
    let mut numbers = vec![];
    for second in seconds {
        let event_id = Some(EventId::from(u128::from(second)));
        let submission = Submission { event_id, ..submission(at(second), &[target]) };
        numbers.push(relay.append(submission).await.unwrap().number());
    }
    numbers
}

fn all(batch: &Batch, finding: &Finding) -> Notes {
    let found = |events: &[Wanted]| events.iter().map(|event| (event.record, finding.clone())).collect::<Vec<_>>();
    let fresh = Some(Advance { from: batch.from, to: batch.reached, found: found(&batch.fresh) });
    Notes { fresh, again: found(&batch.again), ..Notes::default() }
}

fn numbers(events: &[Wanted]) -> Vec<u64> {
    events.iter().map(|event| event.record.number()).collect()
}

#[tokio::test]
async fn the_events_of_each_relay_are_wanted_once_by_whichever_looks() {
    let (scene, [first, second]) = Scene::with_events().await;
    let none = scene.wanted(&scene.one, at(9)).await;
    assert!(none.fresh.is_empty() && none.from == none.reached, "nothing was taken yet: {none:?}");
    scene.deliver(4).await;
    let early = scene.one.wanted(scene.target, none.settled, at(9), 100).await.unwrap();
    assert!(early.fresh.is_empty(), "nothing was taken by then: {early:?}");
    let batch = scene.fresh(&scene.one).await;
    assert_eq!(numbers(&batch.fresh), first, "those of the relay that has the oldest");
    let notes = all(&batch, &Finding::Stored);
    scene.one.note(scene.target, notes.clone()).await.unwrap();
    scene.two.note(scene.target, notes).await.unwrap();
    let other = scene.two.wanted(scene.target, batch.settled, at(9), 100).await.unwrap();
    assert!(other.fresh.is_empty(), "another relay has to look for a while first: {other:?}");
    let batch = scene.fresh(&scene.two).await;
    assert_eq!(numbers(&batch.fresh), second);
    let part =
        Advance { from: batch.from, to: batch.fresh[1].before, found: vec![(batch.fresh[0].record, Finding::Stored)] };
    scene.two.note(scene.target, Notes { fresh: Some(part), ..Notes::default() }).await.unwrap();
    assert_eq!(numbers(&scene.fresh(&scene.one).await.fresh), second[1..]);
    scene.note_all(Finding::Stored, 1).await;
    eventually("all are stored, each once", async || scene.account().await.0.stored_now() == 4).await;
}

#[tokio::test]
async fn an_event_that_waits_again_is_looked_for_after_its_delivery() {
    let (scene, _) = Scene::with_events().await;
    let mut claims = scene.one.claim(scene.target, at(9), 4).await.unwrap();
    let late = claims.remove(0);
    for claim in claims {
        scene.one.settle(&claim.lease, delivered(1)).await.unwrap();
    }
    scene.one.settle(&late.lease, retry(at(50), 1, 1)).await.unwrap();
    scene.one.prune(at(0), 0).await.unwrap();
    let batch = scene.fresh(&scene.one).await;
    assert_eq!(batch.waiting, [late.record.id]);
    let mut notes = all(&batch, &Finding::Stored);
    notes.fresh.as_mut().unwrap().found.push((late.record.id, Finding::Waiting(at(60))));
    scene.one.note(scene.target, notes).await.unwrap();
    assert_eq!(scene.wanted(&scene.one, at(60)).await.delayed, [late.record.id], "it still waits");
    scene.deliver(1).await;
    assert_eq!(numbers(&scene.wanted(&scene.one, at(60)).await.again), [late.record.id.number()]);
}

#[tokio::test]
async fn events_that_were_put_off_come_due_newest_first() {
    let (scene, [first, second]) = Scene::with_events().await;
    scene.deliver(4).await;
    scene.note_all(Finding::PutOff(at(60)), 4).await;
    let found = scene.two.put_off(scene.target, at(59), 3).await.unwrap();
    assert_eq!((numbers(&found.events), found.more), (vec![second[1], first[1], second[0]], true));
    assert_eq!(found.oldest, Some(at(1)));
    scene.again(vec![(second[1], Finding::Stored), (second[0], Finding::Absent(at(90)))]).await;
    let (account, missing) = scene.account().await;
    assert_eq!((account.delivered, account.stored, missing), (4, 1, 0));
    let found = scene.two.put_off(scene.target, at(60), 3).await.unwrap();
    assert_eq!((numbers(&found.events), found.oldest), (vec![], None));
    assert_eq!(numbers(&scene.wanted(&scene.two, at(60)).await.again), first);
}

#[tokio::test]
async fn missing_events_are_sent_again_and_looked_for_again() {
    let (scene, [first, _]) = Scene::with_events().await;
    scene.deliver(4).await;
    scene.note_all(Finding::Missing(at(1_000_000_000)), 4).await;
    assert_eq!(scene.account().await.1, 4);
    let shown = scene.two.missing(scene.target, at(2), 2).await.unwrap();
    assert_eq!((shown.count, shown.sample.len()), (3, 2));
    scene.again(vec![(first[0], Finding::Stored), (first[0], Finding::Missing(at(9)))]).await;
    let (account, missing) = scene.account().await;
    assert_eq!((account.stored, account.vanished, missing), (1, 1, 4));
    assert_eq!((scene.repair().await, scene.repair().await), (4, 0));
    let due = scene.one.next_due(scene.target).await.unwrap().unwrap();
    assert!(due > Clock::system().now() + Duration::from_secs(280), "a tracker may remember the id for 300 s");
    scene.deliver(4).await;
    let (account, missing) = scene.account().await;
    assert_eq!((account.returned, account.delivered, account.lost, missing), (4, 8, 4, 0));
    let totals = Ledger::default();
    open(&scene.database, "three", ENOUGH, totals.clone());
    let accounts = totals.accounts();
    let mut own = accounts.iter().filter(|(key, _)| key.upstream.is_some());
    assert!(own.all(|(_, account)| account.expected_pending() == 0), "{accounts:?}");
    let batch = scene.wanted(&scene.two, due + Duration::from_secs(70)).await;
    assert_eq!(batch.again.iter().map(|event| (event.repairs, event.looks)).collect::<Vec<_>>(), [(1, 0); 4]);
}

#[tokio::test]
async fn an_event_lost_each_time_becomes_a_dead_letter_to_retry() {
    let (scene, [first, _]) = Scene::with_events().await;
    scene.deliver(4).await;
    scene.note_all(Finding::Missing(at(9)), 4).await;
    scene.again(vec![(first[0], Finding::GivenUp("lost\0".into()))]).await;
    let letters = scene.two.letters(Pick::default(), u64::MAX, 9).await.unwrap();
    assert_eq!((letters.len(), &*letters[0].refusal.reason), (1, LOST_BY_TRACKER));
    let (account, missing) = scene.account().await;
    assert_eq!((account.lost, missing), (1, 3));
    assert_eq!(scene.one.retry_letters(Pick::default(), 9).await.unwrap(), 1);
    scene.deliver(1).await;
    let later = Clock::system().now() + Duration::from_secs(1);
    let again = scene.wanted(&scene.one, later).await.again;
    let again = again.iter().find(|event| event.record.number() == first[0]).expect("it is looked for again");
    assert_eq!((again.state, again.looks), (State::Looking, 0));
}

#[tokio::test]
async fn a_walk_meets_every_event_once_and_tells_which_are_settled() {
    let (scene, [first, second]) = Scene::with_events().await;
    scene.deliver(4).await;
    let batch = scene.fresh(&scene.one).await;
    scene.one.note(scene.target, all(&batch, &Finding::Stored)).await.unwrap();
    let walk = async |mut after: Option<Cursor>| {
        let mut met = vec![];
        loop {
            let taken = scene.two.taken(scene.target, at(2), after, Cursor::START).await.unwrap();
            met.extend(
                taken
                    .events
                    .iter()
                    .enumerate()
                    .map(|(n, event)| (event.record.number(), n < taken.settled, event.state)),
            );
            after = taken.next;
            if after.is_none() {
                return met;
            }
        }
    };
    let behind = second.iter().map(|id| (*id, false, State::Looking)).collect::<Vec<_>>();
    assert_eq!(walk(None).await, behind);
    let everything = [vec![(first[1], true, State::Stored)], behind].concat();
    assert_eq!(walk(Some(Cursor::START)).await, everything, "the first of all was accepted before that");
    scene.again(vec![(second[0], Finding::Absent(at(20)))]).await;
    assert_eq!(scene.account().await.0.vanished, 0, "one behind the cursor is left to the look that passes it");
}

#[tokio::test]
async fn refused_events_are_not_wanted_and_rows_without_a_record_go() {
    let scene = Scene::begin().await;
    let ids = fill(&(Arc::clone(&scene.one) as Arc<dyn crate::journal::Journal>), 2, &[scene.target]).await;
    let claims = scene.one.claim(scene.target, at(9), 2).await.unwrap();
    scene.one.settle(&claims[0].lease, rejected()).await.unwrap();
    scene.one.settle(&claims[1].lease, delivered(1)).await.unwrap();
    scene.one.prune(at(0), 0).await.unwrap();
    let batch = scene.fresh(&scene.one).await;
    assert_eq!(numbers(&batch.fresh), ids[1..]);
    scene.one.note(scene.target, all(&batch, &Finding::Missing(at(9)))).await.unwrap();
    scene.one.discard_letters(Pick::default(), 9).await.unwrap();
    assert_eq!(scene.one.prune(at(500), 9).await.unwrap(), 2);
    scene.one.note(scene.target, Notes::default()).await.unwrap();
    let (account, missing) = scene.account().await;
    assert_eq!((account.lost, missing), (1, 0));
}

#[tokio::test]
async fn compared_events_are_counted_for_all_relays_with_bounded_differences() {
    let (scene, [first, second]) = Scene::with_events().await;
    let difference = |n: u64| FieldDifference { field: format!("tags.{n}"), sent: "a\0".into(), there: "b".into() };
    let compared = |record: u64, kind, differences: u64| Compared {
        record: RecordId::from_number(record),
        fingerprint: u64::MAX - kind,
        differences: (0..differences).map(difference).collect(),
    };
    let note = async |compared| {
        scene.one.note(scene.target, Notes { compared, ..Notes::default() }).await.unwrap();
    };
    note(vec![compared(first[0], 1, 0), compared(first[1], 2, 1), compared(99, 3, 1)]).await;
    note((0..60).map(|n| compared(second[n % 2], 2, 50)).collect()).await;
    let other = open(&scene.database, "three", ENOUGH, Ledger::default());
    let now = Clock::system().now();
    let sampled = other.sampled(scene.target, now, vec![u64::MAX - 2, u64::MAX - 3, 5]).await.unwrap();
    assert_eq!((sampled.day, sampled.kinds.len()), (62, 1), "what has no record does not count");
    let contents = other.contents(scene.target, at(0)).await.unwrap();
    assert_eq!(contents.projects, [("shop".into(), 62, 61)]);
    assert_eq!(contents.differences.len(), 1000);
    assert_eq!(contents.differences[0].difference.field, "tags.19", "the newest first");
    assert!(contents.differences.iter().all(|one| one.difference.sent == "a\u{fffd}"));
}
