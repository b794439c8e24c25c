//! Two relays before a GlitchTip with an API: events of either are verified there, also after the relay that verified is gone.

use std::time::Duration;

use serde_json::Value;

use crate::support::eventually::eventually;
use crate::support::glitchtip::{Glitchtip, PLACE, TOKEN};
use crate::support::postgres::Server;
use crate::support::relay::{Plan, Relay};
use crate::support::upstream::Upstream;

/// A timeout for several checks on a busy machine.
const A_WHILE: Duration = Duration::from_secs(60);

/// Waits until a relay reports these figures for the GlitchTip.
async fn figures(relay: &Relay, expected: &[(&str, u64)]) {
    eventually(&format!("{expected:?}"), A_WHILE, async || {
        let found: Value = relay.upstream("glitchtip").await["verification"].clone();
        let is_so = expected.iter().all(|(name, count)| found[*name] == *count);
        if is_so { Ok(()) } else { Err(format!("{found}\n{}", relay.log())) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unverified_events_count_once_after_a_move_into_a_file() {
    let (database, primary) = (Server::shared().database(), Upstream::start().await);
    let glitchtip = Glitchtip::start(Duration::from_millis(300), Duration::from_secs(2)).await;
    let plan = |node| {
        Plan::new(&[("sentry", primary.dsn("beef", 8)), ("glitchtip", glitchtip.dsn())])
            .shared(&database.url, node)
            .journal("durability = \"single\"")
            .api("glitchtip", "glitchtip", Some(PLACE), TOKEN)
            .upstream("glitchtip", "api.remembers = \"2s\"")
            .more("[verify]\nsettle = \"1s\"\nrequests = \"50/s\"\n")
    };
    let (mut one, mut two) = (plan("one").start().await, plan("two").start().await);
    for _ in 0..5 {
        two.send_errors(2).await;
        one.send_errors(2).await;
    }
    figures(&one, &[("delivered", 20), ("stored", 20)]).await;
    one.stop().await;
    two.stop().await;
    // Undoes the verification of the second relay's events.
    database.execute(
        "UPDATE verification SET reached = incarnation::bigint << 40 WHERE incarnation = (SELECT max(incarnation) FROM node);
         UPDATE ledger SET quantity = quantity - 10
             WHERE ctid = (SELECT ctid FROM ledger WHERE outcome = 'stored' AND quantity >= 10 LIMIT 1)",
    );
    let file = one.home().join("one.db").display().to_string();
    let (code, told) = one.verb(&["journal", "move", "--to", &file]).await;
    assert_eq!(code, 0, "{told}");
    let text = std::fs::read_to_string(one.config()).expect("the configuration");
    let shared = ["url", "node", "spill_path", "durability"];
    let rest: Vec<&str> = text.lines().filter(|line| !shared.iter().any(|key| line.starts_with(key))).collect();
    one.replace_config(&rest.join("\n").replace("[journal]", &format!("[journal]\npath = \"{file}\"")));
    let one = one.started().await;
    figures(&one, &[("delivered", 20), ("stored", 20), ("missing", 0), ("unknown", 0)]).await;
    one.send_errors(1).await;
    figures(&one, &[("delivered", 21), ("stored", 21)]).await;
    one.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leader_verifies_and_mends_the_events_of_either_relay() {
    let (database, primary) = (Server::shared().database(), Upstream::start().await);
    // Times much shorter than a real GlitchTip's.
    let glitchtip = Glitchtip::start(Duration::from_millis(300), Duration::from_secs(2)).await;
    let plan = |node| {
        Plan::new(&[("sentry", primary.dsn("beef", 8)), ("glitchtip", glitchtip.dsn())])
            .shared(&database.url, node)
            .journal("durability = \"single\"")
            .api("glitchtip", "glitchtip", Some(PLACE), TOKEN)
            .upstream("glitchtip", "api.remembers = \"2s\"")
            .more("[verify]\nsettle = \"1s\"\nrequests = \"50/s\"\n")
    };
    let mut one = plan("one").start().await;
    let two = plan("two").start().await;
    one.send_errors(40).await;
    two.send_errors(30).await;
    for relay in [&one, &two] {
        figures(relay, &[("delivered", 70), ("stored", 70), ("missing", 0), ("unknown", 0)]).await;
    }
    one.stop().await;
    glitchtip.set_worker(false);
    two.send_errors(10).await;
    figures(&two, &[("delivered", 80), ("stored", 70), ("missing", 10)]).await;
    let (code, told) = two.verb(&["verify", "glitchtip", "--since", "1h"]).await;
    assert_eq!((code, told.contains("10 missing")), (1, true), "{told}");
    glitchtip.set_worker(true);
    let (code, told) = two.verb(&["backfill", "glitchtip", "--missing"]).await;
    assert_eq!(code, 0, "{told}");
    figures(&two, &[("delivered", 90), ("stored", 80), ("missing", 0), ("unknown", 0)]).await;
    two.finish().await;
}
