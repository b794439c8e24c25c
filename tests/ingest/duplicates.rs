//! Repeats that are delivered once, and data that only looks like a repeat.

use futures_util::future::join_all;

use crate::front;
use crate::support::envelopes::{self, envelope, new_id};
use crate::support::relay::{Plan, Relay, SOON};
use crate::support::upstream::{Seen, Upstream};

/// The requests that the upstream has taken under an event id once nothing waits.
async fn taken(relay: &Relay, upstream: &Upstream, id: &str) -> Vec<Seen> {
    relay.balanced(SOON).await;
    upstream.taken().into_iter().filter(|seen| seen.event_id() == id).collect()
}

async fn send(relay: &Relay, body: String) {
    let response = relay.send(body).await;
    assert_eq!(response.status(), 200);
}

/// Appends an item to an envelope.
fn and(mut body: String, kind: &str, payload: &str) -> String {
    body.push_str(&format!("{{\"type\":\"{kind}\",\"length\":{}}}\n{payload}\n", payload.len()));
    body
}

#[tokio::test]
async fn a_repeated_event_is_answered_alike_and_delivered_once() {
    let (relay, upstream) = front().await;
    let id = new_id();
    let hyphenated = uuid::Uuid::parse_str(&id).expect("a UUID").hyphenated().to_string();
    for body in [envelopes::error(&id), envelopes::error(&id), envelopes::error(&hyphenated)] {
        let response = relay.send(body).await;
        assert_eq!(response.text().await.expect("a body"), format!("{{\"id\":\"{id}\"}}"));
    }
    assert_eq!(taken(&relay, &upstream, &id).await.len(), 1);

    let id = new_id();
    let answers = join_all((0..20).map(|_| relay.send(envelopes::error(&id)))).await;
    assert!(answers.iter().all(|answer| answer.status() == 200), "{answers:?}");
    assert_eq!(taken(&relay, &upstream, &id).await.len(), 1);
    let samples = relay.samples().await.expect("metrics");
    let labels = [("project", "shop"), ("category", "error")];
    assert_eq!(samples.sum("switchyard_duplicate_items_total", &labels), 2.0 + 19.0);
    assert_eq!(samples.sum("switchyard_accepted_items_total", &labels), 2.0);
    relay.finish().await;
}

#[tokio::test]
async fn an_item_that_shares_an_events_id_is_no_repeat() {
    let (relay, upstream) = front().await;
    let id = new_id();
    for body in [
        envelopes::error(&id),
        envelope(&id, "attachment", "bytes"),
        envelope(&id, "user_report", "{}"),
        envelope(&id, "transaction", "{}"),
    ] {
        send(&relay, body).await;
    }
    assert_eq!(taken(&relay, &upstream, &id).await.len(), 4);

    for kind in ["session", "check_in", "replay_recording", "attachment", "user_report", "log", "client_report"] {
        let id = new_id();
        for n in 0..3 {
            send(&relay, envelope(&id, kind, &format!("{{\"segment\":{n}}}"))).await;
        }
        assert_eq!(taken(&relay, &upstream, &id).await.len(), 3, "{kind}");
    }
    let id = new_id();
    for segment in 0..2 {
        let event = envelope(&id, "replay_event", &format!("{{\"segment_id\":{segment}}}"));
        send(&relay, and(event, "replay_recording", "binary")).await;
    }
    assert_eq!(taken(&relay, &upstream, &id).await.len(), 2, "segments of one replay");
    relay.finish().await;
}

#[tokio::test]
async fn a_repeated_event_is_dropped_with_its_report_and_new_items_go_on() {
    let (relay, upstream) = front().await;
    let id = new_id();
    send(&relay, envelopes::error(&id)).await;
    let again = and(envelopes::error(&id), "user_report", "{}");
    let again = and(and(again, "attachment", "of the event"), "session", "{\"sid\":\"x\"}");
    send(&relay, again).await;
    let both = taken(&relay, &upstream, &id).await;
    assert_eq!(both.len(), 2);
    let rest = and(and(String::new(), "attachment", "of the event"), "session", "{\"sid\":\"x\"}");
    let items: Vec<&[u8]> = both.iter().map(Seen::items).collect();
    assert!(items.contains(&rest.as_bytes()), "the attachment and the session are new: {both:?}");
    relay.finish().await;
}

/// One of every item with an identity, and its category.
fn identified(id: &str) -> [(&'static str, String); 9] {
    let check_in =
        |status: &str| format!("{{\"check_in_id\":\"{id}\",\"monitor_slug\":\"m\",\"status\":\"{status}\"}}");
    let large = "x".repeat(2 << 20);
    [
        ("error", envelopes::error(id)),
        ("transaction", envelope(id, "transaction", "{}")),
        ("feedback", envelope(id, "feedback", "{}")),
        ("replay", envelope(id, "replay_event", "{\"type\":\"replay_event\",\"urls\":[],\"segment_id\":3}")),
        ("replay", envelope(id, "replay_recording", "{\"segment_id\":3}\nbinary")),
        ("monitor", envelope(&new_id(), "check_in", &check_in("error"))),
        ("monitor", envelope(&new_id(), "check_in", &check_in("ok"))),
        ("attachment_item", envelope(id, "attachment", "small")),
        ("attachment_item", envelope(id, "attachment", &large)),
    ]
}

#[tokio::test]
async fn each_heartbeat_of_a_long_job_arrives_as_an_item_and_by_url() {
    let (relay, upstream) = front().await;
    let id = new_id();
    let check_in = |status: &str, duration: u32| {
        let payload = serde_json::json!({
            "check_in_id": id, "monitor_slug": "nightly", "status": status, "duration": duration
        });
        envelope(&new_id(), "check_in", &payload.to_string())
    };
    for duration in [1, 1, 2] {
        send(&relay, check_in("in_progress", duration)).await;
    }
    for _ in 0..2 {
        send(&relay, check_in("ok", 3)).await;
    }
    relay.balanced(SOON).await;
    assert_eq!(upstream.taken_count(), 3 + 1, "each heartbeat, and one end");
    for _ in 0..3 {
        let path = format!("/api/1/cron/nightly/{}/", envelopes::KEY);
        let url = format!("http://{}{path}?check_in_id={id}&status=in_progress", relay.address());
        assert_eq!(relay.client().get(url).send().await.expect("an answer").status(), 202);
    }
    relay.balanced(SOON).await;
    assert_eq!(upstream.taken_count(), 4 + 3, "by URL as well");
    relay.finish().await;
}

#[tokio::test]
async fn no_event_id_of_one_project_makes_anothers_event_a_repeat() {
    let upstream = Upstream::start().await;
    let plan = Plan::new(&[("a", upstream.dsn("0ld", 1))]);
    let victim = format!(
        "[[projects]]\nname = \"victim\"\nid = \"2\"\npublic_key = \"07e2\"\n[projects.upstreams]\na = \"{}\"",
        upstream.dsn("4e3", 2)
    );
    let relay = plan.more(&victim).start().await;
    // The FNV-1a hash of project and item type: it once made two ids collide that differ by the difference of their hashes.
    let public = |project: &str| {
        let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        let hash = u128::from(format!("{project}\0event").bytes().fold(0xcbf2_9ce4_8422_2325, step));
        hash << 64 | hash
    };
    let known = uuid::Uuid::new_v4().as_u128();
    let chosen = known ^ public("victim") ^ public("shop");
    send(&relay, envelopes::error(&format!("{chosen:032x}"))).await;
    let id = format!("{known:032x}");
    let url = format!("http://{}/api/2/envelope/?sentry_key=07e2", relay.address());
    let answer = relay.client().post(url).body(envelopes::error(&id)).send().await.expect("an answer");
    assert_eq!(answer.status(), 200);
    assert_eq!(taken(&relay, &upstream, &id).await.len(), 1);
    relay.finish().await;
}

#[tokio::test]
async fn every_item_with_an_identity_is_delivered_once_through_restarts() {
    let (mut relay, upstream) = front().await;
    let id = new_id();
    let all = identified(&id);
    for (_, body) in &all {
        // A browser sends a recording up to four times.
        for answer in join_all((0..4).map(|_| relay.send(body.clone()))).await {
            assert_eq!(answer.status(), 200);
        }
    }
    relay.balanced(SOON).await;
    assert_eq!(upstream.taken_count(), all.len());
    relay.stop().await;
    let relay = relay.started().await;
    for (_, body) in &all {
        send(&relay, body.clone()).await;
    }
    relay.balanced(SOON).await;
    assert_eq!(upstream.taken_count(), all.len(), "each of them once");
    let samples = relay.samples().await.expect("metrics");
    for category in ["error", "transaction", "feedback", "replay", "monitor", "attachment_item"] {
        let labels = [("project", "shop"), ("category", category)];
        let expected = all.iter().filter(|(own, _)| *own == category).count() as f64;
        assert_eq!(samples.sum("switchyard_duplicate_items_total", &labels), expected, "{category}");
    }
    // Another segment, content or event is no repeat.
    let other = new_id();
    for body in [
        envelope(&id, "replay_recording", "{\"segment_id\":4}\nbinary"),
        envelope(&id, "attachment", "other"),
        envelope(&other, "attachment", "small"),
        envelope(&other, "replay_recording", "{\"segment_id\":3}\nbinary"),
        envelope(&id, "attachment", &"y".repeat(2 << 20)),
    ] {
        send(&relay, body).await;
    }
    relay.balanced(SOON).await;
    assert_eq!(upstream.taken_count(), all.len() + 5);
    relay.finish().await;
}
