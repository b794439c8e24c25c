//! What relays on one database share besides the journal: the primary, and the common part of their configuration.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::time::timeout;

use crate::contract::ENOUGH;
use crate::journal::ControlPlane as _;
use crate::journal::postgres::PostgresJournal;
use crate::promises::open;
use crate::support::postgres::{Database, Server};
use crate::telemetry::ledger::Ledger;
use crate::term::pass_on;

pub(crate) fn relay(database: &Database, name: &str) -> Arc<PostgresJournal> {
    open(database, name, ENOUGH, Ledger::default())
}

#[tokio::test]
async fn the_first_relay_says_which_upstream_is_the_primary_and_a_switch_is_that_of_who_made_it() {
    let database = Server::shared().database();
    let (one, two) = (relay(&database, "one"), relay(&database, "two"));
    let first = one.plane("a", "of one").await.expect("a primary");
    assert_eq!((first.primary.as_str(), first.is_ours, first.common.as_str()), ("a", true, "of one"));
    let seen = two.plane("b", "of two").await.expect("a primary");
    assert_eq!((seen.primary.as_str(), seen.is_ours, seen.revision), ("a", false, first.revision));
    assert_eq!(seen.common, "of one");
    assert_eq!(two.share_primary("b").await.expect("a switch"), Some("a".to_owned()));
    let after = one.plane("a", "of one").await.expect("a primary");
    assert_eq!((after.primary.as_str(), after.is_ours, after.revision), ("b", false, first.revision + 1));
    assert_eq!(one.share_primary("b").await.expect("no switch"), Some("b".to_owned()));
    drop(two);
    let again = relay(&database, "two").plane("a", "of two").await.expect("a primary");
    assert!(again.is_ours && again.revision == after.revision, "{again:?}");
}

#[tokio::test]
async fn a_switch_is_taken_back_unless_another_relay_has_switched_since() {
    let database = Server::shared().database();
    let (one, two) = (relay(&database, "one"), relay(&database, "two"));
    let mut at = one.plane("a", "").await.expect("a primary").revision;
    // By the other relay: to a third upstream, to the same one, and not at all.
    for (then, left) in [(&["c"][..], "c"), (&["c", "b"], "b"), (&[], "a")] {
        one.share_primary("a").await.expect("a switch");
        one.share_primary("b").await.expect("a switch");
        for name in then {
            two.share_primary(name).await.expect("a switch");
        }
        one.take_back_primary("b", "a").await.expect("it is looked");
        let plane = one.plane("a", "").await.expect("a primary");
        assert_eq!(plane.primary, left);
        assert!(plane.revision > at, "{plane:?}");
        at = plane.revision;
    }
}

#[tokio::test]
async fn only_the_relay_that_leads_publishes_what_all_have_in_common() {
    let database = Server::shared().database();
    let one = relay(&database, "one");
    one.plane("a", "first").await.expect("what is common");
    let old = one.leads().await.expect("a term");
    one.publish(old, "second").await.expect("published");
    let two = relay(&database, "two");
    assert_eq!(two.plane("a", "").await.expect("what is common").common, "second");
    pass_on(&database);
    two.publish(two.leads().await.expect("a term"), "third").await.expect("published");
    one.publish(old, "fourth").await.expect_err("another one leads");
    assert_eq!(one.plane("a", "").await.expect("what is common").common, "third");
}

#[tokio::test]
async fn a_switch_is_told_to_every_relay_within_a_quarter_of_a_second() {
    let database = Server::shared().database();
    let (one, two) = (relay(&database, "one"), relay(&database, "two"));
    let mut at = one.plane("a", "").await.expect("a primary").revision;
    let mut watches = [one.watch(at - 1), two.watch(at - 1)];
    for watch in &mut watches {
        // Now it listens.
        timeout(Duration::from_secs(5), watch.next()).await.expect("the revision is another one");
    }
    for name in ["b", "c", "b"] {
        one.share_primary(name).await.expect("a switch");
        for watch in &mut watches {
            timeout(Duration::from_millis(250), watch.next()).await.expect("it is told");
        }
        at += 1;
        assert_eq!(two.plane("a", "").await.expect("a primary").revision, at);
    }
}
