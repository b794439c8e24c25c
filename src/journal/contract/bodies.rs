//! Promises about bodies in files.

use super::*;

/// `size` bytes, each different from the one before.
pub(crate) fn noise(size: usize) -> Vec<u8> {
    (0..size).map(|i| (i * 31 + i / 251) as u8).collect()
}

/// Writes a body in uneven pieces.
pub(crate) async fn written(journal: &Arc<dyn Journal>, bytes: &[u8]) -> Result<Body, JournalError> {
    let mut writer = BodyWriter::new(Arc::clone(journal), Some("shop".into()));
    for piece in bytes.chunks(70_001) {
        writer.write(piece).await?;
    }
    writer.finish().await
}

pub(crate) async fn a_body_written_in_pieces_is_one_body_and_can_be_written_over(subject: Subject) {
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

pub(crate) async fn a_large_body_is_claimed_as_it_was_written_and_gives_its_room_back(mut subject: Subject) {
    let journal = subject.journal();
    let a = journal.target("a").await.unwrap();
    let (before, bytes) = (space(&*journal).await.used, noise(3 * IN_MEMORY));
    for _ in 0..2 {
        let body = written(&journal, &bytes).await.unwrap();
        journal.append(Submission { body, ..submission(at(1), &[a]) }).await.unwrap();
    }
    drop(journal);
    for restart in [false, true] {
        if restart {
            subject.crash();
        }
        assert!(space(&*subject.journal()).await.used >= before + 6 * IN_MEMORY as u64, "{restart}");
        assert_eq!(subject.journal().backlog(a).await.unwrap().bytes, 6 * IN_MEMORY as u64);
    }
    let journal = subject.journal();
    let claims = journal.claim(a, at(9), 9).await.unwrap();
    assert_eq!(claims.len(), 2);
    for claim in &claims {
        assert!(bytes_of(&claim.record.body) == bytes);
    }
    journal.settle(&claims[0].lease, rejected()).await.unwrap();
    journal.settle(&claims[1].lease, delivered(1)).await.unwrap();
    assert_eq!(journal.prune(at(100), 9).await.unwrap(), 1, "a dead letter keeps its body");
    assert!(bytes_of(&claims[0].record.body) == bytes);
    let most = before + 4 * IN_MEMORY as u64;
    eventually("the room of the other comes back", async || space(&*journal).await.used <= most).await;
    subject.assert_balanced().await;
}

pub(crate) async fn a_body_that_was_not_finished_or_not_appended_leaves_nothing_behind(mut subject: Subject) {
    let journal = subject.journal();
    let before = space(&*journal).await.used;
    let mut writer = BodyWriter::new(Arc::clone(&journal), Some("shop".into()));
    writer.write(&noise(2 * IN_MEMORY)).await.unwrap();
    let body = written(&journal, &noise(2 * IN_MEMORY)).await.unwrap();
    drop((writer, body.clone()));
    assert!(bytes_of(&body).len() == 2 * IN_MEMORY, "one handle is left");
    drop(body);
    eventually("nothing is left", async || space(&*journal).await.used <= before).await;
    // The same through a crash.
    let body = written(&journal, &noise(2 * IN_MEMORY)).await.unwrap();
    drop(journal);
    subject.crash();
    assert!(space(&*subject.journal()).await.used <= before);
    drop(body);
}
