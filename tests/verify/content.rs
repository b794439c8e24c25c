//! Comparison of stored events with what was sent: a sample is compared, and each difference is named everywhere.

use serde_json::{Value, json};

use crate::support::envelopes::{envelope, new_id};
use crate::support::eventually::eventually;
use crate::support::glitchtip::{Glitchtip, PLACE, TOKEN};
use crate::support::net;
use crate::support::relay::{Plan, Relay, SOON};
use crate::support::upstream::Upstream;
use crate::{A_WHILE, BATCH, MEMORY, verification};

const SECRET: &str = "hunter2-of-a-user";

/// A relay that verifies nothing before [`look`].
async fn scene(more: &str) -> (Upstream, Glitchtip, Relay) {
    scene_with("", more).await
}

/// Like [`scene`], with another line in the section of the admin listener.
async fn scene_with(admin: &str, more: &str) -> (Upstream, Glitchtip, Relay) {
    let (primary, glitchtip) = (Upstream::start().await, Glitchtip::start(BATCH, MEMORY).await);
    let plan = Plan::new(&[("sentry", primary.dsn("beef", 8)), ("glitchtip", glitchtip.dsn())])
        .api("glitchtip", "glitchtip", Some(PLACE), TOKEN)
        .admin(admin)
        .more(&format!("[verify]\nsettle = \"1h\"\nrequests = \"50/s\"\n{more}"));
    (primary, glitchtip, plan.start().await)
}

/// Makes the relay verify what was sent.
fn look(relay: &Relay) {
    let text = std::fs::read_to_string(relay.config()).expect("the file");
    relay.replace_config(&text.replace("settle = \"1h\"", "settle = \"1s\""));
}

/// Sends an event for each message; returns their ids once the tracker stores them.
async fn send(relay: &Relay, glitchtip: &Glitchtip, messages: &[&str]) -> Vec<String> {
    let mut ids = vec![];
    for message in messages {
        let id = new_id();
        let contexts = json!({"login": {"password": SECRET}});
        let event = json!({"event_id": id, "message": message, "level": "error", "contexts": contexts});
        assert_eq!(relay.send(envelope(&id, "event", &event.to_string())).await.status(), 200);
        ids.push(id);
    }
    eventually("the tracker stores them", A_WHILE, async || {
        let stored = glitchtip.stored();
        if ids.iter().all(|id| stored.contains(id)) { Ok(()) } else { Err(format!("{stored:?}\n{}", relay.log())) }
    })
    .await;
    ids
}

/// Waits until `stored` events are found, `compared` of them compared, and `differing` of those differ.
async fn found(relay: &Relay, stored: u64, compared: u64, differing: u64) {
    eventually(&format!("{stored} stored, {compared} compared, {differing} differ"), A_WHILE, async || {
        let own = verification(relay).await;
        let content = &own["content"];
        let found = [&own["stored"], &content["compared"], &content["differing"]].map(Value::as_u64);
        let is_so = found == [stored, compared, differing].map(Some);
        if is_so { Ok(()) } else { Err(format!("{own}\n{}", relay.log())) }
    })
    .await;
}

async fn report(relay: &Relay) -> Value {
    serde_json::from_str(&relay.verb(&["report", "--json"]).await.1).expect("a report")
}

fn criterion<'a>(report: &'a Value, name: &str) -> Option<&'a Value> {
    report["criteria"].as_array().expect("criteria").iter().find(|one| one["name"] == name)
}

fn content(report: &Value) -> &Value {
    let own = report["upstreams"].as_array().expect("upstreams").iter().find(|one| one["name"] == "glitchtip");
    &own.expect("the tracker")["verification"]["content"]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_field_is_named_with_both_values_and_fails_the_verdict() {
    let (_primary, glitchtip, relay) = scene("").await;
    let ids = send(&relay, &glitchtip, &["order failed", "card refused", "no stock"]).await;
    glitchtip.change_message(&ids[1], "<b>another</b>\u{1b}[2J message");
    glitchtip.change(&ids[2], "/contexts/login/password", "hunter2-of-another");
    look(&relay);
    found(&relay, 3, 3, 2).await;
    let (code, text) = relay.verb(&["report"]).await;
    let line = text.lines().find(|line| line.contains(&ids[1])).unwrap_or_else(|| panic!("{text}"));
    assert!(
        line.contains("card refused") && line.contains("another</b>") && line.contains("message.formatted"),
        "{line}"
    );
    assert!(!text.contains('\u{1b}'), "harmless to a terminal: {text:?}");
    assert!(
        code == 1 && text.contains("not ready") && text.contains("3 compared") && text.contains("2 differ:"),
        "{text}"
    );
    let told = report(&relay).await;
    assert_eq!(criterion(&told, "content").expect("the criterion")["passed"], json!(false));
    assert!(told["verdict"].as_str().expect("words").contains("content"), "{}", told["verdict"]);
    let sample = content(&told)["sample"].as_array().expect("differences");
    let one = sample.iter().find(|one| one["event_id"] == json!(ids[1])).expect("the event");
    assert_eq!([&one["project"], &one["field"], &one["sent"]], ["shop", "message.formatted", "card refused"]);
    assert_eq!(content(&told)["fields"], json!({"message.formatted": 1, "contexts.login.password": 1}));
    let page = net::text(relay.client(), &format!("http://{}/report", relay.admin_address())).await.expect("the page");
    assert!(page.contains(&ids[1]) && page.contains("&lt;b&gt;another&lt;/b&gt;"), "{page}");
    let (_, status) = relay.verb(&["status"]).await;
    assert!(status.contains("3 events compared with what was sent in the last 24 hours, 2 differ"), "{status}");
    let front = net::text(relay.client(), &format!("http://{}/", relay.admin_address())).await.expect("the page");
    assert!(front.contains("2 differ"), "{front}");
    let samples = relay.samples().await.expect("metrics");
    let of = |name| samples.sum(name, &[("upstream", "glitchtip"), ("project", "shop")]);
    assert_eq!((of("switchyard_compared_events"), of("switchyard_differing_events")), (3.0, 2.0));
    for told in [text, told.to_string(), page, status, front, relay.log()] {
        assert!(!told.contains("hunter2"), "secrets are hidden: {told}");
    }
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unchanged_events_differ_in_nothing() {
    let (_primary, glitchtip, relay) = scene("").await;
    send(&relay, &glitchtip, &["order 1 failed", "card refused", "order 7 failed"]).await;
    look(&relay);
    found(&relay, 3, 2, 0).await;
    let told = report(&relay).await;
    let own = criterion(&told, "content").expect("the criterion");
    assert_eq!(own["passed"], json!(true), "{own}");
    assert!(own["found"].as_str().expect("words").contains("none differs"), "{own}");
    // The candidate was seen for seconds of the 48 hours, and the verdict says so until `min_seen` allows it.
    assert_eq!(told["ready"], json!(false), "{}", told["verdict"]);
    assert!(told["verdict"].as_str().expect("words").contains(" of 48 h only"), "{}", told["verdict"]);
    let text = std::fs::read_to_string(relay.config()).expect("the file");
    relay.replace_config(&format!("{text}\n[report]\nmin_seen = \"0%\"\n"));
    eventually("it is ready", A_WHILE, async || match report(&relay).await {
        told if told["ready"] == true => Ok(()),
        told => Err(told["verdict"].to_string()),
    })
    .await;
    let text = std::fs::read_to_string(relay.config()).expect("the file");
    relay.replace_config(&text.replace("[verify]", "[verify]\ncompare = 0"));
    eventually("it is turned off", A_WHILE, async || match verification(&relay).await["content"].is_null() {
        true => Ok(()),
        false => Err(relay.log()),
    })
    .await;
    let told = report(&relay).await;
    assert_eq!(criterion(&told, "content"), None);
    assert!(told["verdict"].as_str().expect("words").contains("compare = 0"), "{}", told["verdict"]);
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn new_kinds_come_first_and_the_daily_budget_outlives_a_restart() {
    let (_primary, glitchtip, mut relay) = scene("compare = 3").await;
    let known = ["order 1 failed", "order 2 failed", "order 3 failed", "order 4 failed", "order 5 failed"];
    send(&relay, &glitchtip, &known).await;
    let new = send(&relay, &glitchtip, &["card refused", "no stock"]).await;
    new.iter().for_each(|id| glitchtip.change_message(id, "another message"));
    look(&relay);
    found(&relay, 7, 3, 2).await;
    relay.stop().await;
    let relay = relay.started().await;
    for (n, message) in ["no network", "no power", "no time"].into_iter().enumerate() {
        send(&relay, &glitchtip, &[message]).await;
        found(&relay, 8 + n as u64, 3, 2).await;
    }
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreadable_copy_does_not_count_as_compared() {
    let (_primary, glitchtip, relay) = scene("").await;
    let ids = send(&relay, &glitchtip, &["order failed"]).await;
    glitchtip.change(&ids[0], "/entries", "none");
    look(&relay);
    found(&relay, 1, 0, 0).await;
    eventually("the report says why", A_WHILE, async || {
        let (code, text) = relay.verb(&["report"]).await;
        let says = text.contains("nothing was compared yet; the last could not be: the tracker's copy is no event");
        if says && code == 1 && text.contains("not ready: glitchtip fails seen, content") { Ok(()) } else { Err(text) }
    })
    .await;
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_events_values_are_shown_only_with_the_admin_token() {
    let (_primary, glitchtip, relay) = scene_with("token = \"of-the-admin\"", "").await;
    let ids = send(&relay, &glitchtip, &["as it was sent"]).await;
    glitchtip.change_message(&ids[0], "as it is there");
    look(&relay);
    found(&relay, 1, 1, 1).await;
    let shown = async |path: &str, token: Option<&str>| {
        let request = relay.client().get(format!("http://{}{path}", relay.admin_address()));
        let request = token.into_iter().fold(request, |request, token| request.bearer_auth(token));
        let text = request.send().await.expect("an answer").text().await.expect("a report");
        assert!(text.contains(&ids[0]) && text.contains("message"), "the event and the field are named: {text}");
        text.contains("as it was sent") || text.contains("as it is there")
    };
    for path in ["/report", "/api/report"] {
        assert!(!shown(path, None).await, "{path}");
        assert!(!shown(path, Some("a guess")).await, "{path}");
        assert!(shown(path, Some("of-the-admin")).await, "{path}");
    }
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_accepted_difference_does_not_count_and_the_verdict_says_so() {
    let (_primary, glitchtip, relay) = scene("").await;
    let ids = send(&relay, &glitchtip, &["order failed", "card refused", "no stock"]).await;
    glitchtip.change_message(&ids[1], "another message");
    glitchtip.change(&ids[2], "/contexts/login/password", "hunter2-of-another");
    look(&relay);
    found(&relay, 3, 3, 2).await;
    let differing = async || {
        let samples = relay.samples().await.expect("metrics");
        samples.sum("switchyard_differing_events", &[("upstream", "glitchtip")])
    };
    assert_eq!((relay.verb(&["report"]).await.0, differing().await), (1, 2.0));
    let before = std::fs::read_to_string(relay.config()).expect("the file");
    let accept = async |fields: &str, words: &str| {
        relay.replace_config(&format!("{before}\n[report]\nmin_seen = \"0%\"\naccept_drift = [{fields}]\n"));
        eventually(words, A_WHILE, async || match relay.verb(&["report"]).await {
            (code, text) if text.contains(words) => Ok((code, text)),
            (_, text) => Err(text),
        })
        .await
    };
    let (code, text) =
        accept("\"message\"", "2 differ, 1 of them in accepted fields alone (accept_drift: message)").await;
    assert!(code == 1 && text.contains("not ready: glitchtip fails content"), "{text}");
    assert_eq!(differing().await, 1.0);
    let words = "not counting 2 events that differ in message, contexts.login";
    let (code, text) = accept("\"message\", \"contexts.login\"", words).await;
    assert!(code == 0 && text.contains("ready: glitchtip meets all 11 criteria"), "{text}");
    assert!(text.contains(&ids[1]), "what differs is shown all the same: {text}");
    assert_eq!(differing().await, 0.0);
    let (_, status) = relay.verb(&["status"]).await;
    assert!(status.contains("2 differ, in accepted fields alone"), "{status}");
    std::fs::write(relay.config(), format!("{before}\n[report]\naccept_drift = [\"mesage\"]\n")).expect("the file");
    let (code, told) = relay.verb(&["check"]).await;
    assert!(code != 0 && told.contains("report.accept_drift[0]") && told.contains("did you mean `message`?"), "{told}");
    std::fs::write(relay.config(), before).expect("the file");
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_among_large_attachments_is_compared_as_well() {
    let (_primary, glitchtip, relay) = scene("").await;
    let id = new_id();
    let event = envelope(&id, "event", &json!({"event_id": id, "message": "a large one"}).to_string());
    let dump = "x".repeat(2 << 20);
    let large = format!("{event}{{\"type\":\"attachment\",\"filename\":\"dump\",\"length\":{}}}\n{dump}\n", dump.len());
    assert_eq!(relay.send(large).await.status(), 200);
    eventually("the tracker stores it", A_WHILE, async || match glitchtip.stored().len() {
        1 => Ok(()),
        _ => Err(relay.log()),
    })
    .await;
    glitchtip.change_message(&id, "another message");
    look(&relay);
    found(&relay, 1, 1, 1).await;
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_event_is_compared_whatever_else_has_its_id_and_what_is_no_error_event_is_not_called_lost() {
    let (_primary, glitchtip, relay) = scene("").await;
    let ids = send(&relay, &glitchtip, &["order failed"]).await;
    let words = json!({"event_id": ids[0], "name": "a", "email": "a@shop.example", "comments": "it broke"});
    let trace = json!({"trace": {"trace_id": new_id(), "span_id": "0123456789abcdef"}});
    let transaction = json!({"type": "transaction", "contexts": trace, "start_timestamp": 1.0, "timestamp": 2.0});
    let other = new_id();
    for (id, kind, payload) in [(&ids[0], "user_report", words), (&other, "transaction", transaction)] {
        assert_eq!(relay.send(envelope(id, kind, &payload.to_string())).await.status(), 200);
    }
    relay.balanced(SOON).await;
    let (code, text) = relay.verb(&["verify", "glitchtip", "--event", &ids[0]]).await;
    assert!(code == 0 && text.contains("is stored as it was sent"), "{text}");
    let (code, text) = relay.verb(&["verify", "glitchtip", "--event", &other]).await;
    assert!(code == 1 && text.contains("cannot be compared: what was sent is no error event"), "{text}");
    relay.finish().await;
}
