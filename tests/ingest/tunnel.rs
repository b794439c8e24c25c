//! The tunnel of browser SDKs, and events that are sent as image requests.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::json;

use crate::support::envelopes::{self, KEY, new_id};
use crate::support::relay::SOON;
use crate::support::wire::{exchange, head, post};
use crate::{front, front_of, keyed};

/// An error envelope with this `dsn` in its header.
fn with_dsn(id: &str, dsn: &str) -> String {
    let envelope = envelopes::error(id);
    let (header, rest) = envelope.split_once('\n').expect("a header line");
    let mut header: serde_json::Value = serde_json::from_str(header).expect("JSON");
    header["dsn"] = dsn.into();
    format!("{header}\n{rest}")
}

#[tokio::test]
async fn a_tunnel_takes_envelopes_for_configured_projects_only() {
    let (relay, upstream) = front_of(|plan| plan.server("tunnel = \"/monitoring/tunnel\"")).await;
    let ours = relay.dsn();
    // A page sends its own site's cookies and password along; the relay ignores them.
    let foreign = [("authorization", "Basic c2hvcDpzZWNyZXQ="), ("cookie", "a=b"), ("content-type", "text/plain")];
    for path in ["/monitoring/tunnel", "/monitoring/tunnel/", "//monitoring//tunnel?o=1&p=2&sentry_key=other"] {
        let id = new_id();
        let answer = exchange(&relay.address(), &post(path, &foreign, with_dsn(&id, &ours).as_bytes())).await;
        assert_eq!((answer.status, answer.json()), (200, json!({ "id": id })), "{path}");
        assert_eq!(answer.header("access-control-allow-origin"), "*");
    }
    let elsewhere = "https://0123456789abcdef0123456789abcdef@o1.ingest.example/1";
    for (body, status, words) in [
        (with_dsn(&new_id(), elsewhere), 403, "known project"),
        (with_dsn(&new_id(), &ours.replace("/1", "/2")), 403, "known project"),
        (envelopes::error(&new_id()), 401, "missing authentication"),
        (with_dsn(&new_id(), "nonsense"), 400, "dsn"),
        (String::new(), 400, "empty"),
    ] {
        let answer = exchange(&relay.address(), &post("/monitoring/tunnel", &[], body.as_bytes())).await;
        assert_eq!(answer.status, status, "{body}");
        assert!(answer.detail().contains(words), "{answer:?}");
    }
    let answer = exchange(&relay.address(), &head("GET", "/monitoring/tunnel", &[])).await;
    assert_eq!(answer.status, 405);
    relay.balanced(SOON).await;
    assert_eq!(upstream.seen().len(), 3);
    let seen = &upstream.seen()[0];
    assert_eq!(seen.header()["dsn"], upstream.dsn("cafe", 7));
    assert!(!seen.headers.contains_key("authorization") && !seen.headers.contains_key("cookie"));
    relay.finish().await;
}

#[tokio::test]
async fn there_is_no_tunnel_unless_one_is_configured() {
    let (relay, _upstream) = front().await;
    let body = with_dsn(&new_id(), &relay.dsn());
    assert_eq!(exchange(&relay.address(), &post("/tunnel", &[], body.as_bytes())).await.status, 404);
    relay.finish().await;
}

#[tokio::test]
async fn an_event_in_the_query_is_taken_and_answered_with_an_image() {
    let (relay, upstream) = front().await;
    let mut ids = vec![];
    for (path, packed) in [("/api/1/store/", false), ("/api/store", false), ("/api/1/store", true)] {
        let id = new_id();
        let event = json!({ "event_id": id, "message": "a page + 100%" }).to_string();
        let data = if packed { BASE64.encode(zlib(&event)) } else { event };
        let data: String = url::form_urlencoded::byte_serialize(data.as_bytes()).collect();
        let request = head("GET", &format!("{}&sentry_data={data}", keyed(path)), &[]);
        let answer = exchange(&relay.address(), &request).await;
        assert_eq!((answer.status, answer.header("content-type")), (200, "image/gif"), "{path}");
        assert!(answer.body.starts_with(b"GIF89a\x01\x00\x01\x00"), "{answer:?}");
        ids.push(id);
    }
    for (query, status) in [("", 400), ("&sentry_data=", 400), ("&sentry_data=%7B", 400)] {
        let answer = exchange(&relay.address(), &head("GET", &format!("{}{query}", keyed("/api/1/store/")), &[])).await;
        assert_eq!(answer.status, status, "{query} {answer:?}");
    }
    let unknown = head("GET", "/api/1/store/?sentry_key=unknown&sentry_data=%7B%7D", &[]);
    assert_eq!(exchange(&relay.address(), &unknown).await.status, 403);
    let none = head("GET", "/api/1/store/?sentry_data=%7B%7D", &[]);
    assert_eq!(exchange(&relay.address(), &none).await.status, 401);
    relay.balanced(SOON).await;
    assert_eq!(upstream.taken_ids(), ids);
    assert!(String::from_utf8_lossy(upstream.taken()[0].items()).contains("a page + 100%"));
    assert!(!format!("{:?}", upstream.seen()).contains(KEY));
    relay.finish().await;
}

fn zlib(text: &str) -> Vec<u8> {
    use std::io::Write as _;
    let mut encoder = flate2::write::ZlibEncoder::new(vec![], flate2::Compression::default());
    encoder.write_all(text.as_bytes()).expect("memory");
    encoder.finish().expect("memory")
}
