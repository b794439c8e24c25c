//! Bodies: every encoding, every way to be malformed, and bombs.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
use serde_json::Value;

use crate::support::envelopes::{self, KEY, new_id};
use crate::support::eventually::eventually;
use crate::support::memory::Memory;
use crate::support::relay::{Relay, SOON};
use crate::support::upstream::Upstream;
use crate::support::wire::{Answer, chunked, exchange, post};
use crate::{front, front_of, keyed, refused};

/// The memory that a bomb may take at its peak.
const MOST_MEMORY_KIB: u64 = 16 * 1024;

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(vec![], Compression::default());
    encoder.write_all(text).expect("memory");
    encoder.finish().expect("memory")
}

fn zlib(text: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(vec![], Compression::default());
    encoder.write_all(text).expect("memory");
    encoder.finish().expect("memory")
}

fn raw_deflate(text: &[u8]) -> Vec<u8> {
    let mut encoder = DeflateEncoder::new(vec![], Compression::default());
    encoder.write_all(text).expect("memory");
    encoder.finish().expect("memory")
}

fn zstd(text: &[u8]) -> Vec<u8> {
    zstd::encode_all(text, 0).expect("memory")
}

fn plain(text: &[u8]) -> Vec<u8> {
    text.to_vec()
}

/// Waits until the upstream has taken exactly these bodies, in any order.
async fn arrived(upstream: &Upstream, mut expected: Vec<Vec<u8>>) {
    expected.sort();
    eventually("all bodies have arrived as they were sent", SOON, async || {
        let mut taken: Vec<Vec<u8>> = upstream.taken().iter().map(|seen| seen.body.to_vec()).collect();
        taken.sort();
        if taken == expected { Ok(()) } else { Err(format!("{} of {}", taken.len(), expected.len())) }
    })
    .await;
}

#[tokio::test]
async fn every_encoding_is_understood() {
    let (relay, upstream) = front().await;
    type Encoder = fn(&[u8]) -> Vec<u8>;
    let encodings: [(&str, Encoder); 14] = [
        ("gzip", gzip),
        ("x-gzip", gzip),
        ("GZIP", gzip),
        ("deflate", zlib),
        ("deflate", raw_deflate),
        ("zstd", zstd),
        ("identity", plain),
        ("", plain),
        ("UTF-8", plain),
        ("zstd, gzip", |text| gzip(&zstd(text))),
        ("deflate,identity , gzip", |text| gzip(&zlib(text))),
        ("gzip,", gzip),
        ("gzip", |text| [gzip(&text[..20]), gzip(&text[20..])].concat()),
        ("gzip, gzip, gzip", |text| gzip(&gzip(&gzip(text)))),
    ];
    let mut expected = Vec::new();
    for (name, encode) in encodings {
        let text = envelopes::error(&new_id());
        let request = post(&keyed("/api/1/envelope/"), &[("content-encoding", name)], &encode(text.as_bytes()));
        let answer = exchange(&relay.address(), &request).await;
        assert_eq!(answer.status, 200, "{name}: {answer:?}");
        expected.push(text.into_bytes());
    }
    // Two header lines form one list.
    let text = envelopes::error(&new_id());
    let lines = [("content-encoding", "zstd"), ("content-encoding", "gzip")];
    let twice = post(&keyed("/api/1/envelope/"), &lines, &gzip(&zstd(text.as_bytes())));
    assert_eq!(exchange(&relay.address(), &twice).await.status, 200);
    expected.push(text.into_bytes());
    // As @sentry/node sends: chunked, without content type and length, sometimes compressed.
    for (headers, size) in [(&[][..], 10), (&[("content-encoding", "gzip")], 7)] {
        let text = envelopes::error(&new_id());
        let body = if headers.is_empty() { text.clone().into_bytes() } else { gzip(text.as_bytes()) };
        let request = chunked(&keyed("/api/1/envelope/"), headers, &body, size);
        assert_eq!(exchange(&relay.address(), &request).await.status, 200);
        expected.push(text.into_bytes());
    }
    for name in ["compress", "gzip, x-shop", "gzip,gzip,gzip,gzip"] {
        let answer =
            exchange(&relay.address(), &post(&keyed("/api/1/envelope/"), &[("content-encoding", name)], b"x")).await;
        assert_eq!(answer.status, 415, "{name}");
        assert!(answer.detail().contains("content encoding"), "{answer:?}");
    }
    assert_eq!(refused(&relay, "encoding").await, 3.0);
    arrived(&upstream, expected).await;
    relay.finish().await;
}

/// A hostile body, its headers, and the allowed answers.
struct Case {
    name: String,
    encoding: Option<String>,
    status: Vec<u64>,
    items: usize,
    body: Vec<u8>,
}

impl Case {
    fn all() -> Vec<Self> {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/hostile");
        let text = std::fs::read_to_string(folder.join("cases.json")).expect("the list of hostile bodies");
        let cases: Vec<Value> = serde_json::from_str(&text).expect("a list");
        let read = |case: &Value| {
            let name = case["body_file"].as_str().expect("a file").to_owned();
            let status = case["status"].as_array().expect("statuses");
            Self {
                body: std::fs::read(folder.join(&name)).expect("a body"),
                name,
                encoding: case["encoding"].as_str().map(str::to_owned),
                status: status.iter().filter_map(Value::as_u64).collect(),
                items: case["items"].as_array().expect("items").len(),
            }
        };
        cases.iter().map(read).collect()
    }

    async fn send(&self, relay: &Relay) -> Answer {
        let encoding: Vec<(&str, &str)> = self.encoding.iter().map(|e| ("content-encoding", e.as_str())).collect();
        let answer = exchange(&relay.address(), &post(&keyed("/api/1/envelope/"), &encoding, &self.body)).await;
        assert!(self.status.contains(&u64::from(answer.status)), "{}: {answer:?}", self.name);
        if answer.status != 200 {
            assert!(!answer.detail().is_empty(), "{}", self.name);
        }
        answer
    }

    /// The body that an upstream must get.
    fn decoded(&self) -> Vec<u8> {
        use switchyard::intake::decode;
        let encodings = decode::encodings(self.encoding.as_deref().unwrap_or_default()).expect("a known encoding");
        decode::decode(self.body.clone().into(), &encodings, 1 << 20).expect("a small body").to_vec()
    }
}

#[tokio::test]
async fn hostile_bodies_are_answered_and_bombs_cost_no_memory() {
    // Without a window for repeats every good body must arrive, whatever its event id.
    let (relay, upstream) = front_of(|plan| plan.server("max_body = \"8MiB\"").more("[dedup]\nwindow = \"0s\"")).await;
    let (bombs, cases): (Vec<Case>, Vec<Case>) =
        Case::all().into_iter().partition(|case| case.name.starts_with("bomb-"));
    assert!(bombs.len() >= 9 && cases.len() >= 40);
    let mut expected = Vec::new();
    for case in &cases {
        let answer = case.send(&relay).await;
        if answer.status == 200 && case.items > 0 {
            expected.push(case.decoded());
        }
    }
    arrived(&upstream, expected).await;

    let memory = Memory::of(relay.pid());
    let before = memory.resident();
    for bomb in &bombs {
        bomb.send(&relay).await;
    }
    let most = memory.peak();
    assert!(most < before + MOST_MEMORY_KIB, "{before} KiB before the bombs, {most} KiB at the most");
    assert!(refused(&relay, "too_large").await >= 5.0);
    // The relay works as before.
    assert_eq!(relay.send(envelopes::error(&new_id())).await.status(), 200);
    relay.finish().await;
}

#[tokio::test]
async fn the_answer_names_the_event_id_and_empty_envelopes_go_nowhere() {
    let (relay, upstream) = front().await;
    let id = new_id();
    let hyphenated = uuid::Uuid::parse_str(&id).expect("a UUID").hyphenated().to_string().to_uppercase();
    let session = |id: &str| envelopes::envelope(id, "session", "{}");
    let nil = "0".repeat(32);
    for (body, answer, arrives) in [
        (envelopes::error(&id), format!("{{\"id\":\"{id}\"}}"), true),
        (session(&hyphenated), format!("{{\"id\":\"{id}\"}}"), true),
        (envelopes::envelope("", "session", "{}").replacen("\"event_id\":\"\"", "", 1), "{}".to_owned(), true),
        (format!("{{\"event_id\":\"{id}\"}}"), format!("{{\"id\":\"{id}\"}}"), false),
        ("{}\n".to_owned(), "{}".to_owned(), false),
    ] {
        let before = relay.samples().await.expect("metrics").sum("switchyard_accepted_items_total", &[]);
        let response = relay.send(body.clone()).await;
        assert_eq!(response.status(), 200, "{body}");
        assert_eq!(response.headers()["content-type"], "application/json");
        assert_eq!(response.text().await.expect("a body"), answer, "{body}");
        let after = relay.samples().await.expect("metrics").sum("switchyard_accepted_items_total", &[]);
        assert_eq!(after - before, if arrives { 1.0 } else { 0.0 }, "{body}");
    }
    // The nil id identifies nothing, so two events with it are two events.
    for _ in 0..2 {
        assert_eq!(relay.send(envelopes::error(&nil)).await.status(), 200);
    }
    eventually("both have arrived", SOON, async || {
        let count = upstream.taken_ids().iter().filter(|id| **id == nil).count();
        if count == 2 { Ok(()) } else { Err(count.to_string()) }
    })
    .await;
    assert_eq!(upstream.taken_count(), 5, "{KEY}");
    relay.finish().await;
}
