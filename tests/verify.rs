//! Verification: what trackers store of the events they took, found out by their APIs, shown, and repaired by sending again.

mod support;

mod verify {
    mod catch_up;
    mod content;
    mod hostile;
}

use std::time::Duration;

use serde_json::{Value, json};
use support::envelopes::{envelope, new_id};
use support::eventually::eventually;
use support::glitchtip::{Glitchtip, PLACE, TOKEN};
use support::relay::{Plan, Relay, SOON};
use support::upstream::{Reply, Upstream};

/// A timeout for several checks on a busy machine.
const A_WHILE: Duration = Duration::from_secs(60);
/// Times much shorter than a real GlitchTip's.
const BATCH: Duration = Duration::from_millis(300);
const MEMORY: Duration = Duration::from_secs(2);
const QUICK: &str = "[verify]\nsettle = \"1s\"\nrequests = \"50/s\"\n";

/// A relay with a primary without an API section and a GlitchTip with one.
async fn scene(more: &str) -> (Upstream, Glitchtip, Relay) {
    scene_with("", more).await
}

/// Like [`scene`], with another line in the GlitchTip's section.
async fn scene_with(line: &str, more: &str) -> (Upstream, Glitchtip, Relay) {
    let (primary, glitchtip) = (Upstream::start().await, Glitchtip::start(BATCH, MEMORY).await);
    let remembering = format!("{line}\napi.remembers = \"2s\"");
    let plan = Plan::new(&[("sentry", primary.dsn("beef", 8)), ("glitchtip", glitchtip.dsn())])
        .api("glitchtip", "glitchtip", Some(PLACE), TOKEN)
        .upstream("glitchtip", if line.contains("remembers") { line } else { &remembering })
        .more(&format!("{QUICK}{more}"));
    (primary, glitchtip, plan.start().await)
}

async fn verification(relay: &Relay) -> Value {
    relay.upstream("glitchtip").await["verification"].clone()
}

/// Waits until the figures match.
async fn figures(relay: &Relay, expected: &[(&str, u64)]) {
    eventually(&format!("{expected:?}"), A_WHILE, async || {
        let found = verification(relay).await;
        match expected.iter().all(|(name, count)| found[*name] == *count) {
            true => Ok(()),
            false => Err(format!("{found}\n{}", relay.log())),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stored_events_are_found_and_the_verdict_rests_on_them() {
    let (_primary, glitchtip, relay) = scene("").await;
    let ids = relay.send_errors(150).await;
    figures(&relay, &[("delivered", 150), ("stored", 150), ("missing", 0), ("unknown", 0)]).await;
    assert_eq!(glitchtip.stored().len(), ids.len());
    assert!(glitchtip.questions() < 60, "by the pages of its list: {}", glitchtip.questions());
    let (code, told) = relay.verb(&["verify", "--since", "1h"]).await;
    assert_eq!((code, told.contains("150 of 150 events stored, 0 missing")), (0, true), "{told}");
    let (_, report) = relay.verb(&["report", "--json"]).await;
    let report: Value = serde_json::from_str(&report).expect("a report");
    let stored = report["criteria"].as_array().unwrap().iter().find(|one| one["name"] == "stored").unwrap();
    assert_eq!(stored["passed"], json!(true), "{stored}");
    let samples = relay.samples().await.expect("metrics");
    let of = |name| samples.sum(name, &[("upstream", "glitchtip")]);
    assert_eq!((of("switchyard_stored_events"), of("switchyard_unknown_events")), (150.0, 0.0));
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_without_an_api_has_no_proof_that_it_stores() {
    let (a, b) = (Upstream::start().await, Upstream::start().await);
    let relay = Plan::new(&[("a", a.dsn("cafe", 7)), ("b", b.dsn("beef", 8))]).start().await;
    relay.send_errors(3).await;
    relay.balanced(SOON).await;
    let (code, told) = relay.verb(&["report"]).await;
    assert_eq!(code, 1);
    assert!(
        told.contains("nothing shows that b stores what it answers with 200") && told.contains("[upstreams.b.api]"),
        "{told}"
    );
    let (code, told) = relay.verb(&["verify"]).await;
    assert_eq!((code, told.contains("add [upstreams.NAME.api]")), (1, true), "{told}");
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_worker_is_reported_everywhere() {
    let (_primary, glitchtip, relay) = scene("").await;
    relay.send_errors(5).await;
    figures(&relay, &[("stored", 5)]).await;
    glitchtip.set_worker(false);
    relay.send_errors(20).await;
    figures(&relay, &[("delivered", 25), ("stored", 5), ("missing", 20), ("unknown", 0)]).await;
    let (code, told) = relay.verb(&["report"]).await;
    assert_eq!(code, 1);
    assert!(told.contains("not ready: glitchtip fails") && told.contains("20 missing"), "{told}");
    let (_, told) = relay.verb(&["status"]).await;
    assert!(told.contains("20 missing"), "{told}");
    let (code, told) = relay.verb(&["verify", "glitchtip"]).await;
    assert_eq!((code, told.contains("20 missing")), (1, true), "{told}");
    assert!(relay.log().contains("it answered with 2xx and does not store the event"));
    // Late events are not lost.
    glitchtip.set_worker(true);
    figures(&relay, &[("stored", 25), ("missing", 0), ("lost", 0)]).await;
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_the_queue_lost_are_sent_again_and_stored_once() {
    let (primary, glitchtip, relay) = scene("").await;
    relay.send_errors(3).await;
    figures(&relay, &[("stored", 3)]).await;
    glitchtip.set_worker(false);
    let ids = relay.send_errors(40).await;
    relay.balanced(SOON).await;
    assert_eq!(glitchtip.lose_queue(), 40);
    glitchtip.set_worker(true);
    figures(&relay, &[("missing", 40)]).await;
    let (code, told) = relay.verb(&["backfill", "glitchtip", "--missing", "--dry-run"]).await;
    assert_eq!(
        (code, told.contains("40 events are missing at glitchtip and would be sent again")),
        (0, true),
        "{told}"
    );
    let (code, told) = relay.verb(&["backfill", "glitchtip", "--missing"]).await;
    assert_eq!((code, told.contains("40 of 40 missing events are sent to glitchtip again")), (0, true), "{told}");
    figures(&relay, &[("delivered", 83), ("stored", 43), ("missing", 0), ("lost", 40), ("unknown", 0)]).await;
    let stored = glitchtip.stored();
    assert!(ids.iter().all(|id| stored.iter().filter(|stored| *stored == id).count() == 1), "once each");
    assert_eq!(stored.len(), 43);
    assert_eq!(primary.taken_count(), 43, "nobody else got anything twice");
    relay.balanced(SOON).await;
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poisonous_event_becomes_a_dead_letter_and_the_others_are_stored() {
    let (_primary, glitchtip, relay) = scene_with("spare_batches = false", "repair = \"auto\"\n").await;
    relay.send_errors(2).await;
    figures(&relay, &[("stored", 2)]).await;
    glitchtip.set_worker(false);
    relay.send_errors(3).await;
    let poison = new_id();
    let event = json!({"event_id": poison, "message": "poison", "level": "error", "release": "r".repeat(256)});
    assert_eq!(relay.send(envelope(&poison, "event", &event.to_string())).await.status(), 200);
    relay.send_errors(3).await;
    relay.balanced(SOON).await;
    glitchtip.set_worker(true);
    figures(&relay, &[("stored", 8), ("missing", 0), ("unknown", 0)]).await;
    let (_, letters) = relay.verb(&["dead-letters", "list", "--json"]).await;
    assert!(
        letters.contains("lost_by_tracker") && letters.contains("its release has more than 255 characters"),
        "{letters}"
    );
    assert_eq!(glitchtip.stored().len(), 8);
    relay.balanced(SOON).await;
    let (code, told) = relay.verb(&["report"]).await;
    assert_eq!((code, told.contains("1 were given up")), (1, true), "{told}");
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poisonous_event_costs_none_of_100_others() {
    let (primary, glitchtip, relay) = scene("").await;
    let around = relay.send_errors(50).await;
    let poison = new_id();
    let event = json!({"event_id": poison, "message": "poison", "level": "error", "release": "r".repeat(256)});
    assert_eq!(relay.send(envelope(&poison, "event", &event.to_string())).await.status(), 200);
    let others = [around, relay.send_errors(50).await].concat();
    figures(&relay, &[("delivered", 101), ("stored", 100), ("missing", 0), ("lost", 1), ("unknown", 0)]).await;
    let stored = glitchtip.stored();
    assert!(others.iter().all(|id| stored.contains(id)) && stored.len() == 100, "{stored:?}");
    assert_eq!(primary.taken_count(), 101);
    let mut seen = glitchtip.upstream.taken();
    seen.retain(|seen| seen.method == "POST");
    let at = seen.iter().position(|seen| seen.event_id().replace('-', "") == poison).expect("it was sent");
    // A batch closes after 2 s, and 3 s are left between requests; 2 s allow for inexact clocks.
    let gaps: Vec<Duration> = seen.windows(2).map(|pair| pair[1].at.duration_since(pair[0].at)).collect();
    let beside = gaps.iter().skip(at.saturating_sub(1)).take(if at == 0 { 1 } else { 2 });
    assert!(beside.clone().all(|gap| *gap > Duration::from_secs(2)), "nothing goes with it: {at} {gaps:?}");
    let (_, letters) = relay.verb(&["dead-letters", "list", "--json"]).await;
    assert!(letters.contains("lost_by_tracker") && letters.contains("more than 255 characters"), "{letters}");
    let (_, status) = relay.verb(&["status"]).await;
    assert!(status.contains("shorten `release` in the service"), "{status}");
    relay.balanced(SOON).await;
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_glitchtip_6_is_recognised_and_gets_every_event_in_turn() {
    let (_primary, glitchtip, relay) = scene("").await;
    glitchtip.set_version("5.2.0");
    let send = async |relay: &Relay| {
        let id = new_id();
        let event = json!({"event_id": id, "message": "long", "level": "error", "release": "r".repeat(256)});
        assert_eq!(relay.send(envelope(&id, "event", &event.to_string())).await.status(), 200);
        id
    };
    let poison = async |relay: &Relay| relay.upstream("glitchtip").await["poison"].as_array().map_or(0, Vec::len);
    relay.send_errors(1).await;
    figures(&relay, &[("stored", 1)]).await;
    send(&relay).await;
    figures(&relay, &[("delivered", 2), ("lost", 1)]).await;
    assert_eq!(poison(&relay).await, 1, "a version 5 is spared");
    glitchtip.set_version("6.1.3");
    // A relay asks for the version again when it starts.
    let mut relay = relay;
    relay.stop().await;
    let asked = || glitchtip.upstream.seen().iter().filter(|seen| seen.path == "/api/settings/").count();
    let before = asked();
    let relay = relay.started().await;
    eventually("it is asked for its version", A_WHILE, async || match asked() > before {
        true => Ok(()),
        false => Err(relay.log()),
    })
    .await;
    // When these events are found, the relay has used the answer.
    let ids = relay.send_errors(5).await;
    figures(&relay, &[("delivered", 7), ("stored", 6)]).await;
    let id = send(&relay).await;
    figures(&relay, &[("delivered", 8), ("stored", 7), ("missing", 0), ("lost", 1)]).await;
    assert_eq!(poison(&relay).await, 0, "nothing goes alone");
    assert!(ids.iter().chain([&id]).all(|id| glitchtip.stored().contains(id)));
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tracker_whose_api_fails_leaves_events_unknown_until_it_recovers() {
    let (_primary, glitchtip, mut relay) = scene("").await;
    relay.send_errors(1).await;
    figures(&relay, &[("stored", 1)]).await;
    let html = Reply::Status(200, vec![("content-type", "text/html".to_owned())], "<html>sign in</html>".to_owned());
    for trouble in [Reply::status(503), Reply::status(401), Reply::status(403), html, Reply::status(404), Reply::Close]
    {
        glitchtip.set_trouble(Some(trouble.clone()));
        relay.send_errors(2).await;
        eventually("the trouble is said", A_WHILE, async || match verification(&relay).await["trouble"].as_str() {
            Some(_) => Ok(()),
            None => Err(format!("{trouble:?}\n{}", relay.log())),
        })
        .await;
        assert_eq!(verification(&relay).await["missing"], 0, "{trouble:?}");
    }
    relay.stop().await;
    glitchtip.set_trouble(None);
    let relay = relay.started().await;
    figures(&relay, &[("delivered", 13), ("missing", 0)]).await;
    // Recent events from before the restart are verified once they are old enough.
    eventually("all are found on demand", A_WHILE, async || match relay.verb(&["verify"]).await {
        (0, told) if told.contains("13 of 13 events stored") => Ok(()),
        told => Err(format!("{told:?}")),
    })
    .await;
    assert!(!relay.log().contains(TOKEN));
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_project_name_makes_no_event_missing() {
    let (primary, glitchtip) = (Upstream::start().await, Glitchtip::start(BATCH, MEMORY).await);
    let plan = Plan::new(&[("sentry", primary.dsn("beef", 8)), ("glitchtip", glitchtip.dsn())])
        .api("glitchtip", "glitchtip", Some("acme/nonesuch"), TOKEN)
        .more(QUICK);
    let relay = plan.start().await;
    relay.send_errors(6).await;
    eventually("it is said", A_WHILE, async || match verification(&relay).await["trouble"].as_str() {
        Some(why) if why.contains("acme/nonesuch") => Ok(()),
        other => Err(format!("{other:?}\n{}", relay.log())),
    })
    .await;
    figures(&relay, &[("missing", 0), ("unknown", 6)]).await;
    let (code, told) = relay.verb(&["verify"]).await;
    assert_eq!((code, told.contains("6 not known")), (1, true), "{told}");
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_vanishes_later_is_found_on_demand() {
    let (_primary, glitchtip, relay) = scene("").await;
    let ids = relay.send_errors(6).await;
    figures(&relay, &[("stored", 6)]).await;
    glitchtip.delete(&ids[2]);
    let (code, told) = relay.verb(&["verify", "glitchtip", "--since", "1h", "--json"]).await;
    let told: Value = serde_json::from_str(&told).expect("JSON");
    assert_eq!((code, &told[0]["stored"]), (1, &json!(5)), "{told}");
    assert_eq!(told[0]["missing"][0]["event_id"], json!(ids[2]), "{told}");
    figures(&relay, &[("stored", 5), ("missing", 1), ("unknown", 0)]).await;
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_look_on_demand_counts_events_that_are_sent_again_as_missing() {
    let (_primary, glitchtip, relay) = scene_with("api.remembers = \"0s\"", "repair = \"auto\"\n").await;
    let ids = relay.send_errors(8).await;
    figures(&relay, &[("stored", 8)]).await;
    // Events that are sent again do not arrive for now.
    glitchtip.set_door(Some(Reply::status(503)));
    glitchtip.delete(&ids[2]);
    glitchtip.delete(&ids[5]);
    let (code, told) = relay.verb(&["verify", "glitchtip", "--since", "1h", "--json"]).await;
    let told: Value = serde_json::from_str(&told).expect("JSON");
    assert_eq!((code, &told[0]["stored"], &told[0]["unknown"]), (1, &json!(6), &json!(0)), "{told}");
    let missing = told[0]["missing"].as_array().expect("events");
    // The relay may verify at the same time. If it comes first, the verb learns that both were sent again.
    let taken_up = told[0]["taken_up"].as_u64().expect("a count");
    assert!(missing.len() == 2 && taken_up <= 2, "{told}");
    glitchtip.set_door(None);
    figures(&relay, &[("stored", 8), ("missing", 0), ("lost", 2), ("unknown", 0)]).await;
    let (code, told) = relay.verb(&["verify", "glitchtip"]).await;
    assert_eq!((code, told.contains("8 of 8 events stored, 0 missing")), (0, true), "{told}");
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_event_is_shown_beside_the_trackers_copy() {
    let (_primary, glitchtip, relay) = scene("").await;
    let ids = relay.send_errors(2).await;
    figures(&relay, &[("stored", 2)]).await;
    let (code, told) = relay.verb(&["verify", "glitchtip", "--event", &ids[0]]).await;
    assert_eq!((code, told.contains("is stored as it was sent")), (0, true), "{told}");
    glitchtip.change_message(&ids[0], "another message");
    let (code, told) = relay.verb(&["verify", "glitchtip", "--event", &ids[0]]).await;
    assert_eq!((code, told.contains("1 field differs"), told.contains("another message")), (1, true, true), "{told}");
    glitchtip.delete(&ids[1]);
    let (code, told) = relay.verb(&["verify", "glitchtip", "--event", &ids[1]]).await;
    assert_eq!((code, told.contains("is not stored at glitchtip")), (1, true), "{told}");
    let (code, told) = relay.verb(&["verify", "glitchtip", "--event", &new_id()]).await;
    assert!(code != 0 && told.contains("the journal retains no event"), "{told}");
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn send_test_waits_until_its_event_is_stored() {
    let (_primary, glitchtip, relay) = scene("").await;
    let sent = async |code: i32, result: &str| {
        let (ended, told) = relay.verb(&["send-test", "--json"]).await;
        let told: Value = serde_json::from_str(&told).unwrap_or_else(|_| panic!("{told}"));
        let upstreams = told["upstreams"].as_array().expect("upstreams");
        let there = upstreams.iter().find(|upstream| upstream["upstream"] == "glitchtip").expect("glitchtip");
        assert_eq!((ended, there["result"] == "yes", &there["stored"]), (code, true, &json!(result)), "{told}");
        (told["event_id"].as_str().expect("an id").to_owned(), there["explanation"].as_str().expect("words").to_owned())
    };
    let (id, _) = sent(0, "yes").await;
    assert!(glitchtip.stored().contains(&id));
    // A failing API says nothing about the event.
    glitchtip.set_trouble(Some(Reply::status(401)));
    let (_, words) = sent(0, "unknown").await;
    assert!(words.contains("is not known") && words.contains("token"), "{words}");
    glitchtip.set_trouble(None);
    // The worker is down, and every event gets a 200.
    glitchtip.set_worker(false);
    let (_, words) = sent(1, "no").await;
    assert!(words.contains("took it and does not store it"), "{words}");
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn check_online_tries_token_and_project_and_says_how_to_mend_them() {
    let (_primary, glitchtip, relay) = scene("").await;
    // An event in its list proves that the project is right.
    assert_eq!(relay.verb(&["send-test"]).await.0, 0);
    let stored = glitchtip.stored();
    let (code, told) = relay.verb(&["check", "--online", "--yes"]).await;
    assert_eq!(code, 0, "{told}");
    assert!(told.contains("glitchtip, project shop: its API takes the token and knows the project"), "{told}");
    let text = std::fs::read_to_string(relay.config()).expect("the file");
    for (wrong, words) in
        [(text.replace(TOKEN, "hunter2-expired"), "token"), (text.replace(PLACE, "acme/shpo"), "acme/shpo")]
    {
        std::fs::write(relay.config(), wrong).expect("the file");
        let (code, told) = relay.verb(&["check", "--online"]).await;
        let said = told.lines().find(|line| line.contains("glitchtip, project shop: its API")).unwrap_or_default();
        assert!(code == 1 && said.contains(words) && !told.contains("hunter2"), "{told}");
    }
    assert_eq!(glitchtip.stored(), stored, "it stores nothing there");
    relay.finish().await;
}
