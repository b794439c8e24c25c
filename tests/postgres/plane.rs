//! What relays on one database share besides the journal: the primary, and who leads which chore.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use crate::contract::ENOUGH;
use crate::journal::postgres::PostgresJournal;
use crate::promises::open;
use crate::support::eventually::eventually;
use crate::support::postgres::{Database, Server};
use crate::telemetry::ledger::Ledger;

fn relay(database: &Database, name: &str) -> Arc<PostgresJournal> {
    open(database, name, ENOUGH, Ledger::default())
}

#[tokio::test]
async fn the_first_relay_says_which_upstream_is_the_primary_and_a_switch_is_that_of_who_made_it() {
    let database = Server::shared().database();
    let (one, two) = (relay(&database, "one"), relay(&database, "two"));
    let first = one.shared_primary("a").await.expect("a primary");
    assert_eq!((first.name.as_str(), first.is_ours), ("a", true));
    let seen = two.shared_primary("b").await.expect("a primary");
    assert_eq!((seen.name.as_str(), seen.is_ours, seen.revision), ("a", false, first.revision));
    assert_eq!(two.share_primary("b").await.expect("a switch"), Some("a".to_owned()));
    let after = one.shared_primary("a").await.expect("a primary");
    assert_eq!((after.name.as_str(), after.is_ours, after.revision), ("b", false, first.revision + 1));
    assert_eq!(one.share_primary("b").await.expect("no switch"), Some("b".to_owned()));
    drop(two);
    let again = relay(&database, "two").shared_primary("a").await.expect("a primary");
    assert!(again.is_ours && again.revision == after.revision, "{again:?}");
}

#[tokio::test]
async fn a_switch_is_told_to_every_relay_within_a_quarter_of_a_second() {
    let database = Server::shared().database();
    let (one, two) = (relay(&database, "one"), relay(&database, "two"));
    let mut at = one.shared_primary("a").await.expect("a primary").revision;
    let mut watches = [one.watch_primary(at - 1), two.watch_primary(at - 1)];
    for watch in &mut watches {
        // Now it listens.
        timeout(Duration::from_secs(5), watch.changed()).await.expect("the revision is another one");
    }
    for name in ["b", "c", "b"] {
        one.share_primary(name).await.expect("a switch");
        for watch in &mut watches {
            timeout(Duration::from_millis(250), watch.changed()).await.expect("it is told");
        }
        at += 1;
        assert_eq!(two.shared_primary("a").await.expect("a primary").revision, at);
    }
}

#[tokio::test]
async fn a_chore_has_one_leader_until_its_relay_is_gone_or_asks_no_more() {
    let database = Server::shared().database();
    let (one, two) = (relay(&database, "one"), relay(&database, "two"));
    for _ in 0..3 {
        assert!(one.leads("prune").await && !two.leads("prune").await);
    }
    assert!(two.leads("expire").await && !one.leads("expire").await, "another chore has another leader");
    database.execute("UPDATE node SET replaced = true WHERE name = 'one'");
    assert!(two.leads("prune").await, "the relay that led is gone");
    let three = relay(&database, "three");
    assert!(!three.leads("prune").await);
    eventually("a term ends", Duration::from_secs(7), async || {
        if three.leads("prune").await { Ok(()) } else { Err("another leads".to_owned()) }
    })
    .await;
    assert!(!two.leads("prune").await);
}
