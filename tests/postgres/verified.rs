//! Two relays before a GlitchTip whose API is asked: what either took is found there, also after the relay that looked is gone.

use std::time::Duration;

use serde_json::Value;

use crate::support::eventually::eventually;
use crate::support::glitchtip::{Glitchtip, PLACE, TOKEN};
use crate::support::postgres::Server;
use crate::support::relay::{Plan, Relay};
use crate::support::upstream::Upstream;

/// Several looks, on a busy machine.
const A_WHILE: Duration = Duration::from_secs(60);

/// Waits until a relay says so of the GlitchTip.
async fn figures(relay: &Relay, expected: &[(&str, u64)]) {
    eventually(&format!("{expected:?}"), A_WHILE, async || {
        let found: Value = relay.upstream("glitchtip").await["verification"].clone();
        let is_so = expected.iter().all(|(name, count)| found[*name] == *count);
        if is_so { Ok(()) } else { Err(format!("{found}\n{}", relay.log())) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_either_relay_took_is_looked_for_by_whichever_leads_and_mended() {
    let (database, primary) = (Server::shared().database(), Upstream::start().await);
    // As short as a real GlitchTip's times would be long.
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
