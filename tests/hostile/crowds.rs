//! Crowds: ten thousand connections that send nothing, or nothing more.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::beside::beside;
use crate::support::envelopes::{envelope, new_id};
use crate::support::eventually::eventually;
use crate::support::memory::Memory;
use crate::support::relay::{Plan, Relay, SOON};
use crate::support::upstream::Upstream;
use crate::support::wire::{Wire, exchange, head, post};
use crate::{front, keyed};

const CROWD: usize = 10_000;
/// The maximum cost of ten thousand silent connections, in KiB.
const MOST_IDLE: u64 = 22 * 1024;
/// The maximum cost when each has a read and a write buffer of the HTTP library, in KiB.
const MOST_USED: u64 = 272 * 1024;

/// One crowd at a time: this process may not have files open for two.
static ONE: Mutex<()> = Mutex::const_new(());

/// Raises the limit of open files for this process and its children to the hard limit.
fn many_open_files() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).expect("up to the hard limit");
    let enough = maximum.is_none_or(|maximum| maximum > CROWD as u64 + 2500);
    assert!(enough, "this test needs {} open files: raise the hard limit (ulimit -Hn)", CROWD + 2500);
}

/// A connection from an address that it shares with a few thousand others, so that ports do not run out.
async fn connect(to: SocketAddr, turn: usize) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    let from = Ipv4Addr::new(127, 0, 0, 2 + u8::try_from(turn / 2500).expect("few addresses"));
    socket.bind((from, 0).into()).expect("an address of this machine");
    socket.connect(to).await.expect("a connection")
}

async fn crowd(relay: &Relay, mut begin: impl AsyncFnMut(&mut TcpStream)) -> Vec<TcpStream> {
    let to: SocketAddr = relay.address().parse().expect("an address");
    let mut all = Vec::with_capacity(CROWD);
    for turn in 0..CROWD {
        let mut stream = connect(to, turn).await;
        begin(&mut stream).await;
        all.push(stream);
    }
    all
}

/// Waits until the relay has accepted the whole crowd.
async fn accepted(relay: &Relay) {
    let folder = format!("/proc/{}/fd", relay.pid());
    eventually("all connections are accepted", Duration::from_secs(20), async || {
        let open = std::fs::read_dir(&folder).expect("a running process").count();
        if open > CROWD { Ok(()) } else { Err(format!("{open} files are open")) }
    })
    .await;
}

/// The memory that a crowd costs the relay in KiB while others are served; `begin` uses each new connection.
async fn costs(what: &str, begin: impl AsyncFnMut(&mut TcpStream)) -> u64 {
    let _one = ONE.lock().await;
    many_open_files();
    let (relay, upstream) = front().await;
    let memory = Memory::of(relay.pid());
    let before = memory.resident();
    let attack = async {
        let crowd = crowd(&relay, begin).await;
        accepted(&relay).await;
        (memory.resident(), crowd)
    };
    let ((resident, crowd), sent) = beside(&relay, attack).await;
    eprintln!("{CROWD} connections {what}: {resident} KiB, {before} KiB before");
    drop(crowd);
    relay.finish().await;
    assert_eq!(upstream.taken_count(), sent);
    resident.saturating_sub(before)
}

#[tokio::test]
async fn ten_thousand_idle_connections_cost_little_and_hold_nobody_up() {
    let cost = costs("that say nothing", async |_| ()).await;
    assert!(cost < MOST_IDLE, "{cost} KiB");
}

#[tokio::test]
async fn ten_thousand_connections_with_a_begun_request_cost_as_little() {
    let begin = async |stream: &mut TcpStream| {
        stream.write_all(b"POST /api/1/envelope/ HTTP/1.1\r\nhost:").await.expect("bytes are taken");
    };
    let cost = costs("that began a request", begin).await;
    assert!(cost < MOST_IDLE, "{cost} KiB");
}

#[tokio::test]
async fn ten_thousand_answered_connections_cost_only_their_buffers() {
    let health = head("GET", "/api/relay/healthcheck/live/", &[]);
    let cost = costs("that were answered", async |stream| {
        stream.write_all(&health).await.expect("a request is taken");
        let mut answer = [0; 1024];
        let n = stream.read(&mut answer).await.expect("an answer");
        assert!(answer[..n].starts_with(b"HTTP/1.1 200"));
    })
    .await;
    assert!(cost < MOST_USED, "{cost} KiB");
}

#[tokio::test]
async fn operators_who_say_nothing_ask_nothing_more_or_read_nothing_keep_no_other_waiting() {
    let (relay, upstream) = front().await;
    let to: SocketAddr = relay.admin_address().parse().expect("an address");
    let ask = |path: &str| head("GET", path, &[]);
    let begun = async |bytes: &[u8]| {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(4096).expect("a small buffer");
        let mut stream = socket.connect(to).await.expect("a connection");
        drop(timeout(Duration::from_millis(100), stream.write_all(bytes)).await);
        stream
    };
    // Each kind takes all places by itself.
    let attack = async {
        let mut crowd = vec![];
        for bytes in [vec![], ask("/healthz"), ask("/metrics").repeat(500)] {
            for _ in 0..80 {
                crowd.push(begun(&bytes).await);
            }
            let ready = exchange(&relay.admin_address(), &head("GET", "/readyz", &[("connection", "close")])).await;
            assert_eq!(ready.status, 200, "{ready:?}");
        }
        crowd
    };
    let (crowd, sent) = beside(&relay, attack).await;
    drop(crowd);
    relay.finish().await;
    assert_eq!(upstream.taken_count(), sent);
}

/// A relay that is started after this shell command, and a connection to it that has served a request.
async fn limited(ulimit: &str) -> (Relay, Upstream, Wire) {
    let upstream = Upstream::start().await;
    let mut relay = Plan::new(&[("tracker", upstream.dsn("cafe", 7))]).prepare();
    relay.launch_after(ulimit);
    relay.await_ready().await;
    let mut wire = Wire::connect(&relay.address()).await;
    wire.send(&event(4)).await;
    assert_eq!(wire.answer().await.status, 200);
    (relay, upstream, wire)
}

fn event(size: usize) -> Vec<u8> {
    post(&keyed("/api/1/envelope/"), &[], envelope(&new_id(), "attachment", &"x".repeat(size)).as_bytes())
}

#[tokio::test]
async fn connections_leave_file_descriptors_for_operators_and_the_journal() {
    let (relay, upstream, mut wire) = limited("ulimit -n 256").await;
    let mut crowd = vec![];
    for _ in 0..400 {
        crowd.push(TcpStream::connect(relay.address()).await.expect("a connection"));
    }
    let open = format!("/proc/{}/fd", relay.pid());
    eventually("connections take what is left for them", SOON, async || {
        let open = std::fs::read_dir(&open).expect("a running process").count();
        if open > 128 { Ok(()) } else { Err(format!("{open} files are open")) }
    })
    .await;
    for _ in 0..10 {
        // Each round needs a new connection to the admin listener and a file for the large body.
        let status = exchange(&relay.admin_address(), &head("GET", "/readyz", &[("connection", "close")])).await;
        assert_eq!(status.status, 200);
        for size in [4, 2 << 20] {
            wire.send(&event(size)).await;
            assert_eq!(wire.answer().await.status, 200);
        }
    }
    assert!(relay.log().contains("few connections can be open at once"), "{}", relay.log());
    relay.balanced(SOON).await;
    drop(crowd);
    assert_eq!(relay.send(envelope(&new_id(), "attachment", "late")).await.status(), 200);
    relay.balanced(SOON).await;
    relay.finish().await;
    assert_eq!(upstream.taken_count(), 22);
}

#[tokio::test]
async fn a_soft_limit_of_open_files_is_raised_to_the_hard_one() {
    many_open_files();
    let (relay, upstream, wire) = limited("ulimit -S -n 128").await;
    let mut crowd = vec![];
    for _ in 0..300 {
        crowd.push(TcpStream::connect(relay.address()).await.expect("a connection"));
    }
    let open = format!("/proc/{}/fd", relay.pid());
    eventually("all connections are accepted", SOON, async || {
        let open = std::fs::read_dir(&open).expect("a running process").count();
        if open > 300 { Ok(()) } else { Err(format!("{open} files are open")) }
    })
    .await;
    assert!(relay.log().contains("the limit of open files was raised"), "{}", relay.log());
    drop((crowd, wire));
    relay.finish().await;
    assert_eq!(upstream.taken_count(), 1);
}
