//! One journal belongs to one process, by whatever path it is opened. Also tested: another process has written to it all the same.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::*;

#[test]
fn a_link_and_its_target_are_one_journal_even_before_it_exists() {
    let folder = tempfile::tempdir().unwrap();
    let (real, link) = (in_folder(folder.path()), folder.path().join("link.db"));
    symlink("journal.db", &link).unwrap();
    let linked = Settings { path: link, ..real.clone() };
    for (first, second) in [(&linked, &real), (&real, &linked)] {
        let _first = open(first).unwrap();
        assert!(matches!(open(second), Err(OpenError::InUse { .. })));
    }
    let beside: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|file| file.unwrap().file_name()).collect();
    assert!(!beside.iter().any(|name| name.to_string_lossy().starts_with("link.db-")), "{beside:?}");
}

#[test]
fn a_new_journal_has_pages_of_2_kib_and_incremental_vacuum() {
    let folder = tempfile::tempdir().unwrap();
    let settings = in_folder(folder.path());
    drop(open(&settings).unwrap());
    assert_eq!(count(&settings.path, "PRAGMA page_size"), 2048);
    assert_eq!(count(&settings.path, "PRAGMA auto_vacuum"), 2);
}

#[tokio::test]
async fn a_journal_stays_in_trouble_while_it_holds_a_foreign_record() {
    let subject = Subject::sqlite();
    let (journal, settings) = parts(&subject);
    let a = journal.target("a").await.unwrap();
    fill(&subject.journal(), 2, &[a]).await;
    let other = Connection::open(&settings.path).unwrap();
    let intruder = "INSERT INTO record SELECT 3, accepted_at, project, targets, size, quantities, event_id, keys, room
                    FROM record WHERE id = 2";
    other.execute_batch(intruder).unwrap();
    journal.append(submission(at(1), &[a])).await.unwrap_err();
    eventually("it says why", async || {
        let trouble = journal.writable().await.err().map(|error| error.to_string()).unwrap_or_default();
        trouble.contains("another process has written to it")
    })
    .await;
    for _ in 0..3 {
        journal.lose(vec![]).await.unwrap_err();
        assert!(journal.writable().await.is_err());
    }
    // A foreign record that is gone again has done no harm.
    other.execute_batch("DELETE FROM record WHERE id = 3").unwrap();
    eventually("it works again", async || journal.writable().await.is_ok()).await;
    journal.append(submission(at(1), &[a])).await.unwrap();
    assert_eq!(drain(&*journal, a).await, 3);
    subject.assert_balanced().await;
}

#[tokio::test]
async fn a_target_is_known_while_nothing_can_be_written_and_kept_once_it_can() {
    let mut subject = Subject::sqlite();
    let (journal, _) = parts(&subject);
    let a = journal.target("a").await.unwrap();
    fill(&subject.journal(), 1, &[a]).await;
    cap(&journal, 1).await;
    journal.append(large(100_000, &[a])).await.unwrap_err();
    let b = journal.target("b").await.unwrap();
    assert_eq!((journal.target("b").await.unwrap(), journal.targets().await.unwrap().iter().count()), (b, 2));
    journal.append(large(100_000, &[a, b])).await.unwrap_err();
    cap(&journal, i64::from(u32::MAX - 1)).await;
    journal.append(large(100_000, &[a, b])).await.unwrap();
    drop(journal);
    subject.crash();
    let journal = subject.journal();
    assert_eq!(journal.target("b").await.unwrap(), b);
    assert_eq!((drain(&*journal, a).await, drain(&*journal, b).await), (2, 1));
    drop(journal);
    subject.assert_balanced().await;
}

#[tokio::test]
async fn a_journal_whose_file_is_gone_takes_nothing_and_delivers_its_backlog() {
    for ending in ["", "-wal"] {
        let subject = Subject::sqlite();
        let (journal, settings) = parts(&subject);
        let a = journal.target("a").await.unwrap();
        fill(&subject.journal(), 3, &[a]).await;
        let name = |more: &str| PathBuf::from(format!("{}{ending}{more}", settings.path.display()));
        std::fs::rename(name(""), name(".away")).unwrap();
        is_refused(&journal, &name("")).await;
        std::fs::copy(name(".away"), name("")).unwrap();
        is_refused(&journal, &name("")).await;
        journal.append(submission(at(1), &[a])).await.unwrap_err();
        journal.take_room(None, 1 << 20).await.unwrap_err();
        assert_eq!(drain(&*journal, a).await, 3);
        std::fs::rename(name(".away"), name("")).unwrap();
        eventually("it works again", async || journal.writable().await.is_ok()).await;
        journal.append(submission(at(1), &[a])).await.unwrap();
        drop(journal);
        subject.assert_balanced().await;
    }
}

async fn is_refused(journal: &SqliteJournal, file: &Path) {
    eventually("it says which file is gone", async || {
        let refusal = journal.writable().await.err().map(|error| error.to_string()).unwrap_or_default();
        refusal.contains(&format!("{} was removed or replaced", file.display()))
    })
    .await;
}
