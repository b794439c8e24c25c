//! Requests to the primary: one client holds all the places that it may have, and another client is served meanwhile.

use std::time::Duration;

use tokio::time::{Instant, interval};

use super::second::{self, Second, Times};
use crate::support::relay::{Plan, SOON};
use crate::support::upstream::Upstream;
use crate::support::wire::{Wire, exchange, head};

/// The times to the answers for a client other than the attacker.
async fn asks(address: &str) -> Times {
    let mut times = Times::default();
    for _ in 0..100 {
        let began = Instant::now();
        let request = head("GET", "/api/0/organizations/shop/releases/", &[("x-forwarded-for", "203.0.113.8")]);
        let answer = exchange(address, &request).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        times.add(began.elapsed());
    }
    times
}

#[tokio::test(flavor = "multi_thread")]
async fn one_client_that_trickles_uploads_leaves_another_answered() {
    let upstream = Upstream::start().await;
    let plan = Plan::new(&[("tracker", upstream.dsn("cafe", 7))]).server("trusted_proxies = [\"127.0.0.1\"]");
    let relay = plan.more(&second::project(&[("tracker", upstream.dsn("beef", 8))])).start().await;
    let second = Second::of(&relay);
    let (calm, calm_asks) = (second.events(100).await, asks(&relay.address()).await);
    // The address that the proxy has seen comes last, after the client's own claim.
    let upload = |turn: usize| {
        let chain = format!("198.51.100.{}, 203.0.113.7", turn + 1);
        let headers = [("content-length", "1000000"), ("x-forwarded-for", &*chain)];
        head("POST", "/api/0/organizations/shop/chunk-upload/", &headers)
    };
    let mut wires = vec![];
    for turn in 0..100 {
        let mut wire = Wire::connect(&relay.address()).await;
        wire.offer(&upload(turn)).await;
        wires.push(wire);
    }
    let trickle = async {
        let mut turns = interval(Duration::from_millis(500));
        loop {
            turns.tick().await;
            for wire in &mut wires {
                wire.offer(b"x").await;
            }
        }
    };
    let (attacked, attacked_asks) = tokio::select! {
        both = async { (second.events(100).await, asks(&relay.address()).await) } => both,
        () = trickle => unreachable!("it goes on"),
    };
    second::compare("100 trickled uploads: events", &calm, &attacked);
    second::compare("100 trickled uploads: requests to the primary", &calm_asks, &attacked_asks);
    let refused = relay.samples().await.expect("metrics");
    let refused = refused.sum("switchyard_refused_requests_total", &[("reason", "proxy_overloaded")]);
    assert!(refused >= 60.0, "{refused} of the attacker were refused");
    drop(wires);
    relay.balanced(SOON).await;
    relay.finish().await;
}

#[tokio::test]
async fn an_upload_that_makes_no_progress_gives_its_place_back() {
    let upstream = Upstream::start().await;
    let relay = Plan::new(&[("tracker", upstream.dsn("cafe", 7))]).start().await;
    let mut wire = Wire::connect(&relay.address()).await;
    let headers = [("content-length", "1000000")];
    wire.send(&head("POST", "/api/0/organizations/shop/chunk-upload/", &headers)).await;
    let began = Instant::now();
    let mut turns = interval(Duration::from_millis(500));
    while began.elapsed() < Duration::from_secs(17) {
        turns.tick().await;
        wire.offer(b"x").await;
    }
    let given_up = relay.samples().await.expect("metrics");
    assert_eq!(given_up.sum("switchyard_refused_requests_total", &[("reason", "timeout")]), 1.0);
    assert_eq!(wire.answer().await.status, 408);
    relay.finish().await;
}
