//! A tracker's API that answers late, too much, in another order or about something else: deliveries do not notice, no event that may be
//! stored is called missing, and the trouble is reported once with its remedy.

use serde_json::{Value, json};

use crate::support::eventually::eventually;
use crate::support::relay::{Relay, SOON};
use crate::support::upstream::Reply;
use crate::{A_WHILE, figures, scene, verification};

/// An answer with its body changed.
fn with_body(reply: Reply, change: impl FnOnce(&mut Value)) -> Reply {
    match reply {
        Reply::Status(status, headers, text) => {
            let mut body: Value = serde_json::from_str(&text).expect("JSON");
            change(&mut body);
            Reply::Status(status, headers, body.to_string())
        }
        other => other,
    }
}

/// Applies `change` to every event in an answer, which is one event or a list.
fn each(body: &mut Value, change: impl Fn(&mut Value)) {
    match body {
        Value::Array(all) => all.iter_mut().for_each(change),
        one if one["eventID"].is_string() => change(one),
        _ => {}
    }
}

/// Waits until a look on demand finds all events, which also ends the trouble.
async fn found_on_demand(relay: &Relay, all: usize) {
    let words = format!("{all} of {all} events stored");
    eventually(&words, A_WHILE, async || match relay.verb(&["verify"]).await {
        (0, told) if told.contains(&words) => Ok(()),
        told => Err(format!("{told:?}")),
    })
    .await;
    assert!(verification(relay).await["trouble"].is_null());
}

#[tokio::test(flavor = "multi_thread")]
async fn another_list_order_and_a_clock_minutes_off_hide_nothing() {
    for minutes in [-9, 9] {
        let (_primary, glitchtip, relay) = scene("").await;
        relay.send_errors(1).await;
        figures(&relay, &[("stored", 1)]).await;
        glitchtip.twist(move |_, reply| {
            with_body(reply, |body| {
                each(body, |event| {
                    let at = time::OffsetDateTime::now_utc() + time::Duration::minutes(minutes);
                    let at = at.format(&time::format_description::well_known::Rfc3339).expect("a time");
                    event["dateCreated"] = at.into();
                });
                if let Value::Array(all) = body {
                    all.reverse();
                }
            })
        });
        relay.send_errors(30).await;
        figures(&relay, &[("stored", 31), ("missing", 0), ("unknown", 0)]).await;
        assert!(verification(&relay).await["trouble"].is_null());
        relay.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn endless_pages_are_read_to_a_bound_and_other_events_asked_by_id() {
    let (_primary, glitchtip, relay) = scene("").await;
    relay.send_errors(1).await;
    figures(&relay, &[("stored", 1)]).await;
    let before = glitchtip.questions();
    // Every page is empty and announces another one.
    glitchtip.twist(|seen, reply| match reply {
        Reply::Status(200, _, _) if seen.path.ends_with("/events/") => {
            let next = "<http://t/>; rel=\"next\"; results=\"true\"; cursor=\"0:100:0\"".to_owned();
            Reply::Status(200, vec![("link", next), ("content-type", "application/json".to_owned())], "[]".to_owned())
        }
        other => other,
    });
    relay.send_errors(10).await;
    figures(&relay, &[("stored", 11), ("missing", 0), ("unknown", 0)]).await;
    let asked = glitchtip.questions() - before;
    assert!(asked < 60, "{asked} questions for ten events");
    relay.finish().await;
}

/// Fails unless, while the tracker answers so, events are unknown and none is missing, deliveries go on and the trouble is reported with
/// these words; afterwards all events are found.
async fn unknown_while(words: &str, twist: impl Fn(Reply) -> Reply + Send + Sync + 'static) {
    let (primary, glitchtip, relay) = scene("").await;
    relay.send_errors(1).await;
    figures(&relay, &[("stored", 1)]).await;
    glitchtip.twist(move |_, reply| twist(reply));
    // So few events that each is asked for by its id.
    relay.send_errors(2).await;
    relay.balanced(SOON).await;
    assert_eq!(primary.taken_count(), 3, "deliveries do not notice");
    eventually(words, A_WHILE, async || {
        let own = verification(&relay).await;
        let says = own["trouble"].as_str().is_some_and(|trouble| trouble.contains(words));
        if says { Ok(()) } else { Err(format!("{own}\n{}", relay.log())) }
    })
    .await;
    let own = verification(&relay).await;
    assert_eq!(own["missing"], 0, "{own}");
    assert!(own["unknown"].as_u64() >= Some(1), "{own}");
    glitchtip.twist(|_, reply| reply);
    found_on_demand(&relay, 3).await;
    assert!(relay.log().matches("what it stores cannot be looked up").count() <= 2, "said once: {}", relay.log());
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_never_ends_leaves_events_unknown() {
    unknown_while("an answer without an end", |_| Reply::Status(200, vec![], "[".repeat(17 << 20))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_never_comes_leaves_events_unknown() {
    unknown_while("cannot be reached", |_| Reply::Hang).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tracker_that_limits_questions_leaves_events_unknown() {
    unknown_while("limits how often it is asked", |_| Reply::with_header(429, "Retry-After", "1")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_about_another_project_leaves_events_unknown() {
    unknown_while("is project 9 there, and the DSN is of project 7", |reply| {
        with_body(reply, |body| each(body, |event| event["projectID"] = json!(9)))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_about_another_event_leaves_events_unknown() {
    unknown_while("another event than the one asked for", |reply| {
        with_body(reply, |body| each(body, |event| event["eventID"] = json!("0123456789abcdef0123456789abcdef")))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_token_is_reported_once_and_leaves_no_event_missing() {
    let (_primary, glitchtip, relay) = scene("").await;
    relay.send_errors(2).await;
    figures(&relay, &[("stored", 2)]).await;
    glitchtip.set_trouble(Some(Reply::status(401)));
    relay.send_errors(5).await;
    eventually("the remedy is said", A_WHILE, async || {
        let (_, status) = relay.verb(&["status"]).await;
        if status.contains("does not take the token (401): make one in the tracker") { Ok(()) } else { Err(status) }
    })
    .await;
    let (code, report) = relay.verb(&["report"]).await;
    assert!(code == 1 && report.contains("it does not take the token (401)"), "{report}");
    // The file gets the new token, and the daemon reloads it like any change.
    glitchtip.set_trouble(None);
    let text = std::fs::read_to_string(relay.config()).expect("the file");
    relay.replace_config(&format!("{text}\n# a new token\n"));
    found_on_demand(&relay, 7).await;
    figures(&relay, &[("stored", 7), ("missing", 0), ("unknown", 0)]).await;
    assert_eq!(relay.log().matches("what it stores cannot be looked up").count(), 1, "{}", relay.log());
    relay.finish().await;
}
