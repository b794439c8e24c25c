//! Upstreams receive every recorded envelope of every SDK byte for byte, and some that no SDK sends.
//!
//! Rule: the expected bytes are made from the recorded ones by text replacement, not by the project's own code.

mod support;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use support::envelopes::{self, Item, KEY, Recorded, items, new_id};
use support::eventually::eventually;
use support::relay::{Plan, Relay, SOON};
use support::upstream::{Seen, Upstream};
use support::wire::{chunked, exchange, post};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::time::Instant;

/// An upstream with the parts of its DSN and the expected path of its requests.
struct Tracker {
    upstream: Upstream,
    key: &'static str,
    dsn: String,
    path: &'static str,
}

impl Tracker {
    /// An upstream with a DSN like Sentry's.
    async fn plain() -> Self {
        let upstream = Upstream::start().await;
        let key = "0f1e2d3c4b5a69788796a5b4c3d2e1f0";
        Self { dsn: upstream.dsn(key, 11), upstream, key, path: "/api/11/envelope/" }
    }

    /// An upstream with a key that is not hex, and a path before the project.
    async fn odd() -> Self {
        let upstream = Upstream::start().await;
        let key = "Any-Key_of-ours";
        let dsn = format!("http://{key}@{}/errors/here/42", upstream.address());
        Self { dsn, upstream, key, path: "/errors/here/api/42/envelope/" }
    }

    /// The bytes that must arrive of an envelope that was sent with this DSN and its key.
    fn expects(&self, sent: &[u8], dsn: &str, key: &str) -> Vec<u8> {
        let end = sent.iter().position(|b| *b == b'\n').unwrap_or(sent.len());
        let line = std::str::from_utf8(&sent[..end]).expect("a header line in UTF-8");
        let line = line.replace(dsn, &self.dsn).replace(key, self.key);
        [line.as_bytes(), &sent[end..]].concat()
    }

    /// Checks everything but the body: the destination, the credentials, and that nothing else is passed on.
    fn assert_addressed(&self, seen: &Seen, client: &str, what: &str) {
        assert_eq!((seen.path.as_str(), &seen.query), (self.path, &None), "{what}");
        let header = |name: &str| {
            let mut values = seen.headers.get_all(name).iter().map(|value| value.to_str().expect("ASCII"));
            let first = values.next();
            assert!(values.next().is_none(), "{what}: {name} twice");
            first.unwrap_or_default().to_owned()
        };
        assert_eq!(header("host"), self.upstream.address(), "{what}");
        let auth = format!("Sentry sentry_version=7, sentry_client={client}, sentry_key={}", self.key);
        assert_eq!(header("x-sentry-auth"), auth, "{what}");
        assert_eq!(header("content-type"), "application/x-sentry-envelope", "{what}");
        assert_eq!(header("content-length"), seen.body.len().to_string(), "{what}");
        assert_eq!(header("x-forwarded-for"), header("x-sentry-forwarded-for"), "{what}");
        let allowed = BTreeSet::from([
            "host",
            "x-sentry-auth",
            "content-type",
            "content-length",
            "x-forwarded-for",
            "x-sentry-forwarded-for",
            "cdn-loop",
            "user-agent",
            "origin",
        ]);
        let extra: Vec<_> = seen.headers.keys().filter(|name| !allowed.contains(name.as_str())).collect();
        assert!(extra.is_empty(), "{what}: {extra:?}");
    }
}

/// Sends a recorded request as the SDK did: its headers, its encoding, and chunked if it was.
async fn replay(relay: &Relay, recorded: &Recorded) {
    let headers: Vec<(&str, &str)> = recorded.sent_headers().collect();
    // A tunnel's path is arbitrary; requests to it look the same.
    let path = if recorded.path == "/tunnel" { "/api/1/envelope/" } else { &recorded.path };
    let path = if recorded.query.is_empty() { path.to_owned() } else { format!("{path}?{}", recorded.query) };
    let in_chunks = recorded.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("transfer-encoding"));
    let request =
        if in_chunks { chunked(&path, &headers, &recorded.body, 4096) } else { post(&path, &headers, &recorded.body) };
    let answer = exchange(&relay.address(), &request).await;
    assert_eq!(answer.status, 200, "{}: {answer:?}", recorded.name);
    assert_eq!(answer.json()["id"].as_str(), recorded.event_id.as_deref(), "{}", recorded.name);
}

fn user_agent(recorded: &Recorded) -> Option<&str> {
    recorded.sent_headers().find(|(name, _)| name.eq_ignore_ascii_case("user-agent")).map(|(_, value)| value)
}

/// The client name that the SDK gave, in a header or in the query.
fn client(recorded: &Recorded) -> String {
    let auth = recorded.sent_headers().find(|(name, _)| name.eq_ignore_ascii_case("x-sentry-auth"));
    let said = auth.map_or(recorded.query.clone(), |(_, value)| value.to_owned());
    let name = said.split([',', '&', ' ']).find_map(|pair| pair.trim().strip_prefix("sentry_client="));
    name.map_or(concat!("switchyard/", env!("CARGO_PKG_VERSION")).to_owned(), |name| name.replace("%2F", "/"))
}

/// The DSN in a recorded header line, or a DSN that occurs nowhere if there is none.
fn recorded_dsn(body: &[u8]) -> String {
    let line = body.split(|b| *b == b'\n').next().unwrap_or_default();
    let header: serde_json::Value = serde_json::from_slice(line).expect("a header");
    header["dsn"].as_str().unwrap_or("no dsn at all").to_owned()
}

async fn has_taken(tracker: &Tracker, count: usize) -> Seen {
    eventually("it has arrived", SOON, async || match tracker.upstream.taken() {
        taken if taken.len() == count => Ok(taken.last().expect("at least one").clone()),
        taken => Err(format!("{} of {count}", taken.len())),
    })
    .await
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[tokio::test]
async fn every_recorded_envelope_reaches_every_upstream_byte_for_byte() {
    let trackers = [Tracker::plain().await, Tracker::odd().await];
    let dsns = [("plain", trackers[0].dsn.clone()), ("odd", trackers[1].dsn.clone())];
    let plan = Plan::new(&dsns).key(Recorded::KEY).upstream("plain", "kind = \"sentry\"");
    let relay = plan.upstream("odd", "kind = \"relay\"").start().await;
    for (n, recorded) in Recorded::all().iter().enumerate() {
        replay(&relay, recorded).await;
        let sent = recorded.decoded();
        for tracker in &trackers {
            let seen = has_taken(tracker, n + 1).await;
            let what = format!("{} at {}", recorded.name, tracker.path);
            let expected = tracker.expects(&sent, &recorded_dsn(&sent), Recorded::KEY);
            assert!(seen.body == expected, "{what}:\n{}\n{}", text(&seen.body), text(&expected));
            tracker.assert_addressed(&seen, &client(recorded), &what);
            let agent = seen.headers.get("user-agent").map(|value| value.to_str().expect("ASCII"));
            assert_eq!(agent, user_agent(recorded), "{what}");
            assert_eq!(seen.headers["x-forwarded-for"], "127.0.0.1", "{what}");
        }
    }
    // Each item counts in its own category.
    let samples = relay.balanced(SOON).await;
    let all = Recorded::all();
    let categories: BTreeSet<&str> = all.iter().flat_map(|one| one.items.iter().map(|(_, c)| c.as_str())).collect();
    for category in categories.into_iter().filter(|category| !category.is_empty()) {
        let accepted = samples.sum("switchyard_accepted_items_total", &[("category", category)]);
        let items = all.iter().flat_map(|one| &one.items).filter(|(_, own)| own == category).count();
        assert!(accepted >= items as f64, "{category}: {accepted} accepted of {items} items");
    }
    relay.finish().await;
}

/// Envelopes that no SDK sends, but somebody might. `<DSN>` and `<KEY>` stand for the receiver's.
const HANDMADE: [&str; 19] = [
    "{\"event_id\":\"<ID>\",\"dsn\":\"<DSN>\"}\n{\"type\":\"event\",\"length\":2}\n{}\n",
    "{ \"dsn\" : \"<DSN>\" , \"event_id\" : \"<ID>\" , \"n\" : 1.50E+3, \"big\": 123456789012345678901234567890 }\n{\"type\":\"event\"}\n{\"n\":1.0e-7}",
    "{\"trace\":{\"public_key\":\"<KEY>\",\"sample_rate\":\"0.10\"},\"event_id\":\"<ID>\",\"dsn\":\"<DSN>\"}\n{\"type\":\"transaction\"}\n{}",
    "{\"event_id\":\"<ID>\",\"trace\":{\"public_key\":null},\"sent_at\":null,\"dsn\":null}\n{\"type\":\"event\"}\n{}",
    "{\"event_id\":\"<ID>\",\"trace\":[],\"sdk\":{\"dsn\":\"http://kept@h/9\"},\"x\":\"\\u00e9\\n\",\"\u{e9}\":\"\u{1f980}\"}\n{\"type\":\"event\"}\n{}",
    "{\"event_id\":\"<ID>\",\"sent_at\":\"2026-11-23T10:00:00.100Z\",\"x\":1,\"x\":2}\n{\"type\":\"event\"}\n{}",
    "{\"event_id\":\"<ID>\"}\r\n{\"type\":\"event\"}\r\n{\"a\":1}\r\n{\"type\":\"session\"}\r\n{\"b\":2}\r\n",
    "{\"event_id\":\"<ID>\"}\n{\"type\":\"attachment\",\"length\":9,\"filename\":\"\u{e9}\"}\n\0\n\r\n{}\n\0\n\n{\"type\":\"event\",\"length\":2}\n{}",
    "{\"event_id\":\"<ID>\"}\n{\"type\":\"x_never\",\"length\":4,\"x\":{\"deep\":[1.0,2e0]}}\n\u{1}\u{2}\u{3}\u{4}\n{\"type\":\"event\"}\n{}\n",
    "{\"event_id\":\"<ID>\"}\n{\"type\":\"attachment\",\"length\":0}\n\n{\"type\":\"event\",\"length\":2}\n{}\n{\"type\":\"attachment\",\"length\":0}\n",
    "{\"event_id\":\"<ID>\"}\n{\"type\":\"attachment\",\"length\":0}\n",
    "{\"event_id\":\"<ID>\"}\n\n\n{\"type\":\"event\"}\n{}\n\n\n",
    "{\"x\":\"<ID>\"}\n{\"length\":2,\"type\":\"client_report\"}\n{}",
    "{\"event_id\":\"<ID>\"}\n{\"type\":\"event\"}\n{\"dsn\":\"http://kept@h/1\",\"public_key\":\"kept\",\"sent_at\":\"kept\"}",
    "{\"x\":\"<ID>\",\"dsn\":\"<DSN>\",\"trace\":{\"x\":{\"public_key\":\"kept\"},\"public_key\":\"<KEY>\"}}\n{\"type\":\"profile_chunk_ui\",\"platform\":\"cocoa\"}\n{}\n",
    "{\"event_id\":\"<ID>\"}\n{\"type\":\"event\"}\nno JSON at all",
    "{\"event_id\":\"<ID>\"}\n{\"type\":\"feedback\",\"length\":2}\n{}\n{\"x\":1.0,\"type\":\"event\"}\n{\"b\":1e1}\r\n{\"type\":\"x_new\",\"length\":3}\n\n\n\n\n{\"type\":\"attachment\",\"length\":2}\n\0\n\n",
    "{\"event_id\":\"<ID>\"}\n{\"type\":\"event\"}\n{\"first\":1}\n{\"type\":\"attachment\",\"length\":0}\n\n{\"type\":\"event\"}\n{\"second\":2}",
    "{\"event_id\":\"<ID>\"}\n{\"type\":\"profile_chunk\"}\n{}\n{\"type\":\"transaction\"}\n{}\n{\"type\":\"x_empty\"}",
];

#[tokio::test]
async fn every_envelope_arrives_as_it_was_sent() {
    let trackers = [Tracker::plain().await, Tracker::odd().await];
    let dsns = [("plain", trackers[0].dsn.clone()), ("odd", trackers[1].dsn.clone())];
    let relay = Plan::new(&dsns).start().await;
    for (n, template) in HANDMADE.iter().enumerate() {
        let template = template.replace("<ID>", &new_id());
        let fill = |dsn: &str, key: &str| template.replace("<DSN>", dsn).replace("<KEY>", key);
        let answer = relay.send(fill(&relay.dsn(), KEY)).await;
        assert_eq!(answer.status(), 200, "{template} {:?}", answer.text().await);
        for tracker in &trackers {
            let seen = has_taken(tracker, n + 1).await;
            assert_eq!(text(&seen.body), fill(&tracker.dsn, tracker.key));
        }
    }
    relay.finish().await;
}

/// Waits until everything accepted is settled; returns the requests that the upstream took after its first `before`.
async fn settled(relay: &Relay, upstream: &Upstream, before: usize) -> Vec<Seen> {
    relay.balanced(SOON).await;
    upstream.taken().split_off(before)
}

/// Fails unless the requests hold the envelope's items, each once and byte for byte, in any grouping and order, and every request has the
/// envelope's header line.
fn assert_same_items(tracker: &Tracker, requests: &[Seen], expected: &[u8], kept: impl Fn(&str) -> bool, what: &str) {
    let line = |body: &[u8]| text(body.split(|b| *b == b'\n').next().unwrap_or_default());
    let sorted = |mut items: Vec<Item>| {
        items.retain(|item| kept(&item.kind));
        let mut bytes: Vec<_> = items.into_iter().map(|item| item.bytes).collect();
        bytes.sort();
        bytes
    };
    let arrived: Vec<Item> = requests.iter().flat_map(|seen| items(&seen.body)).collect();
    assert!(arrived.iter().all(|item| kept(&item.kind) && !item.after_blank), "{what}: {arrived:?}");
    assert_eq!(sorted(arrived), sorted(items(expected)), "{what}");
    for seen in requests {
        assert_eq!(line(&seen.body), line(expected), "{what}");
        assert_eq!((seen.path.as_str(), seen.headers.get("content-encoding")), (tracker.path, None), "{what}");
        assert_eq!(seen.headers["content-length"], seen.body.len().to_string().as_str(), "{what}");
    }
}

#[tokio::test]
async fn trackers_with_quirks_get_the_same_items_byte_for_byte() {
    let (glitchtip, bugsink) = (Tracker::plain().await, Tracker::odd().await);
    let dsns = [("glitchtip", glitchtip.dsn.clone()), ("bugsink", bugsink.dsn.clone())];
    // An event that a GlitchTip 5 cannot store would wait a minute for its turn.
    let plan = Plan::new(&dsns).key(Recorded::KEY).upstream("glitchtip", "kind = \"glitchtip\"\nspare_batches = false");
    let relay = plan.upstream("bugsink", "kind = \"bugsink\"").start().await;
    let own_dsn = relay.dsn().replace(KEY, Recorded::KEY);
    let made = HANDMADE
        .map(|template| template.replace("<ID>", &new_id()).replace("<DSN>", &own_dsn).replace("<KEY>", Recorded::KEY));
    let recorded = Recorded::all();
    let all = recorded.iter().map(|one| (one.name.clone(), one.decoded(), Some(one)));
    let all = all.chain(made.iter().map(|body| (body.clone(), body.clone().into_bytes(), None)));
    for (name, sent, recorded) in all {
        let before = [glitchtip.upstream.taken_count(), bugsink.upstream.taken_count()];
        match recorded {
            Some(recorded) => replay(&relay, recorded).await,
            None => {
                let path = format!("/api/1/envelope/?sentry_key={}", Recorded::KEY);
                assert_eq!(relay.post(&path, sent.clone()).send().await.expect("an answer").status(), 200, "{name}");
            }
        }
        let expected = |tracker: &Tracker| {
            let dsn = recorded.map_or_else(|| own_dsn.clone(), |_| recorded_dsn(&sent));
            tracker.expects(&sent, &dsn, Recorded::KEY)
        };
        let arrived = settled(&relay, &glitchtip.upstream, before[0]).await;
        assert_same_items(&glitchtip, &arrived, &expected(&glitchtip), |_| true, &format!("{name} at glitchtip"));
        let has_event = items(&sent).iter().any(|item| item.kind == "event");
        let stored = |kind: &str| match kind {
            "transaction" | "span" => false,
            // A profile without an event goes with its transaction, which Bugsink does not store.
            "profile" => has_event,
            _ => true,
        };
        let arrived = settled(&relay, &bugsink.upstream, before[1]).await;
        let what = format!("{name} at bugsink");
        if arrived.len() == 1 && arrived[0].body == expected(&bugsink) {
            continue;
        }
        assert_same_items(&bugsink, &arrived, &expected(&bugsink), stored, &what);
    }
    relay.finish().await;
}

#[tokio::test]
async fn an_upstream_learns_only_what_it_needs_of_the_client() {
    for (trusted, chain) in [("[]", "127.0.0.1"), ("[\"127.0.0.1\"]", "203.0.113.7, 10.1.2.3, 127.0.0.1")] {
        let tracker = Tracker::odd().await;
        let plan = Plan::new(&[("odd", tracker.dsn.clone())]).server(&format!("trusted_proxies = {trusted}"));
        let relay = plan.start().await;
        let auth = format!("Sentry sentry_key={KEY}, sentry_client=shop.web/1.2.3, sentry_version=6, sentry_secret=s");
        let headers = [
            ("X-Sentry-Auth", auth.as_str()),
            ("Authorization", "Bearer of-a-proxy"),
            ("Origin", "https://shop.example"),
            ("User-Agent", "Mozilla/5.0 (of a person)"),
            ("Cookie", "session=private"),
            ("Referer", "https://shop.example/cart"),
            ("X-Forwarded-For", "203.0.113.7, 10.1.2.3"),
            ("X-Real-IP", "203.0.113.7"),
            ("Accept", "*/*"),
            ("Content-Type", "text/plain"),
            ("X-Whatever", "x"),
        ];
        let request = post("/api/1/envelope/", &headers, envelopes::error(&new_id()).as_bytes());
        assert_eq!(exchange(&relay.address(), &request).await.status, 200);
        let seen = has_taken(&tracker, 1).await;
        tracker.assert_addressed(&seen, "shop.web/1.2.3", trusted);
        assert_eq!(seen.headers["origin"], "https://shop.example");
        assert_eq!(seen.headers["user-agent"], "Mozilla/5.0 (of a person)");
        assert_eq!(seen.headers["x-forwarded-for"], chain);
        // A client without a valid name gets the relay's name.
        for (n, auth) in ["", ", sentry_client=", ", sentry_client=a\u{7f}b"].into_iter().enumerate() {
            let auth = format!("Sentry sentry_key={KEY}{auth}");
            let request = post("/api/1/envelope/", &[("x-sentry-auth", &auth)], envelopes::error(&new_id()).as_bytes());
            let answer = exchange(&relay.address(), &request).await;
            if answer.status == 200 {
                let seen = has_taken(&tracker, n + 2).await;
                tracker.assert_addressed(&seen, concat!("switchyard/", env!("CARGO_PKG_VERSION")), &auth);
            } else {
                assert!(auth.contains('\u{7f}') && answer.status < 500, "{answer:?}");
            }
        }
        relay.finish().await;
    }
}

#[tokio::test]
async fn a_held_envelope_differs_only_in_sent_at() {
    let mut tracker = Tracker::odd().await;
    let relay = Plan::new(&[("odd", tracker.dsn.clone())]).key(Recorded::KEY).start().await;
    tracker.upstream.go_down().await;
    let all = Recorded::all();
    let mut sent = Vec::new();
    for recorded in &all {
        let began = Instant::now();
        replay(&relay, recorded).await;
        sent.push((began, Instant::now()));
    }
    let last = sent.last().expect("many").1;
    eventually("all were held for a while", SOON, async || match last.elapsed() > Duration::from_millis(1500) {
        true => Ok(()),
        false => Err(format!("{:?}", last.elapsed())),
    })
    .await;
    let back = Instant::now();
    tracker.upstream.come_back().await;
    relay.balanced(SOON * 3).await;
    let taken = tracker.upstream.taken();
    assert_eq!(taken.len(), all.len());
    let mut moved = 0;
    for (recorded, (began, ended)) in all.iter().zip(sent) {
        let body = recorded.decoded();
        let expected = tracker.expects(&body, &recorded_dsn(&body), Recorded::KEY);
        let end = expected.iter().position(|b| *b == b'\n').expect("items");
        let same = |seen: &&Seen| seen.items() == &expected[end + 1..];
        let seen = taken.iter().find(same).unwrap_or_else(|| panic!("{} has not arrived", recorded.name));
        tracker.assert_addressed(seen, &client(recorded), &recorded.name);
        let expected: serde_json::Value = serde_json::from_slice(&expected[..end]).expect("a header");
        let line = text(&seen.body[..seen.body.len() - seen.items().len() - 1]);
        let Some(before) = expected["sent_at"].as_str() else {
            assert_eq!(line, text(&tracker.expects(&body, &recorded_dsn(&body), Recorded::KEY)[..end]));
            continue;
        };
        let after = seen.header()["sent_at"].as_str().expect("still there").to_owned();
        assert_eq!(
            line.replace(&after, before),
            text(&tracker.expects(&body, &recorded_dsn(&body), Recorded::KEY)[..end])
        );
        assert_eq!(after.len(), before.len(), "spelled as it was: {after}");
        let at = |text: &str| OffsetDateTime::parse(text, &Rfc3339).expect("a date");
        let dwell = Duration::try_from(at(&after) - at(before)).expect("later, not earlier");
        let tolerance = Duration::from_millis(20);
        assert!(dwell + tolerance >= back - ended, "{}: {dwell:?}", recorded.name);
        assert!(dwell <= began.elapsed() + tolerance, "{}: {dwell:?}", recorded.name);
        moved += 1;
    }
    assert!(moved > 20, "{moved}");
    relay.finish().await;
}

#[tokio::test]
async fn a_backlog_of_two_hours_has_its_sent_at_moved_by_two_hours() {
    let mut tracker = Tracker::plain().await;
    let mut relay = Plan::new(&[("plain", tracker.dsn.clone())]).start().await;
    tracker.upstream.go_down().await;
    let sent_at = OffsetDateTime::now_utc();
    let stamp = sent_at.format(&Rfc3339).expect("a date");
    let items = "{\"type\":\"event\"}\n{\"timestamp\":1.5e9,\"sent_at\":\"kept\"}\n";
    let envelope = format!("{{\"event_id\":\"{}\",\"sent_at\":\"{stamp}\",\"n\":1.0}}\n{items}", new_id());
    assert_eq!(relay.send(envelope.clone()).await.status(), 200);
    relay.stop().await;
    relay.age(Duration::from_secs(7200));
    tracker.upstream.come_back().await;
    relay.launch();
    relay.await_ready().await;
    let seen = has_taken(&tracker, 1).await;
    let after = seen.header()["sent_at"].as_str().expect("still there").to_owned();
    assert_eq!(text(&seen.body), envelope.replace(&stamp, &after), "nothing else has changed");
    let moved = OffsetDateTime::parse(&after, &Rfc3339).expect("a date") - sent_at;
    // Sentry compares `sent_at` with its own clock and shifts every timestamp from a difference of 55 minutes on.
    let expected = Duration::from_secs(7200)..Duration::from_secs(7260);
    assert!(expected.contains(&Duration::try_from(moved).expect("later")), "{moved}");
    relay.finish().await;
}

#[tokio::test]
async fn localhost_is_found_in_whichever_family_the_upstream_listens() {
    let addresses: [IpAddr; 2] = [Ipv6Addr::LOCALHOST.into(), Ipv4Addr::LOCALHOST.into()];
    let six = Upstream::start_on(addresses[0]).await;
    let four = Upstream::start_on(addresses[1]).await;
    let port = |upstream: &Upstream| upstream.address().rsplit_once(':').expect("a port").1.to_owned();
    let dsn = |upstream: &Upstream| format!("http://k@localhost:{}/prefix/5", port(upstream));
    let relay = Plan::new(&[("six", dsn(&six)), ("four", dsn(&four))]).start().await;
    let ids = relay.send_errors(3).await;
    relay.balanced(SOON).await;
    for upstream in [&six, &four] {
        let (mut taken, mut sent) = (upstream.taken_ids(), ids.clone());
        taken.sort();
        sent.sort();
        assert_eq!(taken, sent);
        let seen = &upstream.taken()[0];
        assert_eq!(seen.path, "/prefix/api/5/envelope/");
        assert_eq!(seen.headers["host"], format!("localhost:{}", port(upstream)).as_str());
    }
    relay.finish().await;
}
