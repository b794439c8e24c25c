//! Promises about queues: the order in which records are handed out, and how they are leased, put off, discarded and settled.

use super::*;

pub(crate) async fn after_a_restart_everything_unsettled_can_be_claimed_again(mut subject: Subject) {
    let journal = subject.journal();
    let a = journal.target("a").await.unwrap();
    let ids_all = fill(&journal, 6, &[a]).await;
    let claims = journal.claim(a, at(10), 4).await.unwrap();
    journal.settle(&claims[1].lease, delivered(1)).await.unwrap();
    journal.settle(&claims[3].lease, delivered(1)).await.unwrap();
    subject.flush().await;
    assert_eq!(journal.backlog(a).await.unwrap().envelopes, 4, "leased ones count");
    drop(journal);
    subject.crash();
    subject.assert_balanced().await;
    // A record whose lease was lost is due at once, as of the commit that passed it by.
    let now = Clock::system().now() + Duration::from_secs(1);
    let mut again = ids(&subject.journal().claim(a, now, 10).await.unwrap());
    again.extend(ids(&subject.journal().claim(a, now, 10).await.unwrap()));
    again.sort_unstable();
    assert_eq!(again, [ids_all[0], ids_all[2], ids_all[4], ids_all[5]]);
}

pub(crate) async fn due_records_come_first_by_due_time_then_untried_ones_in_order(subject: Subject) {
    let journal = subject.journal();
    let a = journal.target("a").await.unwrap();
    let all = fill(&journal, 5, &[a]).await;
    let claims = journal.claim(a, at(10), 3).await.unwrap();
    for (claim, due) in claims.iter().zip([30, 20, 40]) {
        journal.settle(&claim.lease, retry(at(due), 1, 1)).await.unwrap();
    }
    subject.flush().await;
    assert_eq!(journal.next_due(a).await.unwrap(), Some(at(20)));
    let claims = journal.claim(a, at(30), 3).await.unwrap();
    assert_eq!(ids(&claims), [all[1], all[0], all[3]]);
    assert_eq!(claims.iter().map(|claim| claim.progress.attempts).collect::<Vec<_>>(), [1, 1, 0]);
    assert_eq!(journal.next_due(a).await.unwrap(), Some(at(40)));
    assert_eq!(ids(&journal.claim(a, at(39), 3).await.unwrap()), [all[4]]);
    assert_eq!(ids(&journal.claim(a, at(40), 3).await.unwrap()), [all[2]]);
    assert_eq!(journal.next_due(a).await.unwrap(), None);
    subject.assert_balanced().await;
}

pub(crate) async fn an_earlier_retry_goes_before_one_that_was_already_read(subject: Subject) {
    let journal = subject.journal();
    let a = journal.target("a").await.unwrap();
    let all = fill(&journal, 3, &[a]).await;
    for (claim, due) in journal.claim(a, at(10), 3).await.unwrap().iter().zip([20, 30, 40]) {
        journal.settle(&claim.lease, retry(at(due), 1, 1)).await.unwrap();
    }
    subject.flush().await;
    let first = journal.claim(a, at(50), 1).await.unwrap();
    assert_eq!(ids(&first), all[..1]);
    journal.settle(&first[0].lease, retry(at(25), 2, 1)).await.unwrap();
    subject.flush().await;
    assert_eq!(journal.next_due(a).await.unwrap(), Some(at(25)));
    assert_eq!(ids(&journal.claim(a, at(50), 1).await.unwrap()), all[..1]);
    assert_eq!(ids(&journal.claim(a, at(50), 3).await.unwrap()), all[1..]);
}

pub(crate) async fn settling_twice_or_without_a_claim_changes_nothing(subject: Subject) {
    let journal = subject.journal();
    let (a, b) = (journal.target("a").await.unwrap(), journal.target("b").await.unwrap());
    fill(&journal, 2, &[a, b]).await;
    let lease = journal.claim(a, at(10), 1).await.unwrap()[0].lease;
    assert_lost(journal.settle(&Lease { target: b, ..lease }, delivered(1)).await);
    journal.settle(&lease, delivered(1)).await.unwrap();
    assert_settled_before(journal.settle(&lease, delivered(1)).await);
    subject.flush().await;
    assert_settled_before(journal.settle(&lease, rejected()).await);
    subject.assert_balanced().await;
    assert_eq!(journal.backlog(a).await.unwrap().envelopes, 1);
    assert_eq!(journal.backlog(b).await.unwrap().envelopes, 2);
    assert_eq!(dead_letters(&*journal, a).await, 0);
    assert_eq!(journal.extend(vec![lease]).await.unwrap(), []);
}

/// A backend may recognise a settlement that it has taken before.
fn assert_settled_before(answer: Result<(), JournalError>) {
    assert!(matches!(answer, Ok(()) | Err(JournalError::LeaseLost)), "{answer:?}");
}

pub(crate) fn assert_lost(answer: Result<(), JournalError>) {
    assert!(matches!(answer, Err(JournalError::LeaseLost)), "{answer:?}");
}

/// Lets enough time pass for every lease to end that nobody extends.
async fn until_leases_end() {
    pass(LEASE + Duration::from_secs(1)).await;
}

pub(crate) async fn an_ended_lease_goes_to_another_and_its_late_settlement_changes_nothing(mut subject: Subject) {
    let journal = subject.journal();
    let a = journal.target("a").await.unwrap();
    let all = fill(&journal, 3, &[a]).await;
    let first = journal.claim(a, at(10), 2).await.unwrap();
    let progress = Progress { attempts: 2, strikes: 1, items: Some(vec![0]) };
    let rest = Rest { due: at(11), progress: progress.clone(), quantities: errors(1) };
    journal.settle(&first[1].lease, Settlement { rest: Some(rest), ..Settlement::default() }).await.unwrap();
    subject.flush().await;
    let second = journal.claim(a, at(11), 1).await.unwrap();
    assert_eq!(ids(&second), all[1..2]);
    until_leases_end().await;
    // The claim that finds the ended leases may return their records only after a commit.
    journal.claim(a, at(12), 0).await.unwrap();
    subject.flush().await;
    let again = journal.claim(a, at(12), 2).await.unwrap();
    assert_eq!(ids(&again), all[..2]);
    assert_eq!([&again[0].progress, &again[1].progress], [&Progress::default(), &progress], "as it was");
    for late in [&first[0].lease, &first[1].lease, &second[0].lease] {
        assert_lost(journal.settle(late, rejected()).await);
        assert_eq!(journal.extend(vec![*late]).await.unwrap(), []);
    }
    subject.assert_balanced().await;
    assert_eq!((journal.backlog(a).await.unwrap().envelopes, dead_letters(&*journal, a).await), (3, 0));
    for claim in &again {
        journal.settle(&claim.lease, delivered(1)).await.unwrap();
    }
    subject.assert_balanced().await;
    drop(journal);
    subject.crash();
    subject.assert_balanced().await;
    assert_eq!(ids(&subject.journal().claim(a, at(13), 9).await.unwrap()), all[2..]);
}

pub(crate) async fn an_extended_lease_holds(subject: Subject) {
    let journal = subject.journal();
    let a = journal.target("a").await.unwrap();
    let all = fill(&journal, 2, &[a]).await;
    let claims = journal.claim(a, at(10), 2).await.unwrap();
    let mut kept = claims[0].lease;
    for _ in 0..5 {
        pass(LEASE / 2).await;
        let extended = journal.extend(vec![kept]).await.unwrap();
        assert_eq!(extended.len(), 1);
        assert!(extended[0].ends > kept.ends && extended[0].number == kept.number, "{extended:?} after {kept:?}");
        kept = extended[0];
        journal.claim(a, at(20), 0).await.unwrap();
    }
    subject.flush().await;
    assert_eq!(ids(&journal.claim(a, at(20), 9).await.unwrap()), all[1..], "the other one has ended");
    journal.settle(&kept, delivered(1)).await.unwrap();
    subject.assert_balanced().await;
    assert_eq!(journal.backlog(a).await.unwrap().envelopes, 1);
}

pub(crate) async fn an_ended_lease_holds_until_the_next_claim(subject: Subject) {
    let journal = subject.journal();
    let a = journal.target("a").await.unwrap();
    fill(&journal, 2, &[a]).await;
    let claims = journal.claim(a, at(10), 2).await.unwrap();
    until_leases_end().await;
    journal.settle(&claims[0].lease, delivered(1)).await.unwrap();
    assert_eq!(journal.extend(vec![claims[1].lease]).await.unwrap().len(), 1);
    assert!(journal.claim(a, at(20), 9).await.unwrap().is_empty());
    journal.settle(&claims[1].lease, delivered(1)).await.unwrap();
    subject.assert_balanced().await;
    assert_eq!(journal.backlog(a).await.unwrap().envelopes, 0);
}

pub(crate) async fn a_lease_from_before_a_restart_is_lost(mut subject: Subject) {
    let a = subject.journal().target("a").await.unwrap();
    fill(&subject.journal(), 1, &[a]).await;
    let before = subject.journal().claim(a, at(10), 1).await.unwrap();
    subject.crash();
    let journal = subject.journal();
    let now = Clock::system().now() + Duration::from_secs(1);
    let after = journal.claim(a, now, 1).await.unwrap();
    assert_lost(journal.settle(&before[0].lease, delivered(1)).await);
    assert_eq!(journal.extend(vec![before[0].lease]).await.unwrap(), []);
    journal.settle(&after[0].lease, delivered(1)).await.unwrap();
    subject.assert_balanced().await;
    assert_eq!(journal.backlog(a).await.unwrap().envelopes, 0);
}

pub(crate) async fn a_claim_is_given_once(subject: Subject) {
    let journal = subject.journal();
    let a = journal.target("a").await.unwrap();
    let all = fill(&journal, 4, &[a]).await;
    assert!(journal.claim(a, at(9), 0).await.unwrap().is_empty());
    assert_eq!(ids(&journal.claim(a, at(9), 3).await.unwrap()), all[..3]);
    assert_eq!(ids(&journal.claim(a, at(9), 3).await.unwrap()), all[3..]);
    assert!(journal.claim(a, at(9), 3).await.unwrap().is_empty());
}

pub(crate) async fn part_of_a_record_can_be_put_off(mut subject: Subject) {
    let journal = subject.journal();
    let a = journal.target("a").await.unwrap();
    journal.append(Submission { quantities: errors(5), ..submission(at(1), &[a]) }).await.unwrap();
    let claims = journal.claim(a, at(1), 1).await.unwrap();
    let progress = Progress { attempts: 2, strikes: 1, items: Some(vec![0, 300]) };
    let rest = Some(Rest { due: at(7), progress: progress.clone(), quantities: errors(2) });
    let dropped = Some((DropReason::RateLimited, errors(1)));
    journal
        .settle(&claims[0].lease, Settlement { delivered: errors(2), dropped, rest, dead_letter: None })
        .await
        .unwrap();
    subject.assert_balanced().await;
    assert!(journal.claim(a, at(6), 1).await.unwrap().is_empty());
    drop(journal);
    subject.crash();
    subject.assert_balanced().await;
    assert_eq!(subject.journal().next_due(a).await.unwrap(), Some(at(7)));
    let claims = subject.journal().claim(a, at(7), 1).await.unwrap();
    assert_eq!(claims[0].progress, progress);
    subject.journal().settle(&claims[0].lease, delivered(2)).await.unwrap();
    subject.assert_balanced().await;
    assert_eq!(subject.journal().backlog(a).await.unwrap(), Backlog::default());
    assert_eq!(subject.journal().prune(at(100), 10).await.unwrap(), 1);
}

pub(crate) async fn hastened_records_can_be_tried_at_once(mut subject: Subject) {
    let journal = subject.journal();
    let a = journal.target("a").await.unwrap();
    let ids_all = fill(&journal, 5, &[a]).await;
    // Beyond the clock of any backend.
    let later = |n: u64| Timestamp::from_millis(u64::from(u32::MAX) * 1_000_000 + n);
    for (n, claim) in (0..).zip(journal.claim(a, at(5), 5).await.unwrap()) {
        journal.settle(&claim.lease, retry(later(n), 1, 1)).await.unwrap();
    }
    subject.flush().await;
    let now = Timestamp::from_millis(u64::from(u32::MAX) * 1000);
    assert!(journal.claim(a, now, 9).await.unwrap().is_empty());
    assert_eq!(journal.hasten(a, 3).await.unwrap(), 3, "no more than asked");
    let claims = journal.claim(a, now, 9).await.unwrap();
    assert_eq!(ids(&claims), ids_all[..3], "the next ones first");
    assert_eq!(claims[0].progress.attempts, 1);
    journal.settle(&claims[0].lease, delivered(1)).await.unwrap();
    assert_eq!(journal.hasten(a, 9).await.unwrap(), 2);
    drop(journal);
    subject.crash();
    let journal = subject.journal();
    assert_eq!(ids(&journal.claim(a, now, 9).await.unwrap()), ids_all[1..], "it is kept");
    assert_eq!(journal.hasten(a, 9).await.unwrap(), 0);
    subject.assert_balanced().await;
}

pub(crate) async fn old_records_are_discarded_in_order_and_leased_ones_stay(mut subject: Subject) {
    let journal = subject.journal();
    let a = journal.target("a").await.unwrap();
    let all = fill(&journal, 6, &[a]).await;
    let leased = journal.claim(a, at(10), 2).await.unwrap();
    journal.settle(&leased[0].lease, retry(at(50), 1, 1)).await.unwrap();
    subject.flush().await;
    assert_eq!(journal.discard(a, at(5), DropReason::Expired, 2).await.unwrap(), 2, "the first and the third");
    subject.assert_balanced().await;
    assert_eq!(journal.discard(a, at(5), DropReason::Expired, 2).await.unwrap(), 1, "the fourth");
    assert_eq!(journal.discard(a, at(5), DropReason::Expired, 2).await.unwrap(), 0);
    assert_eq!(ids(&journal.claim(a, at(60), 9).await.unwrap()), all[4..]);
    journal.settle(&leased[1].lease, delivered(1)).await.unwrap();
    subject.assert_balanced().await;
    drop(journal);
    subject.crash();
    assert_eq!(subject.journal().backlog(a).await.unwrap().envelopes, 2);
    subject.assert_balanced().await;
}

pub(crate) async fn a_discard_covers_records_put_off_and_untried_ones(subject: Subject) {
    let journal = subject.journal();
    let a = journal.target("a").await.unwrap();
    fill(&journal, 700, &[a]).await;
    for claim in journal.claim(a, at(1), 20).await.unwrap() {
        journal.settle(&claim.lease, retry(at(1000), 1, 1)).await.unwrap();
    }
    assert_eq!(journal.discard(a, at(10_000), DropReason::Evicted, 600).await.unwrap(), 600);
    subject.assert_balanced().await;
    assert_eq!(journal.backlog(a).await.unwrap().oldest, Some(at(601)));
    assert_eq!(journal.next_due(a).await.unwrap(), None);
    let mut left = 0;
    while left < 100 {
        let claims = journal.claim(a, at(2000), 200).await.unwrap();
        assert!(!claims.is_empty(), "{left} of 100");
        left += claims.len();
    }
    assert_eq!(left, 100);
    assert_eq!(journal.discard(a, at(10_000), DropReason::Evicted, 600).await.unwrap(), 0);
}

pub(crate) async fn a_target_that_fell_behind_gets_everything_once_and_in_order(mut subject: Subject) {
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
            subject.journal().settle(&claim.lease, delivered(1)).await.unwrap();
        }
        // More records come while the target catches up, and a restart in between changes nothing.
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

pub(crate) async fn an_arrival_and_a_settlement_wake_the_target(subject: Subject) {
    let journal = subject.journal();
    let a = journal.target("a").await.unwrap();
    let changed = journal.changed(a);
    fill(&journal, 1, &[a]).await;
    let patience = Duration::from_secs(10);
    tokio::time::timeout(patience, changed.notified()).await.unwrap();
    let claims = journal.claim(a, at(1), 1).await.unwrap();
    journal.settle(&claims[0].lease, retry(at(2), 1, 1)).await.unwrap();
    tokio::time::timeout(patience, changed.notified()).await.unwrap();
    assert_eq!(journal.next_due(a).await.unwrap(), Some(at(2)));
}
