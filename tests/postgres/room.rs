//! What gives way when there is no room, and what never does.

use std::sync::Arc;

use bytes::Bytes;

use crate::contract::{Subject, at, delivered, submission};
use crate::journal::body::Body;
use crate::journal::{Journal, JournalError, Primaries, Submission, TargetId};
use crate::policy::outcome::DropReason;
use crate::promises;
use crate::units::ByteSize;

const SIZE: usize = 20_000;

fn of(targets: &[TargetId]) -> Submission {
    Submission { body: Body::from(Bytes::from(vec![7; SIZE])), ..submission(at(1), targets) }
}

/// Appends so many, or until there is no room; returns how many were taken.
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
async fn the_oldest_of_a_shadow_give_way_and_what_the_primary_waits_for_stays() {
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
