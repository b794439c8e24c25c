//! Stopping: requests under way are finished, no connection is reset, the backlog stays, and a restart behind a socket goes unnoticed.

mod support;

use std::io;
use std::net::TcpListener;
use std::time::Duration;

use support::connection::Connection;
use support::envelopes;
use support::eventually::eventually;
use support::load::{Load, Style};
use support::relay::{Plan, Relay, SOON};
use support::upstream::{Reply, Upstream};
use tokio::net::TcpStream;
use tokio::time::Instant;

async fn one_upstream() -> (Upstream, Relay) {
    let a = Upstream::start().await;
    let relay = Plan::new(&[("a", a.dsn("key-a", 11))]).start().await;
    (a, relay)
}

/// Posts an error, which must be taken; returns whether the connection ends with the answer.
async fn is_last(connection: &mut Connection) -> bool {
    let answer = connection.post(&envelopes::error(&envelopes::new_id())).await.expect("an answer");
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.is_last()
}

/// Waits until new connections are refused.
async fn refuses(relay: &Relay) {
    eventually("nothing listens any more", SOON, async || match TcpStream::connect(relay.address()).await {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_under_way_when_stopping_is_finished_with_200_and_kept() {
    let (a, mut relay) = one_upstream().await;
    let id = envelopes::new_id();
    let envelope = envelopes::error(&id);
    let (first, rest) = envelope.split_at(envelope.len() / 2);
    let mut slow = Connection::open(&relay.address()).await.expect("a connection");
    slow.write(format!("{}{first}", Connection::head(envelope.len())).as_bytes()).await.expect("half a request");
    let mut idle = Connection::open(&relay.address()).await.expect("a connection");
    assert_eq!(idle.post(&envelopes::error(&envelopes::new_id())).await.expect("an answer").status, 200);
    relay.signal(rustix::process::Signal::TERM);
    refuses(&relay).await;
    let end = idle.answer().await.expect_err("an idle connection is closed");
    assert_eq!(end.kind(), io::ErrorKind::UnexpectedEof, "in the orderly way: {end}");
    // Operators are answered until the end.
    let asked = async |path: &str| {
        let url = format!("http://{}{path}", relay.admin_address());
        let answer = relay.client().get(url).send().await.expect("an answer");
        (answer.status().as_u16(), answer.text().await.expect("a body"))
    };
    let (status, why) = asked("/readyz").await;
    assert_eq!((status, why.contains("shutting down")), (503, true), "{why}");
    assert_eq!(asked("/healthz").await.0, 200);
    slow.write(rest.as_bytes()).await.expect("the other half");
    let answer = slow.answer().await.expect("an answer");
    assert_eq!((answer.status, answer.is_last()), (200, true), "{answer:?}");
    assert!(answer.body.contains(&id), "{answer:?}");
    let status = relay.ended(SOON).await;
    assert!(status.success(), "{status}: {}", relay.log());
    relay.launch();
    relay.await_ready().await;
    relay.balanced(SOON).await;
    assert!(a.taken_ids().contains(&id));
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_on_its_way_on_a_kept_connection_when_stopping_is_answered_and_is_its_last() {
    let (_a, mut relay) = one_upstream().await;
    let mut kept = Vec::new();
    for _ in 0..5 {
        let mut connection = Connection::open(&relay.address()).await.expect("a connection");
        assert!(!is_last(&mut connection).await, "it is kept");
        kept.push(connection);
    }
    let mut busy = kept.pop().expect("a connection");
    relay.signal(rustix::process::Signal::TERM);
    while !is_last(&mut busy).await {}
    // The relay stops. Its port is not shut before these are served, which were idle.
    kept.push(Connection::open(&relay.address()).await.expect("a connection"));
    let last = futures_util::future::join_all(kept.iter_mut().map(is_last)).await;
    assert_eq!(last, [true; 5]);
    assert!(relay.ended(SOON).await.success(), "{}", relay.log());
    relay.launch();
    relay.await_ready().await;
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hung_upstream_does_not_keep_the_relay_from_stopping() {
    let (a, mut relay) = one_upstream().await;
    a.always(Reply::Hang);
    let ids = relay.send_errors(20).await;
    eventually("deliveries hang", SOON, async || match a.seen().len() {
        8 => Ok(()),
        n => Err(format!("{n} are under way")),
    })
    .await;
    let began = Instant::now();
    relay.stop().await;
    let took = began.elapsed();
    println!("stopped after {took:?}");
    assert!(took < Duration::from_secs(10), "stopped after {took:?}");
    a.always(Reply::Ok);
    relay.launch();
    relay.await_ready().await;
    relay.balanced(SOON * 2).await;
    let (mut have, mut expected) = (a.taken_ids(), ids);
    have.sort();
    expected.sort();
    assert_eq!(have, expected, "each once");
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unfinished_request_does_not_keep_the_relay_from_stopping_and_gets_a_503() {
    let (_a, mut relay) = one_upstream().await;
    let mut slow = Connection::open(&relay.address()).await.expect("a connection");
    slow.write(format!("{}{{", Connection::head(1000)).as_bytes()).await.expect("the beginning of a request");
    relay.send_errors(1).await;
    relay.balanced(SOON).await;
    relay.stop().await;
    let answer = slow.answer().await.expect("an answer");
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("30")), "{answer:?}");
    assert!(answer.is_last() && answer.body.contains("stopped"), "{answer:?}");
    relay.launch();
    relay.await_ready().await;
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_under_load_answers_everything_it_accepted_and_resets_nobody() {
    let (a, mut relay) = one_upstream().await;
    let mut load = Load::start(&relay.address(), Style { senders: 8, pace: None, keep_alive: false });
    load.more(200).await;
    relay.stop().await;
    let sent = load.stop().await;
    for failure in sent.failures() {
        let refused = failure.outcome.as_ref().is_err_and(|what| what.contains("Connection refused"));
        assert!(refused, "once it has stopped, and never worse: {failure:?}");
    }
    relay.launch();
    relay.await_ready().await;
    relay.balanced(Duration::from_secs(20)).await;
    let (mut have, expected): (_, Vec<String>) = (a.taken_ids(), sent.accepted().into_iter().collect());
    have.sort();
    assert_eq!(have, expected, "each once, and nothing that was not acknowledged");
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_whose_address_is_taken_ends_and_sends_nothing_of_what_waits() {
    let (a, mut relay) = one_upstream().await;
    a.always(Reply::Hang);
    let ids = relay.send_errors(4).await;
    relay.stop().await;
    a.always(Reply::Ok);
    let before = a.seen().len();
    let taken = TcpListener::bind(("127.0.0.1", relay.port())).expect("the address");
    // What it would send, it would send in some of them.
    for _ in 0..8 {
        relay.launch();
        assert_eq!(relay.ended(SOON).await.code(), Some(69), "{}", relay.log());
    }
    assert_eq!(a.seen().len(), before, "nothing was sent that would be sent again");
    drop(taken);
    relay.launch();
    relay.await_ready().await;
    relay.balanced(SOON).await;
    let mut have = a.taken_ids();
    have.sort();
    assert_eq!(have, ids.into_iter().collect::<std::collections::BTreeSet<_>>().into_iter().collect::<Vec<_>>());
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn restarts_behind_an_inherited_socket_refuse_and_lose_no_request() {
    let a = Upstream::start().await;
    let mut relay = Plan::new(&[("a", a.dsn("key-a", 11))]).prepare();
    let socket = TcpListener::bind(("127.0.0.1", relay.port())).expect("the socket");
    relay.launch_activated(&socket);
    relay.await_ready().await;
    // One kind opens a connection for each request, the other keeps its own and lets it rest.
    let opens = Style { senders: 8, pace: None, keep_alive: false };
    let keeps = Style { pace: Some(Duration::from_millis(5)), keep_alive: true, ..opens };
    let mut loads = [opens, keeps].map(|style| Load::start(&relay.address(), style));
    for _ in 0..3 {
        for load in &mut loads {
            load.more(100).await;
        }
        relay.stop().await;
        relay.launch_activated(&socket);
        relay.await_ready().await;
    }
    let mut expected = Vec::new();
    for mut load in loads {
        load.more(100).await;
        let sent = load.stop().await;
        assert_eq!(sent.failures().len(), 0, "{:?}", sent.failures());
        println!("{} requests, the longest took {:?}", sent.0.len(), sent.slowest());
        expected.extend(sent.accepted());
    }
    relay.balanced(Duration::from_secs(20)).await;
    let mut have = a.taken_ids();
    have.sort();
    expected.sort();
    assert_eq!(have, expected, "each once");
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_start_leaves_an_inherited_sockets_requests_to_the_next() {
    let a = Upstream::start().await;
    let mut relay = Plan::new(&[("a", a.dsn("key-a", 11))]).prepare();
    let socket = TcpListener::bind(("127.0.0.1", relay.port())).expect("the socket");
    let id = envelopes::new_id();
    let mut waiting = Connection::open(&relay.address()).await.expect("a place in the queue");
    let envelope = envelopes::error(&id);
    waiting.write(format!("{}{envelope}", Connection::head(envelope.len())).as_bytes()).await.expect("a request");
    let taken = TcpListener::bind(relay.admin_address()).expect("the admin address");
    for _ in 0..3 {
        relay.launch_activated(&socket);
        let status = relay.ended(SOON).await;
        assert_eq!(status.code(), Some(69), "{}", relay.log());
    }
    drop(taken);
    relay.launch_activated(&socket);
    let answer = waiting.answer().await.expect("an answer");
    assert_eq!(answer.status, 200, "{answer:?}");
    relay.await_ready().await;
    relay.balanced(SOON).await;
    assert_eq!(a.taken_ids(), [id]);
    relay.finish().await;
}
