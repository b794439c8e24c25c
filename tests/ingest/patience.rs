//! Clients that stall take nothing from others.

use std::time::Duration;

use tokio::time::{Instant, interval};

use crate::support::envelopes::{self, envelope, new_id};
use crate::support::eventually::eventually;
use crate::support::relay::{Relay, SOON};
use crate::support::wire::{Answer, Wire, exchange, post};
use crate::{front, front_of, keyed, refused};

/// Sends only the beginning of a request. The answer must come, and then an orderly end.
async fn stall(relay: &Relay, request: &[u8], sent: usize) -> Answer {
    let mut wire = Wire::connect(&relay.address()).await;
    wire.send(&request[..sent]).await;
    let answer = wire.answer().await;
    wire.ends().await;
    answer
}

#[tokio::test]
async fn a_client_that_falls_silent_gets_an_answer_and_disturbs_nobody() {
    let (relay, upstream) = front().await;
    let body = envelopes::error(&new_id());
    let request = post(&keyed("/api/1/envelope/"), &[], body.as_bytes());
    let half_a_body = request.len() - body.len() / 2;
    let stranger = post("/api/1/envelope/?sentry_key=unknown", &[], &[b'x'; 100]);
    // Requests are answered while the others stall.
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
    // A request that is refused anyway gets that answer, however slow it is.
    assert_eq!(refused_body.status, 403);
    assert_eq!(refused(&relay, "timeout").await, 3.0);
    let samples = relay.samples().await.expect("metrics");
    let of_code = |project| samples.sum("switchyard_received_requests_total", &[("project", project), ("code", "408")]);
    assert_eq!((of_code("shop"), of_code("")), (1.0, 2.0));
    assert_eq!(served, 50);
    relay.finish().await;
    assert_eq!(upstream.taken_count(), served);
}

/// The answer to `request`, after which the connection must end in order, and the longest time to the answer of the small envelopes that
/// are sent meanwhile. Each of those must be taken.
async fn exchange_beside(relay: &Relay, request: &[u8], small: &dyn Fn() -> String) -> (Answer, Duration) {
    let mut answer = std::pin::pin!(async {
        let mut wire = Wire::connect(&relay.address()).await;
        wire.offer(request).await;
        let answer = wire.answer().await;
        wire.ends().await;
        answer
    });
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

/// Clients that have sent their requests except for the last 4 KiB, each with the unsent rest.
struct Stalling(Vec<(Wire, Vec<u8>)>);

impl Stalling {
    async fn begin(relay: &Relay, bodies: impl IntoIterator<Item = String>) -> Self {
        let mut all = vec![];
        for body in bodies {
            let mut request = post(&keyed("/api/1/envelope/"), &[], body.as_bytes());
            let rest = request.split_off(request.len() - 4096);
            let mut wire = Wire::connect(&relay.address()).await;
            wire.send(&request).await;
            all.push((wire, rest));
        }
        Self(all)
    }

    /// Sends one more byte of each, so that none counts as silent.
    async fn drip(&mut self) {
        for (wire, rest) in &mut self.0 {
            wire.offer(&rest.drain(..1).collect::<Vec<u8>>()).await;
        }
    }

    /// Sends the rest of each; returns how many were taken. The others found no room.
    async fn end(self) -> usize {
        let mut taken = 0;
        for (mut wire, rest) in self.0 {
            wire.offer(&rest).await;
            let answer = wire.answer().await;
            assert!(matches!(answer.status, 200 | 503), "{answer:?}");
            taken += usize::from(answer.status == 200);
        }
        taken
    }
}

#[tokio::test]
async fn bodies_in_memory_share_a_limit_that_leaves_room_for_small_ones() {
    let (relay, upstream) = front_of(|plan| plan.server("max_inflight_bytes = \"1MiB\"")).await;
    let of_size = |kib: usize| envelope(&new_id(), "attachment", &"x".repeat(kib * 1024));
    // Two large bodies need more than the large ones' share of memory, so the second goes through a file, and so does a third.
    let mut large = Stalling::begin(&relay, [of_size(500), of_size(500)]).await;
    let close = [("connection", "close")];
    for kib in [400, 900, 1100, 3000] {
        large.drip().await;
        let request = post(&keyed("/api/1/envelope/"), &close, of_size(kib).as_bytes());
        let (answer, slowest) = exchange_beside(&relay, &request, &|| of_size(50)).await;
        assert_eq!(answer.status, 200, "{kib} KiB: {answer:?}");
        assert!(slowest < Duration::from_secs(2), "small bodies had to wait {slowest:?}");
    }
    // Small bodies may use the rest. A small body that finds no room while it is still coming is refused with 503.
    let mut small = Stalling::begin(&relay, (0..5).map(|_| of_size(63))).await;
    let next = post(&keyed("/api/1/envelope/"), &close, of_size(60).as_bytes());
    let refusal = eventually("the others have their room", 3 * SOON, async || {
        large.drip().await;
        small.drip().await;
        // Adds small bodies until even one more finds no room.
        small.0.extend(Stalling::begin(&relay, [of_size(63)]).await.0);
        let mut wire = Wire::connect(&relay.address()).await;
        wire.offer(&next).await;
        let answer = wire.answer().await;
        wire.ends().await;
        if answer.status == 503 { Ok(answer) } else { Err(format!("{answer:?}")) }
    })
    .await;
    assert_eq!(refusal.header("retry-after"), "30");
    assert!(refusal.detail().contains("in flight"), "{refusal:?}");
    assert!(small.end().await >= 4);
    assert_eq!(large.end().await, 2);
    assert_eq!(exchange(&relay.address(), &next).await.status, 200);
    // An encoded body is taken too.
    let noise: Vec<u8> = (0..40_000).flat_map(|_| *uuid::Uuid::new_v4().as_bytes()).collect();
    let head = format!("{{}}\n{{\"type\":\"attachment\",\"length\":{}}}\n", noise.len());
    let packed = zstd::encode_all(&[head.as_bytes(), &noise].concat()[..], 0).expect("memory");
    assert!(packed.len() > 500 * 1024);
    let request = post(&keyed("/api/1/envelope/"), &[("content-encoding", "zstd")], &packed);
    assert_eq!(exchange(&relay.address(), &request).await.status, 200);
    assert!(refused(&relay, "overloaded").await >= 1.0);
    relay.finish().await;
    assert!(upstream.taken_count() >= 10);
}
