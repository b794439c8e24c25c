//! The room that a project takes, compared with the pages of the file, and what others get when it takes too much.

use super::*;
use crate::journal::Primaries;
use crate::journal::Share;
use crate::journal::contract::bodies::written;

fn of(project: &str, size: usize, targets: &[TargetId]) -> Submission {
    let body = Body::from(Bytes::from(vec![7; size]));
    Submission { project: project.into(), body, ..submission(at(1), targets) }
}

async fn taken(journal: &SqliteJournal, project: &str) -> u64 {
    let shares: Vec<Share> = journal.measure().await.unwrap().shares;
    shares.iter().find(|share| &*share.project == project).map_or(0, |share| share.bytes)
}

fn names(names: &[&str]) -> Vec<Arc<str>> {
    names.iter().map(|name| (*name).into()).collect()
}

fn quick(change: impl FnOnce(&mut Settings)) -> Subject {
    Subject::sqlite_with(|settings| {
        settings.sync = crate::journal::Sync::Normal;
        change(settings);
    })
}

#[tokio::test]
async fn the_counted_room_of_records_matches_the_file() {
    for size in [10, 1000, 4000, 5000, 7000, 9000, 16_300, 16_400, 20_000, 33_000, 70_000] {
        let subject = quick(|_| {});
        let (journal, _) = parts(&subject);
        let target = journal.target("a").await.unwrap();
        journal.append(of("shop", size, &[target])).await.unwrap();
        let (used, counted) = (space(&*journal).await.used, taken(&journal, "shop").await);
        for _ in 0..200 {
            journal.append(of("shop", size, &[target])).await.unwrap();
        }
        let (used, counted) = (space(&*journal).await.used - used, taken(&journal, "shop").await - counted);
        let pages = 2 * u64::from(schema::PAGE);
        let most = used + used / 4 + 200 * 512 + pages;
        assert!(counted + pages >= used && counted <= most, "of {size}: {counted} for {used}");
    }
}

#[tokio::test]
async fn a_rolled_back_commit_leaves_the_counts_as_they_were() {
    let subject = quick(|_| {});
    let (journal, _) = parts(&subject);
    let target = journal.target("a").await.unwrap();
    journal.append(of("shop", 20_000, &[target])).await.unwrap();
    let before = journal.measure().await.unwrap().shares;
    cap(&journal, 1).await;
    for project in ["shop", "new"] {
        assert!(journal.append(of(project, 500_000, &[target])).await.is_err());
    }
    assert_eq!(journal.measure().await.unwrap().shares, before);
}

#[tokio::test]
async fn a_file_counts_once_for_its_project_from_the_first_byte() {
    let subject = quick(|_| {});
    let journal = subject.journal();
    let (own, _) = parts(&subject);
    let target = journal.target("a").await.unwrap();
    let body = written(&journal, &[7; 3 << 20]).await.unwrap();
    assert_eq!(taken(&own, "shop").await, 3 << 20);
    let submission = Submission { body, ..submission(at(1), &[target]) };
    journal.append(submission).await.unwrap();
    let after = taken(&own, "shop").await;
    assert!((3 << 20..(3 << 20) + 4096).contains(&after), "{after}");
    let claims = journal.claim(target, at(2), 1).await.unwrap();
    journal.settle(&claims[0].lease, delivered(1)).await.unwrap();
    drop(claims);
    while journal.prune(at(9), 9).await.unwrap() == 0 {}
    assert_eq!(taken(&own, "shop").await, 0);
}

#[tokio::test]
async fn the_project_furthest_beyond_its_part_gives_way_and_none_within() {
    let subject = quick(|settings| settings.max_size = ByteSize::mib(4));
    let (journal, _) = parts(&subject);
    let (a, b) = (journal.target("a").await.unwrap(), journal.target("b").await.unwrap());
    journal.protect(Primaries { everywhere: Some(a), ..Primaries::default() });
    journal.split(names(&["flood", "shop", "app"]));
    // Records that wait only for the shadow, and records that are only retained.
    for _ in 0..15 {
        journal.append(of("shop", 20_000, &[b])).await.unwrap();
        journal.append(of("app", 20_000, &[])).await.unwrap();
    }
    let before = (taken(&journal, "shop").await, taken(&journal, "app").await);
    for _ in 0..400 {
        journal.append(of("flood", 20_000, &[b])).await.expect("its own oldest give way");
    }
    assert_eq!((taken(&journal, "shop").await, taken(&journal, "app").await), before);
    let flood = loop {
        match journal.append(of("flood", 20_000, &[a])).await {
            Ok(_) => {}
            Err(JournalError::Share(_)) => break taken(&journal, "flood").await,
            Err(error) => panic!("{error}"),
        }
    };
    assert!(flood > 2 << 20 && journal.writable().await.is_ok(), "{flood}");
    for _ in 0..15 {
        journal.append(of("shop", 20_000, &[a])).await.expect("there is room for it");
        journal.append(of("app", 20_000, &[a])).await.expect("there is room for it");
    }
    // A project that comes with a reload gets its part, too: until it does, a project beyond its part takes nothing more.
    journal.split(names(&["flood", "shop", "app", "new"]));
    assert!(matches!(journal.append(of("flood", 20_000, &[a])).await, Err(JournalError::Share(_))));
    journal.split(vec!["flood".into()]);
    journal.append(of("flood", 20_000, &[a])).await.expect("the only one has all of it");
}

/// Takes room for a large body, as its first bytes do, and gives it back.
async fn reserve(journal: &SqliteJournal, bytes: u64) -> Result<(), JournalError> {
    journal.take_room(Some("shop".into()), bytes).await.map(drop)
}

/// Appends records and delivers each at once; returns the last number.
async fn keep(journal: &SqliteJournal, target: TargetId, bodies: Vec<Body>) -> u64 {
    let mut last = 0;
    for body in bodies {
        last = journal.append(Submission { body, ..submission(at(1), &[target]) }).await.unwrap().0;
        let claims = journal.claim(target, at(1), 1).await.unwrap();
        journal.settle(&claims[0].lease, delivered(1)).await.unwrap();
    }
    last
}

/// Checks that after a restart the next record gets a number above `last` and is delivered, and that the accounts balance.
async fn goes_on_after(subject: &mut Subject, target: TargetId, last: u64) {
    subject.crash();
    let (journal, _) = parts(subject);
    let first = journal.append(submission(at(1), &[target])).await.unwrap().0;
    assert!(first > last, "{first} after {last}");
    assert_eq!(drain(&*journal, target).await, 1, "it waits, and nothing else does");
    drop(journal);
    subject.assert_balanced().await;
}

#[tokio::test]
async fn no_number_is_used_again_after_everything_gave_way_for_a_large_body() {
    let mut subject = quick(|settings| settings.max_size = ByteSize::mib(1));
    let (journal, settings) = parts(&subject);
    let target = journal.target("a").await.unwrap();
    let last = keep(&journal, target, vec![Bytes::from(vec![7; 20_000]).into(); 30]).await;
    subject.flush().await;
    assert!(matches!(reserve(&journal, 1 << 20).await, Err(JournalError::Full(_))));
    assert_eq!(count(&settings.path, "SELECT count(*) FROM record"), 0, "all of it went, and was not enough");
    drop(journal);
    goes_on_after(&mut subject, target, last).await;
}

#[tokio::test]
async fn a_journal_without_a_kept_number_goes_on_above_its_watermarks() {
    let mut subject = quick(|_| {});
    let (journal, settings) = parts(&subject);
    let target = journal.target("a").await.unwrap();
    let last = keep(&journal, target, vec![Bytes::from_static(b"{}\n").into(); 3]).await;
    subject.flush().await;
    let other = Connection::open(&settings.path).unwrap();
    other.execute_batch("DELETE FROM record; DELETE FROM body; UPDATE meta SET next_record = 1").unwrap();
    drop((other, journal));
    goes_on_after(&mut subject, target, last).await;
}

#[tokio::test]
async fn no_more_large_bodies_give_way_than_are_in_the_way() {
    let subject = quick(|settings| settings.max_size = ByteSize::mib(9));
    let (journal, settings) = parts(&subject);
    let target = journal.target("a").await.unwrap();
    let bytes = vec![7; 3 << 19];
    let own = subject.journal();
    for _ in 0..5 {
        keep(&journal, target, vec![written(&own, &bytes).await.unwrap()]).await;
    }
    subject.flush().await;
    for (bytes, left) in [(1 << 16, 5), (3 << 19, 4), (4 << 20, 3)] {
        reserve(&journal, bytes).await.unwrap();
        assert_eq!(count(&settings.path, "SELECT count(*) FROM record"), left, "for {bytes} bytes");
    }
}
