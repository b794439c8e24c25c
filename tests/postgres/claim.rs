//! How much a look for what may be tried brings into memory.

use bytes::Bytes;

use crate::contract::{ENOUGH, Subject, at, errors, submission};
use crate::journal::body::Body;
use crate::journal::{Progress, Rest, Settlement, Submission};
use crate::promises;

/// A body that is kept in a row.
const SIZE: usize = 1_000_000;
/// What one look brings, in such bodies.
const MOST: usize = 4;

#[tokio::test]
async fn what_comes_due_together_comes_into_memory_a_few_mebibytes_at_a_time() {
    let subject = Subject::new(promises::in_a_database(ENOUGH));
    let journal = subject.journal();
    let a = journal.target("a").await.unwrap();
    for _ in 0..10 {
        let body = Body::from(Bytes::from(vec![7; SIZE]));
        journal.append(Submission { body, ..submission(at(1), &[a]) }).await.unwrap();
    }
    for due in [5, 9] {
        let mut left = 10;
        while left > 0 {
            let claims = journal.claim(a, at(due), 64).await.unwrap();
            assert!((1..=MOST).contains(&claims.len()), "{} at once", claims.len());
            left -= claims.len();
            for claim in claims {
                let rest = Rest { due: at(due + 1), progress: Progress::default(), quantities: errors(1) };
                journal.settle(&claim.lease, Settlement { rest: Some(rest), ..Settlement::default() }).await.unwrap();
            }
        }
    }
}
