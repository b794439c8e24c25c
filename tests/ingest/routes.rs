//! Routes, methods, and what browsers need to read an answer.

use crate::front;
use crate::support::envelopes::{self, KEY, new_id};
use crate::support::wire::{Answer, exchange, head, post};
use crate::{keyed, refused};

/// Fails unless the answer has the headers that let a page read it.
pub(super) fn assert_readable_in_browsers(answer: &Answer) {
    assert_eq!(answer.header("access-control-allow-origin"), "*", "{answer:?}");
    let exposed = answer.header("access-control-expose-headers").to_ascii_lowercase();
    let mut exposed: Vec<&str> = exposed.split(',').map(str::trim).collect();
    exposed.sort_unstable();
    assert_eq!(exposed, ["retry-after", "x-sentry-error", "x-sentry-rate-limits"]);
    assert_eq!(answer.header("cross-origin-resource-policy"), "cross-origin");
    // A Unity SDK cannot read compressed answers.
    assert_eq!(answer.header("content-encoding"), "");
}

#[tokio::test]
async fn browsers_may_send_and_may_read_every_answer() {
    let (relay, upstream) = front().await;
    let asks = [
        ("Origin", "https://shop.example"),
        ("Access-Control-Request-Method", "POST"),
        ("Access-Control-Request-Headers", "x-sentry-auth"),
        ("Content-Length", "0"),
    ];
    for path in ["/api/1/envelope/", "/api/1/store/", "/api/1/security/"] {
        let answer = exchange(&relay.address(), &head("OPTIONS", path, &asks)).await;
        assert_eq!(answer.status, 200, "{path}");
        assert_readable_in_browsers(&answer);
        assert_eq!(answer.header("access-control-allow-methods"), "POST");
        assert_eq!(answer.header("access-control-max-age"), "3600");
        let allowed = answer.header("access-control-allow-headers").to_ascii_lowercase();
        let mut allowed: Vec<&str> = allowed.split(',').map(str::trim).collect();
        allowed.sort_unstable();
        let mut expected = [
            "x-sentry-auth",
            "x-requested-with",
            "x-forwarded-for",
            "origin",
            "referer",
            "accept",
            "content-type",
            "authentication",
            "authorization",
            "content-encoding",
            "transfer-encoding",
        ];
        expected.sort_unstable();
        assert_eq!(allowed, expected);
    }
    let event = envelopes::error(&new_id());
    let origin = [("Origin", "https://shop.example"), ("Accept-Encoding", "gzip, deflate, br, zstd")];
    let text = [origin[0], origin[1], ("Content-Type", "text/plain;charset=UTF-8")];
    for (request, status) in [
        (post(&keyed("/api/1/envelope/"), &text, event.as_bytes()), 200),
        (post(&keyed("/api/1/envelope/"), &origin, b""), 400),
        (post("/api/1/envelope/", &origin, event.as_bytes()), 401),
        (post("/api/1/envelope/?sentry_key=unknown", &origin, event.as_bytes()), 403),
        (post("/elsewhere", &origin, b""), 404),
        (head("GET", &keyed("/api/1/envelope/"), &origin), 405),
        (post(&keyed("/api/1/envelope/"), &[origin[0], ("content-encoding", "x")], b""), 415),
        (head("GET", "/api/relay/healthcheck/live/", &origin), 200),
    ] {
        let answer = exchange(&relay.address(), &request).await;
        assert_eq!(answer.status, status, "{answer:?}");
        assert_readable_in_browsers(&answer);
    }
    relay.balanced(crate::support::relay::SOON).await;
    assert_eq!(upstream.taken()[0].headers["origin"], "https://shop.example");
    relay.finish().await;
}

#[tokio::test]
async fn monitors_get_the_health_and_the_programs_name() {
    let (relay, _upstream) = front().await;
    let healthy = "{\"is_healthy\":true}";
    for (path, body) in
        [("/healthz", healthy), ("/healthz/", healthy), ("/healthz?probe=1", healthy), ("/", "switchyard\n")]
    {
        let answer = exchange(&relay.address(), &head("GET", path, &[])).await;
        assert_eq!((answer.status, String::from_utf8_lossy(&answer.body)), (200, body.into()), "{path}");
        assert_readable_in_browsers(&answer);
        let looked = relay.client().head(format!("http://{}{path}", relay.address())).send().await.expect("an answer");
        assert_eq!(looked.status(), 200, "{path}");
    }
    assert_eq!(refused(&relay, "no_such_route").await, 0.0);
    assert_eq!(exchange(&relay.address(), &post("/healthz", &[], b"{}")).await.status, 404);
    relay.finish().await;
}

#[tokio::test]
async fn a_path_is_decoded_before_routing_and_goes_around_nothing() {
    let (relay, upstream) = front().await;
    let id = new_id();
    for path in ["/api/1/envelop%65/", "/%61pi/%31/%65nvelope", "//api/1/%65%6E%76%65%6c%6f%70%65//"] {
        let answer = exchange(&relay.address(), &post(&keyed(path), &[], envelopes::error(&id).as_bytes())).await;
        assert_eq!((answer.status, answer.json()), (200, serde_json::json!({ "id": id })), "{path}");
    }
    let samples = relay.balanced(crate::support::relay::SOON).await;
    assert_eq!(
        samples.sum("switchyard_duplicate_items_total", &[("category", "error")]),
        2.0,
        "it went by the journal"
    );
    for path in [
        "/api/1/envelop%2565/",
        "/api/1%2Fenvelope/",
        "/api/1/ENVELOPE/",
        "/api/1/envelope;a=b/",
        "/api/1/envelope./",
        "/api/1/envelope%20/",
        "/api/1/envelope%5C",
        "/api/1/envelope%3f/",
        "/api/1/%2e/Store/",
        "/api/0/%2Fstore/",
    ] {
        let body = envelopes::error(&new_id());
        let answer = exchange(&relay.address(), &post(&keyed(path), &[], body.as_bytes())).await;
        assert_eq!(answer.status, 400, "{path}: {answer:?}");
        assert!(answer.detail().contains("the path"), "{answer:?}");
    }
    assert_eq!(upstream.seen().len(), 1);
    relay.finish().await;
}

#[tokio::test]
async fn extra_slashes_are_ignored_and_unknown_routes_refused_in_json() {
    let (relay, upstream) = front().await;
    let paths =
        ["/api/1/envelope", "/api/1/envelope/", "//api/1/envelope/", "/api//1//envelope///", "///api/1/envelope"];
    for path in paths {
        let id = new_id();
        let answer = exchange(&relay.address(), &post(&keyed(path), &[], envelopes::error(&id).as_bytes())).await;
        assert_eq!((answer.status, answer.json()), (200, serde_json::json!({ "id": id })), "{path}");
    }
    // A proxy may pass the absolute URL on.
    let whole = format!("http://relay.test//api/1/envelope/?sentry_key={KEY}");
    let answer = exchange(&relay.address(), &post(&whole, &[], envelopes::error(&new_id()).as_bytes())).await;
    assert_eq!(answer.status, 200);

    let nowhere = ["/", "/api", "/api/", "/envelope/", "/metrics", "/apis/1/envelope/"];
    for path in nowhere {
        let answer = exchange(&relay.address(), &post(&keyed(path), &[], b"{}")).await;
        assert_eq!(answer.status, 404, "{path}");
        assert!(answer.detail().contains("no such endpoint"), "{answer:?}");
    }
    assert_eq!(refused(&relay, "no_such_route").await, nowhere.len() as f64);
    let wrong = [
        ("GET", "/api/1/envelope/"),
        ("PUT", "/api/1/envelope"),
        ("DELETE", "/api/1/store/"),
        ("POST", "/api/relay/healthcheck/live/"),
    ];
    for (method, path) in wrong {
        let answer = exchange(&relay.address(), &head(method, &keyed(path), &[("content-length", "0")])).await;
        assert_eq!(answer.status, 405, "{method} {path}");
        assert!(answer.detail().contains("method"), "{answer:?}");
        assert!(!answer.header("allow").is_empty(), "RFC 9110 wants to know which methods are: {answer:?}");
    }
    assert_eq!(refused(&relay, "method").await, wrong.len() as f64);
    relay.balanced(crate::support::relay::SOON).await;
    assert_eq!(upstream.taken_count(), paths.len() + 1);
    relay.finish().await;
}
