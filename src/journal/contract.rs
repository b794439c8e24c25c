//! The suite that every backend passes: one function per promise of the contract, run for each backend. Its many lines are one
//! list of promises, which belongs together.

pub(super) mod backfill;
mod evidence;
mod letters;
mod losses;
mod model;
mod shares;

use std::io::Read as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::body::{Body, IN_MEMORY};
use super::memory::MemoryJournal;
use super::spool::BodyWriter;
use super::sqlite::SqliteJournal;
use super::*;
use crate::clock::Clock;
use crate::protocol::endpoint::{Endpoint, RawRequest};
use crate::telemetry::ledger::Ledger;
use crate::units::ByteSize;
use backfill::*;
use evidence::*;
use letters::*;
use losses::*;

/// A backend under test, with the ledger it posts to.
pub(super) enum Subject {
    Memory(Arc<MemoryJournal>, Ledger),
    Sqlite { folder: tempfile::TempDir, settings: Settings, journal: Option<Arc<SqliteJournal>>, ledger: Ledger },
}

impl Subject {
    pub(super) fn memory() -> Self {
        let ledger = Ledger::default();
        Self::Memory(Arc::new(MemoryJournal::new(ledger.clone())), ledger)
    }

    pub(super) fn sqlite() -> Self {
        Self::sqlite_with(|_| {})
    }

    pub(super) fn sqlite_with(change: impl FnOnce(&mut Settings)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.db");
        let mut settings = Settings { path, min_free_disk: ByteSize::bytes(0), ..Settings::default() };
        change(&mut settings);
        let ledger = Ledger::default();
        let journal = SqliteJournal::open(&settings, Clock::system(), ledger.clone()).unwrap();
        Self::Sqlite { folder, settings, journal: Some(Arc::new(journal)), ledger }
    }

    pub(super) fn journal(&self) -> Arc<dyn Journal> {
        match self {
            Self::Memory(journal, _) => Arc::clone(journal) as Arc<dyn Journal>,
            Self::Sqlite { journal, .. } => Arc::clone(journal.as_ref().unwrap()) as Arc<dyn Journal>,
        }
    }

    pub(super) fn ledger(&self) -> &Ledger {
        match self {
            Self::Memory(_, ledger) | Self::Sqlite { ledger, .. } => ledger,
        }
    }

    /// The files as a crash would leave them, opened again. Whatever was not committed is gone.
    pub(super) fn crash(&mut self) {
        match self {
            Self::Memory(journal, _) => journal.forget_leases(),
            Self::Sqlite { folder, settings, journal, ledger } => {
                let copy = tempfile::tempdir().unwrap();
                copy_files(folder.path(), copy.path());
                drop(journal.take());
                *folder = copy;
                settings.path = folder.path().join("journal.db");
                *ledger = Ledger::default();
                *journal = Some(Arc::new(SqliteJournal::open(settings, Clock::system(), ledger.clone()).unwrap()));
            }
        }
    }

    /// Waits until every settlement made so far is committed: an empty command goes through the same commit.
    pub(super) async fn flush(&self) {
        assert_eq!(self.journal().prune(at(0), 0).await.unwrap(), 0);
    }

    /// For each account: accepted = delivered + dropped + pending.
    pub(super) async fn assert_balanced(&self) {
        self.flush().await;
        let journal = self.journal();
        let mut pending = std::collections::BTreeMap::new();
        for (id, name) in journal.targets() {
            for (project, category, quantity) in journal.backlog(id).await.unwrap().quantities {
                pending.insert((name.to_string(), project.to_string(), category), quantity);
            }
        }
        for (key, account) in self.ledger().accounts() {
            if let Some(upstream) = &key.upstream {
                let waiting = pending.remove(&(upstream.to_string(), key.project.to_string(), key.category));
                assert_eq!(account.expected_pending(), waiting.unwrap_or(0) as i64, "{key:?} {account:?}");
            }
        }
        assert!(pending.is_empty(), "pending without an account: {pending:?}");
    }
}

pub(super) fn copy_files(from: &std::path::Path, to: &std::path::Path) -> PathBuf {
    std::fs::create_dir_all(to.join(BODIES)).unwrap();
    let bodies = std::fs::read_dir(from.join(BODIES)).unwrap();
    let bodies: Vec<PathBuf> = bodies.map(|file| PathBuf::from(BODIES).join(file.unwrap().file_name())).collect();
    for name in bodies.iter().chain(&["journal.db".into(), "journal.db-wal".into()]) {
        if from.join(name).exists() {
            std::fs::copy(from.join(name), to.join(name)).unwrap();
        }
    }
    to.join("journal.db")
}

/// The folder of large bodies.
pub(super) const BODIES: &str = "journal.db-bodies";

/// All of a body.
pub(super) fn bytes_of(body: &Body) -> Vec<u8> {
    let mut bytes = Vec::new();
    body.reader().unwrap().read_to_end(&mut bytes).unwrap();
    bytes
}

/// Asks again and again until the answer is yes.
pub(super) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(std::time::Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub(super) fn at(seconds: u64) -> Timestamp {
    Timestamp::from_millis(seconds * 1000)
}

pub(super) fn errors(n: u64) -> Quantities {
    [(Category::Error, n)].into_iter().collect()
}

pub(super) fn submission(accepted_at: Timestamp, targets: &[TargetId]) -> Submission {
    Submission {
        accepted_at,
        project: "shop".into(),
        event_id: Some(EventId::from(7)),
        quantities: errors(1),
        keys: vec![],
        client: Client::default(),
        body: Bytes::from_static(b"{}\n").into(),
        targets: targets.to_vec(),
        withheld: vec![],
        spans: None,
    }
}

pub(super) fn delivered(n: u64) -> Settlement {
    Settlement { delivered: errors(n), ..Settlement::default() }
}

pub(super) fn retry(due: Timestamp, attempts: u32, n: u64) -> Settlement {
    let progress = Progress { attempts, ..Progress::default() };
    Settlement { rest: Some(Rest { due, progress, quantities: errors(n) }), ..Settlement::default() }
}

pub(super) fn rejected() -> Settlement {
    let reason = "refused".into();
    let letter = DeadLetter { at: at(9), reason, status: Some(400), answer: "no".into(), attempts: 1, items: None };
    let dropped = Some((DropReason::Rejected, errors(1)));
    Settlement { dropped, dead_letter: Some(letter), ..Settlement::default() }
}

pub(super) fn ids(claims: &[Claim]) -> Vec<u64> {
    claims.iter().map(|claim| claim.record.id.0).collect()
}

/// Appends `n` records accepted at 1 s, 2 s, … and returns their numbers.
pub(super) async fn fill(journal: &Arc<dyn Journal>, n: u64, targets: &[TargetId]) -> Vec<u64> {
    let mut ids = Vec::new();
    for second in 1..=n {
        ids.push(journal.append(submission(at(second), targets)).await.unwrap().0);
    }
    ids
}

macro_rules! suite {
    ($($name:ident),* $(,)?) => {
        mod memory {
            $(#[tokio::test] async fn $name() { super::$name(super::Subject::memory()).await; })*
        }
        mod sqlite {
            $(#[tokio::test] async fn $name() { super::$name(super::Subject::sqlite()).await; })*
        }
    };
}

suite!(
    a_claimed_record_is_what_was_appended,
    a_record_stays_until_every_target_settled_it,
    a_dead_letter_keeps_its_record,
    dead_letters_are_listed_newest_first_and_found_by_what_they_are,
    a_dead_letter_that_is_retried_waits_again_and_the_accounts_balance,
    parts_of_one_record_are_retried_together,
    a_dead_letter_of_a_record_that_is_still_under_way_is_left_alone,
    a_dead_letter_that_is_forgotten_lets_its_record_go,
    a_backfill_gives_what_was_withheld_once_and_the_accounts_balance,
    what_came_before_the_target_was_never_withheld_from_it,
    what_is_backfilled_goes_after_everything_else,
    a_backfill_that_is_cancelled_takes_up_no_more,
    after_a_restart_everything_unsettled_can_be_claimed_again,
    what_is_due_comes_first_by_its_due_time_then_the_untried_in_order,
    a_retry_that_comes_due_before_one_already_looked_up_goes_first,
    settling_twice_or_without_a_claim_changes_nothing,
    a_claim_is_given_once,
    what_is_withheld_is_accepted_and_dropped_at_once,
    part_of_a_record_can_be_put_off,
    what_was_put_off_can_be_tried_at_once,
    what_is_old_is_discarded_in_order_and_leases_are_left_alone,
    discarding_goes_on_across_what_was_put_off_and_what_was_never_tried,
    a_target_keeps_its_number_and_a_new_one_begins_with_nothing,
    a_target_that_fell_behind_gets_everything_once_and_in_order,
    numbers_are_never_used_twice,
    keys_come_newest_first_and_no_older_than_asked,
    switches_are_kept_newest_first,
    a_closed_journal_says_so,
    an_arrival_and_a_settlement_wake_the_target,
    the_number_of_targets_is_bounded,
    a_body_written_in_pieces_is_one_body_and_can_be_written_over,
    a_large_body_is_claimed_as_it_was_written_and_gives_its_room_back,
    a_body_that_was_not_finished_or_not_appended_leaves_nothing_behind,
    evidence_adds_up_and_outlives_a_restart,
    steps_add_up_and_outlive_a_restart,
    an_outage_lasts_until_the_next_answer_also_through_a_restart,
    what_one_upstream_got_and_another_did_not_is_told_record_by_record,
    what_is_dropped_is_to_be_told_with_its_reason_through_restarts,
    a_report_takes_off_what_it_tells_and_counts_as_nothing,
    with_a_dropped_transaction_its_spans_are_lost,
    what_is_shed_before_there_is_a_record_is_to_be_told_too,
);

async fn a_claimed_record_is_what_was_appended(mut subject: Subject) {
    let a = subject.journal().target("a").await.unwrap();
    let text = |text: &str| Some(text.into());
    let (user_agent, forwarded_for, sentry_client) = (text("sdk"), text("::1"), text("x/1"));
    let ping = RawRequest::new(Endpoint::Cron, true, "cron/nightly", Some("status=ok")).unwrap();
    let left_out = vec![LeftOut { target: a, why: DropReason::Sampled, items: vec![0, 9] }];
    let request = Some(ping.into());
    let client = Client { user_agent, origin: None, forwarded_for, sentry_client, request, left_out };
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
                subject.journal().settle(a, record, delivered(1));
                subject.flush().await;
            }
        }
    }
    subject.assert_balanced().await;
}

async fn a_record_stays_until_every_target_settled_it(subject: Subject) {
    let journal = subject.journal();
    let (a, b) = (journal.target("a").await.unwrap(), journal.target("b").await.unwrap());
    fill(&journal, 3, &[a, b]).await;
    for target in [a, b] {
        assert_eq!(journal.prune(at(100), 10).await.unwrap(), 0);
        for claim in journal.claim(target, at(5), 10).await.unwrap() {
            journal.settle(target, &claim.record, delivered(1));
        }
    }
    assert_eq!(journal.prune(at(3), 1).await.unwrap(), 1, "no more than asked");
    assert_eq!(journal.prune(at(3), 10).await.unwrap(), 1, "only those older than asked");
    assert_eq!(journal.prune(at(100), 10).await.unwrap(), 1);
    subject.assert_balanced().await;
}

async fn a_dead_letter_keeps_its_record(mut subject: Subject) {
    let journal = subject.journal();
    let a = journal.target("a").await.unwrap();
    fill(&journal, 2, &[a]).await;
    let claims = journal.claim(a, at(5), 2).await.unwrap();
    journal.settle(a, &claims[0].record, rejected());
    journal.settle(a, &claims[1].record, delivered(1));
    assert_eq!(journal.prune(at(100), 10).await.unwrap(), 1);
    assert_eq!(journal.dead_letters(a), 1);
    drop(journal);
    subject.crash();
    assert_eq!(subject.journal().dead_letters(a), 1);
    assert_eq!(subject.journal().prune(at(100), 10).await.unwrap(), 0);
    subject.assert_balanced().await;
}

async fn after_a_restart_everything_unsettled_can_be_claimed_again(mut subject: Subject) {
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

async fn what_is_due_comes_first_by_its_due_time_then_the_untried_in_order(subject: Subject) {
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

async fn a_retry_that_comes_due_before_one_already_looked_up_goes_first(subject: Subject) {
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

async fn settling_twice_or_without_a_claim_changes_nothing(subject: Subject) {
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
    assert_eq!(journal.dead_letters(a), 0);
}

async fn a_claim_is_given_once(subject: Subject) {
    let journal = subject.journal();
    let a = journal.target("a").await.unwrap();
    let all = fill(&journal, 4, &[a]).await;
    assert!(journal.claim(a, at(9), 0).await.unwrap().is_empty());
    assert_eq!(ids(&journal.claim(a, at(9), 3).await.unwrap()), all[..3]);
    assert_eq!(ids(&journal.claim(a, at(9), 3).await.unwrap()), all[3..]);
    assert!(journal.claim(a, at(9), 3).await.unwrap().is_empty());
}

async fn what_is_withheld_is_accepted_and_dropped_at_once(mut subject: Subject) {
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

async fn part_of_a_record_can_be_put_off(mut subject: Subject) {
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

async fn what_was_put_off_can_be_tried_at_once(mut subject: Subject) {
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

async fn what_is_old_is_discarded_in_order_and_leases_are_left_alone(mut subject: Subject) {
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

async fn discarding_goes_on_across_what_was_put_off_and_what_was_never_tried(subject: Subject) {
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

async fn a_target_keeps_its_number_and_a_new_one_begins_with_nothing(mut subject: Subject) {
    let journal = subject.journal();
    let a = journal.target("a").await.unwrap();
    fill(&journal, 3, &[a]).await;
    let b = journal.target("b").await.unwrap();
    assert!(journal.claim(b, at(9), 9).await.unwrap().is_empty());
    drop(journal);
    subject.crash();
    let journal = subject.journal();
    assert_eq!((journal.target("b").await.unwrap(), journal.target("a").await.unwrap()), (b, a));
    assert_eq!(journal.targets(), [(a, "a".into()), (b, "b".into())]);
    assert_eq!(journal.backlog(b).await.unwrap(), Backlog::default());
    assert_eq!(journal.backlog(a).await.unwrap().envelopes, 3);
}

async fn a_target_that_fell_behind_gets_everything_once_and_in_order(mut subject: Subject) {
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

async fn numbers_are_never_used_twice(mut subject: Subject) {
    let a = subject.journal().target("a").await.unwrap();
    let first = fill(&subject.journal(), 3, &[a]).await;
    for claim in subject.journal().claim(a, at(9), 9).await.unwrap() {
        subject.journal().settle(a, &claim.record, delivered(1));
    }
    assert_eq!(subject.journal().prune(at(100), 10).await.unwrap(), 3);
    subject.crash();
    let next = fill(&subject.journal(), 1, &[a]).await;
    assert!(next[0] > first[2], "{next:?} after {first:?}");
    assert_eq!(ids(&subject.journal().claim(a, at(9), 9).await.unwrap()), next);
}

async fn keys_come_newest_first_and_no_older_than_asked(mut subject: Subject) {
    let a = subject.journal().target("a").await.unwrap();
    let mut ids = vec![];
    for (second, keys) in [(1, vec![1]), (2, vec![2, u128::MAX]), (3, vec![]), (4, vec![4])] {
        ids.push(subject.journal().append(Submission { keys, ..submission(at(second), &[a]) }).await.unwrap());
    }
    subject.crash();
    let journal = subject.journal();
    let keys = async |since, before, limit| journal.recent_keys(at(since), before, limit).await.unwrap();
    let all = [(4, at(4)), (2, at(2)), (u128::MAX, at(2)), (1, at(1))];
    let of = |keys: &[(u128, Timestamp)], next| RecentKeys { keys: keys.to_vec(), next };
    assert_eq!(keys(0, None, 100).await, of(&all, None));
    assert_eq!(keys(2, None, 100).await, of(&all[..3], None));
    assert_eq!(keys(0, None, 2).await, of(&all[..1], Some(ids[2])));
    assert_eq!(keys(0, Some(ids[2]), 1).await, of(&all[1..3], Some(ids[1])));
    assert_eq!(keys(0, Some(ids[1]), 2).await, of(&all[3..], None));
    assert_eq!(keys(3, Some(ids[2]), 2).await, of(&[], None));
}

async fn switches_are_kept_newest_first(mut subject: Subject) {
    let switch = |second, from: Option<&str>, to: &str| Switch {
        at: at(second),
        project: None,
        from: from.map(Into::into),
        to: to.into(),
        reason: Some("cutover".into()),
        author: None,
    };
    let (first, second) = (switch(1, None, "a"), switch(2, Some("a"), "b"));
    subject.journal().record_switch(first.clone()).await.unwrap();
    subject.journal().record_switch(second.clone()).await.unwrap();
    subject.crash();
    assert_eq!(subject.journal().switches(9).await.unwrap(), [second.clone(), first]);
    assert_eq!(subject.journal().switches(1).await.unwrap(), [second]);
}

async fn a_closed_journal_says_so(subject: Subject) {
    let journal = subject.journal();
    let a = journal.target("a").await.unwrap();
    fill(&journal, 1, &[a]).await;
    journal.close(Duration::from_secs(10)).await;
    journal.close(Duration::from_secs(10)).await;
    assert!(matches!(journal.append(submission(at(1), &[a])).await, Err(JournalError::Closed)));
    assert!(matches!(journal.claim(a, at(1), 1).await, Err(JournalError::Closed)));
    assert!(matches!(journal.backlog(a).await, Err(JournalError::Closed)));
    assert!(matches!(journal.writable(), Err(JournalError::Closed)));
}

async fn an_arrival_and_a_settlement_wake_the_target(subject: Subject) {
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

async fn the_number_of_targets_is_bounded(subject: Subject) {
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

/// So many bytes, none like the one before.
pub(super) fn noise(size: usize) -> Vec<u8> {
    (0..size).map(|i| (i * 31 + i / 251) as u8).collect()
}

/// A body written in uneven pieces.
pub(super) async fn written(journal: &Arc<dyn Journal>, bytes: &[u8]) -> Result<Body, JournalError> {
    let mut writer = BodyWriter::new(Arc::clone(journal), Some("shop".into()));
    for piece in bytes.chunks(70_001) {
        writer.write(piece).await?;
    }
    writer.finish().await
}

async fn a_body_written_in_pieces_is_one_body_and_can_be_written_over(subject: Subject) {
    let journal = subject.journal();
    for size in [0, 10, IN_MEMORY, IN_MEMORY + 1, 3 * IN_MEMORY + 7] {
        let mut expected = noise(size);
        let body = written(&journal, &expected).await.unwrap();
        assert_eq!((body.len(), body.is_empty()), (size as u64, size == 0));
        assert!(bytes_of(&body) == expected, "{size}");
        let mut writer = BodyWriter::new(Arc::clone(&journal), Some("shop".into()));
        writer.write(&expected).await.unwrap();
        if size > 100 {
            writer.overwrite(50, b"over").await.unwrap();
            expected[50..54].copy_from_slice(b"over");
        }
        assert!(writer.overwrite(size as u64, b"x").await.is_err(), "behind the end");
        writer.write(b"more").await.unwrap();
        expected.extend(b"more");
        assert!(bytes_of(&writer.finish().await.unwrap()) == expected, "{size}");
    }
}

async fn a_large_body_is_claimed_as_it_was_written_and_gives_its_room_back(mut subject: Subject) {
    let journal = subject.journal();
    let a = journal.target("a").await.unwrap();
    let (before, bytes) = (journal.space().used, noise(3 * IN_MEMORY));
    for _ in 0..2 {
        let body = written(&journal, &bytes).await.unwrap();
        journal.append(Submission { body, ..submission(at(1), &[a]) }).await.unwrap();
    }
    drop(journal);
    for restart in [false, true] {
        if restart {
            subject.crash();
        }
        assert!(subject.journal().space().used >= before + 6 * IN_MEMORY as u64, "{restart}");
        assert_eq!(subject.journal().backlog(a).await.unwrap().bytes, 6 * IN_MEMORY as u64);
    }
    let journal = subject.journal();
    let claims = journal.claim(a, at(9), 9).await.unwrap();
    assert_eq!(claims.len(), 2);
    for claim in &claims {
        assert!(bytes_of(&claim.record.body) == bytes);
    }
    journal.settle(a, &claims[0].record, rejected());
    journal.settle(a, &claims[1].record, delivered(1));
    assert_eq!(journal.prune(at(100), 9).await.unwrap(), 1, "a dead letter keeps its body");
    assert!(bytes_of(&claims[0].record.body) == bytes);
    let most = before + 4 * IN_MEMORY as u64;
    eventually("the room of the other comes back", || journal.space().used <= most).await;
    subject.assert_balanced().await;
}

async fn a_body_that_was_not_finished_or_not_appended_leaves_nothing_behind(mut subject: Subject) {
    let journal = subject.journal();
    let before = journal.space().used;
    let mut writer = BodyWriter::new(Arc::clone(&journal), Some("shop".into()));
    writer.write(&noise(2 * IN_MEMORY)).await.unwrap();
    let body = written(&journal, &noise(2 * IN_MEMORY)).await.unwrap();
    drop((writer, body.clone()));
    assert!(bytes_of(&body).len() == 2 * IN_MEMORY, "one handle is left");
    drop(body);
    eventually("nothing is left", || journal.space().used <= before).await;
    // The same through a crash.
    let body = written(&journal, &noise(2 * IN_MEMORY)).await.unwrap();
    drop(journal);
    subject.crash();
    assert!(subject.journal().space().used <= before);
    drop(body);
}
