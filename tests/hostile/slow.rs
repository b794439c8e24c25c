//! Clients that never read what they asked for, and those that never bring what they announced.

use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::{interval, timeout};

use super::beside::beside;
use crate::support::envelopes::{envelope, new_id};
use crate::support::memory::Memory;
use crate::support::relay::Relay;
use crate::support::wire::{head, post};
use crate::{front, keyed};

/// What the whole attack may take for itself, in KiB.
const MOST_MEMORY: u64 = 32 * 1024;

async fn costs_little<T>(relay: &Relay, what: &str, attack: impl Future<Output = T>) -> (T, usize) {
    let memory = Memory::of(relay.pid());
    memory.forget_peak();
    let before = memory.resident();
    let (held, sent) = beside(relay, attack).await;
    let grown = memory.peak().saturating_sub(before);
    eprintln!("{what}: {grown} KiB more than {before} KiB at the most");
    assert!(grown < MOST_MEMORY, "{what}: {grown} KiB");
    (held, sent)
}

#[tokio::test]
async fn clients_that_never_read_their_answers_cost_little_and_keep_nobody_from_being_served() {
    let (relay, upstream) = front().await;
    // 404 each, so that nothing of it is to arrive.
    let requests = post("/nowhere/", &[], b"").repeat(200);
    let attack = futures_util::future::join_all((0..100).map(async |_| {
        let mut stream = TcpStream::connect(relay.address()).await.expect("a connection");
        // Until the relay takes no more of them, because nobody takes its answers.
        let flood = async { while stream.write_all(&requests).await.is_ok() {} };
        let flooded = timeout(Duration::from_secs(2), flood).await;
        assert!(flooded.is_err(), "a client that does not read is not cut off at once");
        stream
    }));
    let (held, sent) = costs_little(&relay, "100 clients that never read", attack).await;
    drop(held);
    relay.finish().await;
    assert_eq!(upstream.taken_count(), sent);
}

#[tokio::test]
async fn clients_that_announce_much_and_bring_little_take_no_room_from_others() {
    let (relay, upstream) = front().await;
    let announced = |path: &str, kind: &str| {
        let mut request = head("POST", &keyed(path), &[("content-length", "1048576"), ("content-type", kind)]);
        request.extend_from_slice(b"--x\r\nContent-Disposition: form-data; name=\"a\"; filename=\"a\"\r\n\r\n");
        request
    };
    let requests = [
        announced("/api/1/envelope/", "application/x-sentry-envelope"),
        announced("/api/1/store/", "application/json"),
        announced("/api/1/minidump/", "multipart/form-data; boundary=x"),
        announced("/api/1/csp-report/", "application/csp-report"),
    ];
    // Together they announce five times what may be in memory.
    let attack = async {
        let mut crowd = vec![];
        for turn in 0..300 {
            let mut stream = TcpStream::connect(relay.address()).await.expect("a connection");
            stream.write_all(&requests[turn % requests.len()]).await.expect("bytes are taken");
            crowd.push(stream);
        }
        let mut turns = interval(Duration::from_millis(200));
        for _ in 0..10 {
            turns.tick().await;
            for stream in &mut crowd {
                stream.write_all(b"x").await.expect("a byte is taken");
            }
            let large = relay.send(envelope(&new_id(), "attachment", &"x".repeat(900 * 1024))).await;
            assert_eq!(large.status(), 200);
        }
        crowd
    };
    let (crowd, sent) = costs_little(&relay, "300 clients that bring little of what they announced", attack).await;
    drop(crowd);
    relay.finish().await;
    assert_eq!(upstream.taken_count(), sent + 10);
}
