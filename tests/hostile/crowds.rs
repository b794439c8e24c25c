//! Crowds: ten thousand connections that say nothing, or nothing more.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use super::beside::beside;
use crate::front;
use crate::support::eventually::eventually;
use crate::support::memory::Memory;
use crate::support::relay::Relay;
use crate::support::wire::head;

const CROWD: usize = 10_000;
/// What the relay may have with all of them when they say nothing, in KiB.
const MOST_IDLE: u64 = 64 * 1024;
/// The same when each has a buffer of the HTTP library's for what it reads and one for what it writes.
const MOST_USED: u64 = 320 * 1024;

/// Lets this process, and the relay it starts, have as many files open as the system allows.
fn many_open_files() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).expect("up to the hard limit");
    let enough = maximum.is_none_or(|maximum| maximum > CROWD as u64 + 500);
    assert!(enough, "this test needs {} open files: raise the hard limit (ulimit -Hn)", CROWD + 500);
}

/// A connection from an address of its own for each few thousand, so that ports do not run short.
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

/// Waits until the relay has accepted all of them.
async fn accepted(relay: &Relay) {
    let folder = format!("/proc/{}/fd", relay.pid());
    eventually("all connections are accepted", Duration::from_secs(20), async || {
        let open = std::fs::read_dir(&folder).expect("a running process").count();
        if open > CROWD { Ok(()) } else { Err(format!("{open} files are open")) }
    })
    .await;
}

/// What the relay has with a crowd that `begin` has made, in KiB, while others are served.
async fn costs(what: &str, begin: impl AsyncFnMut(&mut TcpStream)) -> u64 {
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
    resident
}

#[tokio::test]
async fn ten_thousand_idle_connections_cost_little_and_keep_nobody_from_being_served() {
    let resident = costs("that say nothing", async |_| ()).await;
    assert!(resident < MOST_IDLE, "{resident} KiB");
}

#[tokio::test]
async fn ten_thousand_connections_that_began_a_request_cost_as_little() {
    let begin = async |stream: &mut TcpStream| {
        stream.write_all(b"POST /api/1/envelope/ HTTP/1.1\r\nhost:").await.expect("bytes are taken");
    };
    let resident = costs("that began a request", begin).await;
    assert!(resident < MOST_IDLE, "{resident} KiB");
}

#[tokio::test]
async fn ten_thousand_connections_that_were_answered_cost_what_their_buffers_take() {
    let health = head("GET", "/api/relay/healthcheck/live/", &[]);
    let resident = costs("that were answered", async |stream| {
        stream.write_all(&health).await.expect("a request is taken");
        let mut answer = [0; 1024];
        let n = stream.read(&mut answer).await.expect("an answer");
        assert!(answer[..n].starts_with(b"HTTP/1.1 200"));
    })
    .await;
    assert!(resident < MOST_USED, "{resident} KiB");
}
