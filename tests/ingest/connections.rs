//! Connections: kept, pipelined, of each HTTP version, and never reset.

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;

use super::routes::assert_readable_in_browsers;
use crate::support::envelopes::{self, KEY, new_id};
use crate::support::relay::{Plan, SOON};
use crate::support::wire::{Wire, chunked, exchange, head, post};
use crate::{front, front_of, keyed, refused};

#[tokio::test]
async fn a_connection_is_kept_and_may_be_pipelined() {
    let (relay, upstream) = front().await;
    let path = keyed("/api/1/envelope/");
    let mut wire = Wire::connect(&relay.address()).await;
    let ids: Vec<String> = (0..6).map(|_| new_id()).collect();
    let request = |id: &String| post(&path, &[], envelopes::error(id).as_bytes());
    for id in &ids[..3] {
        wire.send(&request(id)).await;
        assert_eq!(wire.answer().await.json()["id"], **id);
    }
    wire.send(&ids[3..].iter().flat_map(request).collect::<Vec<u8>>()).await;
    for id in &ids[3..] {
        assert_eq!(wire.answer().await.json()["id"], **id, "answers come in order");
    }
    // A refusal keeps the connection when its body was read.
    wire.send(&post("/api/1/envelope/?sentry_key=unknown", &[], &[b'x'; 10_000])).await;
    assert_eq!(wire.answer().await.status, 403);
    wire.send(&chunked(&path, &[], envelopes::error(&new_id()).as_bytes(), 9)).await;
    assert_eq!(wire.answer().await.status, 200);
    let close = [("connection", "close")];
    wire.send(&post(&path, &close, envelopes::error(&new_id()).as_bytes())).await;
    assert_eq!(wire.answer().await.status, 200);
    wire.ends().await;
    relay.finish().await;
    assert_eq!(upstream.taken_count(), 8);
}

#[tokio::test]
async fn http_1_0_http_2_and_expect_continue_clients_are_served() {
    let (relay, upstream) = front().await;
    let path = keyed("/api/1/envelope/");
    let body = envelopes::error(&new_id());
    let request = String::from_utf8(post(&path, &[], body.as_bytes())).expect("text");
    let mut old = Wire::connect(&relay.address()).await;
    old.send(request.replace("HTTP/1.1", "HTTP/1.0").as_bytes()).await;
    assert_eq!(old.answer().await.status, 200);
    old.ends().await;

    let mut cautious = Wire::connect(&relay.address()).await;
    let body = envelopes::error(&new_id());
    let length = body.len().to_string();
    cautious.send(&head("POST", &path, &[("expect", "100-continue"), ("content-length", &length)])).await;
    assert_eq!(cautious.answer().await.status, 100);
    cautious.send(body.as_bytes()).await;
    assert_eq!(cautious.answer().await.status, 200);

    let http2 = Client::builder(TokioExecutor::new()).http2_only(true).build_http::<Full<Bytes>>();
    let uri = format!("http://{}/api/1/envelope/", relay.address());
    let send = async |key: &str, body: Vec<u8>| {
        let auth = format!("Sentry sentry_key={key}");
        let request = Request::post(&uri).header("x-sentry-auth", auth).body(Full::from(body)).expect("a request");
        let response = http2.request(request).await.expect("an answer");
        (response.status(), response.into_body().collect().await.expect("a body").to_bytes())
    };
    let id = new_id();
    let (status, body) = send(KEY, envelopes::error(&id).into_bytes()).await;
    assert_eq!((status.as_u16(), &*body), (200, format!("{{\"id\":\"{id}\"}}").as_bytes()));
    let many = (0..20).map(|_| send(KEY, envelopes::error(&new_id()).into_bytes()));
    assert!(futures_util::future::join_all(many).await.iter().all(|(status, _)| status.as_u16() == 200));
    let (status, _) = send("unknown", vec![b'x'; 2 << 20]).await;
    assert_eq!(status.as_u16(), 403);
    relay.balanced(SOON).await;
    relay.finish().await;
    assert_eq!(upstream.taken_count(), 23);
}

#[tokio::test]
async fn a_client_refused_while_sending_gets_the_answer_and_no_reset() {
    let (relay, upstream) = front().await;
    let body = vec![b'x'; 5 << 20];
    for (path, headers, status) in [
        ("/api/1/envelope/?sentry_key=unknown".to_owned(), &[][..], 403),
        ("/api/1/envelope/".to_owned(), &[("x-sentry-auth", "nonsense")], 401),
        ("/elsewhere/".to_owned(), &[], 404),
        (keyed("/api/relay/healthcheck/live/"), &[], 405),
        (keyed("/api/1/envelope/"), &[("content-encoding", "x-shop")], 415),
        (keyed("/api/1/envelope/"), &[], 400),
    ] {
        // Both requests write everything before they read: a reset would lose the answer.
        for request in [post(&path, headers, &body), chunked(&path, headers, &body, 64_000)] {
            let answer = exchange(&relay.address(), &request).await;
            assert_eq!(answer.status, status, "{path}");
            assert!(!answer.detail().is_empty());
        }
    }
    assert_eq!(upstream.seen().len(), 0);
    relay.finish().await;
}

#[tokio::test]
async fn an_expect_continue_client_is_refused_before_it_sends() {
    let (relay, upstream) = front().await;
    let huge = (1_u64 << 40).to_string();
    for (path, headers, status) in [
        (keyed("/api/1/envelope/"), &[("content-length", &*huge)][..], 413),
        ("/api/1/envelope/?sentry_key=unknown".to_owned(), &[("content-length", "1000000")], 403),
        ("/api/1/envelope/".to_owned(), &[("content-length", "1000000"), ("x-sentry-auth", "nonsense")], 401),
        (keyed("/api/1/envelope/"), &[("content-length", "1000000"), ("content-encoding", "x-shop")], 415),
        (keyed("/elsewhere/"), &[("transfer-encoding", "chunked")], 404),
    ] {
        let mut wire = Wire::connect(&relay.address()).await;
        wire.send(&head("POST", &path, &[headers, &[("expect", "100-continue")]].concat())).await;
        let answer = wire.answer().await;
        assert_eq!(answer.status, status, "{path}: no 100 comes first");
        assert!(!answer.detail().is_empty());
        // An unread body cannot be told from a next request, so the connection ends.
        wire.ends().await;
    }
    let path = keyed("/api/1/envelope/");
    let mut wire = Wire::connect(&relay.address()).await;
    for _ in 0..2 {
        wire.send(&head("POST", &path, &[("expect", "100-Continue"), ("transfer-encoding", "chunked")])).await;
        assert_eq!(wire.answer().await.status, 100);
        let body = envelopes::error(&new_id());
        wire.send(format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len()).as_bytes()).await;
        assert_eq!(wire.answer().await.status, 200);
    }
    relay.finish().await;
    assert_eq!(upstream.taken_count(), 2);
}

#[tokio::test]
async fn floods_of_headers_and_absurd_request_lines_end_in_answers() {
    let (relay, upstream) = front().await;
    let long = "x".repeat(100_000);
    let many: Vec<(String, &str)> = (0..2000).map(|n| (format!("x-{n}"), "1")).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    for (request, status) in [
        (head("POST", &keyed("/api/1/envelope/"), &many), 431),
        (head("POST", &keyed("/api/1/envelope/"), &[("x-long", &long)]), 431),
        (head("GET", &format!("/api/1/envelope/?{long}"), &[]), 414),
        (head("GET", &format!("/api/1/store/?sentry_data={}", &long[..62_000]), &[]), 414),
        (long.repeat(20).into_bytes(), 414),
        (b"\x00\x17 what is this\r\n\r\n".to_vec(), 400),
        (b"POST /api/1/envelope/\r\n\r\n".to_vec(), 400),
        (b"POST\r\n\r\n".to_vec(), 400),
        (b"POST /api/1/envelope/ HTTP/9.9\r\n\r\n".to_vec(), 400),
        (head("POST", &keyed("/api/1/envelope/"), &[("content-length", "1"), ("content-length", "2")]), 400),
        (head("POST", &keyed("/api/1/envelope/"), &[("content-length", "-1")]), 400),
        (head("POST", &keyed("/api/1/envelope/"), &[("x y", "1")]), 400),
    ] {
        let mut wire = Wire::connect(&relay.address()).await;
        wire.send(&request).await;
        let shown = String::from_utf8_lossy(&request[..request.len().min(60)]).into_owned();
        let answer = wire.answer().await;
        assert_eq!(answer.status, status, "{shown}");
        assert_readable_in_browsers(&answer);
        assert!(!answer.detail().is_empty(), "{shown}");
        wire.ends().await;
    }
    // The same on a connection that has served a request.
    let mut wire = Wire::connect(&relay.address()).await;
    wire.send(&post(&keyed("/api/1/envelope/"), &[], envelopes::error(&new_id()).as_bytes())).await;
    assert_eq!(wire.answer().await.status, 200);
    wire.send(&head("GET", &format!("/{long}"), &[])).await;
    let answer = wire.answer().await;
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (414, "*"));
    assert!(answer.detail().contains("request line"), "{answer:?}");
    wire.ends().await;
    // On such a connection malformed bytes get the HTTP library's own answer without a body.
    let mut wire = Wire::connect(&relay.address()).await;
    wire.send(&post(&keyed("/api/1/envelope/"), &[], envelopes::error(&new_id()).as_bytes())).await;
    assert_eq!(wire.answer().await.status, 200);
    wire.send(b"nonsense\r\n\r\n").await;
    assert_eq!(wire.answer().await.status, 400);
    wire.ends().await;
    let samples = relay.samples().await.expect("metrics");
    let of_code = |code| samples.sum("switchyard_received_requests_total", &[("project", ""), ("code", code)]);
    assert_eq!([of_code("414"), of_code("431"), of_code("400")], [4.0, 2.0, 8.0]);
    assert_eq!((refused(&relay, "malformed").await, refused(&relay, "too_large").await), (12.0, 2.0));
    relay.finish().await;
    assert_eq!(upstream.taken_count(), 2);
}

#[tokio::test]
async fn what_is_left_of_a_refused_body_is_not_counted_as_a_request() {
    let (relay, upstream) = front_of(|plan| plan.server("max_body = \"1MiB\"")).await;
    let body = vec![b'x'; 5 << 20];
    for _ in 0..10 {
        let mut wire = Wire::connect(&relay.address()).await;
        // One chunk: no line ends in what is left.
        wire.send(&chunked(&keyed("/api/1/envelope/"), &[], &body, body.len())).await;
        let answer = wire.answer().await;
        assert_eq!(answer.status, 413, "{answer:?}");
        wire.ends().await;
    }
    assert_eq!((refused(&relay, "malformed").await, refused(&relay, "too_large").await), (0.0, 10.0));
    relay.finish().await;
    assert_eq!(upstream.taken_count(), 0);
}

#[tokio::test]
async fn both_address_families_are_listened_on() {
    let (relay, upstream) = front_of(Plan::on_both_families).await;
    for host in ["127.0.0.1", "[::1]"] {
        let request = post(&keyed("/api/1/envelope/"), &[], envelopes::error(&new_id()).as_bytes());
        assert_eq!(exchange(&format!("{host}:{}", relay.port()), &request).await.status, 200, "{host}");
    }
    relay.balanced(SOON).await;
    let mut peers: Vec<String> = upstream
        .taken()
        .iter()
        .map(|seen| seen.headers["x-forwarded-for"].to_str().expect("text").to_owned())
        .collect();
    peers.sort();
    assert_eq!(peers, ["127.0.0.1", "::1"]);
    relay.finish().await;
}
