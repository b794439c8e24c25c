//! Clients that never read their answers, and clients that never send what they announced.

use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{interval, timeout};

use super::beside::beside;
use crate::support::envelopes::{KEY, envelope, new_id};
use crate::support::memory::Memory;
use crate::support::relay::{Plan, Relay};
use crate::support::upstream::Upstream;
use crate::support::wire::{Wire, head, post};
use crate::{front, keyed};

/// The memory that the whole attack may take, in KiB.
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
async fn clients_that_never_read_their_answers_cost_little_and_hold_nobody_up() {
    let (relay, upstream) = front().await;
    // Each request gets a 404, so nothing of it may arrive.
    let requests = post("/nowhere/", &[], b"").repeat(200);
    let address = relay.address().parse().expect("an address");
    let attack = futures_util::future::join_all((0..100).map(async |_| {
        // With a small buffer of its own, a client is full of answers at once.
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(4096).expect("a small buffer");
        let mut stream = socket.connect(address).await.expect("a connection");
        // Sends until the relay takes no more requests because nobody reads its answers.
        while let Ok(written) = timeout(Duration::from_secs(1), stream.write_all(&requests)).await {
            written.expect("a client that does not read is not cut off at once");
        }
        stream
    }));
    let (held, sent) = costs_little(&relay, "100 clients that never read", attack).await;
    drop(held);
    relay.finish().await;
    assert_eq!(upstream.taken_count(), sent);
}

#[tokio::test]
async fn clients_that_only_announce_large_bodies_take_no_room_from_others() {
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
    // Together the clients announce five times the memory for bodies.
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

/// Every route that reads a body, with a content type that it accepts.
fn routes() -> Vec<(String, &'static str)> {
    const JSON: &str = "application/json";
    let of_project = [
        ("envelope", "text/plain"),
        ("store", JSON),
        ("store", "application/x-sentry-envelope"),
        ("security", JSON),
        ("csp-report", "application/csp-report"),
        ("nel", JSON),
        ("minidump", "application/x-dmp"),
        ("minidump", "multipart/form-data; boundary=x"),
        ("events/9ec79c33ec9942ab8353589fcb2e04dc/attachments", "multipart/form-data; boundary=x"),
        ("cron/nightly", JSON),
        ("integration/otlp/v1/traces", "application/x-protobuf"),
        ("otlp/v1/logs", JSON),
        ("integration/vercel/logs", JSON),
        ("integration/heroku/logs", "application/logplex-1"),
        ("brand-new/thing", JSON),
    ];
    let mut all: Vec<_> = of_project.map(|(path, kind)| (format!("/api/1/{path}/"), kind)).into();
    all.extend([
        ("/api/store/".to_owned(), JSON),
        ("/tunnel/".to_owned(), "text/plain"),
        (format!("/api/1/unreal/{KEY}/"), "application/octet-stream"),
        (format!("/api/1/cron/nightly/{KEY}/"), JSON),
        ("/api/0/x/".to_owned(), JSON),
        ("/api/0/organizations/shop/chunk-upload/".to_owned(), JSON),
    ]);
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_large_bodies_on_any_route_leave_small_envelopes_served() {
    const ROOM: usize = 8 << 20;
    let upstream = Upstream::start().await;
    let relay = Plan::new(&[("tracker", upstream.dsn("cafe", 7))])
        .server("max_inflight_bytes = \"8MiB\"")
        .server("tunnel = \"/tunnel\"")
        .start()
        .await;
    let length = ROOM.to_string();
    let mut attacks = vec![];
    for (path, kind) in routes() {
        // Requests without the key, and with the key from a page.
        for path in [keyed(&path), path] {
            for encoding in ["identity", "gzip"] {
                let headers = [("content-type", kind), ("content-encoding", encoding), ("content-length", &*length)];
                attacks.push(head("POST", &path, &headers));
            }
        }
    }
    let count = attacks.len();
    // Each sends almost as much as fits into memory; one of them used to take all of it.
    let begin = async |head: Vec<u8>| {
        let mut wire = Wire::connect(&relay.address()).await;
        wire.offer(&head).await;
        wire.offer(&vec![b'x'; ROOM - 4096]).await;
        wire
    };
    let attack = async {
        let mut wires = futures_util::future::join_all(attacks.into_iter().map(begin)).await;
        let mut turns = interval(Duration::from_millis(200));
        for _ in 0..10 {
            turns.tick().await;
            for wire in &mut wires {
                wire.offer(b"x").await;
            }
        }
        wires
    };
    let (wires, sent) = beside(&relay, attack).await;
    eprintln!("{count} large bodies that come slowly");
    drop(wires);
    relay.finish().await;
    let envelopes = upstream.taken().into_iter().filter(|seen| seen.path.ends_with("/envelope/"));
    assert_eq!(envelopes.count(), sent);
}
