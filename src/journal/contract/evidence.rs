//! Promises about evidence: it adds up, outlives restarts, and tells which upstream got what.

use std::collections::BTreeMap;

use crate::journal::archive::Fate;
use crate::journal::evidence::{Observation, Tally};
use crate::policy::verdict::Verdict;
use crate::telemetry::observations::{Change, Observed, Performance};
use crate::telemetry::series::Step;

use super::*;

/// The time `second` seconds after the current hour began: evidence older than 90 days would be forgotten.
fn today(second: u64) -> Timestamp {
    at(Clock::system().now().hour() * 3600 + second)
}

/// An observation of one upstream, made at `second` of the current hour by the process that started at second 1 of it.
fn observation(second: u64, target: TargetId, performance: &[(u64, Performance)], changes: &[Change]) -> Observation {
    let mut observed = Observed::default();
    observed.hours = performance.iter().cloned().collect();
    observed.changes = changes.to_vec();
    let intake = vec![Tally { what: "duplicate".into(), kind: "error".into(), count: 2 }];
    Observation {
        started: today(1),
        now: today(second),
        stopping: false,
        upstreams: vec![(target, observed)],
        intake,
        steps: vec![],
        canaries: vec![],
    }
}

fn delivered_after(seconds: &[u64]) -> Performance {
    let mut performance = Performance::default();
    for second in seconds {
        performance.attempts[Verdict::Delivered as usize] += 1;
        performance.lags.record(Duration::from_secs(*second));
    }
    performance
}

pub(crate) async fn evidence_adds_up_and_outlives_a_restart(mut subject: Subject) {
    let journal = subject.journal();
    let (a, b) = (journal.target("a").await.unwrap(), journal.target("b").await.unwrap());
    fill(&journal, 3, &[a]).await;
    let hour = today(0).hour();
    let mut failed = Performance::default();
    failed.attempts[Verdict::Failed as usize] = 7;
    journal.observe(observation(10, a, &[(hour, delivered_after(&[1, 2]))], &[])).await.unwrap();
    journal.observe(observation(20, a, &[(hour, delivered_after(&[30]))], &[])).await.unwrap();
    journal.observe(observation(30, b, &[(hour, failed)], &[])).await.unwrap();
    drop(journal);
    subject.crash();
    let journal = subject.journal();
    let canaries = vec![(b, today(55))];
    let last = Observation { stopping: true, started: today(50), canaries, ..observation(60, b, &[], &[]) };
    journal.observe(last).await.unwrap();
    let older = Observation { canaries: vec![(b, today(52))], ..observation(60, b, &[], &[]) };
    journal.observe(Observation { stopping: true, started: today(50), intake: vec![], ..older }).await.unwrap();
    assert_eq!(
        (figures(&*journal, a).await.latest.canary_at, figures(&*journal, b).await.latest.canary_at),
        (None, Some(today(55)))
    );
    let evidence = journal.evidence(at(0)).await.unwrap();
    let of = |name: &str| &evidence.performance[name];
    assert_eq!(of("a").attempts(Verdict::Delivered), 3);
    assert_eq!((of("a").lags.count(), of("a").lags.max()), (3, Duration::from_secs(30)));
    assert_eq!((of("b").attempts(Verdict::Failed), of("b").lags.count()), (7, 0));
    assert_eq!(evidence.intake, [Tally { what: "duplicate".into(), kind: "error".into(), count: 8 }]);
    let stretches: Vec<_> = evidence.stretches.iter().map(|s| (s.from, s.to, s.stopped)).collect();
    assert_eq!(
        stretches,
        [(today(1), today(30), false), (today(50), today(60), true)],
        "a crash ends at the last sign of life"
    );
    let later = journal.evidence(today(40)).await.unwrap().stretches;
    assert_eq!(later.len(), 2, "the last that ended before is told, too");
    let accepted = evidence.accounts.iter().filter(|(key, _)| key.upstream.as_deref() == Some("a"));
    assert_eq!(accepted.map(|(_, account)| account.accepted).sum::<u64>(), 3);
}

pub(crate) async fn steps_add_up_and_outlive_a_restart(mut subject: Subject) {
    let journal = subject.journal();
    let a = journal.target("a").await.unwrap();
    let step = |accepted, waiting, lag_p99| Step { at: today(300), accepted, delivered: 1, lost: 2, waiting, lag_p99 };
    let of = |second, step| Observation { steps: vec![(a, step)], ..observation(second, a, &[], &[]) };
    journal.observe(of(310, step(5, 9, Some(70)))).await.unwrap();
    drop(journal);
    subject.crash();
    let journal = subject.journal();
    journal.observe(of(320, step(2, 4, None))).await.unwrap();
    journal.observe(of(630, Step { at: today(600), ..step(1, 0, Some(8)) })).await.unwrap();
    let steps = journal.evidence(today(0)).await.unwrap().steps;
    let first = Step { at: today(300), accepted: 7, delivered: 2, lost: 4, waiting: 4, lag_p99: Some(70) };
    assert_eq!(steps["a"], [first, Step { at: today(600), ..step(1, 0, Some(8)) }]);
}

pub(crate) async fn an_outage_lasts_until_the_next_answer_also_through_a_restart(mut subject: Subject) {
    let journal = subject.journal();
    let a = journal.target("a").await.unwrap();
    let down = |second, cause: &str| Change::Down { at: today(second), cause: cause.into() };
    journal.observe(observation(20, a, &[], &[Change::Up { at: today(1) }, down(10, "refused")])).await.unwrap();
    drop(journal);
    subject.crash();
    let journal = subject.journal();
    // The next process finds it down, too, and then up.
    journal.observe(observation(40, a, &[], &[down(30, "timeout")])).await.unwrap();
    let told = journal.outages(today(35), 9).await.unwrap();
    assert_eq!((told.len(), told[0].from, told[0].to, &*told[0].cause), (1, today(10), None, "refused"));
    let changes = [Change::Up { at: today(50) }, down(60, "any \0 character"), Change::Up { at: today(70) }];
    journal.observe(observation(80, a, &[], &changes)).await.unwrap();
    let told = journal.outages(today(0), 9).await.unwrap();
    let told: Vec<_> = told.iter().map(|outage| (&*outage.upstream, outage.from, outage.to)).collect();
    assert_eq!(told, [("a", today(60), Some(today(70))), ("a", today(10), Some(today(50)))], "newest first");
    assert_eq!(journal.outages(today(50), 9).await.unwrap().len(), 1, "one that had ended is not told");
    assert_eq!(journal.outages(today(0), 1).await.unwrap().len(), 1);
}

pub(crate) async fn a_comparison_lists_each_record_that_only_one_upstream_got(mut subject: Subject) {
    let journal = subject.journal();
    let (a, b) = (journal.target("a").await.unwrap(), journal.target("b").await.unwrap());
    for (second, targets) in [&[a, b][..], &[a, b], &[a, b], &[a], &[], &[a, b], &[a, b]].into_iter().enumerate() {
        let event_id = Some(EventId::from(second as u128 + 1));
        let submission = Submission { event_id, ..submission(at(second as u64 + 1), targets) };
        journal.append(submission).await.unwrap();
    }
    // At a: all but the last are delivered. At b: 1 delivered, 2 refused, 3 delivered, 6 expires, 7 waits.
    for claim in journal.claim(a, at(9), 5).await.unwrap() {
        journal.settle(&claim.lease, delivered(1)).await.unwrap();
    }
    for claim in journal.claim(b, at(9), 4).await.unwrap() {
        match claim.record.event_id.map_or(0, |id| id.as_u128()) {
            2 => journal.settle(&claim.lease, rejected()).await.unwrap(),
            6 => journal.settle(&claim.lease, retry(at(10), 1, 1)).await.unwrap(),
            _ => journal.settle(&claim.lease, delivered(1)).await.unwrap(),
        }
    }
    subject.flush().await;
    assert_eq!(journal.discard(b, at(7), DropReason::Expired, 9).await.unwrap(), 1);
    drop(journal);
    for restart in [false, true] {
        if restart {
            subject.crash();
        }
        let journal = subject.journal();
        let told = journal.compare((a, b), at(0), Cursor::START).await.unwrap();
        assert_eq!((told.compared, told.oldest, told.next), (6, Some(at(1)), None));
        let fates: BTreeMap<u64, _> =
            told.unequal.iter().map(|one| (one.event_id.unwrap().as_u128() as u64, (one.a, one.b))).collect();
        let expected = [
            (2, (Fate::Delivered, Fate::Dropped(DropReason::Rejected))),
            (4, (Fate::Delivered, Fate::NotSent)),
            (6, (Fate::Delivered, Fate::Dropped(DropReason::Expired))),
        ];
        assert_eq!(fates, BTreeMap::from(expected), "{restart}");
        assert_eq!(told.pending, (0, 0), "the last one waits for both");
        let reverse = journal.compare((b, a), at(4), Cursor::START).await.unwrap();
        assert_eq!((reverse.compared, reverse.unequal.len()), (3, 2), "what is older is left out");
    }
    let journal = subject.journal();
    for claim in journal.claim(a, at(9), 9).await.unwrap() {
        journal.settle(&claim.lease, delivered(1)).await.unwrap();
    }
    subject.flush().await;
    assert_eq!(journal.compare((a, b), at(0), Cursor::START).await.unwrap().pending, (0, 1));
    subject.assert_balanced().await;
}
