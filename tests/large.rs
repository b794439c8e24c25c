//! Large envelopes cost disk, not memory: they are received, kept and delivered in pieces, byte for byte, and their files go with their
//! records.

mod support;

use std::fs;
use std::io::Write as _;
use std::time::Duration;

use support::connection::{Answer, Connection};
use support::envelopes::{self, KEY, new_id};
use support::eventually::eventually;
use support::memory::Memory;
use support::meter::{Measured, Meter};
use support::relay::{Plan, Relay, SOON, needs_a_file};
use support::upstream::{Reply, Upstream};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

const MIB: usize = 1 << 20;
/// A timeout for a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// The maximum memory of the relay.
const MOST_MEMORY_MIB: u64 = 96;

/// Bytes that hardly repeat.
fn noise(size: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..size.div_ceil(8)).flat_map(|_| next()).take(size).collect()
}

/// The beginning of an envelope of one attachment, before the payload.
fn beginning(payload: usize) -> String {
    format!("{{\"event_id\":\"{}\"}}\n{{\"type\":\"attachment\",\"length\":{payload}}}\n", new_id())
}

/// An envelope of one attachment.
fn envelope(payload: &[u8]) -> Vec<u8> {
    [beginning(payload.len()).as_bytes(), payload, b"\n"].concat()
}

fn plan(upstreams: &[(&str, String)]) -> Plan {
    Plan::new(upstreams).journal("min_free_disk = \"0B\"").journal("max_size = \"4GiB\"")
}

/// The names of the files in the folder of large bodies.
fn files(relay: &Relay) -> Vec<String> {
    let folder = fs::read_dir(relay.home().join("journal.db-bodies")).expect("the folder of large bodies");
    folder.map(|file| file.expect("a file").file_name().to_string_lossy().into_owned()).collect()
}

async fn taken(meter: &Meter, mut expected: Vec<Measured>) {
    expected.sort();
    eventually("everything arrives as it was sent", PATIENCE, async || {
        let taken = meter.taken();
        if taken == expected { Ok(()) } else { Err(format!("{} of {}", taken.len(), expected.len())) }
    })
    .await;
}

/// Sends an envelope with an attachment of `mib` MiB piece by piece; it must be taken.
async fn send_large(address: String, mib: usize, block: &[u8]) -> Measured {
    let beginning = beginning(mib * block.len());
    let mut pieces = vec![beginning.as_bytes()];
    pieces.extend(std::iter::repeat_n(block, mib));
    pieces.push(b"\n");
    let length = pieces.iter().map(|piece| piece.len()).sum();
    let mut connection = Connection::open(&address).await.expect("a connection");
    connection.write(Connection::head(length).as_bytes()).await.expect("the head is taken");
    for piece in &pieces {
        connection.write(piece).await.expect("the body is taken");
    }
    let answer = connection.answer().await.expect("an answer");
    assert_eq!(answer.status, 200, "{answer:?}");
    Measured::of(&pieces)
}

/// A value from the relay's `/proc/PID/status`, in MiB.
fn memory(relay: &Relay, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", relay.pid())).expect("a running process");
    let line = status.lines().find(|line| line.starts_with(name)).expect("the figure");
    line.split_whitespace().nth(1).and_then(|n| n.parse::<u64>().ok()).expect("a number of KiB") / 1024
}

#[tokio::test(flavor = "multi_thread")]
async fn eight_attachments_of_100_mib_in_flight_stay_within_96_mib_of_memory() {
    let (a, b) = (Meter::start().await, Meter::start().await);
    // Both read the beginning of each envelope and stop until all are on their way.
    a.set_open(false);
    b.set_open(false);
    let relay = plan(&[("a", a.dsn()), ("b", b.dsn())]).start().await;
    let block = noise(MIB);
    let sent = (0..8).map(|_| send_large(relay.address(), 100, &block));
    let sent = futures_util::future::join_all(sent).await;
    eventually("all are on their way to both", PATIENCE, async || match (a.begun(), b.begun()) {
        (8, 8) => Ok(()),
        begun => Err(format!("{begun:?}")),
    })
    .await;
    let in_flight = memory(&relay, "VmRSS");
    a.set_open(true);
    b.set_open(true);
    taken(&a, sent.clone()).await;
    taken(&b, sent).await;
    let most = memory(&relay, "VmHWM");
    println!("resident with eight 100 MiB attachments in flight: {in_flight} MiB, at the most {most} MiB");
    assert!(most <= MOST_MEMORY_MIB, "{most} MiB");
    relay.finish().await;
}

async fn post(relay: &Relay, encoding: Option<&str>, body: &[u8]) -> Answer {
    let mut connection = Connection::open(&relay.address()).await.expect("a connection");
    let mut head = Connection::head(body.len());
    if let Some(encoding) = encoding {
        head = head.replacen("content-length", &format!("content-encoding: {encoding}\r\ncontent-length"), 1);
    }
    connection.write(head.as_bytes()).await.expect("the head is taken");
    // A refusal may come before the whole body was sent.
    connection.write(body).await.ok();
    connection.answer().await.expect("an answer")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_envelope_is_delivered_from_any_encoding_and_without_lengths() {
    let a = Meter::start().await;
    let relay = plan(&[("a", a.dsn())]).start().await;
    // A body too large for memory both encoded and decoded, and a small one that decodes to a large one.
    let mixed = envelope(&[noise(2 * MIB), vec![0; 3 * MIB]].concat());
    let zeros = envelope(&vec![0; 3 * MIB]);
    let without_length =
        [b"{}\n{\"type\":\"profile\"}\n".as_slice(), "p".repeat(2 * MIB).as_bytes(), b"\n{\"type\":\"session\"}\n{}"]
            .concat();
    let mut gzip = flate2::write::GzEncoder::new(vec![], flate2::Compression::fast());
    gzip.write_all(&mixed).expect("memory");
    let gzip = gzip.finish().expect("memory");
    assert!(gzip.len() > MIB);
    for (encoding, body) in [
        (Some("gzip"), &gzip),
        (Some("zstd"), &zstd::encode_all(&zeros[..], 0).expect("memory")),
        (None, &without_length),
    ] {
        let answer = post(&relay, encoding, body).await;
        assert_eq!(answer.status, 200, "{encoding:?}: {answer:?}");
    }
    let sent = [mixed, zeros, without_length].iter().map(|body| Measured::of(&[body])).collect();
    taken(&a, sent).await;
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_envelope_outlives_a_kill_and_unacknowledged_files_go() {
    if needs_a_file("it looks at the folder of bodies") {
        return;
    }
    let a = Meter::start().await;
    a.set_open(false);
    let mut relay = plan(&[("a", a.dsn())]).start().await;
    let body = envelope(&noise(5 * MIB));
    assert_eq!(post(&relay, None, &body).await.status, 200);
    let mut unfinished = Connection::open(&relay.address()).await.expect("a connection");
    unfinished.write(Connection::head(body.len()).as_bytes()).await.expect("the head is taken");
    unfinished.write(&body[..3 * MIB]).await.expect("the half is taken");
    eventually("half a body is in the folder", PATIENCE, async || match files(&relay).len() {
        2 => Ok(()),
        n => Err(n.to_string()),
    })
    .await;
    relay.kill();
    assert_eq!(files(&relay).len(), 2);
    a.set_open(true);
    relay.launch();
    relay.await_ready().await;
    assert_eq!(files(&relay).len(), 1, "the start removes what was never acknowledged");
    relay.balanced(PATIENCE).await;
    assert!(a.taken().contains(&Measured::of(&[&body])));
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_envelope_is_delivered_once_its_file_can_be_opened_again() {
    if needs_a_file("it looks at the folder of bodies") {
        return;
    }
    let a = Meter::start().await;
    a.set_open(false);
    let mut relay = plan(&[("a", a.dsn())]).start().await;
    let body = envelope(&noise(2 * MIB));
    assert_eq!(post(&relay, None, &body).await.status, 200);
    relay.kill();
    let file = relay.home().join("journal.db-bodies").join(&files(&relay)[0]);
    let away = relay.home().join("away");
    fs::rename(&file, &away).expect("the file is moved away");
    a.set_open(true);
    relay.launch();
    relay.await_ready().await;
    eventually("it is said", PATIENCE, async || match relay.log() {
        log if log.contains("cannot be read; it is tried again later") => Ok(()),
        log => Err(log),
    })
    .await;
    relay.stop().await;
    fs::rename(&away, &file).expect("the file is moved back");
    relay.launch();
    relay.await_ready().await;
    relay.balanced(SOON).await;
    assert!(a.taken().contains(&Measured::of(&[&body])));
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_body_that_does_not_fit_gets_503_and_leaves_nothing() {
    if needs_a_file("it looks at the folder of bodies") {
        return;
    }
    let upstream = Upstream::start().await;
    upstream.always(Reply::status(503));
    let relay = Plan::new(&[("tracker", upstream.dsn("cafe", 7))])
        .journal("min_free_disk = \"0B\"")
        .journal("max_size = \"12MiB\"")
        .journal("retain = \"1s\"")
        .start()
        .await;
    assert_eq!(post(&relay, None, &envelope(&noise(4 * MIB))).await.status, 200);
    let refused = post(&relay, None, &envelope(&noise(20 * MIB))).await;
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("30")), "{refused:?}");
    // A client that leaves halfway leaves no file either.
    let mut leaving = Connection::open(&relay.address()).await.expect("a connection");
    leaving.write(Connection::head(4 * MIB).as_bytes()).await.expect("the head is taken");
    leaving.write(&envelope(&noise(4 * MIB))[..2 * MIB]).await.expect("the half is taken");
    eventually("half a body is in the folder", PATIENCE, async || match files(&relay).len() {
        2 => Ok(()),
        n => Err(n.to_string()),
    })
    .await;
    drop(leaving);
    eventually("only the one that was taken is left", PATIENCE, async || match files(&relay).len() {
        1 => Ok(()),
        n => Err(n.to_string()),
    })
    .await;
    relay.send_errors(1).await;
    upstream.always(Reply::Ok);
    relay.balanced(PATIENCE).await;
    eventually("what was delivered goes after its time", PATIENCE, async || match files(&relay).len() {
        0 => Ok(()),
        n => Err(n.to_string()),
    })
    .await;
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_upstream_gets_a_large_envelope_and_a_stuck_one_is_retried() {
    let (slow, stuck) = (Meter::resting(Duration::from_millis(60)).await, Meter::start().await);
    stuck.set_open(false);
    let relay = plan(&[("slow", slow.dsn()), ("stuck", stuck.dsn())])
        .upstream("slow", "timeout = \"2s\"")
        .upstream("stuck", "timeout = \"2s\"")
        .start()
        .await;
    // Too much for the buffers of the sockets, which hold some MiB.
    let body = envelope(&noise(MIB).repeat(64));
    assert_eq!(post(&relay, None, &body).await.status, 200);
    taken(&slow, vec![Measured::of(&[&body])]).await;
    assert_eq!(slow.begun(), 1, "it was slower than the timeout, but never as slow as that");
    eventually("the stuck one is tried again", PATIENCE, async || match stuck.begun() {
        n if n >= 2 => Ok(()),
        n => Err(n.to_string()),
    })
    .await;
    stuck.set_open(true);
    taken(&stuck, vec![Measured::of(&[&body])]).await;
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_envelope_with_a_repeated_event_delivers_only_the_rest() {
    let a = Meter::start().await;
    let relay = plan(&[("a", a.dsn())]).start().await;
    let id = new_id();
    let event = envelopes::error(&id);
    let large = format!("{{\"type\":\"x_large\",\"length\":{}}}\n{}\n", 3 * MIB, "l".repeat(3 * MIB));
    for _ in 0..2 {
        assert_eq!(post(&relay, None, format!("{event}{large}").as_bytes()).await.status, 200);
    }
    let whole = Measured::of(&[event.as_bytes(), large.as_bytes()]);
    let rest = Measured::of(&[format!("{{\"event_id\":\"{id}\"}}\n").as_bytes(), large.as_bytes()]);
    taken(&a, vec![whole, rest]).await;
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_request_to_another_endpoint_costs_no_memory_and_outlives_a_kill() {
    if needs_a_file("it looks at the folder of bodies") {
        return;
    }
    const COUNT: usize = 16;
    let (a, b) = (Meter::start().await, Meter::start().await);
    a.set_open(false);
    b.set_open(false);
    let mut relay = plan(&[("a", a.dsn()), ("b", b.dsn())]).journal("retain = \"1s\"").start().await;
    let memory = Memory::of(relay.pid());
    let before = memory.resident();
    // Almost the maximum size; every fourth is compressed.
    let body = noise(12 * MIB - 64 * 1024);
    let packed = zstd::encode_all(&body[..], 1).expect("memory");
    for at in 0..COUNT {
        let encoding = if at % 4 == 3 { "zstd" } else { "identity" };
        let body = if at % 4 == 3 { &packed } else { &body };
        let head = format!(
            "POST /api/1/integration/otlp/v1/traces?sentry_key={KEY} HTTP/1.1\r\nhost: relay\r\n\
             content-type: application/x-protobuf\r\ncontent-encoding: {encoding}\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        let mut connection = Connection::open(&relay.address()).await.expect("a connection");
        connection.write(head.as_bytes()).await.expect("the head is taken");
        connection.write(body).await.expect("the body is taken");
        let answer = connection.answer().await.expect("an answer");
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    eventually("they are on their way to both", PATIENCE, async || match (a.begun(), b.begun()) {
        (8, 8) => Ok(()),
        begun => Err(format!("{begun:?}")),
    })
    .await;
    let (grown, database) = (memory.peak() - before, relay.home().join("journal.db"));
    println!("{COUNT} OTLP requests of 12 MiB, both upstreams hung: {grown} KiB more than {before} KiB at the most");
    assert!(grown < 32 * 1024, "{grown} KiB");
    assert_eq!(files(&relay).len(), COUNT);
    assert!(fs::metadata(&database).expect("a database").len() < 4 << 20);
    relay.kill();
    relay.launch();
    relay.await_ready().await;
    let (memory, before) = (Memory::of(relay.pid()), before / 1024);
    assert!(memory.resident() / 1024 < before + 32, "{} KiB after the start", memory.resident());
    a.set_open(true);
    b.set_open(true);
    taken(&a, vec![Measured::of(&[&body]); COUNT]).await;
    taken(&b, vec![Measured::of(&[&body]); COUNT]).await;
    eventually("the files go with their records", PATIENCE, async || match files(&relay).len() {
        0 => Ok(()),
        n => Err(n.to_string()),
    })
    .await;
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_200_that_comes_before_a_large_envelope_was_read_is_no_delivery() {
    let tracker = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = tracker.local_addr().expect("an address").port();
    let relay = Plan::new(&[("a", format!("http://key@127.0.0.1:{port}/11"))]).start().await;
    assert_eq!(post(&relay, None, &envelope(&noise(8 * MIB))).await.status, 200);
    let (mut early, _) = request(&tracker).await;
    early.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await.expect("a connection");
    eventually("the answer is not believed", SOON, async || {
        let what = relay.upstream("a").await["last_error"]["what"].to_string();
        if what.contains("before it had the envelope") { Ok(()) } else { Err(what) }
    })
    .await;
    let (mut whole, length) = request(&tracker).await;
    let mut body = vec![0; length];
    whole.read_exact(&mut body).await.expect("the envelope");
    whole.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await.expect("a connection");
    relay.finish().await;
}

/// The next connection of the relay, of which a request's head was read, and the length of the body that follows.
async fn request(tracker: &TcpListener) -> (TcpStream, usize) {
    let (mut stream, _) = tracker.accept().await.expect("a connection");
    let mut head = vec![];
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.expect("the head of a request"));
    }
    let head = String::from_utf8_lossy(&head).to_lowercase();
    let length = head.split_once("content-length: ").and_then(|(_, rest)| rest.lines().next()?.parse().ok());
    (stream, length.expect("a length"))
}
