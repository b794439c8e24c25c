//! Eviction: the records that give way when room is short, and those that never do.

use std::sync::Arc;

use bytes::Bytes;

use crate::contract::{Subject, at, delivered, submission, written};
use crate::journal::body::Body;
use crate::journal::{Journal, JournalError, Primaries, Settlement, Submission, TargetId};
use crate::policy::outcome::DropReason;
use crate::promises;
use crate::units::ByteSize;
use crate::unknown::Scene;

const SIZE: usize = 20_000;

fn of(targets: &[TargetId]) -> Submission {
    Submission { body: Body::from(Bytes::from(vec![7; SIZE])), ..submission(at(1), targets) }
}

/// Appends up to `most` records until there is no room; returns the number taken.
async fn fill_up(journal: &Arc<dyn Journal>, targets: &[TargetId], most: usize) -> usize {
    for count in 0..most {
        match journal.append(of(targets)).await {
            Ok(_) => {}
            Err(JournalError::Full(_)) => return count,
            Err(error) => panic!("{error}"),
        }
    }
    most
}

#[tokio::test]
async fn a_shadows_oldest_records_give_way_and_the_primarys_backlog_stays() {
    let mut subject = Subject::new(promises::in_a_database(ByteSize::mib(1)));
    let journal = subject.journal();
    let (a, b) = (journal.target("a").await.unwrap(), journal.target("b").await.unwrap());
    let first = fill_up(&journal, &[a, b], 500).await;
    assert!((40..60).contains(&first), "before anybody said who is the primary nothing gives way: {first}");
    journal.protect(Primaries { everywhere: Some(a), ..Primaries::default() });
    assert_eq!(fill_up(&journal, &[b], 1).await, 0, "the primary waits for all of it");
    assert!(matches!(journal.writable().await, Err(JournalError::Full(_))));
    let mut left = first;
    while left > 0 {
        for claim in journal.claim(a, at(9), 16).await.unwrap() {
            journal.settle(&claim.lease, delivered(1)).await.unwrap();
            left -= 1;
        }
    }
    assert_eq!(fill_up(&journal, &[b], 200).await, 200, "what waits for the shadow alone gives way to what is newer");
    let told: u64 = journal.losses().await.unwrap().iter().map(|loss| loss.quantity).sum();
    let waits = journal.backlog(b).await.unwrap().envelopes;
    drop(journal);
    let evicted = |subject: &Subject| {
        let accounts = subject.ledger().accounts();
        accounts.values().map(|account| account.dropped(DropReason::Evicted)).sum::<u64>()
    };
    let count = evicted(&subject);
    assert_eq!((count, told), (first as u64 + 200 - waits, count), "each that went is counted, and told");
    subject.assert_balanced().await;
    subject.crash();
    assert_eq!((evicted(&subject), subject.journal().backlog(b).await.unwrap().envelopes), (count, waits));
    subject.assert_balanced().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn spilled_records_of_a_project_without_room_hold_up_no_others() {
    let scene = Scene::of(true, ByteSize::mib(8)).await;
    let (journal, a): (Arc<dyn Journal>, _) = (scene.journal.clone(), scene.target);
    journal.split(vec!["shop".into(), "other".into()]);
    let large = async || {
        let body = written(&journal, &vec![7; 3 << 19]).await?;
        journal.append(Submission { body, ..submission(at(1), &[a]) }).await
    };
    let mut taken = 0;
    while large().await.is_ok() {
        taken += 1;
    }
    assert!((2..5).contains(&taken), "{taken} of 1.5 MiB in the 6 MiB that are not the part of the other project");
    scene.line.cut(true);
    let of_the_other = Submission { project: "other".into(), ..submission(at(1), &[a]) };
    large().await.expect("it is kept on this machine");
    journal.append(of_the_other).await.expect("it is kept behind it");
    scene.line.cut(false);
    scene.keeps(1).await;
    let other = "SELECT count(*) FROM record r JOIN project p ON p.id = r.project WHERE p.name = 'other'";
    assert_eq!(scene.database.number(other), 1);
    for claim in journal.claim(a, at(9), 16).await.unwrap() {
        let delivered = claim.record.quantities.clone();
        journal.settle(&claim.lease, Settlement { delivered, ..Settlement::default() }).await.unwrap();
    }
    scene.keeps(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreadable_spilled_body_holds_up_nothing_behind_it() {
    let scene = Scene::of(true, ByteSize::mib(64)).await;
    let (journal, a): (Arc<dyn Journal>, _) = (scene.journal.clone(), scene.target);
    scene.line.cut(true);
    let body = written(&journal, &vec![7; 3 << 19]).await.expect("it is written on this machine");
    journal.append(Submission { body, ..submission(at(1), &[a]) }).await.expect("it is kept on this machine");
    journal.append(submission(at(1), &[a])).await.expect("it is kept behind it");
    let bodies = std::fs::read_dir(scene.home.path().join("spill.db-bodies")).expect("the folder of bodies");
    for body in bodies {
        std::fs::remove_file(body.expect("a body").path()).expect("it goes");
    }
    scene.line.cut(false);
    scene.keeps(1).await;
    assert_eq!(scene.database.number("SELECT count(*) FROM record"), 2, "the first one, and what came behind");
}
