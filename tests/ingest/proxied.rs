//! Behind a balancer that speaks the PROXY protocol a trusted proxy names the client, and nobody else may.
//!
//! A connection from [`PROXY`] is the proxy's.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use proxy_header::{ProxiedAddress, ProxyHeader};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::Instant;

use super::tls::Files;
use crate::support::envelopes::{self, new_id};
use crate::support::eventually::eventually;
use crate::support::relay::{Plan, Relay, SOON};
use crate::support::upstream::Upstream;
use crate::support::wire::{Wire, exchange, post};
use crate::{front_of, keyed, refused};

const PROXY: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
/// The header of a connection that a proxy makes for itself.
const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

fn options(plan: Plan) -> Plan {
    plan.server("proxy_protocol = true").server("trusted_proxies = [\"127.0.0.2/31\"]")
}

/// Opens a connection from the proxy's address.
async fn proxy(relay: &Relay) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind((PROXY, 0).into()).expect("an address of this machine");
    socket.connect(relay.address().parse().expect("an address")).await.expect("a connection")
}

/// The header of a connection that the proxy makes for `client`.
fn header(version: u8, client: &str) -> Vec<u8> {
    let source: SocketAddr = client.parse().expect("an address");
    let header = ProxyHeader::with_address(ProxiedAddress::stream(source, SocketAddr::new(source.ip(), 443)));
    let mut bytes = vec![];
    let made = if version == 1 { header.encode_v1(&mut bytes) } else { header.encode_v2(&mut bytes) };
    made.expect("a header");
    bytes
}

fn envelope_of(id: &str) -> Vec<u8> {
    post(&keyed("/api/1/envelope/"), &[("x-forwarded-for", "198.51.100.1")], envelopes::error(id).as_bytes())
}

/// The sender of the last event, as the upstream sees it.
async fn last_sender(relay: &Relay, upstream: &Upstream) -> String {
    relay.balanced(SOON).await;
    let seen = upstream.taken().pop().expect("an event");
    seen.headers["x-forwarded-for"].to_str().expect("text").to_owned()
}

#[tokio::test]
async fn trackers_learn_the_client_from_either_version_of_the_header() {
    let (relay, upstream) = front_of(options).await;
    for (header, sender) in [
        (header(1, "203.0.113.7:4711"), "203.0.113.7"),
        (header(2, "203.0.113.7:4711"), "203.0.113.7"),
        (header(1, "[2001:db8::7]:4711"), "2001:db8::7"),
        (header(2, "[2001:db8::7]:4711"), "2001:db8::7"),
        // On a connection that the proxy makes for itself, its forwarded address is believed.
        (LOCAL.to_vec(), "198.51.100.1, 127.0.0.2"),
        (b"PROXY UNKNOWN\r\n".to_vec(), "198.51.100.1, 127.0.0.2"),
    ] {
        // The header comes at once, or byte by byte.
        for is_slow in [false, true] {
            let mut wire = Wire::of(proxy(&relay).await);
            let pieces: Vec<&[u8]> = if is_slow { header.chunks(1).collect() } else { vec![&header] };
            for piece in pieces {
                wire.send(piece).await;
                tokio::task::yield_now().await;
            }
            for _ in 0..2 {
                wire.send(&envelope_of(&new_id())).await;
                assert_eq!(wire.answer().await.status, 200);
                assert_eq!(last_sender(&relay, &upstream).await, sender);
            }
        }
    }
    // A client without a proxy is served as usual.
    assert_eq!(exchange(&relay.address(), &envelope_of(&new_id())).await.status, 200);
    assert_eq!(last_sender(&relay, &upstream).await, "127.0.0.1");
    assert_eq!(refused(&relay, "proxy_protocol").await, 0.0);
    relay.finish().await;
}

#[tokio::test]
async fn tls_begins_after_the_proxy_header() {
    let (files, upstream) = (Files::new(), Upstream::start().await);
    let plan = Plan::new(&[("tracker", upstream.dsn("cafe", 7))]).server(&files.options());
    let relay = options(plan).start().await;
    let mut stream = proxy(&relay).await;
    tokio::io::AsyncWriteExt::write_all(&mut stream, &header(2, "203.0.113.7:4711")).await.expect("a header is taken");
    let mut stream = files.connector().connect("localhost".try_into().expect("a name"), stream).await.expect("TLS");
    tokio::io::AsyncWriteExt::write_all(&mut stream, &envelope_of(&new_id())).await.expect("a request is taken");
    let mut answer = [0; 12];
    tokio::io::AsyncReadExt::read_exact(&mut stream, &mut answer).await.expect("an answer");
    assert_eq!(&answer, b"HTTP/1.1 200");
    assert_eq!(last_sender(&relay, &upstream).await, "203.0.113.7");
    drop(stream);
    relay.finish().await;
}

#[tokio::test]
async fn only_trusted_proxies_may_send_the_header_and_they_must() {
    let (relay, upstream) = front_of(options).await;
    for version in [1, 2] {
        let claim = [header(version, "203.0.113.7:4711"), envelope_of(&new_id())].concat();
        let answer = exchange(&relay.address(), &claim).await;
        assert_eq!(answer.status, 400);
        assert!(answer.detail().contains("taken from trusted_proxies alone"), "{answer:?}");
    }
    for claim in [envelope_of(&new_id()), [b"PROXY ", &[b'x'; 2000][..]].concat(), b"PROXY TCP9 a b 1 2\r\n".to_vec()] {
        let mut wire = Wire::of(proxy(&relay).await);
        wire.send(&claim).await;
        let answer = wire.answer().await;
        assert_eq!(answer.status, 400);
        assert!(answer.detail().contains("must begin each connection with a header"), "{answer:?}");
        wire.ends().await;
    }
    // A check whether the port is open sends nothing and is not counted.
    drop(proxy(&relay).await);
    assert_eq!(refused(&relay, "proxy_protocol").await, 5.0);
    assert_eq!(upstream.seen().len(), 0);
    relay.finish().await;
}

#[tokio::test]
async fn a_proxy_header_is_refused_by_name_where_it_is_not_expected() {
    let (relay, upstream) = front_of(|plan| plan.server("trusted_proxies = [\"127.0.0.1\"]")).await;
    for version in [1, 2] {
        let claim = [header(version, "203.0.113.7:4711"), envelope_of(&new_id())].concat();
        let answer = exchange(&relay.address(), &claim).await;
        assert_eq!(answer.status, 400);
        assert!(answer.detail().contains("only where proxy_protocol is on"), "{answer:?}");
    }
    assert_eq!(refused(&relay, "proxy_protocol").await, 2.0);
    assert_eq!(upstream.seen().len(), 0);
    relay.finish().await;
}

#[tokio::test]
async fn one_client_has_a_limit_of_connections_and_others_have_theirs() {
    let (relay, upstream) = front_of(|plan| options(plan).server("max_connections_per_address = 3")).await;
    let mut sent = 0;
    let mut served = async |client: &str| {
        let mut wire = Wire::of(proxy(&relay).await);
        wire.send(&[header(2, client), envelope_of(&new_id())].concat()).await;
        let answer = wire.answer().await;
        sent += usize::from(answer.status == 200);
        (answer.status, wire)
    };
    let mut crowd = vec![];
    for port in 1..=3 {
        let (status, wire) = served(&format!("203.0.113.7:{port}")).await;
        assert_eq!(status, 200);
        crowd.push(wire);
    }
    assert_eq!(served("203.0.113.7:4").await.0, 503);
    assert_eq!(served("203.0.113.8:4").await.0, 200);
    // A network of IPv6 counts as one client, and loopback has no limit.
    for last in 1..=3 {
        let (status, wire) = served(&format!("[2001:db8:0:1::{last}]:1")).await;
        assert_eq!(status, 200);
        crowd.push(wire);
    }
    assert_eq!(served("[2001:db8:0:1::9]:1").await.0, 503);
    for port in 1..=9 {
        let (status, wire) = served(&format!("127.0.0.1:{port}")).await;
        assert_eq!(status, 200);
        crowd.push(wire);
    }
    let open = relay.samples().await.expect("metrics").sum("switchyard_open_connections", &[]);
    assert!(open >= 15.0, "{open}");
    drop(crowd);
    eventually("the client is let in again", SOON, async || match served("203.0.113.7:9").await.0 {
        200 => Ok(()),
        other => Err(other.to_string()),
    })
    .await;
    assert!(refused(&relay, "too_many_connections").await >= 2.0);
    relay.balanced(SOON).await;
    relay.finish().await;
    assert_eq!(upstream.taken_count(), sent);
}

#[tokio::test]
async fn an_idle_connection_is_kept_as_long_as_the_option_says() {
    let (relay, _upstream) = front_of(|plan| plan.server("keep_alive = \"2s\"")).await;
    let mut wire = Wire::connect(&relay.address()).await;
    wire.send(&envelope_of(&new_id())).await;
    assert_eq!(wire.answer().await.status, 200);
    let began = Instant::now();
    // With the default the connection would outlast this test.
    wire.ends().await;
    assert!(began.elapsed() >= Duration::from_secs(1), "{:?}", began.elapsed());
    relay.finish().await;
}
