//! Daily caps of a shadow: they last a day, outlive restarts and reloads, and hold nothing back from a primary.

use crate::simulation::Simulation;
use crate::support::envelopes;
use crate::support::relay::Plan;
use crate::support::upstream::Upstream;
use crate::{BOTH, HOUR, MINUTE};

/// The number of errors that an upstream took; its client reports have no event id.
fn errors(upstream: &Upstream) -> usize {
    upstream.taken_ids().iter().filter(|id| !id.is_empty()).count()
}

/// Sends `count` errors; returns the number that the upstream got.
async fn of_errors(relay: &Simulation, count: usize, upstream: &Upstream) -> usize {
    let before = errors(upstream);
    for _ in 0..count {
        assert_eq!(relay.send(envelopes::error(&envelopes::new_id())).await, 200);
    }
    relay.quiet(&BOTH).await;
    errors(upstream) - before
}

#[tokio::test(start_paused = true)]
async fn a_daily_cap_outlives_restarts_reloads_and_a_time_as_primary() {
    let (glitchtip, sentry) = (Upstream::start().await, Upstream::start().await);
    let plan = Plan::new(&[("glitchtip", glitchtip.dsn("key-b", 2)), ("sentry", sentry.dsn("key-a", 1))]);
    let plan = plan.more("[upstreams.sentry.shadow]\ndaily_cap = { error = 5 }");
    let mut relay = Simulation::start(plan).await;
    assert_eq!(of_errors(&relay, 3, &sentry).await, 3);
    relay.restart(HOUR).await;
    assert_eq!(of_errors(&relay, 4, &sentry).await, 2, "the three before the restart count");
    relay.restart(MINUTE).await;
    assert_eq!(of_errors(&relay, 1, &sentry).await, 0, "what was capped does not");
    relay.rewrite("error = 5", "error = 7").await;
    assert_eq!(of_errors(&relay, 3, &sentry).await, 2);
    assert_eq!(relay.dropped("sentry").await["capped"], 4);
    // As the primary the upstream gets everything, and that counts towards the cap afterwards.
    relay.advance(24 * HOUR).await;
    relay.switch("sentry").await;
    assert_eq!(of_errors(&relay, 9, &sentry).await, 9);
    relay.switch("glitchtip").await;
    assert_eq!(of_errors(&relay, 3, &sentry).await, 0);
    // A cap that is added during the day counts the errors before it.
    relay.advance(24 * HOUR).await;
    relay.rewrite("daily_cap = { error = 7 }", "").await;
    assert_eq!(of_errors(&relay, 8, &sentry).await, 8);
    relay.rewrite("[upstreams.sentry.shadow]", "[upstreams.sentry.shadow]\ndaily_cap = { error = 9 }").await;
    assert_eq!(of_errors(&relay, 2, &sentry).await, 1);
    relay.advance(23 * HOUR).await;
    assert_eq!(of_errors(&relay, 2, &sentry).await, 2, "a new day");
    assert_eq!(errors(&glitchtip), 35);
    relay.stop().await;
}
