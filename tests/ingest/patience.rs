//! Clients that stall, and what they may not take from others.

use std::time::Duration;

use tokio::time::{Instant, interval};

use crate::support::envelopes::{self, envelope, new_id};
use crate::support::eventually::eventually;
use crate::support::relay::{Relay, SOON};
use crate::support::wire::{Answer, Wire, exchange, post};
use crate::{front, front_of, keyed, refused};

/// Sends only the beginning of a request and says nothing more. The answer must come, and then an orderly end.
async fn stall(relay: &Relay, request: &[u8], sent: usize) -> Answer {
    let mut wire = Wire::connect(&relay.address()).await;
    wire.send(&request[..sent]).await;
    let answer = wire.answer().await;
    wire.ends().await;
    answer
}

#[tokio::test]
async fn a_client_that_falls_silent_is_told_so_and_disturbs_nobody() {
    let (relay, upstream) = front().await;
    let body = envelopes::error(&new_id());
    let request = post(&keyed("/api/1/envelope/"), &[], body.as_bytes());
    let half_a_body = request.len() - body.len() / 2;
    let stranger = post("/api/1/envelope/?sentry_key=unknown", &[], &[b'x'; 100]);
    // In the time that the others stall, requests are answered.
    let meanwhile = async {
        let mut served = 0;
        for _ in 0..50 {
            relay.send_errors(1).await;
            served += 1;
        }
        served
    };
    let (body, start, middle, refused_body, served) = tokio::join!(
        stall(&relay, &request, half_a_body),
        stall(&relay, &request, 3),
        stall(&relay, &request, 40),
        stall(&relay, &stranger, stranger.len() - 50),
        meanwhile,
    );
    assert_eq!(body.status, 408);
    assert!(body.detail().contains("body"), "{body:?}");
    for head in [start, middle] {
        assert_eq!(head.status, 408);
        assert!(head.detail().contains("headers"), "{head:?}");
    }
    // Who is refused anyway is told that, however slow.
    assert_eq!(refused_body.status, 403);
    assert_eq!(refused(&relay, "timeout").await, 3.0);
    let samples = relay.samples().await.expect("metrics");
    let of_code = |project| samples.sum("switchyard_received_requests_total", &[("project", project), ("code", "408")]);
    assert_eq!((of_code("shop"), of_code("")), (1.0, 2.0));
    assert_eq!(served, 50);
    relay.finish().await;
    assert_eq!(upstream.taken_count(), served);
}

/// The answer to `request`; in the time it takes small envelopes are sent, all of which must be taken. Also the longest that
/// one of them took.
async fn exchange_beside(relay: &Relay, request: &[u8], small: &dyn Fn() -> String) -> (Answer, Duration) {
    let address = relay.address();
    let mut answer = std::pin::pin!(exchange(&address, request));
    let (mut slowest, mut turns) = (Duration::ZERO, interval(Duration::from_millis(100)));
    loop {
        tokio::select! {
            answer = &mut answer => return (answer, slowest),
            _ = turns.tick() => {}
        }
        let began = Instant::now();
        assert_eq!(relay.send(small()).await.status(), 200);
        slowest = slowest.max(began.elapsed());
    }
}

#[tokio::test]
async fn bodies_in_memory_have_a_limit_together_and_what_fits_beside_large_ones_is_served() {
    let (relay, upstream) = front_of(|plan| plan.server("max_inflight_bytes = \"1MiB\"")).await;
    let of_size = |kib: usize| envelope(&new_id(), "attachment", &"x".repeat(kib * 1024));
    // Two that stall leave room for small ones only.
    let request = post(&keyed("/api/1/envelope/"), &[], of_size(500).as_bytes());
    let other = post(&keyed("/api/1/envelope/"), &[], of_size(500).as_bytes());
    let mut stalling = vec![];
    for request in [&request, &other] {
        let mut wire = Wire::connect(&relay.address()).await;
        wire.send(&request[..1000]).await;
        stalling.push((wire, &request[1000..]));
    }
    let next = post(&keyed("/api/1/envelope/"), &[], of_size(400).as_bytes());
    let refusal = eventually("the first ones have their room", SOON, async || {
        let (answer, slowest) = exchange_beside(&relay, &next, &|| of_size(10)).await;
        assert!(slowest < Duration::from_secs(2), "small bodies had to wait {slowest:?}");
        if answer.status == 503 { Ok(answer) } else { Err(format!("{answer:?}")) }
    })
    .await;
    assert_eq!(refusal.header("retry-after"), "30");
    assert!(refusal.detail().contains("in flight"), "{refusal:?}");
    for (mut wire, rest) in stalling {
        wire.send(rest).await;
        assert_eq!(wire.answer().await.status, 200);
    }
    // What is larger than all of them together may be goes through a file, encoded or not.
    for kib in [900, 1100, 3000] {
        assert_eq!(relay.send(of_size(kib)).await.status(), 200, "{kib} KiB");
    }
    let noise: Vec<u8> = (0..40_000).flat_map(|_| *uuid::Uuid::new_v4().as_bytes()).collect();
    let head = format!("{{}}\n{{\"type\":\"attachment\",\"length\":{}}}\n", noise.len());
    let packed = zstd::encode_all(&[head.as_bytes(), &noise].concat()[..], 0).expect("memory");
    assert!(packed.len() > 500 * 1024);
    let request = post(&keyed("/api/1/envelope/"), &[("content-encoding", "zstd")], &packed);
    assert_eq!(exchange(&relay.address(), &request).await.status, 200);
    assert_eq!(refused(&relay, "overloaded").await, 1.0);
    relay.finish().await;
    assert!(upstream.taken_count() >= 3);
}
