//! Every recorded error event, read back from Bugsink by its API and compared with what was sent.

use std::time::Duration;

use serde_json::{Value, json};
use switchyard::content::{self, Difference, Kind};

use super::bugsink::Bugsink;
use crate::support::envelopes::{Recorded, envelope, items, new_id};
use crate::support::eventually::eventually;
use crate::support::relay::{Plan, Relay};
use crate::support::upstream::Upstream;

/// A timeout for every acknowledged event to be stored.
const ARRIVAL: Duration = Duration::from_secs(45);
/// A timeout for several checks of a real tracker on a busy machine.
const A_WHILE: Duration = Duration::from_secs(90);

/// The differences between a sent event and the tracker's copy.
fn differing(stored: &[Value], sent: &[u8]) -> Vec<Difference> {
    let event: Value = serde_json::from_slice(sent).expect("a recorded event");
    let copy = stored.iter().find(|stored| stored["event_id"] == event["event_id"]).expect("an event that is stored");
    content::compare(Kind::Bugsink, sent, json!({ "data": copy }).to_string().as_bytes()).expect("two events")
}

#[tokio::test]
async fn bugsink_holds_every_recorded_event_and_a_changed_field_is_named() {
    let bugsink = Bugsink::start().await;
    let project = bugsink.project("contents").await;
    let plan =
        Plan::new(&[("bugsink", project.dsn.clone())]).key(Recorded::KEY).upstream("bugsink", "kind = \"bugsink\"");
    let relay = plan.start().await;
    let path = format!("/api/1/envelope/?sentry_key={}", Recorded::KEY);
    let mut sent = Vec::new();
    for recorded in Recorded::all() {
        let body = recorded.decoded();
        let item = items(&body).into_iter().find(|item| item.kind == "event");
        let Some(item) = item else { continue };
        assert_eq!(relay.post(&path, body).send().await.expect("an answer").status(), 200, "{}", recorded.name);
        let payload = item.bytes.splitn(2, |byte| *byte == b'\n').nth(1).expect("a payload").to_vec();
        sent.push((recorded.name, payload));
    }
    assert!(sent.len() >= 10, "only {} recorded events", sent.len());
    let number = sent.len() as u64;
    eventually("all are stored", ARRIVAL, async || match bugsink.stored(&project).await {
        Ok(stored) if stored == number => Ok(()),
        other => Err(format!("{other:?} of {number}")),
    })
    .await;
    let stored = bugsink.events(&project).await;
    for (name, payload) in &sent {
        assert_eq!(differing(&stored, payload), [], "{name}");
    }
    let (_, payload) = sent.iter().find(|(name, _)| name == "node-error").expect("the fixture node-error");
    let event: Value = serde_json::from_slice(payload).expect("a recorded event");
    let release = event["release"].as_str().expect("a release");
    bugsink.change(event["event_id"].as_str().expect("an id"), "release", "changed@9");
    let found = differing(&bugsink.events(&project).await, payload);
    let changed = Difference { field: "release".into(), sent: release.into(), there: "changed@9".into() };
    assert_eq!(found, [changed]);
    relay.finish().await;
}

/// Waits until `stored` events are found, at least `at_least` are compared, and `differing` differ.
async fn compared(relay: &Relay, stored: u64, at_least: u64, differing: u64) {
    eventually("they are compared", A_WHILE, async || {
        let own = relay.upstream("bugsink").await["verification"].clone();
        let content = &own["content"];
        let is_enough = content["compared"].as_u64().is_some_and(|compared| compared >= at_least);
        let is_so = is_enough && own["stored"] == stored && content["differing"] == differing;
        if is_so { Ok(()) } else { Err(format!("{own}\n{}", relay.log())) }
    })
    .await;
}

/// Replaces the setting `before` by `after` and waits until the file is loaded.
async fn settle(relay: &Relay, before: &str, after: &str) {
    let loaded = async || relay.status().await["config"]["loaded_at"].clone();
    let loaded_before = loaded().await;
    let text = std::fs::read_to_string(relay.config()).expect("the file");
    assert!(text.contains(before), "{text}");
    relay.replace_config(&text.replace(before, after));
    let is_loaded = async || if loaded().await == loaded_before { Err(relay.log()) } else { Ok(()) };
    eventually("it is loaded", A_WHILE, is_loaded).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_report_compares_every_event_in_bugsink_and_names_the_changed_field() {
    let (primary, bugsink) = (Upstream::start().await, Bugsink::start().await);
    let project = bugsink.project("compared").await;
    let relay = Plan::new(&[("sentry", primary.dsn("beef", 8)), ("bugsink", project.dsn.clone())])
        .key(Recorded::KEY)
        .api("bugsink", "bugsink", None, bugsink.token())
        .more("[verify]\nsettle = \"1s\"\nrequests = \"50/s\"\ncompare = 5000\n")
        .start()
        .await;
    let path = format!("/api/1/envelope/?sentry_key={}", Recorded::KEY);
    let is_error = |body: &Vec<u8>| items(body).iter().any(|item| item.kind == "event");
    let mut bodies: Vec<Vec<u8>> = Recorded::all().iter().map(Recorded::decoded).filter(is_error).collect();
    let sent: Value = serde_json::from_str(include_str!("../../fixtures/contents/sent-event.json")).expect("JSON");
    let mut event = sent["body"].clone();
    event["event_id"] = json!(new_id());
    bodies.push(envelope(event["event_id"].as_str().expect("an id"), "event", &event.to_string()).into());
    let number = bodies.len() as u64;
    for body in bodies {
        assert_eq!(relay.post(&path, body).send().await.expect("an answer").status(), 200);
    }
    // The budget is large enough to compare every event.
    compared(&relay, number, number, 0).await;
    let (_, report) = relay.verb(&["report"]).await;
    assert!(report.contains("none differs") && !report.contains("fails content"), "{report}");
    // An event that changes before the relay looks for it.
    settle(&relay, "settle = \"1s\"", "settle = \"1h\"").await;
    let id = new_id();
    let event = json!({"event_id": id, "message": "a new kind of event", "level": "error", "release": "shop@1"});
    let accepted = relay.post(&path, envelope(&id, "event", &event.to_string())).send().await.expect("an answer");
    assert_eq!(accepted.status(), 200);
    eventually("it is stored", ARRIVAL, async || match bugsink.stored(&project).await {
        Ok(stored) if stored == number + 1 => Ok(()),
        other => Err(format!("{other:?} of {}", number + 1)),
    })
    .await;
    bugsink.change(&id, "release", "changed@9");
    settle(&relay, "settle = \"1h\"", "settle = \"1s\"").await;
    compared(&relay, number + 1, number + 1, 1).await;
    let (code, report) = relay.verb(&["report"]).await;
    let line = report.lines().find(|line| line.contains(&id)).unwrap_or_else(|| panic!("{report}"));
    assert!(line.contains("release: sent shop@1; there changed@9"), "{line}");
    assert!(code == 1 && report.contains("content"), "{report}");
    relay.finish().await;
}
