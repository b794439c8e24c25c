//! Endpoints that take no envelopes: the answers, and the same request at both upstreams, addressed to them.

use http::Method;

use crate::support::envelopes::{self, KEY, envelope, new_id};
use crate::support::eventually::eventually;
use crate::support::relay::{Plan, Relay, SOON};
use crate::support::upstream::{Reply, Seen, Upstream};
use crate::support::wire::{Answer, exchange, head, post};
use crate::{keyed, refused};

const CSP: &[u8] = br#"{"csp-report":{"document-uri":"https://shop.example/","violated-directive":"img-src"}}"#;
const PROTOBUF: &[u8] = b"\x0a\x04\x00\xff\r\n\x80";

/// A relay with two upstreams.
async fn pair() -> (Relay, [Upstream; 2]) {
    let upstreams = [Upstream::start().await, Upstream::start().await];
    let dsns = [("first", upstreams[0].dsn("cafe", 7)), ("second", upstreams[1].dsn("beef", 8))];
    (Plan::new(&dsns).start().await, upstreams)
}

async fn ask(relay: &Relay, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    let request = match method {
        "POST" => post(path, headers, body),
        method => head(method, path, headers),
    };
    exchange(&relay.address(), &request).await
}

/// Fails unless each upstream got exactly one request: `method` to `tail` with this body, under its own project and key.
async fn arrived(relay: &Relay, upstreams: &[Upstream; 2], method: &Method, tail: &str, body: &[u8]) -> [Seen; 2] {
    relay.balanced(SOON).await;
    [("cafe", 7), ("beef", 8)].map(|(key, project)| {
        let seen = upstreams[usize::from(project == 8)].seen();
        let seen = seen.last().expect("a request").clone();
        let (path, query) = tail.split_once('?').map_or((tail, None), |(path, query)| (path, Some(query)));
        assert_eq!((&seen.method, seen.query.as_deref()), (method, query), "{tail}");
        assert_eq!(seen.path, format!("/api/{project}/{}", path.replace("KEY", key)));
        assert_eq!(seen.body, body, "{tail}");
        let auth = seen.headers.get("x-sentry-auth").map(|value| value.to_str().expect("ASCII"));
        match path.contains("KEY") {
            true => assert_eq!(auth, None, "one form of authentication and no second"),
            false => assert!(auth.is_some_and(|auth| auth.ends_with(&format!("sentry_key={key}"))), "{auth:?}"),
        }
        assert!(!format!("{seen:?}").contains(KEY), "our key is nobody's business: {seen:?}");
        seen
    })
}

#[tokio::test]
async fn security_and_nel_reports_reach_every_upstream() {
    let (relay, upstreams) = pair().await;
    let kinds = [
        "application/csp-report",
        "application/json",
        "application/expect-ct-report",
        "application/expect-ct-report+json; charset=utf-8",
        "application/expect-staple-report",
    ];
    let query = "sentry_release=shop%401.0&sentry_environment=a+b";
    for (path, kind) in kinds.map(|kind| ("security", kind)).into_iter().chain([("csp-report", kinds[0])]) {
        // A browser has only the address that it was given.
        let path_and_query = format!("/api/1/{path}/?sentry_key={KEY}&{query}");
        let headers = [("content-type", kind), ("user-agent", "Browser/1.0"), ("origin", "https://shop.example")];
        let answer = ask(&relay, "POST", &path_and_query, &headers, CSP).await;
        assert_eq!((answer.status, answer.body.len()), (200, 0), "{kind} {answer:?}");
        for seen in arrived(&relay, &upstreams, &Method::POST, &format!("{path}/?{query}"), CSP).await {
            let sent = ["content-type", "user-agent", "origin"].map(|name| seen.headers[name].to_str().expect("ASCII"));
            assert_eq!(sent, [kind, "Browser/1.0", "https://shop.example"]);
        }
    }
    let nel = br#"[{"type":"network-error","age":1,"url":"https://shop.example/","body":{}}]"#;
    let headers = [("content-type", "application/reports+json")];
    let answer = ask(&relay, "POST", &keyed("/api/1/nel"), &headers, nel).await;
    assert_eq!((answer.status, answer.body.len()), (200, 0));
    arrived(&relay, &upstreams, &Method::POST, "nel/", nel).await;

    for (path, kind, body, status, words) in [
        ("security", "text/plain", CSP, 415, "content type \"text/plain\""),
        ("csp-report", "", CSP, 415, "content type"),
        ("security", "application/json", b"", 400, "empty"),
        ("nel", "application/json", b"", 400, "empty"),
        (
            "security",
            "application/json",
            &[b' '; (1 << 20) + 1],
            413,
            "1048576 bytes, the limit of one security report",
        ),
    ] {
        let answer = ask(&relay, "POST", &keyed(&format!("/api/1/{path}/")), &[("content-type", kind)], body).await;
        assert_eq!(answer.status, status, "{path} {kind} {answer:?}");
        assert!(answer.detail().contains(words), "{answer:?}");
        assert_eq!(answer.header("access-control-allow-origin"), "*");
    }
    assert_eq!(refused(&relay, "content_type").await, 2.0);
    let samples = relay.balanced(SOON).await;
    assert_eq!(samples.sum("switchyard_accepted_items_total", &[("category", "security")]), 6.0);
    relay.finish().await;
}

#[tokio::test]
async fn reports_of_the_reporting_api_reach_every_upstream_by_every_path() {
    let (relay, upstreams) = pair().await;
    let reports = br#"[{"type":"csp-violation","age":1,"url":"https://a/","user_agent":"x","body":{}},
        {"type":"network-error","age":2,"url":"https://a/","body":{}},{"type":"deprecation"},{"type":"intervention"},{"type":"crash"}]"#;
    for path in ["security", "csp-report", "nel"] {
        for kind in ["application/reports+json", "Application/Reports+JSON; charset=utf-8"] {
            let headers = [("content-type", kind), ("origin", "https://a")];
            let answer = ask(&relay, "POST", &keyed(&format!("/api/1/{path}/")), &headers, reports).await;
            assert_eq!((answer.status, answer.body.len()), (200, 0), "{path} {kind}: {answer:?}");
            for seen in arrived(&relay, &upstreams, &Method::POST, &format!("{path}/"), reports).await {
                assert_eq!(seen.headers["content-type"], kind);
            }
        }
    }
    let samples = relay.balanced(SOON).await;
    assert_eq!(samples.sum("switchyard_accepted_items_total", &[("category", "security")]), 4.0);
    relay.finish().await;
}

#[tokio::test]
async fn check_ins_by_url_are_answered_202_and_reach_every_upstream() {
    let (relay, upstreams) = pair().await;
    let id = "9ec79c33-ec99-42ab-8353-589fcb2e04dc";
    let json =
        br#"{"status":"ok","duration":1.5,"monitor_config":{"schedule":{"type":"crontab","value":"* * * * *"}}}"#;
    let full = format!("status=in_progress&check_in_id={id}&environment=prod&duration=0.5");
    for (method, path, kind, body, tail) in [
        (
            "GET",
            format!("/api/1/cron/nightly/{KEY}/?status=ok"),
            "",
            &b""[..],
            "cron/nightly/KEY/?status=ok".to_owned(),
        ),
        ("POST", format!("/api/1/cron/nightly/{KEY}?{full}"), "", b"", format!("cron/nightly/KEY/?{full}")),
        (
            "GET",
            format!("{}&status=error", keyed("/api/1/cron/My%20Job")),
            "",
            b"",
            "cron/My%20Job/?status=error".into(),
        ),
        ("POST", keyed("/api/1/cron/nightly/"), "application/json", json, "cron/nightly/".into()),
        // A check-in without an id is no repeat.
        ("POST", keyed("/api/1/cron/nightly/"), "application/json", json, "cron/nightly/".into()),
    ] {
        let before = upstreams[0].seen().len();
        let answer = ask(&relay, method, &path, &[("content-type", kind)], body).await;
        assert_eq!((answer.status, answer.body.len()), (202, 0), "{path} {answer:?}");
        let method = method.parse().expect("a method");
        arrived(&relay, &upstreams, &method, &tail, body).await;
        assert_eq!(upstreams[0].seen().len(), before + 1, "{path}");
    }
    for (method, path, status, words) in [
        ("GET", keyed("/api/1/cron/nightly/"), 400, "status"),
        ("GET", format!("{}&status=ok&check_in_id=7", keyed("/api/1/cron/nightly/")), 400, "check_in_id"),
        ("GET", format!("{}&status=ok", keyed("/api/1/cron/..%2f..%2fenvelope/")), 400, "path"),
        ("GET", "/api/1/cron/nightly/?status=ok".to_owned(), 401, "authentication"),
        ("GET", "/api/1/cron/nightly/unknown/?status=ok".to_owned(), 403, "known project"),
        ("GET", format!("/api/1/cron/nightly/{KEY}/?status=ok&sentry_key={KEY}"), 401, "multiple"),
        ("GET", format!("/api/2/cron/nightly/{KEY}/?status=ok"), 403, "known project"),
        ("PUT", format!("/api/1/cron/nightly/{KEY}/?status=ok"), 405, "method"),
    ] {
        let answer = ask(&relay, method, &path, &[], b"").await;
        assert_eq!(answer.status, status, "{path} {answer:?}");
        assert!(answer.detail().contains(words), "{answer:?}");
    }
    let looked = relay.client().head(format!("http://{}/api/1/cron/nightly/{KEY}/?status=ok", relay.address()));
    assert_eq!(looked.send().await.expect("an answer").status(), 405);
    relay.finish().await;
}

#[tokio::test]
async fn a_check_in_repeated_by_url_or_as_an_item_is_delivered_once() {
    let (mut relay, upstreams) = pair().await;
    let id = "9ec79c33-ec99-42ab-8353-589fcb2e04dc";
    let by_url = async |relay: &Relay, id: &str, status: &str| {
        let path = format!("/api/1/cron/nightly/{KEY}/?check_in_id={id}&status={status}");
        assert_eq!(ask(relay, "GET", &path, &[], b"").await.status, 202);
    };
    for status in ["error", "error", "ok"] {
        by_url(&relay, id, status).await;
    }
    relay.balanced(SOON).await;
    relay.stop().await;
    let relay = relay.started().await;
    by_url(&relay, id, "ok").await;
    let item =
        format!("{{\"check_in_id\":\"{}\",\"status\":\"ok\",\"monitor_slug\":\"nightly\"}}", id.replace('-', ""));
    assert_eq!(relay.send(envelope(&new_id(), "check_in", &item)).await.status(), 200);
    // The nil id stands for the latest check-in, so two with it are no repeats.
    for _ in 0..2 {
        by_url(&relay, "00000000-0000-0000-0000-000000000000", "ok").await;
    }
    let samples = relay.balanced(SOON).await;
    let repeats = samples.sum("switchyard_duplicate_items_total", &[("project", "shop"), ("category", "monitor")]);
    assert_eq!(repeats, 2.0, "since the restart");
    for upstream in &upstreams {
        assert_eq!(upstream.taken_count(), 4, "{:?}", upstream.seen());
    }
    relay.finish().await;
}

#[tokio::test]
async fn a_limited_check_in_waits_and_is_never_answered_429() {
    let (relay, upstreams) = pair().await;
    for upstream in &upstreams {
        upstream.then([Reply::with_header(429, "x-sentry-rate-limits", "1:monitor:key")]);
    }
    for _ in 0..5 {
        let answer = ask(&relay, "GET", &format!("/api/1/cron/nightly/{KEY}/?status=ok"), &[], b"").await;
        assert_eq!(answer.status, 202);
    }
    // Nothing else is limited meanwhile.
    let [id] = relay.send_errors(1).await.try_into().expect("one id");
    for upstream in &upstreams {
        eventually("the error arrives", SOON, async || {
            let seen = upstream.seen().into_iter().filter(|seen| seen.path.ends_with("/envelope/"));
            seen.map(|seen| seen.event_id()).find(|seen| *seen == id).ok_or_else(|| "not yet".to_owned())
        })
        .await;
    }
    relay.balanced(SOON).await;
    for upstream in &upstreams {
        assert_eq!(upstream.taken_count(), 6, "{:?}", upstream.seen());
    }
    relay.finish().await;
}

#[tokio::test]
async fn telemetry_and_log_drains_reach_every_upstream_byte_for_byte() {
    let (relay, upstreams) = pair().await;
    let auth = format!("sentry sentry_key={KEY}");
    let (protobuf, json, logplex) =
        ("application/x-protobuf", "application/json; charset=utf-8", "application/logplex-1");
    let frame = b"83 <40>1 2012-11-30T06:45:29+00:00 host app web.3 - State changed from starting to up\n";
    for (path, kind, body, answered) in [
        ("integration/otlp/v1/traces", protobuf, PROTOBUF, ("application/x-protobuf", &b""[..])),
        ("integration/otlp/v1/traces", json, br#"{"resourceSpans":[]}"#, ("application/json", b"{}")),
        ("integration/otlp/v1/logs", protobuf, PROTOBUF, ("application/x-protobuf", b"")),
        ("otlp/v1/traces", protobuf, PROTOBUF, ("application/x-protobuf", b"")),
        ("otlp/v1/traces", protobuf, b"", ("application/x-protobuf", b"")),
        ("integration/otlp/v1/metrics", protobuf, PROTOBUF, ("application/x-protobuf", b"")),
        ("otlp/v1/metrics", json, br#"{"resourceMetrics":[]}"#, ("application/json", b"{}")),
        ("integration/vercel/logs", json, br#"[{"id":"1","message":"x"}]"#, ("", b"")),
        ("integration/vercel/logs", "application/x-ndjson", b"{\"id\":\"1\"}\n{\"id\":\"2\"}\n", ("", b"")),
        ("integration/heroku/logs", logplex, frame, ("", b"")),
        ("integration/heroku", logplex, frame, ("", b"")),
    ] {
        for slash in ["", "/"] {
            let headers = [
                ("x-sentry-auth", &*auth),
                ("content-type", kind),
                ("logplex-frame-id", "f-1"),
                ("cookie", "secret=1"),
            ];
            let answer = ask(&relay, "POST", &format!("/api/1/{path}{slash}"), &headers, body).await;
            assert_eq!(
                (answer.status, answer.header("content-type"), &*answer.body),
                (200, answered.0, answered.1),
                "{path}"
            );
            for seen in arrived(&relay, &upstreams, &Method::POST, path, body).await {
                assert_eq!(seen.headers["content-type"], kind);
                assert!(!seen.headers.contains_key("cookie"));
                let frame_id = seen.headers.get("logplex-frame-id").map(|id| id.to_str().expect("ASCII"));
                assert_eq!(frame_id, path.contains("heroku").then_some("f-1"), "{path}");
            }
        }
    }
    for (path, kind, status) in [
        ("integration/otlp/v1/traces", "text/plain", 415),
        ("integration/otlp/v1/logs", "", 415),
        ("integration/otlp/v1/metrics", "text/plain", 415),
        ("integration/vercel/logs", json, 400),
    ] {
        let headers = [("x-sentry-auth", &*auth), ("content-type", kind)];
        let answer = ask(&relay, "POST", &format!("/api/1/{path}"), &headers, b"").await;
        assert_eq!(answer.status, status, "{path} {kind} {answer:?}");
        assert!(!answer.detail().is_empty());
    }
    let samples = relay.balanced(SOON).await;
    let accepted = |category| samples.sum("switchyard_accepted_items_total", &[("category", category)]);
    assert_eq!((accepted("span"), accepted("log_item"), accepted("trace_metric")), (8.0, 10.0, 4.0));
    relay.finish().await;
}

#[tokio::test]
async fn a_compressed_report_arrives_unpacked_and_a_bomb_is_refused() {
    use flate2::{Compression, write::GzEncoder};
    use std::io::Write as _;
    let gzip = |text: &[u8]| {
        let mut encoder = GzEncoder::new(vec![], Compression::default());
        encoder.write_all(text).expect("memory");
        encoder.finish().expect("memory")
    };
    let (relay, upstreams) = pair().await;
    let headers = [("content-type", "application/x-protobuf"), ("content-encoding", "gzip")];
    let path = keyed("/api/1/integration/otlp/v1/traces");
    assert_eq!(ask(&relay, "POST", &path, &headers, &gzip(PROTOBUF)).await.status, 200);
    for seen in arrived(&relay, &upstreams, &Method::POST, "integration/otlp/v1/traces", PROTOBUF).await {
        assert!(!seen.headers.contains_key("content-encoding"));
    }
    let answer = ask(&relay, "POST", &path, &headers, &gzip(&vec![0; 13 << 20])).await;
    assert_eq!(answer.status, 413);
    assert!(answer.detail().contains("12582912 bytes, the limit of one OTLP traces request"), "{answer:?}");
    relay.finish().await;
}

#[tokio::test]
async fn requests_to_an_endpoint_an_upstream_lacks_are_dropped_as_unsupported() {
    let (relay, upstreams) = pair().await;
    upstreams[0].when(|seen| (!seen.path.ends_with("/envelope/")).then(|| Reply::status(404)));
    let nel = ask(&relay, "POST", &keyed("/api/1/nel/"), &[("content-type", "application/json")], b"[]").await;
    let ping = ask(&relay, "GET", &format!("/api/1/cron/nightly/{KEY}/?status=ok"), &[], b"").await;
    assert_eq!((nel.status, ping.status), (200, 202));
    relay.send_errors(3).await;
    let samples = relay.balanced(SOON).await;
    assert_eq!((upstreams[0].taken_count(), upstreams[1].taken_count()), (3, 5));
    let dropped =
        |upstream| samples.sum("switchyard_dropped_items_total", &[("upstream", upstream), ("reason", "unsupported")]);
    assert_eq!((dropped("first"), dropped("second")), (2.0, 0.0));
    let status = relay.upstream("first").await;
    assert_eq!((&status["dead_letters"], &status["state"]), (&0.into(), &"up".into()), "{status}");
    assert!(relay.log().contains("no such endpoint"), "{}", relay.log());
    relay.finish().await;
}

#[tokio::test]
async fn a_refusal_by_one_endpoint_says_nothing_against_the_dsn() {
    let (mut relay, upstreams) = pair().await;
    upstreams[0].when(|seen| seen.path.contains("/cron/").then(|| Reply::status(403)));
    relay.send_errors(1).await;
    relay.balanced(SOON).await;
    assert_eq!(ask(&relay, "GET", &format!("/api/1/cron/nightly/{KEY}/?status=ok"), &[], b"").await.status, 202);
    eventually("the ping is refused", SOON, async || {
        let refused = upstreams[0].seen().iter().any(|seen| seen.path.contains("/cron/"));
        if refused { Ok(()) } else { Err("not yet".to_owned()) }
    })
    .await;
    relay.send_errors(3).await;
    eventually("envelopes go on", SOON, async || match upstreams[0].taken_count() {
        4 => Ok(()),
        count => Err(format!("{count} were taken")),
    })
    .await;
    let status = relay.status().await;
    assert_eq!((&status["difference"], &relay.upstream("first").await["state"]), (&0.into(), &"up".into()), "{status}");
    // The ping waits half a minute for its next try and is still in the journal.
    relay.stop().await;
}

#[tokio::test]
async fn requests_to_other_endpoints_outlive_an_outage_and_a_crash() {
    let (mut relay, mut upstreams) = pair().await;
    upstreams[1].go_down().await;
    let path = keyed("/api/1/integration/otlp/v1/logs");
    let headers = [("content-type", "application/x-protobuf")];
    assert_eq!(ask(&relay, "POST", &path, &headers, PROTOBUF).await.status, 200);
    let report = [("content-type", "application/csp-report")];
    assert_eq!(ask(&relay, "POST", &keyed("/api/1/security/"), &report, CSP).await.status, 200);
    relay.kill();
    let relay = relay.started().await;
    upstreams[1].come_back().await;
    let id = new_id();
    assert_eq!(relay.send(envelopes::error(&id)).await.status(), 200);
    relay.balanced(SOON).await;
    let seen = upstreams[1].taken();
    let body_of = |path: &str| seen.iter().find(|seen| seen.path == path).map(|seen| seen.body.to_vec());
    assert_eq!(body_of("/api/8/integration/otlp/v1/logs").as_deref(), Some(PROTOBUF));
    assert_eq!(body_of("/api/8/security/").as_deref(), Some(CSP));
    assert_eq!(seen.len(), 3);
    relay.finish().await;
}
