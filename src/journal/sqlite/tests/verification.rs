//! Verification: which events are looked up when, and what is kept of the findings.

use super::*;
use crate::journal::verification::{Advance, Batch, Compared, Finding, LOST_BY_TRACKER, Notes, Repair, State};
use crate::protocol::event_id::EventId;
use crate::telemetry::ledger::Account;
use crate::telemetry::verification::FieldDifference;

/// A journal with records of one target, and shorthand for its calls.
struct Scene {
    subject: Subject,
    target: TargetId,
}

impl Scene {
    async fn with(events: u64) -> Self {
        let subject = Subject::sqlite();
        let target = subject.journal().target("a").await.unwrap();
        let scene = Self { subject, target };
        for n in 1..=events {
            scene.append(n).await;
        }
        scene
    }

    async fn append(&self, n: u64) {
        let event_id = Some(EventId::from(u128::from(n)));
        let submission = Submission { event_id, ..submission(at(n), &[self.target]) };
        self.subject.journal().append(submission).await.unwrap();
    }

    /// Delivers the next `n` records.
    async fn deliver(&self, n: usize) {
        let journal = self.subject.journal();
        for claim in journal.claim(self.target, at(10_000_000_000), n).await.unwrap() {
            journal.settle(&claim.lease, delivered(1)).await.unwrap();
        }
        self.subject.flush().await;
    }

    async fn wanted(&self, bound: u64, seconds: u64) -> Batch {
        let journal = self.subject.journal();
        let verification = journal.verification();
        verification.wanted(self.target, Cursor::from_number(bound), at(seconds), 100).await.unwrap()
    }

    async fn note(&self, notes: Notes) {
        let journal = self.subject.journal();
        journal.verification().note(self.target, notes).await.unwrap();
    }

    /// Notes the same finding for all events of a batch.
    async fn note_all(&self, batch: Batch, finding: Finding) {
        let found = |events: &[crate::journal::verification::Wanted]| {
            events.iter().map(|event| (event.record, finding.clone())).collect::<Vec<_>>()
        };
        let fresh = Some(Advance { from: batch.from, to: batch.reached, found: found(&batch.fresh) });
        self.note(Notes { fresh, again: found(&batch.again), ..Notes::default() }).await;
    }

    /// The account, and the number of missing events.
    async fn account(&self) -> (Account, u64) {
        self.subject.flush().await;
        let account = self.subject.ledger().accounts().into_iter().find(|(key, _)| key.upstream.is_some()).unwrap().1;
        let journal = self.subject.journal();
        let standings = journal.verification().standings().await.unwrap();
        (account, standings.iter().map(|standing| standing.missing).sum())
    }

    async fn repair(&self) -> usize {
        let (spacing, settle) = (Duration::from_secs(300), Duration::from_secs(60));
        let repair = Repair { since: at(0), below: 3, spacing, settle, limit: 100, apart: Duration::from_secs(4) };
        let journal = self.subject.journal();
        journal.verification().repair(self.target, repair).await.unwrap()
    }
}

fn numbers(events: &[crate::journal::verification::Wanted]) -> Vec<u64> {
    events.iter().map(|event| event.record.0).collect()
}

#[tokio::test]
async fn an_event_is_wanted_once_it_was_taken_and_lies_within_the_bound() {
    let scene = Scene::with(5).await;
    assert!(scene.wanted(u64::MAX >> 1, 9).await.fresh.is_empty(), "nothing was taken yet");
    scene.deliver(3).await;
    let batch = scene.wanted(2, 9).await;
    assert_eq!((numbers(&batch.fresh), batch.reached.number(), batch.settled.number()), (vec![1, 2], 2, 3));
    scene.note_all(batch, Finding::Stored).await;
    let batch = scene.wanted(9, 9).await;
    assert_eq!((numbers(&batch.fresh), batch.from.number(), batch.reached.number()), (vec![3], 2, 3));
}

#[tokio::test]
async fn an_event_that_waits_again_is_looked_up_after_it_was_taken() {
    let scene = Scene::with(2).await;
    let journal = scene.subject.journal();
    let claims = journal.claim(scene.target, at(9), 2).await.unwrap();
    journal.settle(&claims[0].lease, subject::retry(at(50), 1, 1)).await.unwrap();
    journal.settle(&claims[1].lease, delivered(1)).await.unwrap();
    scene.subject.flush().await;
    let batch = scene.wanted(9, 9).await;
    assert_eq!((numbers(&batch.fresh), batch.waiting.clone()), (vec![2], vec![RecordId(1)]));
    let found = vec![(RecordId(1), Finding::Waiting(at(60))), (RecordId(2), Finding::Stored)];
    scene
        .note(Notes {
            fresh: Some(Advance { from: batch.from, to: batch.reached, found }),
            again: vec![],
            compared: vec![],
        })
        .await;
    let batch = scene.wanted(9, 60).await;
    assert_eq!((numbers(&batch.again), batch.delayed), (vec![], vec![RecordId(1)]), "it still waits");
    scene.deliver(1).await;
    assert_eq!(numbers(&scene.wanted(9, 60).await.again), [1]);
}

#[tokio::test]
async fn lookups_put_off_come_newest_first_until_due_and_survive_a_crash() {
    let mut scene = Scene::with(4).await;
    scene.deliver(4).await;
    scene.note_all(scene.wanted(9, 9).await, Finding::PutOff(at(60))).await;
    scene.subject.crash();
    let put_off = async |scene: &Scene, seconds, limit| {
        let journal = scene.subject.journal();
        journal.verification().put_off(scene.target, at(seconds), limit).await.unwrap()
    };
    let found = put_off(&scene, 59, 3).await;
    assert_eq!((numbers(&found.events), found.more, found.oldest), (vec![4, 3, 2], true, Some(at(1))));
    assert!(found.events.iter().all(|event| (event.state, event.looks) == (State::Unknown, 0)));
    let batch = scene.wanted(9, 59).await;
    assert!(batch.fresh.is_empty() && batch.again.is_empty());
    let again = vec![(RecordId(4), Finding::Stored), (RecordId(2), Finding::Absent(at(90)))];
    scene.note(Notes { again, ..Notes::default() }).await;
    let (account, missing) = scene.account().await;
    assert_eq!((account.delivered, account.stored, missing), (4, 1, 0));
    let found = put_off(&scene, 59, 3).await;
    assert_eq!((numbers(&found.events), found.more), (vec![3, 1], false));
    let found = put_off(&scene, 60, 3).await;
    assert_eq!((numbers(&found.events), found.oldest), (vec![], None));
    assert_eq!(numbers(&scene.wanted(9, 60).await.again), [1, 3]);
}

#[tokio::test]
async fn a_finding_is_posted_once_and_survives_a_crash() {
    let mut scene = Scene::with(4).await;
    scene.deliver(4).await;
    let batch = scene.wanted(9, 9).await;
    let found = vec![
        (RecordId(1), Finding::Stored),
        (RecordId(2), Finding::Absent(at(20))),
        (RecordId(3), Finding::Missing(at(20))),
        (RecordId(4), Finding::Unknown(at(20))),
    ];
    let notes =
        Notes { fresh: Some(Advance { from: batch.from, to: batch.reached, found }), again: vec![], compared: vec![] };
    scene.note(notes.clone()).await;
    scene.note(notes).await;
    let (account, missing) = scene.account().await;
    assert_eq!((account.delivered, account.stored, missing), (4, 1, 1));
    scene.subject.crash();
    let batch = scene.wanted(9, 20).await;
    assert_eq!(batch.from.number(), 4);
    let states: Vec<State> = batch.again.iter().map(|event| event.state).collect();
    assert_eq!(states, [State::Looking, State::Missing, State::Unknown]);
    scene.note_all(batch, Finding::Stored).await;
    let (account, missing) = scene.account().await;
    assert_eq!((account.stored, account.lost, missing), (4, 0, 0));
}

#[tokio::test]
async fn an_event_that_was_stored_and_is_gone_has_vanished() {
    let scene = Scene::with(1).await;
    scene.deliver(1).await;
    scene.note_all(scene.wanted(9, 9).await, Finding::Stored).await;
    let again = vec![(RecordId(1), Finding::Missing(at(20)))];
    scene.note(Notes { again: again.clone(), ..Notes::default() }).await;
    scene.note(Notes { again, ..Notes::default() }).await;
    let (account, missing) = scene.account().await;
    assert_eq!((account.stored, account.vanished, account.stored_now(), missing), (1, 1, 0, 1));
    let journal = scene.subject.journal();
    let shown = async |since, sample| journal.verification().missing(scene.target, since, sample).await.unwrap();
    assert_eq!((shown(at(0), 9).await.count, numbers(&shown(at(0), 9).await.sample)), (1, vec![1]));
    assert_eq!((shown(at(0), 0).await.count, shown(at(2), 9).await.count), (1, 0));
}

#[tokio::test]
async fn a_finding_behind_the_cursor_is_left_to_the_lookup_that_passes_it() {
    let scene = Scene::with(2).await;
    scene.deliver(2).await;
    let journal = scene.subject.journal();
    let bound = Cursor::START;
    let taken = async |after| journal.verification().taken(scene.target, at(0), after, bound).await.unwrap();
    scene.note_all(scene.wanted(1, 9).await, Finding::Stored).await;
    let all = taken(Some(Cursor::START)).await;
    assert_eq!((numbers(&all.events), all.settled), (vec![1, 2], 1));
    assert_eq!(all.events.iter().map(|event| event.state).collect::<Vec<_>>(), [State::Stored, State::Looking]);
    assert_eq!(numbers(&taken(None).await.events), [2]);
    // A lookup on demand, before the first lookup.
    scene.note(Notes { again: vec![(RecordId(2), Finding::Absent(at(20)))], ..Notes::default() }).await;
    let (account, _) = scene.account().await;
    assert_eq!((account.stored, account.vanished), (1, 0));
    scene.note_all(scene.wanted(9, 9).await, Finding::Stored).await;
    assert_eq!(scene.account().await.0.stored_now(), 2);
}

#[tokio::test]
async fn a_missing_event_is_sent_again_later_and_looked_up_again() {
    let scene = Scene::with(2).await;
    scene.deliver(2).await;
    scene.note_all(scene.wanted(9, 9).await, Finding::Missing(at(1_000_000_000))).await;
    assert_eq!((scene.repair().await, scene.repair().await), (2, 0));
    let journal = scene.subject.journal();
    let due = journal.next_due(scene.target).await.unwrap().unwrap();
    let clock = Clock::system().now();
    assert!(due > clock + Duration::from_secs(280), "a tracker may remember the id for 300 s");
    let claims = journal.claim(scene.target, due + Duration::from_secs(1), 9).await.unwrap();
    assert_eq!(claims.len(), 2);
    for claim in &claims {
        journal.settle(&claim.lease, delivered(1)).await.unwrap();
    }
    let (account, missing) = scene.account().await;
    assert_eq!((account.returned, account.delivered, account.lost, missing), (2, 4, 2, 0));
    scene.subject.assert_balanced().await;
    let journal = scene.subject.journal();
    let soon = due + Duration::from_secs(62);
    let batch = journal.verification().wanted(scene.target, Cursor::from_number(9), soon, 9).await.unwrap();
    assert_eq!(batch.again.iter().map(|event| (event.repairs, event.looks)).collect::<Vec<_>>(), [(1, 0), (1, 0)]);
}

#[tokio::test]
async fn events_lost_twice_are_sent_one_after_the_other() {
    let scene = Scene::with(3).await;
    scene.deliver(3).await;
    scene.note_all(scene.wanted(9, 9).await, Finding::Missing(at(9))).await;
    for expected in [[0, 0], [4, 8]] {
        assert_eq!(scene.repair().await, 3);
        let journal = scene.subject.journal();
        let mut times = vec![];
        while let Some(due) = journal.next_due(scene.target).await.unwrap() {
            for claim in journal.claim(scene.target, due, 9).await.unwrap() {
                times.push(due);
                journal.settle(&claim.lease, delivered(1)).await.unwrap();
            }
            scene.subject.flush().await;
        }
        let first = times[0];
        let gaps: Vec<u64> = times[1..].iter().map(|at| at.since(first).as_secs()).collect();
        assert_eq!(gaps, expected);
        let found = (1..=3).map(|n| (RecordId(n), Finding::Missing(at(9)))).collect();
        scene.note(Notes { again: found, ..Notes::default() }).await;
    }
}

#[tokio::test]
async fn an_event_lost_each_time_becomes_a_dead_letter_to_retry() {
    let scene = Scene::with(1).await;
    scene.deliver(1).await;
    scene.note_all(scene.wanted(9, 9).await, Finding::Missing(at(9))).await;
    scene.note(Notes { again: vec![(RecordId(1), Finding::GivenUp("lost".into()))], ..Notes::default() }).await;
    let journal = scene.subject.journal();
    let letters = journal.letters(Pick::default(), u64::MAX, 9).await.unwrap();
    assert_eq!((letters.len(), &*letters[0].refusal.reason), (1, LOST_BY_TRACKER));
    assert_eq!((dead_letters(&*journal, scene.target).await, scene.account().await.1), (1, 0));
    assert_eq!(journal.retry_letters(Pick::default(), 9).await.unwrap(), 1);
    scene.subject.assert_balanced().await;
    scene.deliver(1).await;
    let later = Clock::system().now() + Duration::from_secs(1);
    let batch = journal.verification().wanted(scene.target, Cursor::from_number(9), later, 9).await.unwrap();
    assert_eq!(numbers(&batch.again), [1], "it is looked for again");
    assert_eq!(dead_letters(&*journal, scene.target).await, 0);
}

#[tokio::test]
async fn a_row_whose_record_is_gone_goes_when_it_comes_due() {
    let scene = Scene::with(1).await;
    scene.deliver(1).await;
    scene.note_all(scene.wanted(9, 9).await, Finding::Missing(at(9))).await;
    assert_eq!(scene.subject.journal().prune(at(500), 9).await.unwrap(), 1);
    assert_eq!(scene.account().await.1, 1);
    scene.note(Notes::default()).await;
    let (account, missing) = scene.account().await;
    assert_eq!((account.lost, missing), (1, 0));
}

#[tokio::test]
async fn an_event_is_found_by_its_id() {
    let scene = Scene::with(2).await;
    let journal = scene.subject.journal();
    let find = async |id: u128| journal.record_of(id.into()).await.unwrap();
    assert_eq!(find(2).await.unwrap().id, RecordId(2));
    assert!(find(9).await.is_none());
}

#[tokio::test]
async fn comparisons_survive_a_crash_and_their_differences_are_bounded() {
    let mut scene = Scene::with(60).await;
    let difference = |n: u64| FieldDifference { field: format!("tags.{n}"), sent: "a".into(), there: "b".into() };
    let compared = |record: u64, differences: u64| Compared {
        record: RecordId(record),
        fingerprint: u64::MAX - record % 7,
        differences: (0..differences).map(difference).collect(),
    };
    scene.note(Notes { compared: vec![compared(1, 0), compared(2, 1), compared(99, 1)], ..Notes::default() }).await;
    let many = (1..=60).map(|record| compared(record, 50)).collect();
    scene.note(Notes { compared: many, ..Notes::default() }).await;
    scene.subject.crash();
    let (journal, now) = (scene.subject.journal(), Clock::system().now());
    let verification = journal.verification();
    let sampled = verification.sampled(scene.target, now, vec![u64::MAX - 3, 5]).await.unwrap();
    assert_eq!((sampled.day, sampled.kinds.len()), (62, 1), "what has no record does not count");
    assert!(sampled.kinds.contains_key(&(u64::MAX - 3)));
    let contents = verification.contents(scene.target, at(0)).await.unwrap();
    assert_eq!((contents.projects[0].1, contents.projects[0].2), (62, 61));
    assert_eq!(contents.differences.len(), 1000);
    assert_eq!(contents.differences[0].event_id, EventId::from(60));
    let tomorrow = now + Duration::from_secs(25 * 3600);
    assert_eq!(verification.sampled(scene.target, tomorrow, vec![]).await.unwrap().day, 0);
    let later = verification.contents(scene.target, tomorrow).await.unwrap();
    assert!(later.projects.is_empty() && later.differences.is_empty());
}
