//! Backfills and watermarks.

use super::*;
use crate::journal::contract::backfill::{begin, scope, withhold};

#[tokio::test]
async fn a_backfill_takes_a_record_only_once_no_earlier_one_is_untried() {
    let subject = Subject::sqlite();
    let journal = subject.journal();
    let (a, b) = (journal.target("a").await.unwrap(), journal.target("b").await.unwrap());
    fill(&journal, 1, &[a, b]).await;
    withhold(&journal, 2, a, b).await;
    begin(&journal, scope(b, at(0))).await;
    let go_on = async || journal.backfill(b, BackfillStep::GoOn(9)).await.unwrap().unwrap();
    assert_eq!((go_on().await.taken, go_on().await.is_running()), (0, true));
    let claims = journal.claim(b, at(9), 1).await.unwrap();
    assert_eq!((go_on().await.taken, go_on().await.is_running()), (0, true));
    journal.settle(&claims[0].lease, delivered(1)).await.unwrap();
    subject.flush().await;
    assert_eq!((go_on().await.taken, go_on().await.is_running()), (2, false));
    subject.assert_balanced().await;
}
