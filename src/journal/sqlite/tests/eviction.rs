//! Which records give way when there is no room, and which never do.

use std::collections::BTreeSet;

use super::*;
use crate::journal::Primaries;
use crate::journal::contract::subject::{rejected, retry};
use crate::policy::outcome::DropReason;

const SIZE: usize = 20_000;
/// Later than any other time.
const LATE: Timestamp = Timestamp::from_millis(1 << 50);

fn tight() -> Subject {
    Subject::sqlite_with(|settings| {
        settings.max_size = ByteSize::mib(1);
        settings.sync = crate::journal::Sync::Normal;
    })
}

fn of(project: &str, targets: &[TargetId]) -> Submission {
    let body = Body::from(Bytes::from(vec![7; SIZE]));
    Submission { project: project.into(), body, ..submission(at(1), targets) }
}

/// Makes one target the primary of everything but the project `other`, and a second that of `other`.
fn protect(journal: &SqliteJournal, primary: TargetId, of_other: Option<TargetId>) {
    let own = of_other.into_iter().map(|target| ("other".into(), target)).collect();
    journal.protect(Primaries { everywhere: Some(primary), own });
}

/// Appends records until the journal is full or there are `most`; returns their numbers.
async fn fill_up(journal: &SqliteJournal, submission: impl Fn() -> Submission, most: usize) -> Vec<u64> {
    let mut ids = vec![];
    while ids.len() < most {
        match journal.append(submission()).await {
            Ok(id) => ids.push(id.0),
            Err(JournalError::Full(_)) => break,
            Err(error) => panic!("{error}"),
        }
    }
    ids
}

/// Delivers the backlog of a target; returns the records' numbers.
async fn deliver(journal: &SqliteJournal, target: TargetId) -> Vec<u64> {
    let mut ids = vec![];
    while journal.backlog(target).await.unwrap().envelopes > 0 {
        for claim in journal.claim(target, LATE, 16).await.unwrap() {
            ids.push(claim.record.id.0);
            journal.settle(&claim.lease, delivered(1)).await.unwrap();
        }
        journal.prune(at(0), 0).await.unwrap();
    }
    ids
}

fn evicted(subject: &Subject, upstream: &str) -> u64 {
    let accounts = subject.ledger().accounts().into_iter();
    let own = accounts.filter(|(key, _)| key.upstream.as_deref() == Some(upstream));
    own.map(|(_, account)| account.dropped(DropReason::Evicted)).sum()
}

#[tokio::test]
async fn a_shadows_oldest_records_give_way_and_the_newest_survive_a_crash() {
    let mut subject = tight();
    let (journal, _) = parts(&subject);
    let (a, b) = (journal.target("a").await.unwrap(), journal.target("b").await.unwrap());
    let first = fill_up(&journal, || of("shop", &[a, b]), 500).await.len();
    assert!(first < 60, "before anybody said who is the primary nothing gives way: {first}");
    protect(&journal, a, None);
    assert!(journal.append(of("shop", &[a, b])).await.is_err(), "nor what the primary waits for");
    assert_eq!((evicted(&subject, "a"), evicted(&subject, "b")), (0, 0));
    let mut all = vec![];
    for _ in 0..150 {
        deliver(&journal, a).await;
        all.push(journal.append(of("shop", &[a, b])).await.expect("only a shadow is behind").0);
    }
    deliver(&journal, a).await;
    subject.assert_balanced().await;
    drop(journal);
    subject.crash();
    let (journal, _) = parts(&subject);
    let left = deliver(&journal, b).await;
    assert_eq!(left, all[all.len() - left.len()..], "the newest, in order, once");
    assert!(left.len() > 20, "no more went than had to: {}", left.len());
    assert_eq!((evicted(&subject, "a"), evicted(&subject, "b")), (0, (first + 150 - left.len()) as u64));
    drop(journal);
    subject.assert_balanced().await;
}

#[tokio::test]
async fn each_project_keeps_the_records_that_its_own_primary_waits_for() {
    let subject = tight();
    let (journal, _) = parts(&subject);
    let (a, b) = (journal.target("a").await.unwrap(), journal.target("b").await.unwrap());
    protect(&journal, a, Some(b));
    // At `a`, the records of `shop` are the primary's backlog, and those of `other` between them a shadow's.
    let mut own = BTreeSet::new();
    for _ in 0..60 {
        deliver(&journal, b).await;
        own.insert(journal.append(of("shop", &[a, b])).await.map(|id| id.0).unwrap_or_default());
        deliver(&journal, b).await;
        drop(journal.append(of("other", &[a, b])).await);
    }
    own.remove(&0);
    assert!(own.len() > 20, "those of the other project went for them: {}", own.len());
    subject.assert_balanced().await;
    deliver(&journal, b).await;
    let left: BTreeSet<u64> = deliver(&journal, a).await.into_iter().collect();
    assert!(own.is_subset(&left), "not one of the primary's went");
    assert!(evicted(&subject, "a") > 10 && evicted(&subject, "b") == 0);
    drop(journal);
    subject.assert_balanced().await;
}

#[tokio::test]
async fn leased_and_refused_records_stay_and_all_shadows_lose_the_same_ones() {
    let subject = tight();
    let (journal, _) = parts(&subject);
    let (a, b) = (journal.target("a").await.unwrap(), journal.target("b").await.unwrap());
    let c = journal.target("c").await.unwrap();
    protect(&journal, a, None);
    let ids = fill_up(&journal, || of("shop", &[b, c]), 6).await;
    // The first record is leased at `b`, the second was refused at `c`, and the third waits.
    let claims = journal.claim(b, at(9), 3).await.unwrap();
    journal.settle(&claims[1].lease, retry(LATE, 1, 1)).await.unwrap();
    journal.settle(&claims[2].lease, retry(LATE, 1, 1)).await.unwrap();
    let refused = journal.claim(c, at(9), 2).await.unwrap();
    journal.settle(&refused[1].lease, rejected()).await.unwrap();
    journal.settle(&refused[0].lease, retry(LATE, 1, 1)).await.unwrap();
    subject.flush().await;
    assert!(fill_up(&journal, || of("shop", &[b, c]), 100).await.len() == 100);
    for (target, kept) in [(b, vec![ids[1]]), (c, vec![ids[0]])] {
        assert_eq!(journal.hasten(target, 9).await.unwrap(), 1, "of those put off only the needed ones are there");
        let claims = journal.claim(target, LATE, 1).await.unwrap();
        assert_eq!(claims.iter().map(|claim| claim.record.id.0).collect::<Vec<_>>(), kept);
        journal.settle(&claims[0].lease, delivered(1)).await.unwrap();
    }
    journal.settle(&claims[0].lease, delivered(1)).await.unwrap();
    let (of_b, of_c) = (deliver(&journal, b).await, deliver(&journal, c).await);
    assert_eq!(of_b, of_c, "bytes come back when the last copy is gone");
    drop(journal);
    subject.assert_balanced().await;
}

#[tokio::test]
async fn a_body_too_large_to_ever_fit_evicts_nothing() {
    let subject = tight();
    let (journal, _) = parts(&subject);
    let (a, b) = (journal.target("a").await.unwrap(), journal.target("b").await.unwrap());
    protect(&journal, a, None);
    fill_up(&journal, || of("shop", &[b]), 60).await;
    fill_up(&journal, || of("shop", &[a]), 4).await;
    let before = evicted(&subject, "b");
    let refused = journal.append(large(1_000_000, &[a])).await;
    assert!(matches!(refused, Err(JournalError::Full(_))), "{refused:?}");
    assert_eq!(evicted(&subject, "b"), before);
    journal.append(large(250_000, &[a])).await.unwrap();
    assert!(evicted(&subject, "b") > before && evicted(&subject, "a") == 0);
    drop(journal);
    subject.assert_balanced().await;
}

#[tokio::test]
async fn evicted_records_make_room_within_the_file_on_a_full_disk() {
    let mut subject = Subject::sqlite();
    let (journal, _) = parts(&subject);
    let (a, b) = (journal.target("a").await.unwrap(), journal.target("b").await.unwrap());
    fill_up(&journal, || of("shop", &[a, b]), 300).await;
    deliver(&journal, a).await;
    drop(journal);
    subject.backend.settings.min_free_disk = ByteSize::bytes(u64::MAX);
    subject.crash();
    let (journal, settings) = parts(&subject);
    // Pages that are only in the WAL so far count, too.
    let size = || count(&settings.path, "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size");
    let before = size();
    protect(&journal, a, None);
    for _ in 0..200 {
        journal.append(of("shop", &[a, b])).await.expect("what a shadow gives up serves");
        deliver(&journal, a).await;
    }
    subject.flush().await;
    assert!(size() < before + (1 << 20), "six times as much went in: {} bytes, {before} before", size());
    let left = deliver(&journal, b).await;
    assert!(left.len() > 150 && left.windows(2).all(|two| two[0] < two[1]), "{}", left.len());
    drop(journal);
    subject.assert_balanced().await;
}

/// A number below `n` (Marsaglia's xorshift).
fn dice(state: &mut u64, n: u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state % n
}

/// Checks that no primary lost a record: `a` is that of `shop`, `b` that of `other`.
fn no_primary_lost_one(subject: &Subject, seed: u64) {
    for (key, account) in subject.ledger().accounts() {
        let is_primarys =
            matches!((key.upstream.as_deref(), &*key.project), (Some("a"), "shop") | (Some("b"), "other"));
        assert!(!is_primarys || account.dropped(DropReason::Evicted) == 0, "{key:?} {account:?}, seed {seed}");
    }
}

/// Delivers the leased records and the backlogs, each record for the first time.
async fn deliver_all(
    subject: &Subject,
    targets: &[TargetId],
    leased: &mut Vec<(usize, Claim)>,
    delivered_to: &mut [BTreeSet<u64>],
) {
    let (journal, _) = parts(subject);
    for (n, claim) in leased.drain(..) {
        assert!(delivered_to[n].insert(claim.record.id.0), "once");
        journal.settle(&claim.lease, delivered(1)).await.unwrap();
    }
    for (n, target) in targets.iter().enumerate() {
        for id in deliver(&journal, *target).await {
            assert!(delivered_to[n].insert(id), "once");
        }
    }
}

#[tokio::test]
async fn each_copy_is_delivered_once_or_evicted_and_a_primary_loses_none() {
    for seed in 1..=3_u64 {
        let (mut subject, mut state) = (tight(), seed * 7919);
        let mut targets = vec![];
        for name in ["a", "b", "c"] {
            targets.push(parts(&subject).0.target(name).await.unwrap());
        }
        let (mut leased, mut delivered_to, mut taken) = (vec![], vec![BTreeSet::new(); 3], 0);
        for _ in 0..400 {
            let (journal, _) = parts(&subject);
            protect(&journal, targets[0], Some(targets[1]));
            let at_random = dice(&mut state, 3) as usize;
            match dice(&mut state, 16) {
                0..8 => {
                    let mask = 1 + dice(&mut state, 7);
                    let meant: Vec<TargetId> = (0..3).filter(|n| mask & 1 << n != 0).map(|n| targets[n]).collect();
                    let project = if dice(&mut state, 2) == 0 { "shop" } else { "other" };
                    taken += u64::from(journal.append(of(project, &meant)).await.is_ok());
                }
                8..11 => {
                    let claims = journal.claim(targets[at_random], at(9), 4).await.unwrap();
                    leased.extend(claims.into_iter().map(|claim| (at_random, claim)));
                }
                11..14 if !leased.is_empty() => {
                    let (n, claim) = leased.swap_remove(dice(&mut state, leased.len() as u64) as usize);
                    let settlement = match dice(&mut state, 4) {
                        0 => retry(at(dice(&mut state, 12)), 1, 1),
                        _ => {
                            assert!(delivered_to[n].insert(claim.record.id.0), "once");
                            delivered(1)
                        }
                    };
                    journal.settle(&claim.lease, settlement).await.unwrap();
                }
                14 if dice(&mut state, 16) == 0 => {
                    // Every delivered record, the newest as well, gives way for a large body. Nothing is appended before the restart.
                    deliver_all(&subject, &targets, &mut leased, &mut delivered_to).await;
                    subject.flush().await;
                    let refused = journal.take_room(Some("shop".into()), 1 << 20).await;
                    assert!(refused.is_err(), "there is never so much");
                    drop(journal);
                    subject.crash();
                }
                15 if dice(&mut state, 20) == 0 => {
                    subject.flush().await;
                    leased.clear();
                    drop(journal);
                    subject.crash();
                }
                _ => subject.flush().await,
            }
        }
        deliver_all(&subject, &targets, &mut leased, &mut delivered_to).await;
        subject.assert_balanced().await;
        no_primary_lost_one(&subject, seed);
        assert!(evicted(&subject, "c") > 0 && taken > 60, "{taken} taken, seed {seed}");
        let delivered: u64 = subject
            .ledger()
            .accounts()
            .iter()
            .filter(|(key, _)| key.upstream.is_some())
            .map(|(_, account)| account.delivered)
            .sum();
        assert_eq!(delivered, delivered_to.iter().map(|ids| ids.len() as u64).sum::<u64>());
    }
}

#[tokio::test]
async fn an_append_looks_at_few_records_in_a_journal_full_for_a_shadow() {
    let subject = Subject::sqlite_with(|settings| {
        settings.max_size = ByteSize::mib(24);
        settings.sync = crate::journal::Sync::Normal;
    });
    let (journal, _) = parts(&subject);
    let (a, b) = (journal.target("a").await.unwrap(), journal.target("b").await.unwrap());
    protect(&journal, a, None);
    let append = async |many: usize| {
        // One record of 64 is for no target.
        let targets = |n: usize| if n.is_multiple_of(64) { vec![] } else { vec![b] };
        let all = (0..many).map(|n| journal.append(large(700, &targets(n))));
        assert!(join_all(all).await.iter().all(Result::is_ok), "a shadow gives way");
        journal.shared.counters.walked.load(Ordering::Relaxed)
    };
    while evicted(&subject, "b") < 1000 {
        append(256).await;
    }
    let held = journal.backlog(b).await.unwrap().envelopes;
    let (before, gone) = (append(256).await, evicted(&subject, "b"));
    let looked = (append(2048).await - before) / 2048;
    assert!(held > 10_000 && evicted(&subject, "b") - gone > 1000, "{held} waited");
    assert!(looked <= 150, "{looked} for each");
    drop(journal);
    subject.assert_balanced().await;
}

#[tokio::test]
async fn a_shadow_gives_way_when_the_room_in_use_was_underestimated() {
    let subject = tight();
    let (journal, _) = parts(&subject);
    let (a, b) = (journal.target("a").await.unwrap(), journal.target("b").await.unwrap());
    protect(&journal, a, None);
    while evicted(&subject, "b") < 1000 {
        // Two small records share a page. Here none shares one with its neighbour.
        let all = (0..64).map(|n| journal.append(large(if n % 2 == 0 { 700 } else { 1250 }, &[b])));
        assert!(join_all(all).await.iter().all(Result::is_ok), "a shadow gives way");
    }
    drop(journal);
    subject.assert_balanced().await;
}
