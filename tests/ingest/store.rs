//! The store endpoint, as old SDKs speak it.

use std::io::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};
use serde_json::json;

use crate::support::envelopes::{self, KEY, new_id};
use crate::support::relay::{Relay, SOON};
use crate::support::upstream::Upstream;
use crate::support::wire::{Answer, exchange, head, post};
use crate::{front, keyed};

fn zlib(text: &str) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(vec![], Compression::default());
    encoder.write_all(text.as_bytes()).expect("memory");
    encoder.finish().expect("memory")
}

fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = GzEncoder::new(vec![], Compression::default());
    encoder.write_all(text.as_bytes()).expect("memory");
    encoder.finish().expect("memory")
}

fn event(id: &str) -> String {
    format!("{{ \"event_id\": \"{id}\", \"message\": \"old\",\"n\":1.50e1}}")
}

async fn send(relay: &Relay, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    exchange(&relay.address(), &post(path, headers, body)).await
}

/// Fails unless exactly one envelope arrived under this id and holds this payload alone.
async fn arrived_as(relay: &Relay, upstream: &Upstream, id: &str, kind: &str, payload: &str) {
    relay.balanced(SOON).await;
    let taken: Vec<_> = upstream.taken().into_iter().filter(|seen| seen.event_id() == id).collect();
    assert_eq!(taken.len(), 1, "{id}");
    let items = format!("{{\"type\":\"{kind}\",\"length\":{}}}\n{payload}\n", payload.len());
    assert_eq!(String::from_utf8_lossy(taken[0].items()), items);
    assert_eq!(taken[0].path, "/api/7/envelope/");
}

#[tokio::test]
async fn events_of_old_sdks_become_envelopes() {
    let (relay, upstream) = front().await;
    let auth = |version: u8, client: &str| {
        format!(
            "Sentry sentry_timestamp=1.5, sentry_client={client}, sentry_version={version}, sentry_key={KEY}, sentry_secret=x"
        )
    };
    let (ruby, python, go) = (auth(5, "raven-ruby/3.1"), auth(6, "raven-python/6.10"), auth(7, "sentry.go/0.11.0"));
    let octets = ("content-type", "application/octet-stream");
    type Encoder = fn(&str) -> Vec<u8>;
    type Case<'a> = (&'a str, Vec<(&'a str, &'a str)>, Encoder);
    let requests: [Case<'_>; 8] = [
        ("/api/1/store/", vec![("X-Sentry-Auth", &go), ("content-type", "application/json")], |text| text.into()),
        ("/api/1/store/", vec![("X-Sentry-Auth", &ruby), octets], |text| BASE64.encode(zlib(text)).into()),
        ("/api/1/store/", vec![("X-Sentry-Auth", &ruby), octets], |text| BASE64.encode(text).into()),
        ("/api/1/store/", vec![("X-Sentry-Auth", &python), octets, ("content-encoding", "deflate")], zlib),
        ("/api/1/store", vec![("X-Sentry-Auth", &go), ("content-encoding", "gzip")], gzip),
        ("/api/store/", vec![("X-Sentry-Auth", &python)], |text| text.into()),
        ("/api/store", vec![("X-Sentry-Auth", &python)], |text| BASE64.encode(zlib(text)).into()),
        ("//api//1///store//", vec![("X-Sentry-Auth", &go)], |text| text.into()),
    ];
    for (path, headers, encode) in requests {
        let id = new_id();
        let answer = send(&relay, path, &headers, &encode(&event(&id))).await;
        assert_eq!((answer.status, answer.json()), (200, json!({ "id": id })), "{path} {headers:?}");
        arrived_as(&relay, &upstream, &id, "event", &event(&id)).await;
    }
    // A hyphenated id is the same id, so this is a repeat; a transaction with it is not.
    let id = new_id();
    let hyphenated = uuid::Uuid::parse_str(&id).expect("a UUID").hyphenated().to_string();
    let store = keyed("/api/1/store/");
    for text in [event(&id), event(&hyphenated)] {
        assert_eq!(send(&relay, &store, &[], text.as_bytes()).await.json(), json!({ "id": id }));
    }
    arrived_as(&relay, &upstream, &id, "event", &event(&id)).await;
    let id = new_id();
    let transaction = event(&id).replace("\"message\"", "\"type\":\"transaction\",\"message\"");
    assert_eq!(send(&relay, &store, &[], transaction.as_bytes()).await.status, 200);
    arrived_as(&relay, &upstream, &id, "transaction", &transaction).await;
    relay.finish().await;
}

#[tokio::test]
async fn an_event_without_an_id_gets_one_and_an_envelope_is_unchanged() {
    let (relay, upstream) = front().await;
    let store = keyed("/api/1/store/");
    for text in ["{}", "{\"event_id\":null,\"message\":\"m\"}", "  {\"event_id\":\"\"}", "{\"event_id\":\"what\"}"] {
        let answer = send(&relay, &store, &[], text.as_bytes()).await;
        assert_eq!(answer.status, 200, "{text} {answer:?}");
        let id = answer.json()["id"].as_str().expect("an id").to_owned();
        assert!(id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit()), "{id}");
        arrived_as(&relay, &upstream, &id, "event", text).await;
    }
    for kind in ["application/x-sentry-envelope", "Application/X-Sentry-Envelope; charset=utf-8"] {
        let id = new_id();
        let body = envelopes::envelope(&id, "session", "{}");
        let answer = send(&relay, &store, &[("content-type", kind)], body.as_bytes()).await;
        assert_eq!((answer.status, answer.json()), (200, json!({ "id": id })));
        arrived_as(&relay, &upstream, &id, "session", "{}").await;
    }
    for (body, words) in
        [("", "empty"), ("hello!", "base64"), ("{\"a\":}", "JSON"), ("aGVsbG8=", "deflate"), ("[]", "base64")]
    {
        let answer = send(&relay, &store, &[], body.as_bytes()).await;
        assert_eq!(answer.status, 400, "{body}");
        assert!(answer.detail().contains(words), "{body} {answer:?}");
    }
    let unknown = send(&relay, "/api/store/?sentry_key=unknown", &[], b"{}").await;
    assert_eq!(unknown.status, 403);
    assert_eq!(send(&relay, "/api/store/", &[], b"{}").await.status, 401);
    relay.finish().await;
}

/// Hex digits that hardly repeat.
fn noise(bytes: usize) -> String {
    (0..bytes / 32 + 1).map(|_| new_id()).collect::<String>()[..bytes].to_owned()
}

fn long_event(id: &str, message: &str) -> String {
    format!("{{\"event_id\":\"{id}\",\"message\":\"{message}\"}}")
}

#[tokio::test]
async fn an_event_over_its_limit_is_refused_in_every_form() {
    let (relay, upstream) = front().await;
    let store = keyed("/api/1/store/");
    let digits = noise(3 << 20);
    let overhead = long_event(&new_id(), "").len();
    type Encoder = fn(&str) -> Vec<u8>;
    let plain: Encoder = |text| text.into();
    let packed: Encoder = |text| BASE64.encode(zlib(text)).into();
    // An incompressible event is larger in base64 than the limit for bodies in memory.
    let stored: Encoder = |text| {
        let mut encoder = ZlibEncoder::new(vec![], Compression::none());
        encoder.write_all(text.as_bytes()).expect("memory");
        BASE64.encode(encoder.finish().expect("memory")).into()
    };
    let forms = [(plain, None), (packed, None), (stored, None), (gzip as Encoder, Some("gzip"))];
    for (encode, encoding) in forms {
        let headers: Vec<(&str, &str)> = encoding.iter().map(|name| ("content-encoding", *name)).collect();
        let id = new_id();
        let event = long_event(&id, &digits[..(1 << 20) - overhead]);
        let answer = send(&relay, &store, &headers, &encode(&event)).await;
        assert_eq!((answer.status, answer.json()), (200, json!({ "id": id })));
        arrived_as(&relay, &upstream, &id, "event", &event).await;
        for bytes in [(1 << 20) + 1, 3 << 20] {
            let event = long_event(&new_id(), &digits[..bytes - overhead]);
            let answer = send(&relay, &store, &headers, &encode(&event)).await;
            let detail = answer.detail();
            assert_eq!(answer.status, 413, "{detail}");
            assert!(detail.contains("event item") && detail.ends_with("1048576"), "{detail}");
        }
    }
    // 20 MiB of blanks, posted in base64 and in an image's URL.
    let bomb = BASE64.encode(zlib(&long_event("", &" ".repeat(20 << 20))));
    let pixel = format!("{store}&sentry_data={}", bomb.replace('+', "%2B").replace('/', "%2F"));
    for request in [post(&store, &[], bomb.as_bytes()), head("GET", &pixel, &[])] {
        let answer = exchange(&relay.address(), &request).await;
        assert_eq!(answer.status, 413, "{answer:?}");
        assert_eq!(
            answer.detail(),
            "the event has more than 2097152 bytes, too many for an event item, whose limit is 1048576"
        );
    }
    relay.finish().await;
}
