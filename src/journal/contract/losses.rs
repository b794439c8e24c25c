//! Promises about losses.

use std::collections::BTreeMap;

use super::*;
use crate::journal::backfill::Scope;
use crate::protocol::client_report::{self, Reason};

type Row = (TargetId, Reason, Category, u64);

async fn to_tell(subject: &Subject) -> Vec<Row> {
    subject.flush().await;
    let losses = subject.journal().losses().await.unwrap();
    let mut rows: Vec<Row> =
        losses.iter().map(|loss| (loss.target, loss.reason, loss.category, loss.quantity)).collect();
    assert!(losses.iter().all(|loss| &*loss.project == "shop"));
    rows.sort_unstable();
    rows
}

fn dropped(reason: DropReason, quantities: Quantities) -> Settlement {
    Settlement { dropped: Some((reason, quantities)), ..Settlement::default() }
}

pub(crate) async fn a_drop_is_to_be_told_with_its_reason_through_restarts(mut subject: Subject) {
    let journal = subject.journal();
    let (a, b) = (journal.target("a").await.unwrap(), journal.target("b").await.unwrap());
    let quantities: Quantities = "error=2 attachment=7 internal=1 unknown=1".parse().unwrap();
    for _ in DropReason::ALL {
        journal.append(Submission { quantities: quantities.clone(), ..submission(at(1), &[a, b]) }).await.unwrap();
    }
    for (reason, claim) in DropReason::ALL.into_iter().zip(journal.claim(a, at(5), 99).await.unwrap()) {
        journal.settle(&claim.lease, dropped(reason, quantities.clone())).await.unwrap();
    }
    assert_eq!(journal.discard(b, at(9), DropReason::Expired, 3).await.unwrap(), 3);
    let (withheld, quantities) = (vec![(b, DropReason::Sampled), (a, DropReason::Filtered)], errors(5));
    journal.append(Submission { withheld, quantities, ..submission(at(1), &[]) }).await.unwrap();
    let mut expected = vec![(b, Reason::SampleRate, Category::Error, 5)];
    let mut times = BTreeMap::from([((b, Reason::NetworkError), 3)]);
    for reason in DropReason::ALL.into_iter().filter_map(DropReason::reported_as) {
        *times.entry((a, reason)).or_default() += 1;
    }
    for ((target, reason), times) in times {
        expected.push((target, reason, Category::Error, 2 * times));
        expected.push((target, reason, Category::Attachment, 7 * times));
    }
    expected.sort_unstable();
    assert_eq!(to_tell(&subject).await, expected, "no loss without a reason to report, no reports, no unknown");
    drop(journal);
    subject.crash();
    assert_eq!(to_tell(&subject).await, expected);
    subject.assert_balanced().await;
}

pub(crate) async fn a_report_takes_off_its_losses_and_counts_as_nothing(mut subject: Subject) {
    let journal = subject.journal();
    let (a, b) = (journal.target("a").await.unwrap(), journal.target("b").await.unwrap());
    journal.append(Submission { quantities: errors(9), ..submission(at(1), &[a, b]) }).await.unwrap();
    for target in [a, b] {
        assert_eq!(journal.discard(target, at(9), DropReason::Expired, 9).await.unwrap(), 1);
    }
    let accounts = subject.ledger().accounts();
    let loss = |target, quantity| Loss {
        target,
        project: "shop".into(),
        reason: Reason::NetworkError,
        category: Category::Error,
        quantity,
    };
    let report = Submission { quantities: Quantities::new(), event_id: None, ..submission(at(2), &[a]) };
    journal.report(vec![loss(a, 4)], Some(report.clone())).await.unwrap();
    let left = [(a, Reason::NetworkError, Category::Error, 5), (b, Reason::NetworkError, Category::Error, 9)];
    assert_eq!(to_tell(&subject).await, left);
    journal.report(vec![loss(b, 9)], None).await.unwrap();
    assert_eq!(to_tell(&subject).await, left[..1], "forgotten without a report");
    drop(journal);
    subject.crash();
    let journal = subject.journal();
    assert_eq!(to_tell(&subject).await, left[..1]);
    assert_eq!((journal.backlog(a).await.unwrap().envelopes, journal.backlog(b).await.unwrap().envelopes), (1, 0));
    let compared = journal.compare((a, b), at(0), Cursor::START).await.unwrap();
    assert_eq!(
        (compared.compared, compared.unequal.len()),
        (1, 0),
        "it is for one target, and the other misses nothing"
    );
    let scope = Scope { target: b, projects: vec!["shop".into()], since: at(0) };
    assert_eq!(journal.survey(scope, Cursor::START).await.unwrap().records, 0, "nor is it backfilled");
    let claims = journal.claim(a, at(5), 9).await.unwrap();
    assert_eq!((claims.len(), claims[0].record.accepted_at), (1, at(2)));
    journal.settle(&claims[0].lease, dropped(DropReason::Expired, Quantities::new())).await.unwrap();
    assert_eq!(to_tell(&subject).await, left[..1], "its own loss is none");
    assert_eq!(subject.ledger().accounts(), accounts, "it stands in no account");
    subject.assert_balanced().await;
}

pub(crate) async fn the_spans_of_a_dropped_transaction_are_lost(mut subject: Subject) {
    let journal = subject.journal();
    let (a, b) = (journal.target("a").await.unwrap(), journal.target("b").await.unwrap());
    let payload = r#"{"spans":[{},{},{"spans":[{}]}]}"#;
    let transaction = format!("{{}}\n{{\"type\":\"transaction\",\"length\":{}}}\n{payload}\n", payload.len());
    let large = format!("{transaction}{{\"type\":\"attachment\",\"length\":{IN_MEMORY}}}\n{}", "x".repeat(IN_MEMORY));
    let quantities: Quantities = "transaction=1".parse().unwrap();
    for body in [transaction.into_bytes(), large.into_bytes(), b"no envelope".to_vec()] {
        let body = written(&journal, &body).await.unwrap();
        let withheld = vec![(b, DropReason::Sampled)];
        let quantities = quantities.clone();
        journal.append(Submission { quantities, body, withheld, ..submission(at(1), &[a]) }).await.unwrap();
    }
    let claims = journal.claim(a, at(5), 1).await.unwrap();
    journal.settle(&claims[0].lease, dropped(DropReason::RateLimited, quantities)).await.unwrap();
    drop(journal);
    subject.flush().await;
    subject.crash();
    assert_eq!(subject.journal().discard(a, at(9), DropReason::Evicted, 9).await.unwrap(), 2);
    let rows = |target, reason, transactions, spans| {
        [(target, reason, Category::Transaction, transactions), (target, reason, Category::Span, spans)]
    };
    let expected = [
        rows(a, Reason::CacheOverflow, 2, 4 + 1),
        rows(a, Reason::RatelimitBackoff, 1, 4),
        rows(b, Reason::SampleRate, 3, 4 + 4 + 1),
    ];
    assert_eq!(to_tell(&subject).await, expected.concat());
}

pub(crate) async fn a_loss_without_a_record_is_to_be_told_too(mut subject: Subject) {
    let a = subject.journal().target("a").await.unwrap();
    let loss = |category, quantity| Loss {
        target: a,
        project: "shop".into(),
        reason: Reason::EventProcessor,
        category,
        quantity,
    };
    let most = client_report::MOST;
    for losses in [vec![loss(Category::Error, 3)], vec![loss(Category::Error, most), loss(Category::Internal, 1)]] {
        subject.journal().lose(losses).await.unwrap();
    }
    subject.crash();
    assert_eq!(to_tell(&subject).await, [(a, Reason::EventProcessor, Category::Error, most + 3)]);
    assert!(subject.ledger().accounts().is_empty());
}
