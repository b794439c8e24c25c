//! Submissions that are appended in one transaction.

use std::sync::Arc;

use crate::contract::{at, submission, written};
use crate::journal::{Journal, Submission};
use crate::promises;
use crate::support::postgres::Server;
use crate::telemetry::ledger::Ledger;
use crate::units::ByteSize;

#[tokio::test]
async fn a_missing_large_body_fails_only_its_own_submission() {
    let database = Server::shared().database();
    let journal: Arc<dyn Journal> = promises::open(&database, "alone", ByteSize::mib(100), Ledger::default());
    let a = journal.target("a").await.unwrap();
    let body = written(&journal, &vec![7; 3 << 20]).await.unwrap();
    database.execute("DELETE FROM large");
    let without = Submission { body, ..submission(at(1), &[a]) };
    let (gone, kept) = tokio::join!(journal.append(without), journal.append(submission(at(1), &[a])));
    assert!(gone.is_err());
    kept.unwrap();
    assert_eq!(journal.backlog(a).await.unwrap().envelopes, 1);
}
