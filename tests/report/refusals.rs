//! Refusals that pass by themselves, like a GlitchTip's after anybody's wrong key, and refusals that last.

use std::time::Duration;

use serde_json::Value;

use crate::MINUTE;
use crate::simulation::Simulation;
use crate::support::envelopes;
use crate::support::relay::Plan;
use crate::support::upstream::{Reply, Upstream};

const SECOND: Duration = Duration::from_secs(1);

/// The number of answers that the report counts as a wrong DSN, and whether they fail it.
async fn refusals(relay: &Simulation) -> (Value, bool) {
    let report = relay.report("").await;
    let criteria = report["criteria"].as_array().expect("criteria");
    let refused = criteria.iter().find(|criterion| criterion["name"] == "refused").expect("the criterion");
    let candidate = &report["upstreams"][1];
    (candidate["attempts"]["misconfigured"].clone(), refused["passed"] == false)
}

async fn send(relay: &Simulation, count: usize) {
    for _ in 0..count {
        assert_eq!(relay.send(envelopes::error(&envelopes::new_id())).await, 200);
    }
}

#[tokio::test(start_paused = true)]
async fn a_lockout_that_ends_within_a_minute_fails_no_report() {
    let (a, b) = (Upstream::start().await, Upstream::start().await);
    let plan = Plan::new(&[("a", a.dsn("key-a", 1)), ("b", b.dsn("key-b", 2))]).upstream("b", "kind = \"glitchtip\"");
    let relay = Simulation::start(plan).await;
    send(&relay, 1).await;
    relay.quiet(&["a", "b"]).await;

    // Somebody tried a wrong key, so the tracker refuses everybody for 30 seconds.
    let denied = || Reply::Status(403, vec![], "{\"detail\": \"Denied\"}".to_owned());
    b.always(denied());
    send(&relay, 3).await;
    // Each of the three waits alone at first; one that is refused again tells that it is the DSN.
    relay.advance(10 * SECOND).await;
    relay.state("b", "misconfigured").await;
    let (answers, fails) = refusals(&relay).await;
    assert!(answers.as_u64() > Some(0) && fails, "as long as it may be meant it counts: {answers}");
    relay.advance(30 * SECOND).await;
    b.always(Reply::Ok);
    relay.drained("b", &b, 4).await;
    relay.advance(10 * SECOND).await;
    relay.kept(1, 4).await;
    assert_eq!(refusals(&relay).await, (0.into(), false));

    b.always(denied());
    send(&relay, 3).await;
    relay.advance(10 * SECOND).await;
    relay.state("b", "misconfigured").await;
    for _ in 0..60 {
        relay.advance(10 * SECOND).await;
        relay.state("b", "misconfigured").await;
    }
    b.always(Reply::Ok);
    relay.drained("b", &b, 7).await;
    relay.advance(10 * SECOND).await;
    relay.kept(1, 7).await;
    let (answers, fails) = refusals(&relay).await;
    assert!(answers.as_u64() > Some(2) && fails, "{answers}");
    assert!(relay.elapsed() < 30 * MINUTE);
    relay.stop().await;
}
