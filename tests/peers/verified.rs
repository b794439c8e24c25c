//! Events at a real Bugsink: verified by its API, and sent again after it lost them.

use std::time::Duration;

use serde_json::Value;

use super::bugsink::Bugsink;
use crate::support::eventually::eventually;
use crate::support::relay::{Plan, Relay};

/// A timeout for several checks of a real tracker on a busy machine.
const A_WHILE: Duration = Duration::from_secs(90);

async fn figures(relay: &Relay, expected: &[(&str, u64)]) {
    eventually(&format!("{expected:?}"), A_WHILE, async || {
        let found: Value = relay.upstream("bugsink").await["verification"].clone();
        match expected.iter().all(|(name, count)| found[*name] == *count) {
            true => Ok(()),
            false => Err(format!("{found}\n{}", relay.log())),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_a_real_bugsink_lost_are_found_and_sent_again() {
    let bugsink = Bugsink::start().await;
    let project = bugsink.project("verified").await;
    let relay = Plan::new(&[("bugsink", project.dsn.clone())])
        .api("bugsink", "bugsink", None, bugsink.token())
        .more("[verify]\nsettle = \"1s\"\nrequests = \"50/s\"\n")
        .start()
        .await;
    let ids = relay.send_errors(12).await;
    figures(&relay, &[("delivered", 12), ("stored", 12), ("missing", 0), ("unknown", 0)]).await;
    bugsink.lose(&ids[3]);
    bugsink.lose(&ids[7]);
    let (code, told) = relay.verb(&["verify", "bugsink", "--json"]).await;
    let told: Value = serde_json::from_str(&told).expect("JSON");
    let missing: Vec<&str> =
        told[0]["missing"].as_array().expect("events").iter().filter_map(|e| e["event_id"].as_str()).collect();
    assert_eq!((code, missing.len()), (1, 2), "{told}");
    assert!(missing.contains(&&*ids[3]) && missing.contains(&&*ids[7]), "{told}");
    figures(&relay, &[("stored", 10), ("missing", 2)]).await;
    let (code, told) = relay.verb(&["backfill", "bugsink", "--missing"]).await;
    assert_eq!((code, told.contains("2 of 2 missing events")), (0, true), "{told}");
    figures(&relay, &[("delivered", 14), ("stored", 12), ("missing", 0), ("lost", 2), ("unknown", 0)]).await;
    let held: Vec<Value> = bugsink.events(&project).await;
    assert_eq!(held.len(), 12, "once each");
    relay.finish().await;
}
