//! What Bugsink holds of every recorded error event, read back by its API and compared with what was sent.

use std::time::Duration;

use serde_json::{Value, json};
use switchyard::content::{self, Difference, Kind};

use super::bugsink::Bugsink;
use crate::support::envelopes::{Recorded, items};
use crate::support::eventually::eventually;
use crate::support::relay::Plan;

/// For everything acknowledged to be stored.
const ARRIVAL: Duration = Duration::from_secs(45);

/// What differs between an event as it was sent and the tracker's copy of it.
fn differing(stored: &[Value], sent: &[u8]) -> Vec<Difference> {
    let event: Value = serde_json::from_slice(sent).expect("a recorded event");
    let copy = stored.iter().find(|stored| stored["event_id"] == event["event_id"]).expect("an event that is stored");
    content::compare(Kind::Bugsink, sent, &json!({ "data": copy })).expect("two events")
}

#[tokio::test]
async fn bugsink_holds_every_recorded_event_as_it_was_sent_and_a_field_that_changes_in_its_database_is_named() {
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
