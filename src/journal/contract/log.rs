//! Promises about records, which are appended, kept until all targets have settled them, and found after a crash; and about targets, keys
//! and switches.

use super::*;

pub(crate) async fn a_claimed_record_is_what_was_appended(mut subject: Subject) {
    let a = subject.journal().target("a").await.unwrap();
    let text = |text: &str| Some(text.into());
    let (user_agent, forwarded_for, sentry_client) = (text("sdk"), text("::1"), text("x/1"));
    let ping = RawRequest::new(Endpoint::Cron, true, "cron/nightly", Some("status=ok")).unwrap();
    let left_out = vec![LeftOut { target: a, why: DropReason::Sampled, items: vec![0, 9] }];
    let request = Some(ping.into());
    let via = Some("switchyard-1".into());
    let client =
        Client { user_agent, origin: None, forwarded_for, sentry_client, via, request, left_out, spilled: None };
    for (event_id, size) in [(Some(EventId::from(u128::MAX)), 10), (None, 0), (None, 700_000)] {
        let body = Bytes::from((0..size).map(|i| i as u8).collect::<Vec<u8>>()).into();
        let sent = Submission { event_id, body, client: client.clone(), ..submission(at(3), &[a]) };
        subject.journal().append(sent.clone()).await.unwrap();
        for restart in [false, true] {
            if restart {
                subject.crash();
            }
            let claims = subject.journal().claim(a, at(3), 1).await.unwrap();
            let record = &claims[0].record;
            assert_eq!((record.event_id, &record.client, record.accepted_at), (event_id, &client, at(3)));
            assert_eq!((&*record.project, &record.quantities), ("shop", &errors(1)));
            assert!(bytes_of(&record.body) == bytes_of(&sent.body), "{size}");
            assert_eq!(claims[0].progress, Progress::default());
            if restart {
                subject.journal().settle(&claims[0].lease, delivered(1)).await.unwrap();
                subject.flush().await;
            }
        }
    }
    subject.assert_balanced().await;
}

pub(crate) async fn a_record_stays_until_every_target_settled_it(subject: Subject) {
    let journal = subject.journal();
    let (a, b) = (journal.target("a").await.unwrap(), journal.target("b").await.unwrap());
    fill(&journal, 3, &[a, b]).await;
    for target in [a, b] {
        assert_eq!(journal.prune(at(100), 10).await.unwrap(), 0);
        for claim in journal.claim(target, at(5), 10).await.unwrap() {
            journal.settle(&claim.lease, delivered(1)).await.unwrap();
        }
    }
    assert_eq!(journal.prune(at(3), 1).await.unwrap(), 1, "no more than asked");
    assert_eq!(journal.prune(at(3), 10).await.unwrap(), 1, "only those older than asked");
    assert_eq!(journal.prune(at(100), 10).await.unwrap(), 1);
    subject.assert_balanced().await;
}

pub(crate) async fn a_dead_letter_keeps_its_record(mut subject: Subject) {
    let journal = subject.journal();
    let a = journal.target("a").await.unwrap();
    fill(&journal, 2, &[a]).await;
    let claims = journal.claim(a, at(5), 2).await.unwrap();
    journal.settle(&claims[0].lease, rejected()).await.unwrap();
    journal.settle(&claims[1].lease, delivered(1)).await.unwrap();
    assert_eq!(journal.prune(at(100), 10).await.unwrap(), 1);
    assert_eq!(dead_letters(&*journal, a).await, 1);
    drop(journal);
    subject.crash();
    assert_eq!(dead_letters(&*subject.journal(), a).await, 1);
    assert_eq!(subject.journal().prune(at(100), 10).await.unwrap(), 0);
    subject.assert_balanced().await;
}

pub(crate) async fn a_withheld_record_is_accepted_and_dropped_at_once(mut subject: Subject) {
    let journal = subject.journal();
    let (a, b) = (journal.target("a").await.unwrap(), journal.target("b").await.unwrap());
    let withheld = vec![(b, DropReason::Filtered)];
    journal.append(Submission { withheld, quantities: errors(3), ..submission(at(1), &[a]) }).await.unwrap();
    drop(journal);
    for restart in [false, true] {
        if restart {
            subject.crash();
        }
        let accounts = subject.ledger().accounts();
        let account = |name: Option<&str>| {
            let found = accounts.iter().find(|(key, _)| key.upstream.as_deref() == name);
            *found.unwrap().1
        };
        assert_eq!(account(None).accepted, 3);
        assert_eq!((account(Some("a")).accepted, account(Some("a")).dropped_total()), (3, 0));
        assert_eq!((account(Some("b")).accepted, account(Some("b")).dropped(DropReason::Filtered)), (3, 3));
        assert_eq!(subject.journal().backlog(b).await.unwrap(), Backlog::default());
        subject.assert_balanced().await;
    }
}

pub(crate) async fn a_target_keeps_its_number_and_a_new_one_has_no_backlog(mut subject: Subject) {
    let journal = subject.journal();
    let a = journal.target("a").await.unwrap();
    fill(&journal, 3, &[a]).await;
    let b = journal.target("b").await.unwrap();
    assert!(journal.claim(b, at(9), 9).await.unwrap().is_empty());
    drop(journal);
    subject.crash();
    let journal = subject.journal();
    assert_eq!((journal.target("b").await.unwrap(), journal.target("a").await.unwrap()), (b, a));
    let targets = journal.targets().await.unwrap();
    assert_eq!(targets.iter().collect::<Vec<_>>(), [(a, &"a".into()), (b, &"b".into())]);
    assert_eq!((targets.of("b"), targets.of("c")), (Some(b), None));
    assert_eq!(targets.name(a).map(|name| &**name), Some("a"));
    assert_eq!(journal.backlog(b).await.unwrap(), Backlog::default());
    assert_eq!(journal.backlog(a).await.unwrap().envelopes, 3);
}

pub(crate) async fn numbers_are_never_used_twice(mut subject: Subject) {
    let a = subject.journal().target("a").await.unwrap();
    let first = fill(&subject.journal(), 3, &[a]).await;
    for claim in subject.journal().claim(a, at(9), 9).await.unwrap() {
        subject.journal().settle(&claim.lease, delivered(1)).await.unwrap();
    }
    assert_eq!(subject.journal().prune(at(100), 10).await.unwrap(), 3);
    subject.crash();
    let next = fill(&subject.journal(), 1, &[a]).await;
    assert!(next[0] > first[2], "{next:?} after {first:?}");
    assert_eq!(ids(&subject.journal().claim(a, at(9), 9).await.unwrap()), next);
}

pub(crate) async fn keys_come_newest_first_and_no_older_than_asked(mut subject: Subject) {
    let a = subject.journal().target("a").await.unwrap();
    for (second, keys) in [(1, vec![1]), (2, vec![2, u128::MAX]), (3, vec![]), (4, vec![4])] {
        subject.journal().append(Submission { keys, ..submission(at(second), &[a]) }).await.unwrap();
    }
    subject.crash();
    let journal = subject.journal();
    let keys = async |since, before, limit| journal.recent_keys(at(since), before, limit).await.unwrap();
    let all = [(4, at(4)), (2, at(2)), (u128::MAX, at(2)), (1, at(1))];
    let of = |keys: &[(u128, Timestamp)]| RecentKeys { keys: keys.to_vec(), next: None };
    assert_eq!(keys(0, None, 100).await, of(&all));
    assert_eq!(keys(2, None, 100).await, of(&all[..3]));
    let first = keys(0, None, 2).await;
    let second = keys(0, first.next, 1).await;
    assert!(first.next.is_some() && second.next.is_some());
    assert_eq!((first.keys, second.keys), (all[..1].to_vec(), all[1..3].to_vec()));
    assert_eq!(keys(0, second.next, 2).await, of(&all[3..]));
    assert_eq!(keys(3, first.next, 2).await, of(&[]));
}

pub(crate) async fn switches_are_kept_newest_first(mut subject: Subject) {
    let switch = |second, from: Option<&str>, to: &str| Switch {
        at: at(second),
        project: None,
        from: from.map(Into::into),
        to: to.into(),
        reason: Some("cutover".into()),
        author: None,
    };
    let (first, second) = (switch(1, None, "a"), switch(2, Some("a"), "b"));
    let odd = Switch { reason: Some("any \0 character".into()), ..switch(0, None, "a") };
    subject.journal().record_switch(odd).await.unwrap();
    subject.journal().record_switch(first.clone()).await.unwrap();
    subject.journal().record_switch(second.clone()).await.unwrap();
    subject.crash();
    assert_eq!(subject.journal().switches(9).await.unwrap()[..2], [second.clone(), first]);
    assert_eq!(subject.journal().switches(1).await.unwrap(), [second]);
}

pub(crate) async fn a_closed_journal_says_so(subject: Subject) {
    let journal = subject.journal();
    let a = journal.target("a").await.unwrap();
    fill(&journal, 1, &[a]).await;
    journal.close(Duration::from_secs(10)).await;
    journal.close(Duration::from_secs(10)).await;
    assert!(matches!(journal.append(submission(at(1), &[a])).await, Err(JournalError::Closed)));
    assert!(matches!(journal.claim(a, at(1), 1).await, Err(JournalError::Closed)));
    assert!(matches!(journal.backlog(a).await, Err(JournalError::Closed)));
    assert!(matches!(journal.writable().await, Err(JournalError::Closed)));
}

pub(crate) async fn the_number_of_targets_is_bounded(subject: Subject) {
    let journal = subject.journal();
    for n in 0..MAX_TARGETS {
        journal.target(&format!("upstream {n}")).await.unwrap();
    }
    assert!(matches!(journal.target("one more").await, Err(JournalError::Failed(_))));
    let last = journal.target(&format!("upstream {}", MAX_TARGETS - 1)).await.unwrap();
    fill(&journal, 1, &[last]).await;
    assert_eq!(journal.claim(last, at(9), 9).await.unwrap().len(), 1);
    subject.assert_balanced().await;
}
