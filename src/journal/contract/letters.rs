//! Promises about dead letters.

use super::*;

/// Appends a record and settles it as refused; returns its number.
async fn refuse(journal: &Arc<dyn Journal>, target: TargetId, second: u64, reason: &'static str) -> u64 {
    let id = journal.append(submission(at(second), &[target])).await.unwrap().number();
    let claims = journal.claim(target, at(1000), 9).await.unwrap();
    let claim = claims.iter().find(|claim| claim.record.id.number() == id).unwrap();
    let mut settlement = rejected();
    settlement.dead_letter.as_mut().unwrap().reason = reason.into();
    journal.settle(&claim.lease, settlement).await.unwrap();
    journal.prune(at(0), 0).await.unwrap();
    id
}

/// A time beyond the clock of any backend.
fn later() -> Timestamp {
    Timestamp::from_millis(u64::from(u32::MAX) * 1000)
}

pub(crate) async fn dead_letters_are_listed_newest_first_and_selected_by_their_fields(mut subject: Subject) {
    let journal = subject.journal();
    let (a, b) = (journal.target("a").await.unwrap(), journal.target("b").await.unwrap());
    let records = [
        refuse(&journal, a, 1, "refused").await,
        refuse(&journal, b, 2, "refused").await,
        refuse(&journal, a, 3, "poison").await,
    ];
    drop(journal);
    for restart in [false, true] {
        if restart {
            subject.crash();
        }
        let journal = subject.journal();
        let all = journal.letters(Pick::default(), u64::MAX, 9).await.unwrap();
        let of = |letters: &[Letter]| letters.iter().map(|letter| letter.record.number()).collect::<Vec<_>>();
        assert_eq!(of(&all), [records[2], records[1], records[0]]);
        let newest = &all[0];
        assert_eq!((&*newest.upstream, newest.target, &*newest.project), ("a", a, "shop"));
        assert_eq!((newest.accepted_at, newest.size, &newest.quantities), (at(3), 3, &errors(1)));
        let refusal = DeadLetter { reason: "poison".into(), ..rejected().dead_letter.unwrap() };
        assert_eq!((&newest.refusal, newest.event_id), (&refusal, Some(EventId::from(7))));
        assert_eq!(journal.letters(Pick::default(), u64::MAX, 1).await.unwrap(), all[..1]);
        assert_eq!(journal.letters(Pick::default(), newest.id, 9).await.unwrap(), all[1..]);
        for (pick, wanted) in [
            (Pick { id: Some(all[1].id), ..Pick::default() }, vec![records[1]]),
            (Pick { target: Some(a), ..Pick::default() }, vec![records[2], records[0]]),
            (Pick { reason: Some("refused".into()), ..Pick::default() }, vec![records[1], records[0]]),
            (Pick { since: at(2), ..Pick::default() }, vec![records[2], records[1]]),
            (Pick { target: Some(b), reason: Some("poison".into()), ..Pick::default() }, vec![]),
        ] {
            assert_eq!(of(&journal.letters(pick.clone(), u64::MAX, 9).await.unwrap()), wanted, "{pick:?}");
        }
        let (letter, record) = journal.letter(newest.id).await.unwrap().unwrap();
        assert_eq!((&letter, record.id.number()), (newest, records[2]));
        assert!(matches!(&record.body, Body::Memory(bytes) if &bytes[..] == b"{}\n"));
        assert!(journal.letter(99).await.unwrap().is_none());
    }
}

pub(crate) async fn a_retried_dead_letter_waits_again_and_the_accounts_balance(mut subject: Subject) {
    let journal = subject.journal();
    let a = journal.target("a").await.unwrap();
    let record = refuse(&journal, a, 1, "refused").await;
    refuse(&journal, a, 2, "poison").await;
    let pick = Pick { reason: Some("refused".into()), ..Pick::default() };
    assert_eq!(journal.retry_letters(pick.clone(), 9).await.unwrap(), 1);
    assert_eq!(journal.retry_letters(pick, 9).await.unwrap(), 0);
    assert_eq!((dead_letters(&*journal, a).await, journal.backlog(a).await.unwrap().envelopes), (1, 1));
    subject.assert_balanced().await;
    drop(journal);
    subject.crash();
    let journal = subject.journal();
    assert_eq!((dead_letters(&*journal, a).await, journal.backlog(a).await.unwrap().envelopes), (1, 1));
    let claims = journal.claim(a, later(), 9).await.unwrap();
    assert_eq!((ids(&claims), &claims[0].progress), (vec![record], &Progress::default()));
    journal.settle(&claims[0].lease, delivered(1)).await.unwrap();
    subject.assert_balanced().await;
    let accounts = subject.ledger().accounts();
    let account = accounts.iter().find(|(key, _)| key.upstream.is_some()).unwrap().1;
    let rejected = account.dropped(DropReason::Rejected);
    assert_eq!((account.accepted, account.delivered, rejected, account.returned), (2, 1, 2, 1));
    assert_eq!(journal.prune(at(100), 9).await.unwrap(), 1, "only the other one is kept");
}

pub(crate) async fn parts_of_one_record_are_retried_together(subject: Subject) {
    let journal = subject.journal();
    let a = journal.target("a").await.unwrap();
    journal.append(Submission { quantities: errors(3), ..submission(at(1), &[a]) }).await.unwrap();
    for (items, left) in [(vec![2], 2), (vec![0], 1)] {
        let claims = journal.claim(a, at(9), 1).await.unwrap();
        let mut settlement = rejected();
        settlement.dead_letter.as_mut().unwrap().items = Some(items);
        let progress = Progress { items: Some(vec![1]), ..Progress::default() };
        settlement.rest = Some(Rest { due: at(2), progress, quantities: errors(left) });
        journal.settle(&claims[0].lease, settlement).await.unwrap();
        subject.flush().await;
    }
    let last = journal.claim(a, at(9), 1).await.unwrap();
    journal.settle(&last[0].lease, delivered(1)).await.unwrap();
    subject.assert_balanced().await;
    assert_eq!(journal.retry_letters(Pick::default(), 9).await.unwrap(), 2);
    assert_eq!(journal.backlog(a).await.unwrap().quantities, [("shop".into(), Category::Error, 2)]);
    let claims = journal.claim(a, later(), 9).await.unwrap();
    assert_eq!((claims.len(), &claims[0].progress.items), (1, &Some(vec![0, 2])));
    journal.settle(&claims[0].lease, delivered(2)).await.unwrap();
    subject.assert_balanced().await;
}

pub(crate) async fn a_dead_letter_of_a_waiting_record_is_left_alone(subject: Subject) {
    let journal = subject.journal();
    let a = journal.target("a").await.unwrap();
    journal.append(Submission { quantities: errors(2), ..submission(at(1), &[a]) }).await.unwrap();
    let claims = journal.claim(a, at(9), 1).await.unwrap();
    let rest = Some(Rest { due: at(5), progress: Progress::default(), quantities: errors(1) });
    journal.settle(&claims[0].lease, Settlement { rest, ..rejected() }).await.unwrap();
    subject.flush().await;
    for leased in [false, true] {
        let claims = if leased { journal.claim(a, at(9), 1).await.unwrap() } else { vec![] };
        assert_eq!(journal.retry_letters(Pick::default(), 9).await.unwrap(), 0);
        assert_eq!(dead_letters(&*journal, a).await, 1);
        for claim in &claims {
            journal.settle(&claim.lease, delivered(1)).await.unwrap();
        }
        subject.assert_balanced().await;
    }
    assert_eq!(journal.retry_letters(Pick::default(), 9).await.unwrap(), 1);
    subject.assert_balanced().await;
}

pub(crate) async fn a_discarded_dead_letter_lets_its_record_go(mut subject: Subject) {
    let journal = subject.journal();
    let a = journal.target("a").await.unwrap();
    for second in 1..=3 {
        refuse(&journal, a, second, "refused").await;
    }
    assert_eq!(journal.discard_letters(Pick::default(), 2).await.unwrap(), 2, "no more than asked");
    assert_eq!((dead_letters(&*journal, a).await, journal.prune(at(100), 9).await.unwrap()), (1, 2));
    drop(journal);
    subject.crash();
    let journal = subject.journal();
    let left = journal.letters(Pick::default(), u64::MAX, 9).await.unwrap();
    assert_eq!((left.len(), left[0].accepted_at), (1, at(3)), "the oldest went");
    subject.assert_balanced().await;
}

pub(crate) async fn numbers_of_dead_letters_are_never_used_twice(mut subject: Subject) {
    let mut last = 0;
    for second in 1..=4 {
        let journal = subject.journal();
        let a = journal.target("a").await.unwrap();
        refuse(&journal, a, second, "refused").await;
        let letters = journal.letters(Pick::default(), u64::MAX, 9).await.unwrap();
        assert!(letters.len() == 1 && letters[0].id > last, "{letters:?} after {last}");
        last = letters[0].id;
        let pick = Pick { id: Some(last), ..Pick::default() };
        let gone = match second {
            1 => journal.retry_letters(pick, 9).await,
            _ => journal.discard_letters(pick, 9).await,
        };
        assert_eq!(gone.unwrap(), 1);
        drop(journal);
        if second > 2 {
            subject.crash();
        }
    }
}
