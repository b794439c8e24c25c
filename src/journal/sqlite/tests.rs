//! Tests of what only the file on disk shows: durability, group commit, bounds, damage, foreign files.

mod aside;
mod backfill;
mod clocks;
mod disk;
mod ends;
mod eviction;
mod files;
mod formats;
mod letters;
mod ownership;
mod room;
mod verification;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::join_all;
use rusqlite::Connection;

use super::*;
use crate::journal::backfill::BackfillStep;
use crate::journal::contract::subject::{
    self, at, dead_letters, delivered, errors, eventually, fill, space, submission,
};
use crate::journal::{Archive as _, Cursor, Facts as _, Pick, Progress, Redelivery as _, Rest, Storage as _};
use crate::units::ByteSize;
use disk::{Disk, cap, copy_files};

type Subject = subject::Subject<Disk>;

fn parts(subject: &Subject) -> (Arc<SqliteJournal>, &Settings) {
    (Arc::clone(subject.backend.journal.as_ref().unwrap()), &subject.backend.settings)
}

fn open(settings: &Settings) -> Result<SqliteJournal, OpenError> {
    SqliteJournal::open(settings, Clock::system(), Ledger::default())
}

fn in_folder(folder: &Path) -> Settings {
    Settings { path: folder.join("journal.db"), min_free_disk: ByteSize::bytes(0), ..Settings::default() }
}

fn large(size: usize, targets: &[TargetId]) -> Submission {
    Submission { body: Bytes::from(vec![7; size]).into(), ..submission(at(1), targets) }
}

async fn drain(journal: &dyn Journal, target: TargetId) -> usize {
    let mut count = 0;
    while journal.backlog(target).await.unwrap().envelopes > 0 {
        let claims = journal.claim(target, at(1), 16).await.unwrap();
        count += claims.len();
        for claim in claims {
            journal.settle(&claim.lease, delivered(1)).await.unwrap();
        }
        journal.prune(at(0), 0).await.unwrap();
    }
    count
}

fn count(path: &Path, sql: &str) -> i64 {
    Connection::open(path).unwrap().query_row(sql, [], |row| row.get(0)).unwrap()
}

async fn commits(journal: &SqliteJournal) -> u64 {
    journal.measure().await.unwrap().stats.commits.iter().sum()
}

#[tokio::test]
async fn an_acknowledged_record_is_on_disk() {
    let subject = Subject::sqlite();
    let (journal, settings) = parts(&subject);
    let a = journal.target("a").await.unwrap();
    for n in 1..=10 {
        journal.append(large(5000, &[a])).await.unwrap();
        let copy = tempfile::tempdir().unwrap();
        copy_files(settings.path.parent().unwrap(), copy.path());
        let other = open(&in_folder(copy.path())).unwrap();
        assert_eq!(other.backlog(a).await.unwrap().envelopes, n);
    }
}

#[tokio::test]
async fn appends_that_arrive_together_share_a_commit() {
    let subject = Subject::sqlite();
    let (journal, _) = parts(&subject);
    let a = journal.target("a").await.unwrap();
    let before = commits(&journal).await;
    let answers = join_all((0..500).map(|_| journal.append(submission(at(1), &[a])))).await;
    assert!(answers.into_iter().all(|answer| answer.is_ok()));
    assert!(commits(&journal).await - before <= 25, "{} commits", commits(&journal).await - before);
    subject.assert_balanced().await;
}

#[tokio::test]
async fn a_settlement_out_of_order_is_committed_without_another_command() {
    let subject = Subject::sqlite();
    let (journal, _) = parts(&subject);
    let a = journal.target("a").await.unwrap();
    fill(&subject.journal(), 3, &[a]).await;
    let claims = journal.claim(a, at(1), 3).await.unwrap();
    journal.settle(&claims[2].lease, delivered(1)).await.unwrap();
    let ledger = subject.ledger().clone();
    let is_kept = async || ledger.accounts().values().any(|account| account.delivered == 1);
    eventually("it is kept", is_kept).await;
    drop((claims, journal));
    subject.assert_balanced().await;
}

#[tokio::test]
async fn a_second_instance_is_told_that_the_journal_is_in_use() {
    let subject = Subject::sqlite();
    let (journal, settings) = parts(&subject);
    assert!(matches!(open(settings), Err(OpenError::InUse { .. })));
    let settings = settings.clone();
    drop((journal, subject_without_folder(subject)));
    assert!(open(&settings).is_ok(), "the lock goes with its owner");
}

/// Drops the journal and keeps its folder.
fn subject_without_folder(subject: Subject) -> tempfile::TempDir {
    let Disk { folder, journal, .. } = *subject.backend;
    drop(journal);
    folder
}

#[tokio::test]
async fn a_newer_journal_is_left_as_it_is() {
    let subject = Subject::sqlite();
    let (journal, settings) = parts(&subject);
    let settings = settings.clone();
    journal.close(Duration::from_secs(10)).await;
    drop(journal);
    let _folder = subject_without_folder(subject);
    Connection::open(&settings.path).unwrap().pragma_update(None, "user_version", 99).unwrap();
    let before = std::fs::read(&settings.path).unwrap();
    assert!(matches!(open(&settings), Err(OpenError::Newer { found: 99, known, .. }) if known == schema::FORMAT));
    assert!(std::fs::read(&settings.path).unwrap() == before);
}

#[test]
fn a_foreign_file_is_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let settings = in_folder(folder.path());
    let database = Connection::open(folder.path().join("foreign.db")).unwrap();
    database.execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE t (x); INSERT INTO t VALUES (1)").unwrap();
    drop(database);
    let foreign = std::fs::read(folder.path().join("foreign.db")).unwrap();
    for content in [b"hello".to_vec(), vec![0; 4096], foreign] {
        std::fs::write(&settings.path, &content).unwrap();
        assert!(matches!(open(&settings), Err(OpenError::Unusable { .. })));
        assert!(std::fs::read(&settings.path).unwrap() == content);
    }
    std::fs::remove_file(&settings.path).unwrap();
    std::fs::create_dir(&settings.path).unwrap();
    assert!(matches!(open(&settings), Err(OpenError::Unusable { .. })));
}

#[test]
fn the_folder_is_made_when_there_is_none() {
    let folder = tempfile::tempdir().unwrap();
    open(&in_folder(&folder.path().join("a/b"))).unwrap();
}

#[tokio::test]
async fn a_full_journal_refuses_until_something_is_delivered() {
    let subject = Subject::sqlite_with(|settings| settings.max_size = ByteSize::mib(2));
    let (journal, _) = parts(&subject);
    let a = journal.target("a").await.unwrap();
    let mut kept = 0;
    let refusal = loop {
        match journal.append(large(50_000, &[a])).await {
            Ok(_) => kept += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(refusal, JournalError::Full(_)) && (30..45).contains(&kept), "{refusal} after {kept}");
    assert!(matches!(journal.writable().await, Err(JournalError::Full(_))));
    assert!(space(&*journal).await.used <= 2 << 20);
    let claims = journal.claim(a, at(1), 4).await.unwrap();
    for claim in &claims {
        journal.settle(&claim.lease, delivered(1)).await.unwrap();
    }
    subject.flush().await;
    // The notes of the deliveries take some of the room.
    for _ in 1..claims.len() {
        journal.append(large(50_000, &[a])).await.unwrap();
    }
    eventually("writable again", async || journal.writable().await.is_ok()).await;
    assert_eq!(drain(&*journal, a).await, kept - 1);
    // Now every record is delivered, and gives way without a call of `prune`.
    for _ in 0..100 {
        journal.append(large(50_000, &[])).await.unwrap();
    }
    assert!(space(&*journal).await.used <= 2 << 20);
    assert!(matches!(journal.append(large(3 << 20, &[a])).await, Err(JournalError::Full(_))));
    subject.assert_balanced().await;
}

#[tokio::test]
async fn a_full_disk_refuses_submissions_until_there_is_room() {
    let subject = Subject::sqlite();
    let (journal, _) = parts(&subject);
    let a = journal.target("a").await.unwrap();
    fill(&subject.journal(), 3, &[a]).await;
    let claims = journal.claim(a, at(1), 3).await.unwrap();
    cap(&journal, 1).await;
    let answers = join_all((0..5).map(|_| journal.append(large(100_000, &[a])))).await;
    assert!(answers.iter().all(|answer| matches!(answer, Err(JournalError::Full(_)))), "{answers:?}");
    assert!(
        matches!(journal.writable().await, Err(JournalError::Full(_)))
            && journal.measure().await.unwrap().stats.errors > 0
    );
    assert_eq!(journal.backlog(a).await.unwrap().envelopes, 3);
    for claim in &claims {
        journal.settle(&claim.lease, delivered(1)).await.unwrap();
    }
    // A small change still fits into the existing pages. Nothing of the failed group stands in its way.
    eventually("settled", async || journal.shared.targets()[0].queue().tally.envelopes == 0).await;
    cap(&journal, i64::from(u32::MAX - 1)).await;
    eventually("writable again", async || journal.writable().await.is_ok()).await;
    journal.append(large(100_000, &[a])).await.unwrap();
    assert_eq!(drain(&*journal, a).await, 1);
    subject.assert_balanced().await;
}

#[tokio::test]
async fn a_commit_that_fails_after_the_accounts_were_written_counts_nothing() {
    let mut subject = Subject::sqlite();
    let a = subject.journal().target("a").await.unwrap();
    let other = Connection::open(&parts(&subject).1.path).unwrap();
    // A withheld item is also a loss, whose row is written after those of the accounts.
    let withheld = || Submission { withheld: vec![(a, DropReason::Sampled)], ..submission(at(1), &[]) };
    for taken in [true, false, true] {
        let name = if taken { ["away", "loss"] } else { ["loss", "away"] };
        other.execute(&format!("ALTER TABLE {} RENAME TO {}", name[0], name[1]), []).ok();
        assert_eq!(subject.journal().append(withheld()).await.is_ok(), taken);
    }
    let accounts = subject.ledger().accounts();
    assert!(accounts.values().all(|account| account.accepted == 2), "{accounts:?}");
    subject.crash();
    assert_eq!(subject.ledger().accounts(), accounts);
}

#[tokio::test]
async fn a_disk_below_the_floor_refuses_submissions() {
    let subject = Subject::sqlite_with(|settings| settings.min_free_disk = ByteSize::bytes(u64::MAX));
    let (journal, _) = parts(&subject);
    let a = journal.target("a").await.unwrap();
    assert!(matches!(journal.append(submission(at(1), &[a])).await, Err(JournalError::Full(_))));
    assert!(matches!(journal.writable().await, Err(JournalError::Full(_))));
}

#[tokio::test]
async fn the_files_stay_bounded_beside_a_reader_and_shrink_after_draining() {
    let subject = Subject::sqlite();
    let (journal, settings) = parts(&subject);
    let a = journal.target("a").await.unwrap();
    let reader = Connection::open(&settings.path).unwrap();
    let log = settings.path.with_extension("db-wal");
    let mut longest = 0;
    for _ in 0..60 {
        let answers = join_all((0..8).map(|_| journal.append(large(65_536, &[a])))).await;
        assert!(answers.iter().all(Result::is_ok), "{answers:?}");
        let _seen: i64 = reader.query_row("SELECT count(*) FROM record", [], |row| row.get(0)).unwrap();
        longest = longest.max(std::fs::metadata(&log).unwrap().len());
    }
    assert!(longest < 12 << 20, "{longest}");
    assert_eq!(drain(&*journal, a).await, 480);
    while journal.prune(at(100), 100).await.unwrap() > 0 {}
    let size = |path: &Path| std::fs::metadata(path).unwrap().len();
    eventually("the space is given back", async || size(&settings.path) < 2 << 20 && size(&log) == 0).await;
    assert!(space(&*journal).await.used < 1 << 20);
}

#[tokio::test]
async fn a_reader_that_never_ends_cannot_make_the_files_grow_without_bound() {
    let subject = Subject::sqlite_with(|settings| settings.max_size = ByteSize::mib(4));
    let (journal, settings) = parts(&subject);
    let reader = Connection::open(&settings.path).unwrap();
    reader.execute_batch("BEGIN; SELECT count(*) FROM record").unwrap();
    let _held: i64 = reader.query_row("SELECT count(*) FROM record", [], |row| row.get(0)).unwrap();
    let mut refused = false;
    for _ in 0..200 {
        refused |= journal.append(large(200_000, &[])).await.is_err();
    }
    assert!(refused && space(&*journal).await.files < 40 << 20, "{:?}", space(&*journal).await);
    reader.execute_batch("COMMIT").unwrap();
    eventually("writable again", async || journal.writable().await.is_ok()).await;
    journal.append(large(200_000, &[])).await.unwrap();
}

#[tokio::test]
async fn a_record_delivered_at_the_first_try_leaves_no_rows() {
    let subject = Subject::sqlite();
    let (journal, settings) = parts(&subject);
    let (a, idle) = (journal.target("a").await.unwrap(), journal.target("idle").await.unwrap());
    fill(&subject.journal(), 1500, &[a]).await;
    assert_eq!(count(&settings.path, "SELECT count(*) FROM pending"), 0, "what waits costs no row");
    drain(&*journal, a).await;
    assert_eq!(count(&settings.path, "SELECT count(*) FROM pending"), 0);
    let lag = "SELECT max(id) - (SELECT min(watermark) FROM target) FROM record";
    assert!(count(&settings.path, lag) < 1100, "an idle target's watermark follows: {idle:?}");
}

#[tokio::test]
async fn a_target_that_keeps_up_is_served_from_memory() {
    let subject = Subject::sqlite();
    let (journal, settings) = parts(&subject);
    let a = journal.target("a").await.unwrap();
    fill(&subject.journal(), 100, &[a]).await;
    Connection::open(&settings.path).unwrap().execute("DELETE FROM body", []).unwrap();
    let claims = journal.claim(a, at(1), 200).now_or_never().expect("no waiting for a read").unwrap();
    assert_eq!(claims.len(), 100);
}

#[tokio::test]
async fn a_cancelled_claim_leases_nothing() {
    let subject = Subject::sqlite();
    let (journal, _) = parts(&subject);
    let a = journal.target("a").await.unwrap();
    fill(&subject.journal(), 300, &[a]).await;
    let mut got = 0;
    while got < 300 {
        // Polled once: a claim that must read first is dropped while the reader is at work.
        got += journal.claim(a, at(1), 10).now_or_never().map_or(0, |claims| claims.unwrap().len());
        tokio::task::yield_now().await;
    }
    assert!(journal.claim(a, at(1), 10).await.unwrap().is_empty());
}

#[tokio::test]
async fn claims_pause_while_too_many_settlements_await_their_commit() {
    let subject = Subject::sqlite();
    let (journal, settings) = parts(&subject);
    let a = journal.target("a").await.unwrap();
    fill(&subject.journal(), 100, &[a]).await;
    subject.flush().await;
    let blocker = Connection::open(&settings.path).unwrap();
    blocker.execute_batch("BEGIN IMMEDIATE").unwrap();
    let mut settled = 0;
    loop {
        let claims = journal.claim(a, at(1), 8).await.unwrap();
        settled += claims.len();
        for claim in &claims {
            journal.settle(&claim.lease, delivered(1)).await.unwrap();
        }
        if claims.is_empty() {
            break;
        }
    }
    assert_eq!(settled, 64);
    blocker.execute_batch("COMMIT").unwrap();
    let changed = journal.changed(a);
    while journal.claim(a, at(1), 8).await.unwrap().is_empty() {
        tokio::time::timeout(Duration::from_secs(10), changed.notified()).await.unwrap();
    }
}

#[tokio::test]
async fn old_hours_are_summed_up_and_the_totals_stay() {
    let mut subject = Subject::sqlite();
    let (journal, _) = parts(&subject);
    let a = journal.target("a").await.unwrap();
    for hour in 0..5 {
        journal.append(submission(at(hour * 3600), &[a])).await.unwrap();
    }
    drop(journal);
    subject.crash();
    let (journal, settings) = parts(&subject);
    // After the first commit, because a start writes nothing.
    journal.lose(vec![]).await.unwrap();
    eventually("summed up", async || count(&settings.path, "SELECT count(*) FROM ledger") == 2).await;
    assert_eq!(count(&settings.path, "SELECT sum(quantity) FROM ledger WHERE hour = 0 AND target = 0"), 5);
    drop(journal);
    subject.assert_balanced().await;
}

#[tokio::test]
async fn closing_commits_pending_settlements_and_leaves_one_file() {
    let subject = Subject::sqlite();
    let (journal, settings) = parts(&subject);
    let settings = settings.clone();
    let a = journal.target("a").await.unwrap();
    fill(&subject.journal(), 3, &[a]).await;
    for claim in journal.claim(a, at(1), 2).await.unwrap() {
        journal.settle(&claim.lease, delivered(1)).await.unwrap();
    }
    journal.close(Duration::from_secs(10)).await;
    assert_eq!(std::fs::metadata(settings.path.with_extension("db-wal")).map_or(0, |meta| meta.len()), 0);
    drop(journal);
    let _folder = subject_without_folder(subject);
    let journal = open(&settings).unwrap();
    assert_eq!(journal.backlog(a).await.unwrap().envelopes, 1);
}
