//! The bounds of dead letters.

use super::*;
use crate::journal::contract::subject::rejected;

#[tokio::test]
async fn the_oldest_dead_letters_go_when_their_records_take_too_much() {
    let mut subject = Subject::sqlite_with(|settings| settings.max_size = ByteSize::mib(1));
    let (journal, _) = parts(&subject);
    let a = journal.target("a").await.unwrap();
    for second in 1..=6 {
        let body = Body::from(Bytes::from(vec![7; 40_000]));
        journal.append(Submission { body, ..submission(at(second), &[a]) }).await.unwrap();
        let claims = journal.claim(a, at(9), 9).await.unwrap();
        journal.settle(&claims[0].lease, rejected()).await.unwrap();
        subject.flush().await;
        assert_eq!(dead_letters(&*journal, a).await, second.min(3), "an eighth of max_size is room for three of them");
    }
    drop(journal);
    subject.crash();
    let (journal, _) = parts(&subject);
    let left = journal.letters(Pick::default(), u64::MAX, 9).await.unwrap();
    assert_eq!(left.iter().map(|letter| letter.accepted_at).collect::<Vec<_>>(), [at(6), at(5), at(4)]);
    assert_eq!((dead_letters(&*journal, a).await, journal.prune(at(100), 9).await.unwrap()), (3, 3));
    drop(journal);
    subject.assert_balanced().await;
}

#[tokio::test]
async fn the_letters_of_one_project_do_not_push_out_those_of_another() {
    let mut subject = Subject::sqlite_with(|settings| settings.max_size = ByteSize::mib(1));
    let (journal, _) = parts(&subject);
    let a = journal.target("a").await.unwrap();
    let refuse = async |project: &str, second: u64| {
        let body = Body::from(Bytes::from(vec![7; 20_000]));
        journal.append(Submission { project: project.into(), body, ..submission(at(second), &[a]) }).await.unwrap();
        let claims = journal.claim(a, at(99), 9).await.unwrap();
        journal.settle(&claims[0].lease, rejected()).await.unwrap();
        subject.flush().await;
    };
    refuse("app", 1).await;
    for second in 2..30 {
        refuse("web", second).await;
    }
    drop(journal);
    subject.crash();
    let (journal, _) = parts(&subject);
    let left = journal.letters(Pick::default(), u64::MAX, 99).await.unwrap();
    let of = |project: &str| left.iter().filter(|letter| &*letter.project == project).count();
    assert_eq!((of("app"), of("web")), (1, 5), "an eighth of max_size is room for six of them");
    assert_eq!(dead_letters(&*journal, a).await, 6);
    drop(journal);
    subject.assert_balanced().await;
}
