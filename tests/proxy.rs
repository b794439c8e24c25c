//! Requests that only a tracker can answer go to the primary and to nobody else.
//!
//! Rule: every request goes through the public listener of the real daemon. Forwarded requests are compared with those that a tracker gets
//! directly, and ingestion must not notice. sentry-cli is the real one.

#[path = "peers/install.rs"]
#[expect(dead_code, reason = "shared with the tests of other peers")]
mod install;
mod support;

mod proxy {
    pub(crate) mod sentry_cli;
}

use std::io::Write as _;
use std::time::{Duration, Instant};

use proxy::sentry_cli::{Project, TOKEN, answers_as_sentry};
use support::envelopes::{self, KEY, new_id};
use support::eventually::eventually;
use support::memory::Memory;
use support::relay::{Plan, Relay, SOON};
use support::upstream::{Reply, Seen, Upstream};
use support::wire::{Wire, chunked, exchange, head, post};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{interval, timeout};

/// A relay with the primary `a` and the shadow `b`.
async fn between() -> (Relay, Upstream, Upstream) {
    between_of(|plan| plan).await
}

async fn between_of(shape: impl FnOnce(Plan) -> Plan) -> (Relay, Upstream, Upstream) {
    let (a, b) = (Upstream::start().await, Upstream::start().await);
    let dsns = [("a", a.dsn("a0a0", 11)), ("b", b.dsn("b0b0", 22))];
    let relay = shape(Plan::new(&dsns).upstream("a", "timeout = \"2s\"")).start().await;
    (relay, a, b)
}

/// The requests that are no envelopes, as method and path.
fn calls(upstream: &Upstream) -> Vec<String> {
    proxied(upstream).iter().map(|seen| format!("{} {}", seen.method, seen.path)).collect()
}

fn proxied(upstream: &Upstream) -> Vec<Seen> {
    upstream.seen().into_iter().filter(|seen| !seen.path.ends_with("/envelope/")).collect()
}

async fn requests(relay: &Relay, project: &str, code: &str) -> f64 {
    let labels = [("project", project), ("code", code)];
    relay.samples().await.expect("metrics").sum("switchyard_received_requests_total", &labels)
}

#[tokio::test(flavor = "multi_thread")]
async fn sentry_cli_works_at_the_relays_address_and_follows_the_primary() {
    let (relay, a, b) = between().await;
    let project = Project::new();
    // Sentry names its full URL, or a path below the address of the request; then the upload comes here too.
    answers_as_sentry(&a, "/organizations/shop/chunk-upload/");
    answers_as_sentry(&b, &format!("http://{}/api/0/organizations/shop/chunk-upload/", b.address()));
    let run = async |arguments: &[&str]| project.cli(&relay.address(), &relay.dsn(), arguments).await;
    let upload = ["sourcemaps", "upload", "--release", "web@1.0", "dist"];

    run(&["releases", "new", "web@1.0"]).await;
    run(&["releases", "set-commits", "web@1.0", "--local"]).await;
    run(&["sourcemaps", "inject", "dist"]).await;
    run(&upload).await;
    run(&["releases", "finalize", "web@1.0"]).await;
    let expected = [
        "POST /api/0/organizations/shop/releases/",
        "GET /api/0/organizations/shop/repos/",
        "POST /api/0/organizations/shop/releases/",
        "GET /api/0/organizations/shop/releases/web@1.0/previous-with-commits/",
        "PUT /api/0/organizations/shop/releases/web@1.0/",
        "GET /api/0/organizations/shop/chunk-upload/",
        "POST /api/0/organizations/shop/artifactbundle/assemble/",
        "POST /api/0/organizations/shop/chunk-upload/",
        "POST /api/0/organizations/shop/artifactbundle/assemble/",
        "PUT /api/0/organizations/shop/releases/web@1.0/",
    ];
    assert_eq!(calls(&a), expected);
    for seen in proxied(&a) {
        assert_eq!(seen.headers["authorization"], format!("Bearer {TOKEN}"));
        assert!(seen.headers["user-agent"].to_str().is_ok_and(|agent| agent.starts_with("sentry-cli/")));
        assert_eq!(seen.headers["host"], a.address());
        assert!(!seen.headers.contains_key("transfer-encoding"), "a length that is known stays known");
    }
    let bundle = &proxied(&a)[7].body;
    assert!(bundle.windows(11).any(|word| word == b"\"file_gzip\""), "the chunk arrived as it was sent");
    assert_eq!(calls(&b), Vec::<String>::new(), "a shadow answers nothing");

    run(&["send-event", "--message", "hello"]).await;
    run(&["monitors", "run", "nightly", "--", "true"]).await;
    relay.balanced(SOON).await;
    assert_eq!((a.taken_count() - expected.len(), b.taken_count()), (3, 3), "envelopes go to both");

    relay.flip_to("b").await;
    run(&["releases", "new", "web@1.0"]).await;
    run(&upload).await;
    assert_eq!(calls(&a).len(), expected.len());
    assert_eq!(calls(&b)[0], expected[0]);
    assert_eq!(calls(&b).len(), 5);
    assert_eq!(requests(&relay, "", "201").await, 3.0);
    relay.finish().await;
}

#[tokio::test]
async fn requests_and_answers_pass_with_listed_headers_only() {
    let (relay, a, b) = between().await;
    let headers = |names: &[(&'static str, &str)]| names.iter().map(|(n, v)| (*n, (*v).to_owned())).collect::<Vec<_>>();
    let body = "not found, says the tracker".to_owned();
    let said = [
        ("link", "<x>; rel=next"),
        ("x-hits", "3"),
        ("set-cookie", "session=1"),
        ("connection", "x-odd"),
        ("x-odd", "1"),
        ("x-accel-redirect", "/secret/"),
        ("x-sendfile", "/etc/passwd"),
        ("refresh", "0; url=http://elsewhere.test/"),
        ("www-authenticate", "Basic realm=relay"),
        ("service-worker-allowed", "/"),
        ("set-cookie2", "session=1"),
        ("etag", "\"1\""),
        ("x-sentry-rate-limits", "60:error:key"),
    ];
    a.then([
        Reply::Status(404, headers(&said), body.clone()),
        Reply::Status(302, headers(&[("location", "http://127.0.0.1:1/login/")]), String::new()),
        Reply::Status(500, headers(&[("access-control-allow-origin", "https://shop.example")]), body.clone()),
        Reply::Status(418, vec![], body.clone()),
    ]);
    let sent = [
        ("authorization", "Bearer token"),
        ("cookie", "session=2"),
        ("connection", "keep-alive, x-hop"),
        ("x-hop", "1"),
        ("x-forwarded-for", "6.6.6.6"),
        ("x-real-ip", "6.6.6.6"),
        ("x-original-url", "/admin/"),
        ("x-rewrite-url", "/admin/"),
        ("x-http-method-override", "DELETE"),
        ("accept", "application/json"),
        ("content-type", "application/json"),
    ];
    let mut wire = Wire::connect(&relay.address()).await;
    let path = "/api/0/organizations/shop/issues/?query=is%3Aunresolved+a%26b&cursor=0:1:0";
    wire.send(&post(path, &sent, b"{}")).await;
    let answer = wire.answer().await;
    assert_eq!((answer.status, &*answer.body), (404, body.as_bytes()));
    assert_eq!(answer.headers["link"], "<x>; rel=next");
    assert_eq!(answer.headers["x-hits"], "3");
    assert_eq!(answer.headers["access-control-allow-origin"], "*");
    assert_eq!((answer.header("etag"), answer.header("x-sentry-rate-limits")), ("\"1\"", "60:error:key"));
    for name in [
        "set-cookie",
        "x-odd",
        "x-accel-redirect",
        "x-sendfile",
        "refresh",
        "www-authenticate",
        "service-worker-allowed",
        "set-cookie2",
    ] {
        assert!(!answer.headers.contains_key(name), "{name}");
    }
    let arrived = proxied(&a).remove(0);
    assert_eq!((arrived.method.as_str(), arrived.path.as_str()), ("POST", "/api/0/organizations/shop/issues/"));
    assert_eq!(arrived.query.as_deref(), Some("query=is%3Aunresolved+a%26b&cursor=0:1:0"));
    assert_eq!(arrived.body, "{}");
    let mut names: Vec<&str> = arrived.headers.keys().map(http::HeaderName::as_str).collect();
    names.sort_unstable();
    let expected = [
        "accept",
        "authorization",
        "cdn-loop",
        "content-length",
        "content-type",
        "host",
        "x-forwarded-for",
        "x-sentry-forwarded-for",
    ];
    assert_eq!(names, expected);
    assert_eq!(arrived.headers["x-forwarded-for"], "127.0.0.1");
    // The connection is kept, and the client must follow a redirect itself.
    wire.send(&head("GET", "/api/0/", &[])).await;
    let answer = wire.answer().await;
    assert_eq!((answer.status, answer.header("location")), (302, "http://127.0.0.1:1/login/"));
    wire.send(&head("DELETE", "/api/0/projects/shop/web/", &[])).await;
    let answer = wire.answer().await;
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (500, "https://shop.example"));
    wire.send(&head("PATCH", "/api/0/projects/shop/web/", &[("content-length", "0")])).await;
    assert_eq!(wire.answer().await.status, 418);
    assert_eq!(calls(&a)[1..], ["GET /api/0/", "DELETE /api/0/projects/shop/web/", "PATCH /api/0/projects/shop/web/"]);
    assert_eq!(b.seen().len(), 0);
    assert_eq!((requests(&relay, "", "404").await, requests(&relay, "", "other").await), (1.0, 1.0));
    // A compressed request is decoded, because trackers know different encodings.
    let packed = zstd::encode_all(&b"{\"a\":1}"[..], 0).expect("memory");
    let answer = exchange(&relay.address(), &post("/api/0/x/", &[("content-encoding", "zstd")], &packed)).await;
    assert_eq!(answer.status, 200);
    let arrived = proxied(&a).pop().expect("a request");
    assert_eq!((&*arrived.body, arrived.headers.get("content-encoding")), (&b"{\"a\":1}"[..], None));
    relay.finish().await;
}

#[tokio::test]
async fn the_crash_report_dialog_is_the_primarys_under_its_own_dsn() {
    let (relay, a, b) = between().await;
    let dsn = |upstream: &Upstream, key: &str, id: u64| {
        upstream.dsn(key, id).replace(':', "%3A").replace('/', "%2F").replace('@', "%40")
    };
    let ours = format!("http%3A%2F%2F{KEY}%40{}%2F1", relay.address());
    let path = |dsn: &str| format!("/api/embed/error-page/?eventId={}&dsn={dsn}&name=A+B", "0".repeat(32));
    a.then([Reply::Status(200, vec![("content-type", "text/javascript".to_owned())], "(function(){})();".to_owned())]);
    let script = exchange(&relay.address(), &head("GET", &path(&ours), &[("accept", "*/*")])).await;
    assert_eq!((script.status, script.header("content-type")), (200, "text/javascript"));
    let form = [("content-type", "application/x-www-form-urlencoded"), ("origin", "https://shop.example")];
    let answer =
        exchange(&relay.address(), &post(&path(&ours), &form, b"name=A&email=a%40b.c&comments=It+broke")).await;
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (200, "*"));
    let arrived = proxied(&a);
    let expected = path(&dsn(&a, "a0a0", 11));
    for seen in &arrived {
        assert_eq!(format!("{}?{}", seen.path, seen.query.as_deref().unwrap_or_default()), expected);
    }
    assert_eq!(arrived[1].body, "name=A&email=a%40b.c&comments=It+broke");
    assert_eq!(arrived[1].headers["origin"], "https://shop.example");
    // A visitor's browser adds the site's password, which is not passed on to the tracker.
    let protected = [("authorization", "Basic c3RhZ2luZzpzZWNyZXQ=")];
    assert_eq!(exchange(&relay.address(), &head("GET", &path(&ours), &protected)).await.status, 200);
    assert!(!proxied(&a)[2].headers.contains_key("authorization"));
    let stranger = exchange(&relay.address(), &head("GET", &path("http%3A%2F%2Fother%40h%2F1"), &[])).await;
    assert_eq!(stranger.status, 404);
    relay.flip_to("b").await;
    exchange(&relay.address(), &head("GET", &path(&ours), &[])).await;
    assert_eq!((calls(&a).len(), calls(&b).len()), (3, 1));
    assert!(proxied(&b)[0].query.as_ref().is_some_and(|query| query.contains(&dsn(&b, "b0b0", 22))));
    relay.finish().await;
}

#[tokio::test]
async fn unknown_routes_of_a_project_reach_its_primary_under_its_id_there() {
    let (relay, a, _b) = between().await;
    let auth = |key: &str| format!("Sentry sentry_version=7, sentry_client=x/1, sentry_key={key}");
    let request = |key: &str| post("/api/1/brand-new/thing/", &[("x-sentry-auth", &auth(key))], b"x");
    assert_eq!(exchange(&relay.address(), &request(KEY)).await.status, 200);
    let arrived = proxied(&a).remove(0);
    assert_eq!(arrived.path, "/api/11/brand-new/thing/");
    assert_eq!(arrived.headers["x-sentry-auth"], auth("a0a0"));
    for (key, status) in [("unknown", 403), ("a%0d", 403), (&*format!("{KEY}, sentry_version=8"), 400)] {
        assert_eq!(exchange(&relay.address(), &request(key)).await.status, status, "{key}");
    }
    assert_eq!(calls(&a).len(), 1);
    relay.finish().await;
}

/// A tracker by hand: accepts a connection and reads the head of its request.
async fn taken(listener: &TcpListener) -> (TcpStream, String) {
    let (mut stream, _) = timeout(SOON, listener.accept()).await.expect("a connection in time").expect("a connection");
    let mut read = vec![];
    while !read.windows(4).any(|four| four == b"\r\n\r\n") {
        assert!(stream.read_buf(&mut read).await.expect("a request") > 0, "a whole head");
    }
    (stream, String::from_utf8(read).expect("text"))
}

async fn reads(stream: &mut TcpStream, expected: &str) {
    let mut piece = vec![0; expected.len()];
    timeout(SOON, stream.read_exact(&mut piece)).await.expect("bytes in time").expect("bytes");
    assert_eq!(String::from_utf8_lossy(&piece), expected);
}

#[tokio::test]
async fn bodies_pass_piece_by_piece_in_both_directions() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
    let address = listener.local_addr().expect("an address");
    let relay = Plan::new(&[("a", format!("http://a0a0@{address}/prefix/11"))]).start().await;
    let mut client = TcpStream::connect(relay.address()).await.expect("a connection");
    client.write_all(&head("PUT", "/api/0/x/", &[("content-length", "10")])).await.expect("a head is taken");
    client.write_all(b"first").await.expect("half a body is taken");
    let (mut tracker, request) = taken(&listener).await;
    assert!(request.starts_with("PUT /prefix/api/0/x/ HTTP/1.1\r\n"), "{request}");
    assert!(request.contains("content-length: 10\r\n"), "{request}");
    // The client sends the second half only when the first has arrived.
    if !request.ends_with("first") {
        reads(&mut tracker, "first").await;
    }
    client.write_all(b"other").await.expect("the other half is taken");
    reads(&mut tracker, "other").await;
    let answer = "HTTP/1.1 200 OK\r\ncontent-length: 8\r\nx-odd: 1\r\n\r\n";
    tracker.write_all(format!("{answer}well").as_bytes()).await.expect("half an answer");
    let mut wire = vec![];
    while !wire.ends_with(b"\r\n\r\nwell") {
        let n =
            timeout(SOON, client.read_buf(&mut wire)).await.expect("half an answer in time").expect("half an answer");
        assert!(n > 0, "{}", String::from_utf8_lossy(&wire));
    }
    tracker.write_all(b"done").await.expect("the rest");
    reads(&mut client, "done").await;
    // An answer that breaks off breaks off for the client too, so that it is not taken for complete.
    client.write_all(&head("GET", "/api/0/y/", &[])).await.expect("a second request");
    let (mut tracker, _) = taken(&listener).await;
    tracker.write_all(format!("{answer}well").as_bytes()).await.expect("half an answer");
    drop(tracker);
    let mut rest = vec![];
    timeout(SOON, client.read_to_end(&mut rest)).await.expect("an end in time").expect("no reset");
    let rest = String::from_utf8_lossy(&rest);
    let (head, body) = rest.split_once("\r\n\r\n").expect("a head");
    assert!(head.contains("content-length: 8") && "well".starts_with(body), "{rest}");
    relay.finish().await;
}

#[tokio::test]
async fn a_length_beside_chunks_is_not_passed_on_and_a_protocol_that_nobody_asked_for_is_a_502() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
    let address = listener.local_addr().expect("an address");
    let relay = Plan::new(&[("a", format!("http://a0a0@{address}/11"))]).start().await;
    let ask = async |answer: &'static str| {
        let request = relay.client().get(format!("http://{}/api/0/x/", relay.address())).send();
        let (seen, ()) = tokio::join!(request, async {
            let (mut tracker, _) = taken(&listener).await;
            tracker.write_all(answer.as_bytes()).await.expect("an answer is taken");
        });
        let seen = seen.expect("an answer");
        (seen.status().as_u16(), seen.bytes().await.expect("a body"))
    };
    let chunks = "HTTP/1.1 200 OK\r\nconnection: close\r\ntransfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n8\r\nabcdefgh\r\n0\r\n\r\n";
    assert_eq!(ask(chunks).await, (200, "abcdefgh".into()));
    let switching = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n";
    assert_eq!(ask(switching).await.0, 502);
    relay.finish().await;
}

/// A relay that keeps idle connections for a second, with a tracker by hand; the connection of a client; and the relay's connection to the
/// tracker.
async fn download() -> (Relay, TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
    let address = listener.local_addr().expect("an address");
    let plan = Plan::new(&[("a", format!("http://a0a0@{address}/11"))]).server("keep_alive = \"1s\"");
    let relay = plan.start().await;
    let mut client = TcpStream::connect(relay.address()).await.expect("a connection");
    client.write_all(&head("GET", "/api/0/x/", &[])).await.expect("a request");
    let (tracker, _) = taken(&listener).await;
    (relay, client, tracker)
}

#[tokio::test]
async fn a_connection_is_not_idle_while_the_primarys_answer_comes_in_pieces() {
    let (relay, mut client, mut tracker) = download().await;
    tracker.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 25\r\n\r\n").await.expect("a head");
    let mut said = vec![];
    while !said.ends_with(b"\r\n\r\n") {
        assert!(client.read_buf(&mut said).await.expect("a head") > 0);
    }
    // Each pause is longer than the timeout of an idle connection.
    let mut pauses = interval(Duration::from_millis(1500));
    for _ in 0..5 {
        pauses.tick().await;
        tracker.write_all(b"piece").await.expect("a piece");
        reads(&mut client, "piece").await;
    }
    client.write_all(&head("GET", "/nowhere/", &[])).await.expect("another request");
    reads(&mut client, "HTTP/1.1 404").await;
    timeout(SOON, client.read_to_end(&mut said)).await.expect("an idle connection ends").expect("no reset");
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_takes_nothing_of_an_answer_is_disconnected() {
    let (relay, client, mut tracker) = download().await;
    let answer = async {
        tracker.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n").await.expect("a head");
        while tracker.write_all(&[b'x'; 64 << 10]).await.is_ok() {}
    };
    let open = async || relay.samples().await.expect("metrics").sum("switchyard_open_connections", &[]);
    assert_eq!(open().await, 1.0);
    let let_go = eventually("it is let go", Duration::from_secs(80), async || match open().await {
        0.0 => Ok(()),
        open => Err(open.to_string()),
    });
    tokio::join!(answer, let_go);
    drop(client);
    relay.finish().await;
}

#[tokio::test]
async fn bodies_have_the_limits_of_sentrys_relay() {
    let (relay, a, _b) = between().await;
    let over = (20 << 20) + 1;
    let announced = over.to_string();
    for expect in [&[][..], &[("expect", "100-continue")]] {
        let request = head("POST", "/api/0/x/", &[&[("content-length", &*announced)], expect].concat());
        let answer = exchange(&relay.address(), &request).await;
        assert_eq!(answer.status, 413);
        assert!(answer.detail().contains("20971520"), "{answer:?}");
    }
    let body = vec![b'x'; over];
    assert_eq!(exchange(&relay.address(), &chunked("/api/0/x/", &[], &body, 1 << 20)).await.status, 413);
    assert_eq!(calls(&a), Vec::<String>::new(), "a request that is cut off is no request");
    let mut cautious = Wire::connect(&relay.address()).await;
    cautious.send(&head("POST", "/api/0/asked/", &[("content-length", "4"), ("expect", "100-continue")])).await;
    assert_eq!(cautious.answer().await.status, 100);
    cautious.send(b"body").await;
    assert_eq!(cautious.answer().await.status, 200);
    let files = "/api/0/projects/shop/web/releases/1/files/";
    assert_eq!(exchange(&relay.address(), &chunked(files, &[], &body, 1 << 20)).await.status, 200);
    assert_eq!(
        exchange(&relay.address(), &post("/api/0/organizations/shop/chunk-upload/", &[], &body)).await.status,
        200
    );
    let lengths: Vec<usize> = proxied(&a).iter().map(|seen| seen.body.len()).collect();
    assert_eq!(lengths, [4, over, over]);
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hung_primary_holds_up_only_its_places_and_no_ingestion() {
    let (relay, a, b) = between_of(|plan| plan.server("trusted_proxies = [\"127.0.0.1\"]")).await;
    a.when(|seen| seen.path.starts_with("/api/0/").then_some(Reply::Hang));
    let began = Instant::now();
    let ask = async |client: usize| {
        let client = format!("203.0.113.{client}");
        exchange(&relay.address(), &head("GET", "/api/0/x/", &[("x-forwarded-for", &*client)])).await.status
    };
    let asks = futures_util::future::join_all((0..80).map(&ask));
    let (statuses, slowest) = tokio::join!(asks, async {
        let mut slowest = Duration::ZERO;
        for _ in 0..20 {
            let sent = Instant::now();
            assert_eq!(relay.send(envelopes::error(&new_id())).await.status(), 200);
            slowest = slowest.max(sent.elapsed());
        }
        slowest
    });
    let count = |code: u16| statuses.iter().filter(|status| **status == code).count();
    assert_eq!((count(504), count(503)), (64, 16), "{statuses:?}");
    assert!(began.elapsed() >= Duration::from_secs(2), "the primary's own timeout");
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
    relay.balanced(SOON).await;
    assert_eq!(b.taken_count(), 20);
    let refused = |samples: &support::samples::Samples, reason| {
        samples.sum("switchyard_refused_requests_total", &[("reason", reason)])
    };
    let samples = relay.samples().await.expect("metrics");
    assert_eq!((refused(&samples, "upstream_timeout"), refused(&samples, "proxy_overloaded")), (64.0, 16.0));
    let health = relay.status().await["health"].to_string();
    assert!(!health.contains("submission"), "nothing is lost that was no submission: {health}");
    assert_eq!(ask(1).await, 504, "the places are free again");
    // One client holds at most half of the places.
    let statuses = futures_util::future::join_all((0..40).map(|_| ask(1))).await;
    let count = |code: u16| statuses.iter().filter(|status| **status == code).count();
    assert_eq!((count(504), count(503)), (32, 8), "{statuses:?}");
    relay.finish().await;
}

#[tokio::test]
async fn a_primary_that_is_down_is_a_502_that_names_no_address() {
    let (relay, mut a, _b) = between().await;
    a.go_down().await;
    let answer = exchange(&relay.address(), &head("GET", "/api/0/x/", &[])).await;
    assert_eq!(answer.status, 502);
    assert_eq!(answer.header("access-control-allow-origin"), "*");
    assert!(!answer.detail().contains(&a.address()), "{answer:?}");
    a.come_back().await;
    a.then([Reply::Close]);
    assert_eq!(exchange(&relay.address(), &head("GET", "/api/0/x/", &[])).await.status, 502);
    assert_eq!(exchange(&relay.address(), &head("GET", "/api/0/x/", &[])).await.status, 200);
    let log = relay.log();
    assert!(log.contains("could not be passed on") && !log.contains("a0a0"), "{log}");
    relay.finish().await;
}

#[tokio::test]
async fn no_request_reaches_another_host_or_leaves_the_api() {
    let (relay, a, _b) = between().await;
    let elsewhere = Upstream::start().await;
    let evil = elsewhere.address();
    for (request, status) in [
        (head("GET", "/api/0/../../admin/", &[]), 400),
        (post("/api/1/envelop%2565/", &[], b"{}"), 400),
        (post("/api/1%2Fenvelope/", &[], b"{}"), 400),
        (head("GET", "/api/0/%2e%2e/%2E%2E/admin/", &[]), 400),
        (head("GET", "/api/0/..%2f..%2fadmin/", &[]), 400),
        (head("GET", "/api/0/..\\..\\admin/", &[]), 400),
        (head("GET", &format!("http://{evil}/elsewhere/"), &[]), 404),
        // The root is the relay's own, whatever host the request names.
        (head("GET", &format!("http://{evil}"), &[]), 200),
        (head("GET", "/", &[]), 200),
        (head("GET", "/api/", &[]), 404),
        (head("GET", "/organizations/shop/", &[]), 404),
        (head("CONNECT", &evil, &[]), 404),
        (head("TRACE", "/api/0/x/", &[]), 405),
        // These have a valid path and go to the primary, whatever host they name.
        (head("GET", &format!("http://{evil}/api/0/absolute/"), &[]), 200),
        (head("GET", &format!("http://user:pass@{evil}/api/0/userinfo/"), &[]), 200),
        (head("GET", &format!("//{evil}/api/0/"), &[]), 404),
        (head("GET", &format!("/api/0/@{evil}/"), &[]), 200),
        (head("GET", &format!("/api/0/x/?url=http://{evil}/"), &[("x-forwarded-host", &evil)]), 200),
        (head("GET", "/api/0/releases/a%2Fb/", &[]), 200),
    ] {
        let asked = String::from_utf8_lossy(&request).into_owned();
        assert_eq!(exchange(&relay.address(), &request).await.status, status, "{asked}");
    }
    assert_eq!(elsewhere.seen().len(), 0);
    let expected =
        ["/api/0/absolute/", "/api/0/userinfo/", &format!("/api/0/@{evil}/"), "/api/0/x/", "/api/0/releases/a%2Fb/"];
    let arrived = proxied(&a);
    assert_eq!(arrived.iter().map(|seen| seen.path.as_str()).collect::<Vec<_>>(), expected);
    assert!(
        arrived.iter().all(|seen| seen.headers["host"] == a.address() && !seen.headers.contains_key("authorization"))
    );
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_behind_tls_is_reached_by_deliveries_and_the_proxy_alike() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    std::fs::write(at("cert.pem"), made.cert.pem()).expect("a certificate");
    std::fs::write(at("key.pem"), made.signing_key.serialize_pem()).expect("a key");
    let tracker = Upstream::start().await;
    let options = format!("tls_cert = {:?}\ntls_key = {:?}", at("cert.pem"), at("key.pem"));
    let far = Plan::new(&[("tracker", tracker.dsn("7eac", 7))]).server(&options).start().await;
    let dsn = format!("https://{KEY}@localhost:{}/1", far.port());
    let near = Plan::new(&[("far", dsn)]).variable("SSL_CERT_FILE", at("cert.pem")).start().await;
    let ids = near.send_errors(1).await;
    near.balanced(SOON).await;
    far.balanced(SOON).await;
    assert_eq!(tracker.taken_ids(), ids);
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        let mut curl = std::process::Command::new("curl");
        curl.args(["--silent", "--show-error", "--noproxy", "*", version, "--data", "body"]);
        curl.arg(format!("http://{}/api/0/x/", near.address()));
        let ran = tokio::task::spawn_blocking(move || curl.output()).await.expect("no panic").expect("curl");
        assert_eq!(String::from_utf8_lossy(&ran.stdout), "{\"id\":\"0\"}", "{ran:?}");
    }
    assert_eq!(calls(&tracker), ["POST /api/0/x/"; 2]);
    assert!(proxied(&tracker).iter().all(|seen| seen.body == "body" && seen.headers["host"] == tracker.address()));
    near.finish().await;
    far.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_encoded_upload_within_its_limit_arrives_and_costs_no_memory() {
    const MIB: usize = 1 << 20;
    let (relay, a, _b) = between().await;
    let gzip = |text: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(vec![], flate2::Compression::fast());
        encoder.write_all(text).expect("memory");
        encoder.finish().expect("memory")
    };
    let files = "/api/0/projects/shop/web/files/dsyms/";
    let noise: Vec<u8> = (0..34 * MIB / 16).flat_map(|_| *uuid::Uuid::new_v4().as_bytes()).collect();
    let (packed, zeros) = (gzip(&noise), vec![0; 39 * MIB]);
    let memory = Memory::of(relay.pid());
    let before = memory.resident();
    for (path, encoding, body) in
        [(files, "gzip", packed.clone()), (files, "gzip", gzip(&zeros)), ("/api/0/x/", "gzip", gzip(b"small"))]
    {
        let answer = exchange(&relay.address(), &post(path, &[("content-encoding", encoding)], &body)).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    let arrived = proxied(&a);
    for (seen, expected) in arrived.iter().zip([&noise[..], &zeros, b"small"]) {
        assert!(seen.body == expected, "{} bytes in place of {}", seen.body.len(), expected.len());
        assert_eq!(seen.headers["content-length"], expected.len().to_string());
        assert!(!seen.headers.contains_key("content-encoding") && !seen.headers.contains_key("transfer-encoding"));
    }
    let grown = memory.peak() - before;
    eprintln!(
        "34 MiB of noise and 39 of zeros, encoded, to the primary: {grown} KiB more than {before} KiB at the most"
    );
    assert!(grown < 24 * 1024, "{grown} KiB");
    let too_much = gzip(&vec![0; 41 * MIB]);
    for (path, request, what, limit) in [
        (files, post(files, &[("content-encoding", "gzip")], &too_much), "decoded body", 40 * MIB),
        ("/api/0/x/", chunked("/api/0/x/", &[("content-encoding", "gzip")], &packed, MIB), "body", 20 * MIB),
        (
            "/api/0/x/",
            head("POST", "/api/0/x/", &[("content-encoding", "gzip"), ("content-length", "20971521")]),
            "body",
            20 * MIB,
        ),
    ] {
        let mut wire = Wire::connect(&relay.address()).await;
        wire.offer(&request).await;
        let answer = wire.answer().await;
        assert_eq!(answer.status, 413, "{path}: {answer:?}");
        let detail = format!("the {what} has more than {limit} bytes, the limit of this endpoint");
        assert_eq!(answer.detail(), detail);
    }
    assert_eq!(proxied(&a).len(), 3);
    let folder = relay.home().join("journal.db-bodies");
    eventually("nothing of it is kept", SOON, async || {
        match std::fs::read_dir(&folder).expect("the folder of large bodies").count() {
            0 => Ok(()),
            n => Err(n.to_string()),
        }
    })
    .await;
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gate_before_the_primary_gets_its_own_authorization_only() {
    let gate = "headers = { Authorization = \"Basic Z2F0ZTo1ZWM0ZTc=\", X-Gate = \"open\" }";
    let (relay, a, _b) = between_of(|plan| plan.upstream("a", gate)).await;
    let asked = relay.client().get(format!("http://{}/api/0/organizations/", relay.address()));
    let answer = asked.header("authorization", "Bearer of-a-client").header("x-gate", "shut").send().await;
    assert_eq!(answer.expect("an answer").status(), 200);
    let seen = proxied(&a);
    assert_eq!(seen[0].headers.get_all("authorization").iter().collect::<Vec<_>>(), ["Basic Z2F0ZTo1ZWM0ZTc="]);
    assert_eq!(seen[0].headers.get_all("x-gate").iter().collect::<Vec<_>>(), ["open"]);
    relay.finish().await;
}
