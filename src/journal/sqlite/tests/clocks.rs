//! A clock that was ahead: records from that time hold up nothing, and go when they would have gone.

use super::*;

const HOUR: Duration = Duration::from_secs(3600);
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
/// More records than one step looks at.
const MANY: usize = 5000;

/// Appends `many` records, in turn for no target and for this one.
async fn append(journal: &SqliteJournal, many: usize, accepted_at: Timestamp, target: TargetId) {
    let both: [&[TargetId]; 2] = [&[], &[target]];
    let all = (0..many).map(|n| journal.append(submission(accepted_at, both[n % 2])));
    assert!(join_all(all).await.iter().all(Result::is_ok));
}

/// A journal with [`MANY`] records from when the clock was a year ahead, then some from two hours ago, two from now, and two from the
/// future.
async fn set_back(folder: &Path) -> (SqliteJournal, Timestamp, TargetId) {
    let settings = Settings { sync: crate::journal::Sync::Normal, ..in_folder(folder) };
    let clock = Clock::system();
    let now = clock.now();
    clock.set(now + YEAR);
    let journal = SqliteJournal::open(&settings, clock.clone(), Ledger::default()).unwrap();
    let a = journal.target("a").await.unwrap();
    append(&journal, MANY, now + YEAR, a).await;
    // Some of the records were tried.
    for claim in journal.claim(a, now + YEAR, 10).await.unwrap() {
        journal.settle(&claim.lease, subject::retry(now + YEAR, 1, 1)).await.unwrap();
    }
    clock.set(now);
    append(&journal, 300, now - 2 * HOUR, a).await;
    append(&journal, 2, now, a).await;
    append(&journal, 2, now + YEAR, a).await;
    (journal, now, a)
}

#[tokio::test]
async fn records_from_a_clock_that_was_ahead_still_expire() {
    let folder = tempfile::tempdir().unwrap();
    let (journal, now, a) = set_back(folder.path()).await;
    let mut gone = 0;
    for _ in 0..40 {
        gone += journal.discard(a, now - HOUR, DropReason::Expired, 256).await.unwrap();
    }
    assert_eq!((gone, journal.backlog(a).await.unwrap().envelopes), ((MANY + 300) / 2, 2));
    let left = journal.claim(a, now, 9).await.unwrap();
    assert_eq!(left.iter().map(|claim| claim.record.accepted_at).collect::<Vec<_>>(), [now, now + YEAR]);
}

#[tokio::test]
async fn records_from_a_clock_that_was_ahead_are_still_pruned() {
    let folder = tempfile::tempdir().unwrap();
    let (journal, now, a) = set_back(folder.path()).await;
    let mut gone = 0;
    for _ in 0..40 {
        gone += journal.prune(now - HOUR, 256).await.unwrap();
    }
    assert_eq!((gone, journal.backlog(a).await.unwrap().envelopes), ((MANY + 300) / 2, (MANY as u64 + 304) / 2));
}
