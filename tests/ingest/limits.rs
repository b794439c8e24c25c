//! Size and number limits, and the answers over them.

use crate::support::envelopes::{envelope, new_id};
use crate::support::relay::SOON;
use crate::support::wire::{Wire, chunked, exchange, head, post};
use crate::{front, front_of, keyed, refused};

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

#[tokio::test]
async fn an_item_is_taken_at_its_size_limit_and_refused_over_it() {
    let (relay, upstream) = front_of(|plan| plan.server("max_body = \"16MiB\"")).await;
    let limits = [
        ("event", MIB),
        ("transaction", MIB),
        ("security", MIB),
        ("feedback", MIB),
        ("user_report", MIB),
        ("replay_event", MIB),
        ("form_data", MIB),
        ("statsd", MIB),
        ("client_report", 100 * KIB),
        ("check_in", 100 * KIB),
        ("session", 10 * MIB),
        ("sessions", 10 * MIB),
        ("replay_recording", 10 * MIB),
        ("replay_video", 10 * MIB),
        ("log", 12 * MIB),
        ("span", 12 * MIB),
        ("trace_metric", 12 * MIB),
        ("metric_buckets", MIB),
        ("raw_security", MIB),
    ];
    for (kind, limit) in limits {
        let over = relay.send(envelope(&new_id(), kind, &"x".repeat(limit + 1))).await;
        assert_eq!(over.status(), 413, "{kind}");
        let refusal: serde_json::Value = over.json().await.expect("JSON");
        let detail = refusal["detail"].as_str().expect("a detail");
        assert!(detail.contains(&format!(" {kind} ")) && detail.contains(&limit.to_string()), "{detail}");
    }
    assert_eq!(refused(&relay, "too_large").await, limits.len() as f64);
    for (kind, size) in [("event", MIB), ("client_report", 100 * KIB), ("x_unknown", 2 * MIB), ("attachment", 2 * MIB)]
    {
        assert_eq!(relay.send(envelope(&new_id(), kind, &"x".repeat(size))).await.status(), 200, "{kind}");
    }
    // One item over its limit makes the relay refuse the whole envelope.
    let body = envelope(&new_id(), "session", "{}") + &format!("{{\"type\":\"event\"}}\n{}", "x".repeat(MIB + 1));
    assert_eq!(relay.send(body).await.status(), 413);
    relay.balanced(SOON).await;
    assert_eq!(upstream.taken_count(), 4);
    relay.finish().await;
}

#[tokio::test]
async fn an_envelope_with_too_many_items_of_a_type_is_refused() {
    let (relay, upstream) = front_of(|plan| plan).await;
    let of = |kind: &str, count: usize| {
        let item = format!("{{\"type\":\"{kind}\"}}\n{{}}\n");
        format!("{{\"event_id\":\"{}\"}}\n{}", new_id(), item.repeat(count))
    };
    let limits = [
        ("transaction", 1),
        ("security", 1),
        ("replay_event", 1),
        ("feedback", 1),
        ("form_data", 1),
        ("check_in", 1),
        ("profile", 1),
        ("profile_chunk", 1),
        ("replay_recording", 1),
        ("replay_video", 1),
        ("attachment", 30),
        ("session", 100),
        ("sessions", 100),
    ];
    for (kind, limit) in limits {
        let over = relay.send(of(kind, limit + 1)).await;
        assert_eq!(over.status(), 413, "{kind}");
        let refusal: serde_json::Value = over.json().await.expect("JSON");
        let detail = refusal["detail"].as_str().expect("a detail");
        assert_eq!(detail, format!("one {kind} item too many: {limit} in one envelope is the limit"));
        assert_eq!(relay.send(of(kind, limit)).await.status(), 200, "{kind}");
    }
    assert_eq!(refused(&relay, "too_large").await, limits.len() as f64);
    // Several events are for the trackers to take or to refuse.
    assert_eq!(relay.send(of("event", 3)).await.status(), 200);
    relay.balanced(SOON).await;
    assert_eq!(upstream.taken_count(), limits.len() + 1);
    relay.finish().await;
}

#[tokio::test]
async fn envelopes_are_limited_to_1000_items_and_header_lines_of_64_kib() {
    let (relay, upstream) = front_of(|plan| plan).await;
    let items = |count: usize| format!("{{}}\n{}", "{\"type\":\"x_new\"}\n{}\n".repeat(count));
    let header = |size: usize| format!("{{\"x\":\"{}\"}}\n{{\"type\":\"x_new\"}}\n{{}}\n", "x".repeat(size));
    for (body, status, words) in [
        (items(1000), 200, ""),
        (items(1001), 413, "1000 items"),
        (header(65_000), 200, ""),
        (header(66_000), 400, "line"),
    ] {
        let answer = relay.send(body).await;
        assert_eq!(answer.status(), status, "{words}");
        let answer: serde_json::Value = answer.json().await.expect("JSON");
        assert!(answer["detail"].as_str().unwrap_or_default().contains(words), "{answer}");
    }
    relay.balanced(SOON).await;
    assert_eq!(upstream.taken_count(), 2);
    relay.finish().await;
}

#[tokio::test]
async fn a_client_that_sends_all_of_a_body_over_200_mib_before_it_reads_gets_a_413() {
    let (relay, upstream) = front().await;
    let answer = exchange(&relay.address(), &post(&keyed("/api/1/envelope/"), &[], &vec![b'x'; 201 * MIB])).await;
    assert_eq!(answer.status, 413, "{answer:?}");
    relay.finish().await;
    assert_eq!(upstream.seen().len(), 0);
}

#[tokio::test]
async fn a_body_over_max_body_is_refused_whether_it_says_so_or_not() {
    let (relay, upstream) = front_of(|plan| plan.server("max_body = \"2MiB\"")).await;
    let path = keyed("/api/1/envelope/");
    let body = envelope(&new_id(), "attachment", &"x".repeat(2 * MIB));
    let body = body.as_bytes();
    // The answer to an announced length does not wait for the body.
    let mut wire = Wire::connect(&relay.address()).await;
    wire.send(&head("POST", &path, &[("content-length", "3000000000")])).await;
    let announced = wire.answer().await;
    wire.ends().await;
    // A client that sends everything before it reads gets the same answer.
    let sent = exchange(&relay.address(), &post(&path, &[], body)).await;
    let in_chunks = exchange(&relay.address(), &chunked(&path, &[], body, 60_000)).await;
    let gzip = zstd::encode_all(body, 0).expect("memory");
    let decoded = exchange(&relay.address(), &post(&path, &[("content-encoding", "zstd")], &gzip)).await;
    for answer in [announced, sent, in_chunks, decoded] {
        assert_eq!(answer.status, 413);
        let detail = answer.detail();
        assert!(detail.contains("max_body") && detail.contains("2097152"), "{detail}");
    }
    assert_eq!(refused(&relay, "too_large").await, 4.0);
    assert_eq!(upstream.seen().len(), 0);
    relay.finish().await;
}
