//! The delay until relays on one database learn of shared changes.

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

pub(crate) fn relay(database: &Database, name: &str) -> Arc<PostgresJournal> {
    open(database, name, ENOUGH, Ledger::default())
}

#[tokio::test]
async fn a_switch_reaches_every_relay_within_250_ms() {
    let database = Server::shared().database();
    let (one, two) = (relay(&database, "one"), relay(&database, "two"));
    let mut at = one.plane("a", "").await.expect("a primary").revision;
    let mut watches = [one.watch(at - 1), two.watch(at - 1)];
    for watch in &mut watches {
        // The watch listens from here on.
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
