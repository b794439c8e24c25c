//! Dead letters of one project do not push out those of another.

use std::time::{Duration, Instant};

use futures_util::future::join_all;

use crate::support::envelopes::{self, envelope, new_id};
use crate::support::relay::{Plan, Relay};
use crate::support::upstream::{Reply, Upstream};

/// Sends `count` events of the project `app`; returns the longest time to an answer.
async fn send_as_app(relay: &Relay, count: usize) -> Duration {
    let mut slowest = Duration::ZERO;
    for _ in 0..count {
        let url = format!("http://{}/api/2/envelope/?sentry_key=07e2", relay.address());
        let began = Instant::now();
        let answer = relay.client().post(url).body(envelopes::error(&new_id())).send().await.expect("an answer");
        slowest = slowest.max(began.elapsed());
        assert_eq!(answer.status(), 200);
    }
    slowest
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_refused_events_leave_the_dead_letters_of_another_project() {
    let upstream = Upstream::start().await;
    upstream.always(Reply::status(400));
    let app = format!(
        "[[projects]]\nname = \"app\"\nid = \"2\"\npublic_key = \"07e2\"\n[projects.upstreams]\na = \"{}\"",
        upstream.dsn("4e3", 2)
    );
    let plan = Plan::new(&[("a", upstream.dsn("0ld", 1))]).journal("max_size = \"16MiB\"").more(&app);
    let relay = plan.journal("min_free_disk = \"0B\"").start().await;
    let before = send_as_app(&relay, 17).await;
    relay.balanced(Duration::from_secs(30)).await;

    // 4,000 events of 1 KiB; the bound on dead letters keeps half of them.
    let payload = serde_json::json!({ "message": "x".repeat(1 << 10) }).to_string();
    for _ in 0..100 {
        join_all((0..40).map(|_| relay.send(envelope(&new_id(), "event", &payload)))).await;
    }
    relay.balanced(Duration::from_secs(60)).await;
    let after = send_as_app(&relay, 17).await;
    relay.balanced(Duration::from_secs(30)).await;
    eprintln!("the slowest answer to `app`: {before:?} without the attacker, {after:?} with it");

    let kept = relay.upstream("a").await["dead_letters"].as_u64().expect("a number");
    assert!((100..3500).contains(&kept), "the bound was reached: {kept}");
    for number in 1..=17 {
        let url = format!("http://{}/api/dead-letters/{number}", relay.admin_address());
        let answer = relay.client().get(url).send().await.expect("an answer");
        assert_eq!(answer.status(), 200, "letter {number} of `app` stays");
    }
    relay.finish().await;
}
