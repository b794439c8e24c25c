//! Promises about the shares of the room, in a journal of 4 MiB.

use super::*;

const SIZE: usize = 20_000;
/// The size of that journal.
pub(crate) const LITTLE: ByteSize = ByteSize::mib(4);

fn of(project: &str, targets: &[TargetId]) -> Submission {
    let body = Body::from(Bytes::from(vec![7; SIZE]));
    Submission { project: project.into(), body, ..submission(at(1), targets) }
}

/// Appends until the project is refused because of its share; returns how many records were taken.
async fn flood(journal: &Arc<dyn Journal>, target: TargetId) -> usize {
    for count in 0..300 {
        match journal.append(of("flood", &[target])).await {
            Ok(_) => {}
            Err(JournalError::Share(_)) => return count,
            Err(error) => panic!("{error}"),
        }
    }
    panic!("there is no end of it");
}

/// The subject's journal may take [`LITTLE`].
pub(crate) async fn a_project_beyond_its_part_is_refused_alone(mut subject: Subject) {
    let journal = subject.journal();
    let target = journal.target("a").await.unwrap();
    journal.split(["flood", "shop", "app", "new"].into_iter().map(Into::into).collect());
    let flooded = flood(&journal, target).await * SIZE;
    // The tables themselves take some of it.
    assert!((1_900_000..3 << 20).contains(&flooded), "its own part and the common half: {flooded}");
    let part = journal.measure().await.unwrap().shares[0].part.unwrap();
    for project in ["shop", "app"] {
        for count in 0..part as usize / (SIZE + 6000) {
            let taken = journal.append(of(project, &[target])).await;
            assert!(taken.is_ok() && journal.writable().await.is_ok(), "{project}, {count}: {taken:?}");
        }
    }
    drop(journal);
    subject.crash();
    let journal = subject.journal();
    journal.split(["flood", "shop", "app", "new"].into_iter().map(Into::into).collect());
    assert!(flood(&journal, target).await <= 2, "what rounding left");
    journal.append(of("new", &[target])).await.unwrap();
    for claim in journal.claim(target, at(9), 100).await.unwrap() {
        journal.settle(&claim.lease, delivered(1)).await.unwrap();
    }
    assert!(flood(&journal, target).await > 0, "what was delivered gives way");
}

/// The subject's journal may take [`LITTLE`].
pub(crate) async fn nothing_gives_way_for_a_body_of_no_known_project(subject: Subject) {
    let journal = subject.journal();
    let (primary, shadow) = (journal.target("a").await.unwrap(), journal.target("b").await.unwrap());
    journal.protect(Primaries { everywhere: Some(primary), ..Primaries::default() });
    for projects in [&["shop"][..], &["shop", "app"]] {
        journal.split(projects.iter().map(|name| (*name).into()).collect());
        // Some wait for the shadow, and some are only retained.
        for _ in 0..150 {
            // A full journal may refuse some.
            drop(journal.append(of("shop", &[shadow])).await);
            drop(journal.append(of("shop", &[])).await);
        }
        let taken = async || (space(&*journal).await.used, journal.backlog(shadow).await.unwrap().envelopes);
        let before = taken().await;
        assert!(before.0 > 1 << 19 && before.1 > 10, "{before:?}");
        let mut writer = BodyWriter::new(Arc::clone(&journal), None);
        let refused = writer.write(&noise(3 * IN_MEMORY)).await;
        assert!(matches!(refused, Err(JournalError::Full(_) | JournalError::Share(_))), "{refused:?}");
        drop(writer);
        eventually("its room comes back", async || taken().await.0 <= before.0 + (64 << 10)).await;
        let after = taken().await;
        assert!(after.0 + (64 << 10) > before.0 && after.1 == before.1, "{before:?} {after:?}");
        assert!(journal.writable().await.is_ok(), "the journal is full for nobody else");
        // A body of a project that is within its part is taken.
        if projects.len() == 1 {
            drop(written(&journal, &noise(IN_MEMORY + 1)).await.expect("what was delivered gives way"));
        }
    }
}
