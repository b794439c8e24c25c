//! The time for which envelopes wait: through a section that leaves the file, and changes of the clock.

use std::time::Duration;

use crate::simulation::Simulation;
use crate::support::envelopes;
use crate::support::relay::Plan;
use crate::support::upstream::{Reply, Upstream};
use crate::{HOUR, MINUTE};

/// A relay with two upstreams; `count` envelopes wait for `b`, which is down.
async fn waiting(plan: impl FnOnce(Plan) -> Plan, count: usize) -> (Upstream, Upstream, Simulation) {
    let (a, b) = (Upstream::start().await, Upstream::start().await);
    b.always(Reply::status(503));
    let relay = Simulation::start(plan(Plan::new(&[("a", a.dsn("key-a", 1)), ("b", b.dsn("key-b", 2))]))).await;
    for _ in 0..count {
        assert_eq!(relay.send(envelopes::error(&envelopes::new_id())).await, 200);
        relay.advance(Duration::from_secs(1)).await;
    }
    relay.quiet(&["a"]).await;
    relay.state("b", "down").await;
    (a, b, relay)
}

#[tokio::test(start_paused = true)]
async fn an_upstream_out_of_the_file_keeps_its_backlog_for_its_max_age() {
    let (_a, b, relay) = waiting(|plan| plan.upstream("b", "max_age = \"200h\""), 12).await;
    relay.advance(80 * HOUR).await;
    let with_b = relay.config();
    let without = with_b.replace("[upstreams.b]\nmax_age = \"200h\"\n", "");
    relay.replace_config(&without.replace(&format!("b = \"{}\"\n", b.dsn("key-b", 2)), "")).await;
    relay.advance(3 * HOUR).await;
    relay.state("b", "removed").await;
    b.always(Reply::Ok);
    relay.replace_config(&with_b).await;
    relay.drained("b", &b, 12).await;
    assert_eq!(relay.dropped("b").await["expired"], serde_json::Value::Null);
    relay.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_set_back_makes_no_upstream_wait() {
    let (_a, b, relay) = waiting(|plan| plan, 8).await;
    relay.set_clock(|now| now - 2 * HOUR).await;
    b.always(Reply::Ok);
    let before = relay.elapsed();
    relay.drained("b", &b, 8).await;
    assert!(relay.elapsed() - before < 15 * MINUTE, "it took {:?}", relay.elapsed() - before);
    relay.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_wrong_for_a_moment_expires_nothing() {
    let (_a, b, relay) = waiting(|plan| plan, 8).await;
    relay.set_clock(|now| now + 100 * HOUR).await;
    relay.set_clock(|now| now - 100 * HOUR).await;
    b.always(Reply::Ok);
    let before = relay.elapsed();
    relay.drained("b", &b, 8).await;
    assert!(relay.elapsed() - before < 15 * MINUTE, "it took {:?}", relay.elapsed() - before);
    // When the clock stays so, the new time counts.
    b.always(Reply::status(503));
    assert_eq!(relay.send(envelopes::error(&envelopes::new_id())).await, 200);
    relay.set_clock(|now| now + 100 * HOUR).await;
    relay.advance(10 * MINUTE).await;
    relay.quiet(&["b"]).await;
    assert_eq!(relay.dropped("b").await["expired"], 1);
    relay.stop().await;
}
