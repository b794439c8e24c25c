//! Records that cannot be read are set aside, and tried again by the next start.

use std::sync::mpsc::{channel, sync_channel};

use super::*;
use crate::protocol::category::Category;

#[tokio::test]
async fn a_record_that_cannot_be_read_does_not_block_those_behind_it() {
    let mut subject = Subject::sqlite();
    let (journal, settings) = parts(&subject);
    let a = journal.target("a").await.unwrap();
    let all = fill(&subject.journal(), 8, &[a]).await;
    // One of them has a row of its own.
    let claims = journal.claim(a, at(1), 1).await.unwrap();
    let rest = Rest { due: at(2), progress: Progress::default(), quantities: errors(1) };
    journal.settle(&claims[0].lease, Settlement { rest: Some(rest), ..Settlement::default() }).await.unwrap();
    subject.flush().await;
    let damage = Connection::open(&settings.path).unwrap();
    for (id, sql) in all.iter().zip([
        "UPDATE pending SET items = 'x' WHERE record = ?1",
        "UPDATE record SET quantities = 'gibberish' WHERE id = ?1",
        "UPDATE body SET client = '{' WHERE id = ?1",
        "UPDATE body SET bytes = x'00' WHERE id = ?1",
        "DELETE FROM body WHERE id = ?1",
        "UPDATE record SET project = 77 WHERE id = ?1",
        "UPDATE record SET event_id = x'01' WHERE id = ?1",
    ]) {
        damage.execute(sql, [id.cast_signed()]).unwrap();
    }
    drop((damage, journal));
    for restart in 0..2 {
        subject.crash();
        let (journal, _) = parts(&subject);
        let claims = journal.claim(a, at(3), 10).await.unwrap();
        assert_eq!(claims.iter().map(|claim| claim.record.id.0).collect::<Vec<_>>(), all[7..]);
        subject.flush().await;
        assert_eq!(journal.measure().await.unwrap().stats.set_aside, 7, "looked at, and said, by each start");
        assert_eq!(journal.backlog(a).await.unwrap().envelopes, 8, "they stay pending");
        assert_eq!(journal.next_due(a).await.unwrap(), None);
        if restart == 0 {
            let rest = Rest { due: at(3), progress: Progress::default(), quantities: errors(1) };
            journal.settle(&claims[0].lease, Settlement { rest: Some(rest), ..Settlement::default() }).await.unwrap();
            subject.flush().await;
        }
    }
    let mend = "UPDATE pending SET items = NULL WHERE record = ?1";
    Connection::open(&parts(&subject).1.path).unwrap().execute(mend, [all[0].cast_signed()]).unwrap();
    subject.crash();
    let (journal, _) = parts(&subject);
    assert_eq!(journal.claim(a, at(2), 1).await.unwrap()[0].record.id.0, all[0], "what is mended is delivered");
    assert_eq!(
        journal.discard(a, at(100), DropReason::Expired, 100).await.unwrap(),
        7,
        "all but that one expire in the end"
    );
}

#[tokio::test]
async fn records_set_aside_wake_the_writer_once_and_take_no_place() {
    let mut subject = Subject::sqlite();
    let a = subject.journal().target("a").await.unwrap();
    fill(&subject.journal(), 200, &[a]).await;
    Connection::open(&parts(&subject).1.path).unwrap().execute("UPDATE body SET client = '{'", []).unwrap();
    subject.crash();
    let (journal, settings) = parts(&subject);
    let shared = &journal.shared;
    let (commands, inbox) = sync_channel(INBOX);
    let (questions, asked) = channel::<Placed<Question>>();
    let target = shared.target(a).unwrap();
    let look = move |reader: &Reader| reader.make_ready(&target, &Take::ReadFresh, at(1)).unwrap();
    questions.send((Box::new(look), None)).unwrap();
    drop(questions);
    Reader::new(schema::open_reader(&settings.path).unwrap(), Arc::clone(shared), commands.clone()).run(&asked);
    assert_eq!(journal.measure().await.unwrap().stats.set_aside, 200);
    // A commit passes while the wake command is still in the inbox.
    journal.lose(vec![]).await.unwrap();
    group::wake(shared, &commands, true);
    assert_eq!(inbox.try_iter().count(), 1);
}

/// A transaction whose body fills many pages with one repeated byte.
fn transaction(byte: u8, targets: &[TargetId]) -> Submission {
    let quantities = [(Category::Transaction, 1)].into_iter().collect();
    Submission { body: Bytes::from(vec![byte; 40_000]).into(), quantities, ..submission(at(1), targets) }
}

/// Breaks the chain of pages that hold a body of this byte, as a disk does that loses one of them.
fn break_pages(path: &Path, byte: u8) {
    let mut file = std::fs::read(path).unwrap();
    let of_body = |page: &&mut [u8]| page[4..].iter().all(|found| *found == byte);
    let pages: Vec<_> = file.chunks_exact_mut(2048).filter(of_body).collect();
    assert!(pages.len() > 15, "{} pages", pages.len());
    pages.into_iter().for_each(|page| page[..4].fill(0xff));
    std::fs::write(path, file).unwrap();
}

#[tokio::test]
async fn a_damaged_body_blocks_no_other_and_fails_no_commit_when_it_expires() {
    let mut subject = Subject::sqlite();
    let (journal, settings) = parts(&subject);
    let settings = settings.clone();
    let (a, b) = (journal.target("a").await.unwrap(), journal.target("b").await.unwrap());
    let mut all = vec![];
    for byte in 1..=6 {
        all.push(journal.append(transaction(byte, &[a, b])).await.unwrap().0);
    }
    // At `b` the damaged records have rows, and come due again.
    let claims = journal.claim(b, at(1), 6).await.unwrap();
    for claim in claims {
        let quantities = claim.record.quantities.clone();
        let rest = Rest { due: at(2), progress: Progress::default(), quantities };
        journal.settle(&claim.lease, Settlement { rest: Some(rest), ..Settlement::default() }).await.unwrap();
    }
    journal.close(Duration::from_secs(10)).await;
    drop(journal);
    for byte in [1, 4] {
        break_pages(&settings.path, byte);
    }
    subject.crash();
    let (journal, _) = parts(&subject);
    for target in [a, b] {
        let claims = journal.claim(target, at(3), 10).await.unwrap();
        let ids: Vec<u64> = claims.iter().map(|claim| claim.record.id.0).collect();
        assert_eq!(ids, [all[1], all[2], all[4], all[5]]);
        assert!(journal.claim(target, at(3), 10).await.unwrap().is_empty());
        for claim in &claims {
            journal.settle(&claim.lease, settled(claim)).await.unwrap();
        }
        subject.flush().await;
        assert_eq!(journal.backlog(target).await.unwrap().envelopes, 2, "they stay pending");
        assert_eq!(journal.next_due(target).await.unwrap(), None);
    }
    assert_eq!(journal.measure().await.unwrap().stats.set_aside, 4, "and it is told of them");
    for target in [a, b] {
        assert_eq!(journal.discard(target, at(100), DropReason::Expired, 100).await.unwrap(), 2);
        let lost = journal.losses().await.unwrap().into_iter().filter(|loss| loss.target == target);
        let spans = lost.filter(|loss| loss.category == Category::Span).map(|loss| loss.quantity);
        assert_eq!(spans.sum::<u64>(), 2, "one for each");
    }
    assert_eq!(journal.measure().await.unwrap().stats.errors, 0);
    drop(journal);
    subject.assert_balanced().await;
}

#[tokio::test]
async fn a_damaged_body_that_cannot_be_removed_fails_one_commit_only() {
    let mut subject = Subject::sqlite();
    let (journal, _) = parts(&subject);
    let (a, b) = (journal.target("a").await.unwrap(), journal.target("b").await.unwrap());
    // Every other one of a row of adjacent pages becomes free, so that the pages of the next bodies are known from each other alone.
    for n in 0..200 {
        let targets: &[TargetId] = if n % 2 == 0 { &[a] } else { &[] };
        journal.append(large(1500, targets)).await.unwrap();
    }
    assert_eq!(journal.prune(at(200), 1000).await.unwrap(), 100);
    for byte in 1..=3 {
        journal.append(transaction(byte, &[b])).await.unwrap();
    }
    for claim in journal.claim(b, at(1), 3).await.unwrap() {
        journal.settle(&claim.lease, settled(&claim)).await.unwrap();
    }
    journal.close(Duration::from_secs(10)).await;
    break_pages(&parts(&subject).1.path, 2);
    drop(journal);
    subject.crash();
    let (journal, settings) = parts(&subject);
    assert!(journal.prune(at(200), 1000).await.is_err());
    assert_eq!(journal.prune(at(200), 1000).await.unwrap(), 3);
    journal.append(transaction(4, &[b])).await.unwrap();
    assert_eq!(journal.measure().await.unwrap().stats.errors, 1);
    assert_eq!(count(&settings.path, "SELECT count(*) FROM record"), 101);
    assert_eq!(count(&settings.path, "SELECT count(*) FROM body"), 102, "it stays, and is nobody's");
    drop(journal);
    subject.crash();
    let (journal, _) = parts(&subject);
    assert_eq!(journal.claim(b, at(300), 10).await.unwrap().len(), 1);
    drop(journal);
    subject.assert_balanced().await;
}

fn settled(claim: &Claim) -> Settlement {
    Settlement { delivered: claim.record.quantities.clone(), ..Settlement::default() }
}
