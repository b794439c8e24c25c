//! Journals of older formats, as this version opens them.

use super::*;
use crate::journal::transfer::{MoveId, State};

#[tokio::test]
async fn a_journal_of_each_older_format_is_brought_up_to_date() {
    for format in 1..schema::FORMATS.len() {
        let folder = tempfile::tempdir().unwrap();
        let settings = in_folder(folder.path());
        let old = Connection::open(&settings.path).unwrap();
        old.execute_batch("PRAGMA page_size = 16384; PRAGMA auto_vacuum = INCREMENTAL").unwrap();
        old.execute_batch(&schema::FORMATS[..format].concat()).unwrap();
        old.execute_batch(&format!(
            "INSERT INTO target (id, name, watermark) VALUES (0, 'a', 0); INSERT INTO project VALUES (0, 'shop');
             INSERT INTO record (id, accepted_at, project, targets, size, quantities, event_id, keys)
             VALUES (1, 1000, 0, 1, 3, 'error=1', NULL, NULL);
             INSERT INTO body VALUES (1, '{{}}', x'7b7d0a');
             INSERT INTO ledger VALUES (0, 0, 0, 'error', 'accepted', 1);
             INSERT INTO dead_letter (id, target, record, at, reason, answer, attempts) VALUES (7, 0, 1, 2000, 'refused', 'no', 1);
             PRAGMA application_id = {}; PRAGMA user_version = {format}",
            0x5377_4a31
        ))
        .unwrap();
        old.close().unwrap();
        let subject = Subject::new(Box::new(Disk::new(folder, |_| {})));
        let (journal, settings) = parts(&subject);
        assert_eq!(count(&settings.path, "PRAGMA user_version"), schema::FORMAT);
        subject.assert_balanced().await;
        files::append(&subject.journal(), 2 << 20, &[TargetId(0)]).await.unwrap();
        assert_eq!(drain(&*journal, TargetId(0)).await, 2, "{format}");
        let compared = journal.compare((TargetId(0), TargetId(0)), at(0), Cursor::START).await.unwrap();
        assert_eq!(compared.compared, 2, "{format}");
        let letter = journal.letters(Pick::default(), u64::MAX, 9).await.unwrap().remove(0);
        assert_eq!((letter.id, &*letter.refusal.answer, letter.record.number()), (7, "no", 1), "{format}");
        let last = "SELECT seq FROM sqlite_sequence WHERE name = 'dead_letter'";
        assert_eq!(count(&settings.path, last), 7, "{format}");
        subject.assert_balanced().await;
    }
}

/// The rollback journal that SQLite writes before it changes these pages.
fn rollback(pages: &[u8]) -> Vec<u8> {
    let page = schema::PAGE as usize;
    let count = (pages.len() / page) as u32;
    let mut bytes = vec![0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7];
    for number in [count, 0, count, 512, schema::PAGE] {
        bytes.extend(number.to_be_bytes());
    }
    bytes.resize(512, 0);
    for (number, content) in (1_u32..).zip(pages.chunks(page)) {
        let sum: u32 = (200..page).step_by(200).map(|back| u32::from(content[page - back])).sum();
        bytes.extend(number.to_be_bytes().iter().chain(content).chain(&sum.to_be_bytes()));
    }
    bytes
}

#[test]
fn a_mark_whose_commit_was_cut_off_does_not_count() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal.db");
    let (conn, by) = (Connection::open(&path).unwrap(), MoveId::random());
    schema::begin(&conn, by).unwrap();
    assert_eq!(schema::state(&path).unwrap(), State::Filling(by));
    let before = std::fs::read(&path).unwrap();
    marks::set(&conn, State::Ready).unwrap();
    drop(conn);
    assert_eq!(schema::state(&path).unwrap(), State::Ready);
    // As a kill leaves it: the pages are written, and the rollback journal is still there.
    std::fs::write(folder.path().join("journal.db-journal"), rollback(&before)).unwrap();
    assert_eq!(schema::state(&path).unwrap(), State::Filling(by));
}
