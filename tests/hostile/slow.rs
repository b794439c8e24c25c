//! Clients that never read what they asked for.

use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::beside::beside;
use crate::front;
use crate::support::memory::Memory;
use crate::support::relay::Relay;
use crate::support::wire::post;

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
