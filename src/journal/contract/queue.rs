//! A target's queue: in which order records are handed out, leased, put off, discarded and settled.

use super::*;

pub(super) async fn after_a_restart_everything_unsettled_can_be_claimed_again(mut subject: Subject) {
    let journal = subject.journal();
    let a = journal.target("a").await.unwrap();
    let ids_all = fill(&journal, 6, &[a]).await;
    let claims = journal.claim(a, at(10), 4).await.unwrap();
    journal.settle(a, &claims[1].record, delivered(1));
    journal.settle(a, &claims[3].record, delivered(1));
    subject.flush().await;
    assert_eq!(journal.backlog(a).await.unwrap().envelopes, 4, "leased ones count");
    drop(journal);
    subject.crash();
    subject.assert_balanced().await;
    // A lease lost is due at once, as of the moment of the commit that passed it by.
    let now = Clock::system().now() + Duration::from_secs(1);
    let mut again = ids(&subject.journal().claim(a, now, 10).await.unwrap());
    again.extend(ids(&subject.journal().claim(a, now, 10).await.unwrap()));
    again.sort_unstable();
    assert_eq!(again, [ids_all[0], ids_all[2], ids_all[4], ids_all[5]]);
}

pub(super) async fn what_is_due_comes_first_by_its_due_time_then_the_untried_in_order(subject: Subject) {
    let journal = subject.journal();
    let a = journal.target("a").await.unwrap();
    let all = fill(&journal, 5, &[a]).await;
    let claims = journal.claim(a, at(10), 3).await.unwrap();
    for (claim, due) in claims.iter().zip([30, 20, 40]) {
        journal.settle(a, &claim.record, retry(at(due), 1, 1));
    }
    subject.flush().await;
    assert_eq!(journal.next_due(a), Some(at(20)));
    let claims = journal.claim(a, at(30), 3).await.unwrap();
    assert_eq!(ids(&claims), [all[1], all[0], all[3]]);
    assert_eq!(claims.iter().map(|claim| claim.progress.attempts).collect::<Vec<_>>(), [1, 1, 0]);
    assert_eq!(journal.next_due(a), Some(at(40)));
    assert_eq!(ids(&journal.claim(a, at(39), 3).await.unwrap()), [all[4]]);
    assert_eq!(ids(&journal.claim(a, at(40), 3).await.unwrap()), [all[2]]);
    assert_eq!(journal.next_due(a), None);
    subject.assert_balanced().await;
}

pub(super) async fn a_retry_that_comes_due_before_one_already_looked_up_goes_first(subject: Subject) {
    let journal = subject.journal();
    let a = journal.target("a").await.unwrap();
    let all = fill(&journal, 3, &[a]).await;
    for (claim, due) in journal.claim(a, at(10), 3).await.unwrap().iter().zip([20, 30, 40]) {
        journal.settle(a, &claim.record, retry(at(due), 1, 1));
    }
    subject.flush().await;
    let first = journal.claim(a, at(50), 1).await.unwrap();
    assert_eq!(ids(&first), all[..1]);
    journal.settle(a, &first[0].record, retry(at(25), 2, 1));
    subject.flush().await;
    assert_eq!(journal.next_due(a), Some(at(25)));
    assert_eq!(ids(&journal.claim(a, at(50), 1).await.unwrap()), all[..1]);
    assert_eq!(ids(&journal.claim(a, at(50), 3).await.unwrap()), all[1..]);
}

pub(super) async fn settling_twice_or_without_a_claim_changes_nothing(subject: Subject) {
    let journal = subject.journal();
    let (a, b) = (journal.target("a").await.unwrap(), journal.target("b").await.unwrap());
    fill(&journal, 2, &[a, b]).await;
    let claims = journal.claim(a, at(10), 1).await.unwrap();
    journal.settle(b, &claims[0].record, delivered(1));
    journal.settle(a, &claims[0].record, delivered(1));
    journal.settle(a, &claims[0].record, delivered(1));
    subject.flush().await;
    journal.settle(a, &claims[0].record, rejected());
    subject.assert_balanced().await;
    assert_eq!(journal.backlog(a).await.unwrap().envelopes, 1);
    assert_eq!(journal.backlog(b).await.unwrap().envelopes, 2);
    assert_eq!(dead_letters(&*journal, a).await, 0);
}

pub(super) async fn a_claim_is_given_once(subject: Subject) {
    let journal = subject.journal();
    let a = journal.target("a").await.unwrap();
    let all = fill(&journal, 4, &[a]).await;
    assert!(journal.claim(a, at(9), 0).await.unwrap().is_empty());
    assert_eq!(ids(&journal.claim(a, at(9), 3).await.unwrap()), all[..3]);
    assert_eq!(ids(&journal.claim(a, at(9), 3).await.unwrap()), all[3..]);
    assert!(journal.claim(a, at(9), 3).await.unwrap().is_empty());
}

pub(super) async fn part_of_a_record_can_be_put_off(mut subject: Subject) {
    let journal = subject.journal();
    let a = journal.target("a").await.unwrap();
    journal.append(Submission { quantities: errors(5), ..submission(at(1), &[a]) }).await.unwrap();
    let claims = journal.claim(a, at(1), 1).await.unwrap();
    let progress = Progress { attempts: 2, strikes: 1, items: Some(vec![0, 300]) };
    let rest = Some(Rest { due: at(7), progress: progress.clone(), quantities: errors(2) });
    let dropped = Some((DropReason::RateLimited, errors(1)));
    journal.settle(a, &claims[0].record, Settlement { delivered: errors(2), dropped, rest, dead_letter: None });
    subject.assert_balanced().await;
    assert!(journal.claim(a, at(6), 1).await.unwrap().is_empty());
    drop(journal);
    subject.crash();
    subject.assert_balanced().await;
    assert_eq!(subject.journal().next_due(a), Some(at(7)));
    let claims = subject.journal().claim(a, at(7), 1).await.unwrap();
    assert_eq!(claims[0].progress, progress);
    subject.journal().settle(a, &claims[0].record, delivered(2));
    subject.assert_balanced().await;
    assert_eq!(subject.journal().backlog(a).await.unwrap(), Backlog::default());
    assert_eq!(subject.journal().prune(at(100), 10).await.unwrap(), 1);
}

pub(super) async fn what_was_put_off_can_be_tried_at_once(mut subject: Subject) {
    let journal = subject.journal();
    let a = journal.target("a").await.unwrap();
    let ids_all = fill(&journal, 5, &[a]).await;
    // Beyond any clock that a backend may have.
    let later = |n: u64| Timestamp::from_millis(u64::from(u32::MAX) * 1_000_000 + n);
    for (n, claim) in (0..).zip(journal.claim(a, at(5), 5).await.unwrap()) {
        journal.settle(a, &claim.record, retry(later(n), 1, 1));
    }
    subject.flush().await;
    let now = Timestamp::from_millis(u64::from(u32::MAX) * 1000);
    assert!(journal.claim(a, now, 9).await.unwrap().is_empty());
    assert_eq!(journal.hasten(a, 3).await.unwrap(), 3, "no more than asked");
    let claims = journal.claim(a, now, 9).await.unwrap();
    assert_eq!(ids(&claims), ids_all[..3], "the next ones first");
    assert_eq!(claims[0].progress.attempts, 1);
    journal.settle(a, &claims[0].record, delivered(1));
    assert_eq!(journal.hasten(a, 9).await.unwrap(), 2);
    drop(journal);
    subject.crash();
    let journal = subject.journal();
    assert_eq!(ids(&journal.claim(a, now, 9).await.unwrap()), ids_all[1..], "it is kept");
    assert_eq!(journal.hasten(a, 9).await.unwrap(), 0);
    subject.assert_balanced().await;
}

pub(super) async fn what_is_old_is_discarded_in_order_and_leases_are_left_alone(mut subject: Subject) {
    let journal = subject.journal();
    let a = journal.target("a").await.unwrap();
    let all = fill(&journal, 6, &[a]).await;
    let leased = journal.claim(a, at(10), 2).await.unwrap();
    journal.settle(a, &leased[0].record, retry(at(50), 1, 1));
    subject.flush().await;
    assert_eq!(journal.discard(a, at(5), DropReason::Expired, 2).await.unwrap(), 2, "the first and the third");
    subject.assert_balanced().await;
    assert_eq!(journal.discard(a, at(5), DropReason::Expired, 2).await.unwrap(), 1, "the fourth");
    assert_eq!(journal.discard(a, at(5), DropReason::Expired, 2).await.unwrap(), 0);
    assert_eq!(ids(&journal.claim(a, at(60), 9).await.unwrap()), all[4..]);
    journal.settle(a, &leased[1].record, delivered(1));
    subject.assert_balanced().await;
    drop(journal);
    subject.crash();
    assert_eq!(subject.journal().backlog(a).await.unwrap().envelopes, 2);
    subject.assert_balanced().await;
}

pub(super) async fn discarding_goes_on_across_what_was_put_off_and_what_was_never_tried(subject: Subject) {
    let journal = subject.journal();
    let a = journal.target("a").await.unwrap();
    fill(&journal, 700, &[a]).await;
    for claim in journal.claim(a, at(1), 20).await.unwrap() {
        journal.settle(a, &claim.record, retry(at(1000), 1, 1));
    }
    assert_eq!(journal.discard(a, at(10_000), DropReason::Evicted, 600).await.unwrap(), 600);
    subject.assert_balanced().await;
    assert_eq!(journal.backlog(a).await.unwrap().oldest, Some(at(601)));
    assert_eq!(journal.next_due(a), None);
    assert_eq!(journal.claim(a, at(2000), 200).await.unwrap().len(), 100);
    assert_eq!(journal.discard(a, at(10_000), DropReason::Evicted, 600).await.unwrap(), 0);
}

pub(super) async fn a_target_that_fell_behind_gets_everything_once_and_in_order(mut subject: Subject) {
    let journal = subject.journal();
    let (a, b) = (journal.target("a").await.unwrap(), journal.target("b").await.unwrap());
    let mut all = fill(&journal, 400, &[a, b]).await;
    let mut got = Vec::new();
    let mut turn = 0;
    while got.len() < 500 {
        let claims = subject.journal().claim(a, at(9), 7).await.unwrap();
        assert!(!claims.is_empty(), "after {}", got.len());
        got.extend(ids(&claims));
        for claim in &claims {
            subject.journal().settle(a, &claim.record, delivered(1));
        }
        // More comes while it catches up, and a restart in between changes nothing.
        turn += 1;
        if turn <= 20 {
            all.extend(fill(&subject.journal(), 5, &[a, b]).await);
        }
        subject.flush().await;
        if turn == 30 {
            subject.crash();
        }
    }
    assert_eq!(got, all);
    assert_eq!(subject.journal().backlog(a).await.unwrap(), Backlog::default());
    assert_eq!(subject.journal().backlog(b).await.unwrap().envelopes, 500);
    subject.assert_balanced().await;
}

pub(super) async fn an_arrival_and_a_settlement_wake_the_target(subject: Subject) {
    let journal = subject.journal();
    let a = journal.target("a").await.unwrap();
    let changed = journal.changed(a);
    fill(&journal, 1, &[a]).await;
    let patience = Duration::from_secs(10);
    tokio::time::timeout(patience, changed.notified()).await.unwrap();
    let claims = journal.claim(a, at(1), 1).await.unwrap();
    journal.settle(a, &claims[0].record, retry(at(2), 1, 1));
    tokio::time::timeout(patience, changed.notified()).await.unwrap();
    assert_eq!(journal.next_due(a), Some(at(2)));
}
