//! HTTP/2 requests that are reset as soon as they are complete: they no longer count among the streams of their connection.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;

use super::beside::beside;
use crate::support::http2::Http2;
use crate::support::wire::{exchange, post};
use crate::{front, keyed};

const REQUESTS: usize = 200;
/// The maximum number of requests under way per connection.
const UNDER_WAY: f64 = 64.0;
fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(vec![], Compression::best());
    encoder.write_all(text).expect("memory");
    encoder.finish().expect("memory")
}

#[tokio::test(flavor = "multi_thread")]
async fn reset_http2_requests_are_finished_up_to_the_limit_of_streams() {
    const ENCODINGS: &str = "gzip, gzip";
    let (relay, upstream) = front().await;
    // Two KiB that decode to more than a body may have.
    let (path, bomb) = (keyed("/api/1/envelope/"), gzip(&gzip(&vec![0; 256 << 20])));
    let attack = async {
        let mut connection = Http2::connect(&relay.address()).await;
        for _ in 0..REQUESTS {
            connection.post_and_reset(&path, ENCODINGS, bomb.clone()).await;
        }
        connection
    };
    let ended = async || {
        let samples = relay.samples().await.expect("metrics");
        ["413", "503"]
            .map(|code| samples.sum("switchyard_received_requests_total", &[("code", code)]))
            .iter()
            .sum::<f64>()
    };
    let (connection, sent) = beside(&relay, attack).await;
    let before = ended().await;
    // A later request waits for its turn.
    let answer = exchange(&relay.address(), &post(&path, &[("content-encoding", ENCODINGS)], &bomb)).await;
    assert!(matches!(answer.status, 413 | 503), "{answer:?}");
    let under_way = ended().await - before - 1.0;
    eprintln!("{before} of {REQUESTS} requests were brought to their end while they came, {under_way} afterwards");
    assert!((UNDER_WAY / 2.0..=UNDER_WAY).contains(&under_way), "{under_way}");
    drop(connection);
    relay.finish().await;
    assert_eq!(upstream.taken_count(), sent);
}
