//! Large bodies: the files in their folder, and the room that they count as.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use super::disk::BODIES;
use super::*;
use crate::journal::contract::bodies::{noise, written};
use crate::journal::contract::subject::bytes_of;

const MIB: usize = 1 << 20;

/// The files in the folder of large bodies.
fn files(settings: &Settings) -> Vec<PathBuf> {
    let folder = settings.path.parent().unwrap().join(BODIES);
    std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect()
}

pub(super) async fn append(
    journal: &Arc<dyn Journal>,
    size: usize,
    targets: &[TargetId],
) -> Result<RecordId, JournalError> {
    let body = written(journal, &noise(size)).await?;
    journal.append(Submission { body, ..submission(at(1), targets) }).await
}

#[tokio::test]
async fn a_start_removes_the_files_of_no_record_and_only_those() {
    let mut subject = Subject::sqlite();
    let (_, settings) = parts(&subject);
    let settings = settings.clone();
    let a = subject.journal().target("a").await.unwrap();
    append(&subject.journal(), 2 * MIB, &[a]).await.unwrap();
    let [kept] = files(&settings).try_into().unwrap();
    std::fs::write(kept.with_file_name("an orphan"), "half a body").unwrap();
    subject.crash();
    let (journal, settings) = parts(&subject);
    let [file] = files(settings).try_into().unwrap();
    assert_eq!(file.file_name(), kept.file_name());
    assert!(bytes_of(&journal.claim(a, at(1), 1).await.unwrap()[0].record.body) == noise(2 * MIB));
}

#[tokio::test]
async fn nobody_else_may_read_a_body() {
    use std::os::unix::fs::PermissionsExt as _;
    let subject = Subject::sqlite();
    append(&subject.journal(), 2 * MIB, &[]).await.unwrap();
    let [file] = files(parts(&subject).1).try_into().unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&file), mode(file.parent().unwrap())), (0o600, 0o700));
}

#[tokio::test]
async fn a_record_whose_file_is_missing_or_cut_is_not_set_aside() {
    let mut subject = Subject::sqlite();
    let a = subject.journal().target("a").await.unwrap();
    for _ in 0..2 {
        append(&subject.journal(), 2 * MIB, &[a]).await.unwrap();
    }
    fill(&subject.journal(), 1, &[a]).await;
    let [gone, cut] = files(parts(&subject).1).try_into().unwrap();
    let whole = std::fs::read(&cut).unwrap();
    std::fs::rename(&gone, gone.with_extension("away")).unwrap();
    std::fs::write(&cut, "short").unwrap();
    subject.crash();
    let (journal, settings) = parts(&subject);
    let claims = journal.claim(a, at(1), 9).await.unwrap();
    assert_eq!((claims.len(), journal.measure().await.unwrap().stats.set_aside), (3, 0));
    let can_be_read = || claims.iter().filter(|claim| claim.record.body.reader().is_ok()).count();
    assert_eq!(can_be_read(), 1);
    std::fs::write(settings.path.with_file_name(BODIES).join(cut.file_name().unwrap()), whole).unwrap();
    assert_eq!(can_be_read(), 2);
    subject.assert_balanced().await;
}

#[tokio::test]
async fn files_count_against_max_size_and_delivered_ones_make_room() {
    let subject = Subject::sqlite_with(|settings| settings.max_size = ByteSize::mib(8));
    let (journal, settings) = parts(&subject);
    let shared = subject.journal();
    let a = journal.target("a").await.unwrap();
    for _ in 0..3 {
        append(&shared, 2 * MIB, &[a]).await.unwrap();
    }
    let refused = append(&shared, 3 * MIB, &[a]).await;
    assert!(matches!(&refused, Err(JournalError::Full(why)) if why.contains("max_size")), "{refused:?}");
    eventually("what was refused leaves nothing", async || files(settings).len() == 3).await;
    journal.append(submission(at(1), &[a])).await.expect("there is room for small ones");
    assert!(journal.writable().await.is_ok());
    let claims = journal.claim(a, at(1), 2).await.unwrap();
    for claim in &claims {
        journal.settle(&claim.lease, delivered(1)).await.unwrap();
    }
    subject.flush().await;
    append(&shared, 3 * MIB, &[a]).await.unwrap();
    append(&shared, MIB + 1, &[a]).await.unwrap();
    eventually("what was delivered is gone", async || files(settings).len() == 3).await;
    assert!(
        space(&*journal).await.used <= 8 << 20 && space(&*journal).await.used >= 6 << 20,
        "{:?}",
        space(&*journal).await
    );
    subject.assert_balanced().await;
}

#[tokio::test]
async fn a_disk_below_the_floor_takes_no_large_body() {
    let subject = Subject::sqlite_with(|settings| settings.min_free_disk = ByteSize::bytes(u64::MAX));
    let refused = append(&subject.journal(), 2 * MIB, &[]).await;
    assert!(matches!(refused, Err(JournalError::Full(_))), "{refused:?}");
    let (journal, settings) = parts(&subject);
    eventually("nothing is left", async || files(settings).is_empty()).await;
    assert!(space(&*journal).await.used < MIB as u64);
}

#[tokio::test]
async fn a_commit_that_fails_leaves_no_file() {
    let subject = Subject::sqlite();
    let (journal, settings) = parts(&subject);
    let a = journal.target("a").await.unwrap();
    let before = space(&*journal).await.used;
    let other = Connection::open(&settings.path).unwrap();
    other.execute_batch("ALTER TABLE file RENAME TO elsewhere").unwrap();
    let failed = append(&subject.journal(), 2 * MIB, &[a]).await;
    assert!(matches!(failed, Err(JournalError::Failed(_))), "{failed:?}");
    eventually("nothing is left", async || files(settings).is_empty()).await;
    other.execute_batch("ALTER TABLE elsewhere RENAME TO file").unwrap();
    append(&subject.journal(), 2 * MIB, &[a]).await.unwrap();
    assert!(space(&*journal).await.used >= before + 2 * MIB as u64);
    subject.assert_balanced().await;
}

#[tokio::test]
async fn a_folder_with_nothing_but_the_journal_is_closed_to_others() {
    use std::os::unix::fs::PermissionsExt as _;
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    let open_to_all = |path: &Path| std::fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let made = folder.path().join("made/deep");
    drop(open(&in_folder(&made)).unwrap());
    assert_eq!((mode(&made), mode(made.parent().unwrap())), (0o700, 0o700));
    open_to_all(&made);
    drop(open(&in_folder(&made)).unwrap());
    assert_eq!(mode(&made), 0o700, "an older one is closed");
    for (name, found, neighbour) in [("shared", 0o755, true), ("sticky", 0o1777, false)] {
        let folder = folder.path().join(name);
        std::fs::create_dir(&folder).unwrap();
        std::fs::set_permissions(&folder, PermissionsExt::from_mode(found)).unwrap();
        if neighbour {
            std::fs::write(folder.join("of others"), "").unwrap();
        }
        drop(open(&in_folder(&folder)).unwrap());
        assert_eq!(mode(&folder), found, "{name}");
    }
}
