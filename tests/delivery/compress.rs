//! Compressed deliveries, and upstreams that refuse them.

use std::io::Read as _;

use bytes::Bytes;

use crate::support::envelopes;
use crate::support::eventually::eventually;
use crate::support::relay::{Plan, Relay, SOON};
use crate::support::upstream::{Reply, Seen, Upstream};
use crate::{shows, takes};

/// The content encoding of a request; empty when there is none.
fn encoding(seen: &Seen) -> &str {
    seen.headers.get("content-encoding").map_or("", |value| value.to_str().expect("text"))
}

/// The decoded body. The decoder stops after the first member or frame.
fn plain(seen: &Seen) -> Bytes {
    let mut text = vec![];
    match encoding(seen) {
        "gzip" => flate2::read::GzDecoder::new(&*seen.body).read_to_end(&mut text).expect("gzip"),
        "zstd" => {
            let decoder = zstd::stream::read::Decoder::new(&*seen.body).expect("zstd");
            decoder.single_frame().read_to_end(&mut text).expect("zstd")
        }
        other => {
            assert_eq!(other, "");
            return seen.body.clone();
        }
    };
    text.into()
}

/// An envelope of about this size: an error, or an attachment when the size exceeds an event's limit.
fn envelope(size: usize) -> String {
    let frame = |n: usize| format!("{{\"function\":\"f{n}\",\"filename\":\"app:///dist/service.js\",\"lineno\":{n}}},");
    let frames: String = (0..size / 64).map(frame).collect();
    let (id, kind) = (envelopes::new_id(), if size < 1 << 20 { "event" } else { "attachment" });
    let event = format!("{{\"event_id\":\"{id}\",\"message\":\"a message\",\"frames\":[{frames}0]}}");
    envelopes::envelope(&id, kind, &event)
}

async fn send(relay: &Relay, sizes: &[usize]) {
    for size in sizes {
        assert_eq!(relay.send(envelope(*size)).await.status(), 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_upstream_gets_the_same_envelopes_in_its_own_compression() {
    let upstreams =
        [Upstream::start().await, Upstream::start().await, Upstream::start().await, Upstream::start().await];
    let names = ["plain", "zstd", "again", "gzip"];
    let dsns: Vec<(&str, String)> =
        names.into_iter().zip(&upstreams).map(|(name, u)| (name, u.dsn("key", 1))).collect();
    let relay = Plan::new(&dsns)
        .upstream("zstd", "compress = \"zstd\"")
        .upstream("again", "compress = \"zstd\"")
        .upstream("gzip", "compress = \"gzip\"")
        .start()
        .await;
    // One envelope is too small to compress, two are in memory and one is in a file.
    send(&relay, &[100, 8_000, 100_000, 3 << 20]).await;
    relay.balanced(SOON * 2).await;
    let sorted = |upstream: &Upstream| {
        let mut taken = upstream.taken();
        taken.sort_by_key(|seen| plain(seen).len());
        taken
    };
    let expected = sorted(&upstreams[0]);
    for (name, upstream) in names.into_iter().zip(&upstreams) {
        let taken = sorted(upstream);
        assert_eq!(taken.len(), 4, "{name}");
        for (n, (seen, expected)) in taken.iter().zip(&expected).enumerate() {
            assert_eq!(plain(seen), expected.body, "{name}");
            let wanted = match name {
                _ if n == 0 => "",
                "plain" => "",
                "again" => "zstd",
                name => name,
            };
            assert_eq!(encoding(seen), wanted, "{name}");
            assert!(wanted.is_empty() || seen.body.len() < expected.body.len() / 4, "{name}: {}", seen.body.len());
            let has_length = seen.headers.contains_key("content-length");
            assert_eq!(has_length, n < 3 || wanted.is_empty(), "{name}: only from a file its length is not known");
        }
    }
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_refuses_compressed_bodies_gets_them_plain() {
    for refusal in [415, 400, 411] {
        let a = Upstream::start().await;
        a.when(move |seen| (!encoding(seen).is_empty()).then(|| Reply::status(refusal)));
        let plan = Plan::new(&[("a", a.dsn("key-a", 1))]).upstream("a", "compress = \"gzip\"\nmax_in_flight = 1");
        let relay = plan.start().await;
        send(&relay, &[4_000, 5_000, 2 << 20, 6_000]).await;
        relay.balanced(SOON * 2).await;
        let encoded = || a.seen().iter().filter(|seen| !encoding(seen).is_empty()).count();
        assert_eq!((a.taken_count(), encoded()), (4, 1), "{refusal}: it is tried once");
        assert_eq!(relay.upstream("a").await["dead_letters"], 0);
        assert!(relay.log().contains("refuses envelopes compressed like this"), "{}", relay.log());
        // After a reload the relay tries compression again.
        let text = std::fs::read_to_string(relay.config()).expect("the configuration");
        relay.replace_config(&text.replace("max_in_flight = 1", "max_in_flight = 2"));
        eventually("it is live", SOON, async || match relay.log().contains("max_in_flight: 1 -> 2") {
            true => Ok(()),
            false => Err(relay.log()),
        })
        .await;
        a.when(|_| None);
        send(&relay, &[7_000]).await;
        takes(&a, 5, SOON).await;
        assert_eq!(encoding(&a.seen().pop().expect("the last")), "gzip");
        relay.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_envelope_refused_compressed_and_plain_becomes_a_dead_letter() {
    let a = Upstream::start().await;
    a.when(|seen| plain(seen).windows(6).any(|word| word == b"poison").then(|| Reply::status(400)));
    let relay = Plan::new(&[("a", a.dsn("key-a", 1))]).upstream("a", "compress = \"zstd\"").start().await;
    let poison =
        envelopes::envelope(&envelopes::new_id(), "event", &format!("{{\"message\":\"{}\"}}", "poison ".repeat(500)));
    assert_eq!(relay.send(poison).await.status(), 200);
    shows(&relay, "a", "it is a dead letter", |upstream| upstream["dead_letters"] == 1).await;
    send(&relay, &[4_000]).await;
    takes(&a, 1, SOON).await;
    let ways: Vec<String> = a.seen().iter().map(|seen| encoding(seen).to_owned()).collect();
    assert_eq!(ways, ["zstd", "", "zstd"]);
    relay.finish().await;
}
