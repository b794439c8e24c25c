//! Promises about backfills.

use super::*;
use crate::journal::backfill::Scope;

pub(crate) fn scope(target: TargetId, since: Timestamp) -> Scope {
    Scope { target, projects: vec!["shop".into()], since }
}

fn planned(scope: Scope) -> Backfill {
    Backfill {
        scope,
        until: Cursor::START,
        reached: Cursor::START,
        found: 0,
        taken: 0,
        started_at: at(1),
        ended_at: None,
        cancelled: false,
    }
}

pub(crate) async fn begin(journal: &Arc<dyn Journal>, scope: Scope) {
    let step = BackfillStep::Begin(Box::new(planned(scope.clone())));
    let begun = journal.backfill(scope.target, step).await.unwrap().unwrap();
    assert!(begun.is_running());
}

/// Appends `n` records that `b` was not meant to get; returns their numbers.
pub(crate) async fn withhold(journal: &Arc<dyn Journal>, n: u64, a: TargetId, b: TargetId) -> Vec<u64> {
    let mut ids = Vec::new();
    for second in 1..=n {
        let withheld = vec![(b, DropReason::Filtered)];
        ids.push(journal.append(Submission { withheld, ..submission(at(second), &[a]) }).await.unwrap().number());
    }
    ids
}

pub(crate) async fn a_backfill_delivers_withheld_records_once_and_the_accounts_balance(mut subject: Subject) {
    let journal = subject.journal();
    let (a, b) = (journal.target("a").await.unwrap(), journal.target("b").await.unwrap());
    let withheld = withhold(&journal, 6, a, b).await;
    let mut had = fill(&journal, 2, &[a, b]).await;
    let found = journal.survey(scope(b, at(2)), Cursor::START).await.unwrap();
    assert_eq!((found.records, found.bytes), (5, 15), "not what it was meant to get, nor what is older");
    for claim in journal.claim(b, at(9), 9).await.unwrap() {
        journal.settle(&claim.lease, delivered(1)).await.unwrap();
    }
    subject.flush().await;
    begin(&journal, scope(b, at(2))).await;
    // A backfill leaves records alone that come after it began.
    withhold(&journal, 1, a, b).await;
    let half = journal.backfill(b, BackfillStep::GoOn(2)).await.unwrap().unwrap();
    assert_eq!((half.taken, half.is_running()), (2, true));
    subject.assert_balanced().await;
    drop(journal);
    subject.crash();
    let journal = subject.journal();
    assert_eq!(journal.backfills().await.unwrap(), [half]);
    // An idle worker has already looked for records.
    let mut got: Vec<u64> = ids(&journal.claim(b, at(9), 9).await.unwrap());
    let done = journal.backfill(b, BackfillStep::GoOn(9)).await.unwrap().unwrap();
    assert_eq!((done.taken, done.is_running()), (5, false));
    assert_eq!(journal.backlog(b).await.unwrap().envelopes, 5);
    let claims = journal.claim(b, at(9), 9).await.unwrap();
    got.extend(ids(&claims));
    assert_eq!(got, withheld[1..], "in the order of acceptance");
    drop((journal, claims));
    subject.crash();
    let journal = subject.journal();
    while journal.backlog(b).await.unwrap().envelopes > 0 {
        for claim in journal.claim(b, at(9), 9).await.unwrap() {
            had.push(claim.record.id.number());
            journal.settle(&claim.lease, delivered(1)).await.unwrap();
        }
        subject.flush().await;
    }
    subject.assert_balanced().await;
    had.sort_unstable();
    assert_eq!(had.len(), 7, "after a crash those leased come again, and nothing else: {had:?}");
    begin(&journal, scope(b, at(2))).await;
    let again = journal.backfill(b, BackfillStep::GoOn(9)).await.unwrap().unwrap();
    assert_eq!((again.taken, again.is_running()), (0, false), "it has all of it");
    let accounts = subject.ledger().accounts();
    let account = accounts.iter().find(|(key, _)| key.upstream.as_deref() == Some("b")).unwrap().1;
    let filtered = account.dropped(DropReason::Filtered);
    assert_eq!((account.accepted, filtered, account.returned, account.delivered), (9, 7, 5, 7));
    assert_eq!((account.backfilled, account.withheld()), (5, 2), "one is older, one came after it began");
}

pub(crate) async fn records_from_before_the_target_were_never_withheld(subject: Subject) {
    let journal = subject.journal();
    let a = journal.target("a").await.unwrap();
    fill(&journal, 2, &[a]).await;
    let b = journal.target("b").await.unwrap();
    withhold(&journal, 1, a, b).await;
    begin(&journal, scope(b, at(0))).await;
    assert_eq!(journal.backfill(b, BackfillStep::GoOn(9)).await.unwrap().unwrap().taken, 3);
    let accounts = subject.ledger().accounts();
    let account = accounts.iter().find(|(key, _)| key.upstream.as_deref() == Some("b")).unwrap().1;
    assert_eq!((account.returned, account.backfilled, account.withheld()), (3, 1, 0));
    subject.assert_balanced().await;
}

pub(crate) async fn backfilled_records_go_after_all_others(subject: Subject) {
    let journal = subject.journal();
    let (a, b) = (journal.target("a").await.unwrap(), journal.target("b").await.unwrap());
    let withheld = withhold(&journal, 3, a, b).await;
    assert!(journal.claim(b, at(9), 9).await.unwrap().is_empty());
    begin(&journal, scope(b, at(0))).await;
    journal.backfill(b, BackfillStep::GoOn(9)).await.unwrap();
    assert_eq!(journal.next_due(b).await.unwrap(), None, "nothing has to be waited for");
    let first = journal.claim(b, at(9), 1).await.unwrap();
    assert_eq!(ids(&first), withheld[..1]);
    let live = fill(&journal, 2, &[b]).await;
    assert_eq!(ids(&journal.claim(b, at(9), 1).await.unwrap()), live[..1]);
    journal.settle(&first[0].lease, retry(at(5), 1, 1)).await.unwrap();
    subject.flush().await;
    assert_eq!(journal.hasten(b, 9).await.unwrap(), 0);
    let mut rest = ids(&journal.claim(b, at(9), 1).await.unwrap());
    assert_eq!(rest, withheld[..1], "one that was tried is like any other");
    rest = ids(&journal.claim(b, at(9), 9).await.unwrap());
    rest.extend(ids(&journal.claim(b, at(9), 9).await.unwrap()));
    assert_eq!(rest, [live[1], withheld[1], withheld[2]]);
    subject.assert_balanced().await;
}

pub(crate) async fn a_cancelled_backfill_takes_no_more_records(subject: Subject) {
    let journal = subject.journal();
    let (a, b) = (journal.target("a").await.unwrap(), journal.target("b").await.unwrap());
    fill(&journal, 1, &[a, b]).await;
    withhold(&journal, 2, a, b).await;
    let claims = journal.claim(b, at(9), 9).await.unwrap();
    begin(&journal, scope(b, at(0))).await;
    journal.settle(&claims[0].lease, delivered(1)).await.unwrap();
    subject.flush().await;
    assert!(journal.claim(b, at(9), 9).await.unwrap().is_empty());
    assert_eq!(journal.backfill(b, BackfillStep::GoOn(1)).await.unwrap().unwrap().taken, 1);
    let ended = journal.backfill(b, BackfillStep::Cancel).await.unwrap().unwrap();
    assert!(ended.cancelled && !ended.is_running());
    assert_eq!(journal.backfill(b, BackfillStep::GoOn(1)).await.unwrap().unwrap().taken, 1, "no more after that");
    assert_eq!(journal.backlog(b).await.unwrap().envelopes, 1);
    assert!(journal.backfill(a, BackfillStep::Cancel).await.unwrap().is_none());
    subject.assert_balanced().await;
}
