//! The fate of an envelope depends on its upstream's answer, and neither other upstreams nor the client notice.

mod support;

#[path = "delivery/addresses.rs"]
mod addresses;
#[path = "delivery/circle.rs"]
mod circle;
#[path = "delivery/compress.rs"]
mod compress;
#[path = "delivery/gate.rs"]
mod gate;
#[path = "delivery/log.rs"]
mod log;
#[path = "delivery/trust.rs"]
mod trust;
#[path = "delivery/under_way.rs"]
mod under_way;

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;
use support::envelopes;
use support::eventually::eventually;
use support::relay::{Plan, Relay, SOON};
use support::samples::Samples;
use support::upstream::{Reply, Seen, Upstream};
use switchyard::clock::Timestamp;
use tokio::time::interval;

/// A relay with a scripted upstream `a` and a healthy upstream `b`, which must not notice.
async fn relay_with(lines: &[&str]) -> (Upstream, Upstream, Relay) {
    let (a, b) = (Upstream::start().await, Upstream::start().await);
    let plan = Plan::new(&[("a", a.dsn("key-a", 11)), ("b", b.dsn("key-b", 22))]);
    let relay = lines.iter().fold(plan, |plan, line| plan.upstream("a", line)).start().await;
    (a, b, relay)
}

/// Waits until an upstream has taken `count` envelopes.
async fn takes(upstream: &Upstream, count: usize, within: Duration) {
    eventually(&format!("{count} arrive"), within, async || {
        let have = upstream.taken_count();
        if have >= count { Ok(()) } else { Err(format!("{have} have arrived")) }
    })
    .await;
}

/// Waits until the status of an upstream matches.
async fn shows(relay: &Relay, name: &str, what: &str, look: impl Fn(&Value) -> bool) {
    eventually(what, SOON, async || {
        let upstream = relay.upstream(name).await;
        if look(&upstream) { Ok(()) } else { Err(format!("{upstream:#}\n{}", relay.log())) }
    })
    .await;
}

/// Fails unless the upstream has taken each of these ids exactly once and nothing else.
fn has_each_once(upstream: &Upstream, ids: &[String]) {
    let (mut have, mut expected) = (upstream.taken_ids(), ids.to_vec());
    have.sort();
    expected.sort();
    assert_eq!(have, expected);
}

fn dropped(samples: &Samples, upstream: &str, reason: &str) -> f64 {
    samples.sum("switchyard_dropped_items_total", &[("upstream", upstream), ("reason", reason)])
}

/// The seconds until a category's limit ends; `None` without a limit.
fn limit_of(status: &Value, name: &str, category: &str) -> Option<f64> {
    let upstream = status["upstreams"].as_array()?.iter().find(|upstream| upstream["name"] == name)?;
    let limit = upstream["limits"].as_array()?.iter().find(|limit| limit["category"] == category)?;
    let at = |value: &Value| serde_json::from_value::<Timestamp>(value.clone()).expect("a time");
    Some(at(&limit["until"]).as_secs_f64() - at(&status["now"]).as_secs_f64())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_web_page_with_status_200_is_no_delivery() {
    let upstream = Upstream::start().await;
    let page = "<!DOCTYPE html><html><head><title>Sign in to the guest network</title></head></html>";
    upstream.always(Reply::Status(200, vec![], page.to_owned()));
    let relay = Plan::new(&[("sentry", upstream.dsn("5ca1ab1e", 1))]).start().await;
    relay.send_errors(1).await;
    eventually("the project waits", SOON, async || match relay.upstream("sentry").await {
        upstream if upstream["state"] == "misconfigured" => Ok(()),
        upstream => Err(upstream.to_string()),
    })
    .await;
    let status = relay.upstream("sentry").await;
    assert_eq!((&status["delivered"], &status["backlog"]["envelopes"]), (&0.into(), &1.into()), "{status}");
    assert!(status["last_error"].to_string().contains("Sign in to the guest network"), "{status}");
    assert!(!status["last_error"].to_string().contains('<'), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_no_tracker_of_the_kind_gives_is_no_delivery() {
    let html = || vec![("content-type", "text/html; charset=utf-8".to_owned())];
    let answers = |code: u16, text: &str| Reply::Status(code, vec![], text.to_owned());
    for (kind, reply, told) in [
        ("sentry", answers(200, "OK"), Some("OK")),
        ("relay", answers(200, "{\"ok\":true}"), Some("{\\\"ok\\\":true}")),
        ("glitchtip", answers(201, "[]"), Some("[]")),
        ("sentry", Reply::Status(200, html(), String::new()), Some("an empty page")),
        ("generic", answers(409, "<html><title>Conflict of a gateway</title>"), Some("Conflict of a gateway")),
        // Bugsink answers with an empty body, and Django names its type HTML.
        ("bugsink", Reply::Status(200, html(), String::new()), None),
        ("bugsink", answers(200, "{\"id\": \"0\"}"), None),
        ("sentry", answers(204, ""), None),
        ("glitchtip", answers(200, "{}"), None),
        ("sentry", answers(409, ""), None),
        // Kent's answer.
        ("generic", answers(200, "{\"success\":true}"), None),
        ("generic", answers(200, "OK"), None),
    ] {
        let upstream = Upstream::start().await;
        upstream.always(reply.clone());
        let plan = Plan::new(&[("tracker", upstream.dsn("5ca1ab1e", 1))]);
        let mut relay = plan.upstream("tracker", &format!("kind = \"{kind}\"")).start().await;
        relay.send_errors(1).await;
        let waits = |upstream: &Value| upstream["state"] == "misconfigured" && upstream["backlog"]["envelopes"] == 1;
        let what = format!("{kind} {reply:?}");
        shows(&relay, "tracker", &what, |upstream| waits(upstream) || upstream["delivered"] == 1).await;
        let status = relay.upstream("tracker").await;
        assert_eq!(waits(&status), told.is_some(), "{what}: {status}");
        assert!(status["last_error"].to_string().contains(told.unwrap_or_default()), "{what}: {status}");
        relay.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_other_than_the_envelope_endpoint_may_answer_anything() {
    let upstream = Upstream::start().await;
    upstream.always(Reply::Status(201, vec![], "taken".to_owned()));
    let plan = Plan::new(&[("tracker", upstream.dsn("5ca1ab1e", 1))]);
    let relay = plan.upstream("tracker", "kind = \"sentry\"").start().await;
    let report = "{\"csp-report\":{\"document-uri\":\"https://a/\"}}";
    let request = relay.post(&format!("/api/1/security/?sentry_key={}", envelopes::KEY), report);
    let answer = request.header("content-type", "application/csp-report").send().await.expect("an answer");
    assert!(answer.status().is_success(), "{answer:?}");
    relay.balanced(SOON).await;
    assert_eq!(upstream.taken_count(), 1);
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_dsn_is_explained_by_its_own_refusal() {
    let a = Upstream::start().await;
    let limited = || Reply::Status(429, vec![("retry-after", "30".to_owned())], "slow down".to_owned());
    a.when(move |seen| {
        let refused = || Reply::Status(403, vec![], "no such project".to_owned());
        Some(if seen.path.starts_with("/api/22/") { limited() } else { refused() })
    });
    let web = format!(
        "[[projects]]\nname = \"web\"\nid = \"2\"\npublic_key = \"aa\"\n[projects.upstreams]\na = \"{}\"\n",
        a.dsn("key-web", 22)
    );
    let mut relay = Plan::new(&[("a", a.dsn("key-shop", 11))]).more(&web).start().await;
    relay.send_errors(1).await;
    shows(&relay, "a", "the DSN is refused", |upstream| upstream["state"] == "misconfigured").await;
    let event = envelopes::error(&envelopes::new_id());
    let answer = relay.post("/api/2/envelope/?sentry_key=aa", event).send().await.expect("an answer");
    assert_eq!(answer.status(), 200);
    shows(&relay, "a", "the other project is limited", |upstream| upstream["limits"][0]["category"] == "error").await;
    let status = relay.upstream("a").await;
    assert!(
        status["state"] == "misconfigured" && status["last_error"].to_string().contains("no such project"),
        "{status}"
    );
    // Each trouble names the project that has it.
    assert_eq!(status["refused_projects"], serde_json::json!(["shop"]), "{status}");
    assert_eq!(status["limits"][0]["projects"], serde_json::json!(["web"]), "{status}");
    let health = relay.status().await["health"]["sentence"].to_string();
    assert!(health.contains("a does not let project shop in"), "{health}");
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_web_page_with_status_200_ends_no_outage() {
    let (a, _b, mut relay) = relay_with(&[]).await;
    a.always(Reply::status(503));
    relay.send_errors(5).await;
    shows(&relay, "a", "the outage is known", |upstream| upstream["state"] == "down").await;
    let page = "<!DOCTYPE html><html><head><title>Back soon</title></head></html>";
    a.always(Reply::Status(200, vec![], page.to_owned()));
    // The page is accepted neither for the probe nor for the record that is tried after it.
    let (asked, tried) = (a.questions(), a.seen().len());
    eventually("both got the page", SOON * 2, async || match (a.questions() - asked, a.seen().len() - tried) {
        (1.., 1..) => Ok(()),
        counts => Err(format!("{counts:?}: {}", relay.log())),
    })
    .await;
    let lasts = |upstream: &Value| {
        let is_open = upstream["state"] == "down" || upstream["state"] == "probing";
        is_open && upstream["outages"][0]["to"].is_null() && upstream["last_error"].to_string().contains("Back soon")
    };
    shows(&relay, "a", "the outage lasts", lasts).await;
    assert_eq!(relay.upstream("a").await["backlog"]["envelopes"], 5);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn any_2xx_counts_as_delivered() {
    let (a, b, relay) = relay_with(&[]).await;
    a.then([200, 201, 202, 204].map(Reply::status));
    let ids = relay.send_errors(4).await;
    let samples = relay.balanced(SOON).await;
    has_each_once(&a, &ids);
    has_each_once(&b, &ids);
    assert_eq!(samples.sum("switchyard_delivered_items_total", &[("upstream", "a"), ("category", "error")]), 4.0);
    assert!(a.seen().iter().all(|seen| seen.path == "/api/11/envelope/"));
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_429_limits_as_long_as_its_headers_say_and_a_minute_without_any() {
    let upstreams =
        [Upstream::start().await, Upstream::start().await, Upstream::start().await, Upstream::start().await];
    let [ok, named, seconds, bare] = &upstreams;
    named.always(Reply::with_header(429, "x-sentry-rate-limits", "90:error;transaction:organization, 30:session:key"));
    seconds.always(Reply::with_header(429, "retry-after", "40"));
    bare.always(Reply::status(429));
    let dsns = [("ok", ok), ("named", named), ("seconds", seconds), ("bare", bare)].map(|(n, u)| (n, u.dsn("key", 1)));
    let plan = ["named", "seconds", "bare"]
        .into_iter()
        .fold(Plan::new(&dsns), |plan, name| plan.upstream(name, "on_rate_limit = \"drop\""));
    let relay = plan.start().await;
    relay.send_errors(3).await;
    let samples = relay.balanced(SOON).await;
    let status = relay.status().await;
    for (name, category, expected) in [
        ("named", "error", Some(90.0)),
        ("named", "session", Some(30.0)),
        ("named", "attachment", None),
        ("seconds", "error", Some(40.0)),
        ("seconds", "session", Some(40.0)),
        ("bare", "error", Some(60.0)),
        ("ok", "error", None),
    ] {
        let left = limit_of(&status, name, category);
        let fits = match (left, expected) {
            (Some(left), Some(expected)) => (expected - 9.0..=expected).contains(&left),
            (left, expected) => left.is_none() && expected.is_none(),
        };
        assert!(fits, "{name}, {category}: {left:?} seconds left of {expected:?}");
    }
    for name in ["named", "seconds", "bare"] {
        assert_eq!(dropped(&samples, name, "rate_limited"), 3.0, "{name}");
        assert_eq!(relay.upstream(name).await["state"], "limited");
    }
    assert_eq!(ok.taken_count(), 3);
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstreams_429_never_reaches_a_client_while_another_takes_the_data() {
    let (a, b, relay) = relay_with(&["on_rate_limit = \"drop\""]).await;
    a.always(Reply::with_header(429, "x-sentry-rate-limits", "60:error:organization"));
    for round in 0..5 {
        let answer = relay.send(envelopes::error(&envelopes::new_id())).await;
        assert_eq!(answer.status(), 200);
        for name in ["x-sentry-rate-limits", "retry-after"] {
            assert!(!answer.headers().contains_key(name), "{:?} in round {round}", answer.headers());
        }
        takes(&b, round + 1, SOON).await;
    }
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_on_a_200_holds_its_category_back_and_nothing_else() {
    let (a, b, relay) = relay_with(&[]).await;
    a.then([Reply::with_header(200, "x-sentry-rate-limits", "3:transaction;span:organization")]);
    relay.send_errors(1).await;
    shows(&relay, "a", "the limit is known", |upstream| upstream["state"] == "limited").await;
    let transaction = envelopes::new_id();
    let answer = relay.send(envelopes::envelope(&transaction, "transaction", "{}")).await;
    assert_eq!(answer.status(), 200);
    let error = relay.send_errors(1).await.remove(0);
    takes(&b, 3, SOON).await;
    takes(&a, 3, SOON).await;
    let taken = a.taken();
    assert_eq!([taken[1].event_id(), taken[2].event_id()], [error, transaction], "the error did not wait");
    let waited = taken[2].at - taken[0].at;
    assert!(waited >= Duration::from_millis(2900), "after {waited:?}");
    assert_eq!(a.seen().len(), 3, "nothing was tried in vain");
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_item_in_several_categories_waits_for_a_limit_on_any() {
    let (a, b, relay) = relay_with(&[]).await;
    let log = "{}\n{\"type\":\"log\",\"item_count\":2,\"length\":2}\n{}\n";
    let crash = "{\"type\":\"attachment\",\"attachment_type\":\"event.minidump\",\"length\":4}\nMDMP\n";
    for (limit, held) in [
        ("log_item", log.to_owned()),
        ("log_byte", log.to_owned()),
        ("attachment_item", envelopes::envelope(&envelopes::new_id(), "attachment", "x")),
        ("error", format!("{{\"event_id\":\"{}\"}}\n{crash}", envelopes::new_id())),
    ] {
        let before = a.taken_count();
        a.then([Reply::with_header(200, "x-sentry-rate-limits", &format!("2:{limit}:organization"))]);
        relay.send(envelopes::envelope(&envelopes::new_id(), "session", "{}")).await;
        shows(&relay, "a", "the limit is known", |upstream| upstream["state"] == "limited").await;
        assert_eq!(relay.send(held).await.status(), 200);
        relay.send(envelopes::envelope(&envelopes::new_id(), "session", "{}")).await;
        takes(&a, before + 3, SOON).await;
        let kinds = a.taken()[before..].iter().map(|seen| seen.items().to_vec()).collect::<Vec<_>>();
        let is_session = |at: usize| String::from_utf8_lossy(&kinds[at]).contains("session");
        assert_eq!([is_session(1), is_session(2)], [true, false], "{limit}: the session did not wait");
    }
    takes(&b, 12, SOON).await;
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limited_items_of_an_envelope_wait_and_the_others_go() {
    let (a, b, relay) = relay_with(&[]).await;
    a.then([Reply::with_header(200, "x-sentry-rate-limits", "3:profile:organization")]);
    relay.send_errors(1).await;
    shows(&relay, "a", "the limit is known", |upstream| upstream["state"] == "limited").await;
    let id = envelopes::new_id();
    let envelope = envelopes::envelope(&id, "transaction", "{\"transaction\":\"t\"}");
    relay.send(format!("{envelope}{{\"type\":\"profile\"}}\n{{\"samples\":[]}}\n")).await;
    takes(&a, 3, SOON).await;
    let taken = a.taken();
    let has = |i: usize, kind: &str| String::from_utf8_lossy(taken[i].items()).contains(kind);
    assert_eq!((has(1, "\"transaction\""), has(1, "\"profile\"")), (true, false), "first what is not limited");
    assert_eq!((has(2, "\"transaction\""), has(2, "\"profile\"")), (false, true), "then the rest");
    assert_eq!([taken[1].event_id(), taken[2].event_id()], [id.clone(), id]);
    assert!(taken[2].at - taken[0].at >= Duration::from_millis(2900));
    takes(&b, 2, SOON).await;
    let samples = relay.balanced(SOON).await;
    for category in ["transaction", "profile"] {
        let labels = [("upstream", "a"), ("category", category)];
        assert_eq!(samples.sum("switchyard_delivered_items_total", &labels), 1.0, "{category}");
    }
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limited_event_holds_back_only_the_items_that_depend_on_it() {
    let (a, _b, relay) = relay_with(&[]).await;
    a.then([Reply::with_header(200, "x-sentry-rate-limits", "3:error:organization")]);
    relay.send_errors(1).await;
    shows(&relay, "a", "the limit is known", |upstream| upstream["state"] == "limited").await;
    let dependent = "event attachment form_data user_report feedback replay_event profile security";
    let alone = "session check_in log span client_report statsd replay_recording x_unknown";
    let item = |kind: &str| format!("{{\"type\":\"{kind}\"}}\n{{}}\n");
    // The items alternate between both kinds.
    let mixed = dependent.split(' ').zip(alone.split(' ')).map(|(one, other)| item(one) + &item(other));
    relay.send(format!("{{\"event_id\":\"{}\"}}\n{}", envelopes::new_id(), mixed.collect::<String>())).await;
    takes(&a, 3, SOON).await;
    let kinds = |seen: &Seen| {
        let kinds: Vec<String> = envelopes::items(&seen.body).into_iter().map(|item| item.kind).collect();
        kinds.join(" ")
    };
    let taken = a.taken();
    assert_eq!([kinds(&taken[1]), kinds(&taken[2])], [alone, dependent]);
    assert!(taken[2].at - taken[0].at >= Duration::from_millis(2900));
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn items_held_back_by_a_limit_are_delivered_when_it_ends() {
    let (a, _b, relay) = relay_with(&[]).await;
    a.then([Reply::with_header(429, "retry-after", "1")]);
    let ids = relay.send_errors(1).await;
    shows(&relay, "a", "the limit is known", |upstream| upstream["state"] == "limited").await;
    let more = relay.send_errors(4).await;
    takes(&a, 5, SOON).await;
    has_each_once(&a, &[ids, more].concat());
    assert!(a.taken()[0].at - a.seen()[0].at >= Duration::from_millis(950));
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_envelope_is_sent_again_after_a_5xx_or_a_408() {
    let (a, b, relay) = relay_with(&[]).await;
    a.then([500, 408, 503].map(Reply::status));
    let ids = relay.send_errors(6).await;
    takes(&b, 6, SOON).await;
    takes(&a, 6, SOON).await;
    has_each_once(&a, &ids);
    has_each_once(&b, &ids);
    assert_eq!(a.seen().len(), 9, "once more each");
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_envelope_refused_for_good_becomes_a_dead_letter_and_blocks_nothing() {
    let (a, b, relay) = relay_with(&["max_in_flight = 1"]).await;
    a.then([400, 413, 415, 422].map(Reply::status));
    let ids = relay.send_errors(6).await;
    let samples = relay.balanced(SOON).await;
    has_each_once(&a, &ids[4..]);
    has_each_once(&b, &ids);
    assert_eq!(a.seen().len(), 6, "a refused one is not sent again");
    assert_eq!(dropped(&samples, "a", "rejected"), 4.0);
    assert_eq!(dropped(&samples, "b", "rejected"), 0.0);
    assert_eq!(samples.sum("switchyard_dead_letters", &[("upstream", "a")]), 4.0);
    assert_eq!(relay.upstream("a").await["dead_letters"], 4);
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_dsn_holds_its_project_back_and_is_logged() {
    let (a, b, relay) = relay_with(&["max_age = \"6s\""]).await;
    a.always(Reply::Status(403, vec![], "event submission rejected with_reason: ProjectId".to_owned()));
    relay.send_errors(1).await;
    shows(&relay, "a", "it is shown", |upstream| upstream["state"] == "misconfigured").await;
    relay.send_errors(20).await;
    takes(&b, 21, SOON).await;
    let upstream = relay.upstream("a").await;
    assert_eq!(upstream["backlog"]["envelopes"], 21);
    assert!(upstream["last_error"]["what"].as_str().is_some_and(|what| what.contains("403")), "{upstream:#}");
    assert_eq!(a.seen().len(), 1, "not one refusal for each envelope");
    let log = relay.log();
    let line = log.lines().find(|line| line.contains("refuses the DSN")).expect("a line about it");
    assert!(line.contains("ERROR") && line.contains("shop"), "{line}");
    let samples = relay.balanced(SOON * 2).await;
    assert_eq!(dropped(&samples, "a", "expired"), 21.0);
    relay.finish().await;
}

/// Whether a firewall before the tracker refuses the request for its content.
fn is_disliked(seen: &Seen) -> bool {
    seen.body.windows(7).any(|word| word == b"WAF-BAD")
}

async fn send_disliked(relay: &Relay) -> String {
    let id = envelopes::new_id();
    let answer = relay.send(envelopes::envelope(&id, "event", "{\"message\":\"WAF-BAD\"}")).await;
    assert_eq!(answer.status(), 200);
    id
}

#[tokio::test(flavor = "multi_thread")]
async fn one_envelope_refused_with_403_holds_its_project_up_once() {
    const ONE_HOLD: Duration = Duration::from_secs(75);
    let (a, _b, mut relay) = relay_with(&[]).await;
    a.when(move |seen| is_disliked(seen).then(|| Reply::status(403)));
    let tries = || a.seen().iter().filter(|seen| is_disliked(seen)).count();
    relay.send_errors(1).await;
    takes(&a, 1, SOON).await;
    send_disliked(&relay).await;
    shows(&relay, "a", "it is refused once more, and nothing was taken meanwhile: it might be the DSN", |upstream| {
        upstream["state"] == "misconfigured"
    })
    .await;
    relay.send_errors(3).await;
    takes(&a, 4, ONE_HOLD).await;
    eventually("it is tried again", ONE_HOLD, async || match tries() {
        0..=2 => Err("not yet".to_owned()),
        _ => Ok(()),
    })
    .await;
    relay.send_errors(2).await;
    takes(&a, 6, SOON).await;
    shows(&relay, "a", "only the one waits", |upstream| {
        upstream["state"] == "up" && upstream["backlog"]["envelopes"] == 1
    })
    .await;
    assert_eq!(relay.log().matches("refuses the DSN").count(), 1, "{}", relay.log());
    // The envelope has further tries, minutes apart. The accounts balance while it waits.
    assert_eq!(relay.upstream("a").await["difference"], 0);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn envelopes_refused_with_403_among_accepted_ones_hold_nobody_up() {
    let (a, _b, mut relay) = relay_with(&["max_in_flight = 1"]).await;
    a.when(|seen| is_disliked(seen).then(|| Reply::status(403)));
    let (mut healthy, mut disliked, mut longest) = (0, vec![], Duration::ZERO);
    let tries = |id: &String| a.seen().iter().filter(|seen| seen.event_id() == *id).count();
    let mut turns = interval(Duration::from_millis(200));
    // Until several refused envelopes were tried again among the others.
    while disliked.iter().filter(|id| tries(id) > 1).count() < 5 {
        turns.tick().await;
        relay.send_errors(1).await;
        let sent = tokio::time::Instant::now();
        healthy += 1;
        takes(&a, healthy, Duration::from_secs(3)).await;
        longest = longest.max(a.taken()[healthy - 1].at - sent);
        let id = send_disliked(&relay).await;
        eventually("it is refused", SOON, async || if tries(&id) > 0 { Ok(()) } else { Err("not yet".to_owned()) })
            .await;
        disliked.push(id);
        assert!(healthy < 300, "after a minute: {:#}", relay.upstream("a").await);
    }
    println!("{healthy} envelopes among {} refused ones: none waited for more than {longest:?}", disliked.len());
    let upstream = relay.upstream("a").await;
    assert_eq!((&upstream["backlog"]["envelopes"], &upstream["dead_letters"]), (&disliked.len().into(), &0.into()));
    assert_eq!(relay.log().matches("refuses the DSN").count(), 0, "{}", relay.log());
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_few_envelopes_that_are_refused_in_a_row_hold_nobody_up_where_requests_go_one_at_a_time() {
    let (a, _b, mut relay) = relay_with(&["max_in_flight = 1"]).await;
    a.when(|seen| is_disliked(seen).then(|| Reply::status(403)));
    relay.send_errors(1).await;
    takes(&a, 1, SOON).await;
    for _ in 0..4 {
        send_disliked(&relay).await;
    }
    relay.send_errors(5).await;
    takes(&a, 6, Duration::from_secs(10)).await;
    assert_eq!(relay.log().matches("refuses the DSN").count(), 0, "{}", relay.log());
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dsn_that_is_refused_after_it_was_good_costs_five_requests_and_is_said_loudly() {
    let (a, b, mut relay) = relay_with(&["max_in_flight = 1"]).await;
    relay.send_errors(1).await;
    takes(&a, 1, SOON).await;
    a.always(Reply::status(403));
    relay.send_errors(20).await;
    shows(&relay, "a", "it is shown", |upstream| upstream["state"] == "misconfigured").await;
    relay.send_errors(20).await;
    takes(&b, 41, SOON).await;
    assert_eq!(a.seen().len(), 6, "five refusals after what was taken");
    assert_eq!(relay.log().matches("refuses the DSN").count(), 1, "{}", relay.log());
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poisonous_envelope_ends_as_a_dead_letter_and_never_blocks_the_others() {
    let (a, b, relay) = relay_with(&[]).await;
    a.when(|seen| seen.body.windows(6).any(|word| word == b"poison").then(|| Reply::status(500)));
    let mut ids = relay.send_errors(1).await;
    takes(&a, 1, SOON).await;
    let id = envelopes::new_id();
    let answer = relay.send(envelopes::envelope(&id, "event", "{\"message\":\"poison\"}")).await;
    assert_eq!(answer.status(), 200);
    let mut turns = interval(Duration::from_millis(200));
    while relay.upstream("a").await["dead_letters"] == 0 {
        turns.tick().await;
        ids.extend(relay.send_errors(1).await);
        takes(&a, ids.len(), Duration::from_secs(3)).await;
        assert!(ids.len() < 300, "after a minute: {:#}", relay.upstream("a").await);
    }
    let samples = relay.balanced(SOON).await;
    has_each_once(&a, &ids);
    assert_eq!(b.taken_count(), ids.len() + 1);
    assert_eq!(dropped(&samples, "a", "rejected"), 1.0);
    assert!(relay.log().contains("poison"), "{}", relay.log());
    relay.finish().await;
}

/// Sends one event that the upstream `a` answers with 500, and nothing else.
async fn send_poison(a: &Upstream, relay: &Relay) {
    a.when(|seen| seen.body.windows(6).any(|word| word == b"poison").then(|| Reply::status(500)));
    let envelope = envelopes::envelope(&envelopes::new_id(), "event", "{\"message\":\"poison\"}");
    assert_eq!(relay.send(envelope).await.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_failing_event_of_an_idle_project_is_no_outage() {
    let (a, _b, mut relay) = relay_with(&[]).await;
    send_poison(&a, &relay).await;
    eventually("the upstream is asked", Duration::from_secs(60), async || match (a.questions(), a.seen().len()) {
        (1.., 5..) => Ok(()),
        counts => Err(format!("{counts:?}")),
    })
    .await;
    shows(&relay, "a", "it is up, and one envelope waits", |upstream| {
        upstream["state"] == "failing"
            && upstream["backlog"]["envelopes"] == 1
            && upstream["outages"] == serde_json::json!([])
    })
    .await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_failing_event_becomes_a_dead_letter_while_canaries_are_taken() {
    let a = Upstream::start().await;
    let canary = "[canary]\ninterval = \"1s\"\ntimeout = \"900ms\"\n";
    let relay = Plan::new(&[("a", a.dsn("key-a", 11))]).more(canary).start().await;
    send_poison(&a, &relay).await;
    eventually("it is a dead letter", Duration::from_secs(60), async || {
        let upstream = relay.upstream("a").await;
        if upstream["dead_letters"] == 1 { Ok(()) } else { Err(format!("{upstream:#}")) }
    })
    .await;
    assert_eq!(relay.upstream("a").await["outages"], serde_json::json!([]));
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_is_down_is_probed_before_any_record_is_retried() {
    let (mut a, _b, relay) = relay_with(&[]).await;
    a.always(Reply::status(503));
    let ids = relay.send_errors(5).await;
    shows(&relay, "a", "the outage is known", |upstream| upstream["state"] == "down").await;
    eventually("it is asked", SOON, async || if a.questions() > 0 { Ok(()) } else { Err("not yet".to_owned()) }).await;
    a.go_down().await;
    a.always(Reply::Ok);
    a.come_back().await;
    takes(&a, 5, Duration::from_secs(20)).await;
    has_each_once(&a, &ids);
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_fails_the_probe_recovers_through_a_record() {
    let (a, _b, relay) = relay_with(&[]).await;
    a.always(Reply::status(503));
    let ids = relay.send_errors(6).await;
    shows(&relay, "a", "the outage is known", |upstream| upstream["state"] == "down").await;
    a.when(|seen| (seen.body != "{}\n").then_some(Reply::Ok));
    takes(&a, 6, Duration::from_secs(30)).await;
    has_each_once(&a, &ids);
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_says_duplicate_is_a_delivery() {
    let (a, _b, relay) = relay_with(&["max_in_flight = 1"]).await;
    let answer = |code, text: &str| Reply::Status(code, vec![], text.to_owned());
    a.then([
        answer(409, ""),
        answer(403, "An event with the same ID already exists (abc)"),
        answer(403, "{\"detail\":\"Duplicate event id\"}"),
    ]);
    relay.send_errors(3).await;
    let samples = relay.balanced(SOON).await;
    assert_eq!(samples.sum("switchyard_delivered_items_total", &[("upstream", "a"), ("category", "error")]), 3.0);
    assert_eq!(a.seen().len(), 3);
    assert_eq!(relay.upstream("a").await["dead_letters"], 0);
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_closes_without_an_answer_is_tried_again_at_once() {
    let (a, _b, relay) = relay_with(&[]).await;
    a.then([Reply::Ok, Reply::Close, Reply::Ok, Reply::Close]);
    let mut ids = vec![];
    for n in 1..=3 {
        ids.extend(relay.send_errors(1).await);
        takes(&a, n, Duration::from_secs(5)).await;
    }
    has_each_once(&a, &ids);
    let seen = a.seen();
    assert_eq!(seen.len(), 5);
    let samples = relay.balanced(SOON).await;
    // A record that goes back to the journal for a later try would count as failed.
    let failed = [("upstream", "a"), ("result", "failed")];
    assert_eq!(samples.sum("switchyard_delivery_attempts_total", &failed), 0.0);
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_envelope_that_waits_longer_than_max_age_expires() {
    let (mut a, b, relay) = relay_with(&["max_age = \"1s\""]).await;
    a.go_down().await;
    let ids = relay.send_errors(12).await;
    let samples = relay.balanced(SOON).await;
    assert_eq!(dropped(&samples, "a", "expired"), 12.0);
    has_each_once(&b, &ids);
    a.come_back().await;
    assert_eq!(a.taken_count(), 0);
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_goes_out_in_order_and_slowly_at_first_after_an_outage() {
    let (a, b, relay) = relay_with(&[]).await;
    a.always(Reply::status(503));
    let ids = relay.send_errors(100).await;
    takes(&b, 100, SOON).await;
    shows(&relay, "a", "the outage is known", |upstream| upstream["state"] == "down").await;
    a.always(Reply::Ok);
    takes(&a, 100, Duration::from_secs(25)).await;
    has_each_once(&a, &ids);
    let taken = a.taken();
    let early = taken.iter().filter(|seen| seen.at - taken[0].at < Duration::from_secs(1)).count();
    assert!((10..=25).contains(&early), "{early} in the first second");
    // Envelopes that failed earlier wait for their own time. Up to eight requests run at once and may overtake each other.
    let tried: BTreeSet<String> = a.seen().iter().filter(|seen| !seen.taken).map(Seen::event_id).collect();
    let place = |seen: &Seen| ids.iter().position(|sent| *sent == seen.event_id()).expect("one that was sent");
    let order: Vec<usize> = taken.iter().filter(|seen| !tried.contains(&seen.event_id())).map(place).collect();
    let mut sorted = order.clone();
    sorted.sort_unstable();
    let farthest = order.iter().zip(&sorted).map(|(have, due)| have.abs_diff(*due)).max();
    assert!(farthest <= Some(8), "{order:?}");
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_envelope_of_an_outage_and_the_last_before_a_stop_arrive() {
    let (a, b, mut relay) = relay_with(&[]).await;
    a.always(Reply::status(503));
    let mut ids = relay.send_errors(1).await;
    shows(&relay, "a", "the failure is known", |upstream| upstream["state"] == "failing").await;
    ids.extend(relay.send_errors(30).await);
    relay.stop().await;
    a.always(Reply::Ok);
    relay.launch();
    relay.await_ready().await;
    takes(&a, 31, Duration::from_secs(20)).await;
    has_each_once(&a, &ids);
    has_each_once(&b, &ids);
    relay.finish().await;
}

/// Sends one error with these headers through a relay and returns the headers that the upstream got.
async fn forwarded(server: &str, headers: &[(&str, &str)]) -> http::HeaderMap {
    let a = Upstream::start().await;
    let relay = Plan::new(&[("a", a.dsn("key-a", 11))]).server(server).start().await;
    let path = format!("/api/1/envelope/?sentry_key={}&sentry_client=sentry.test%2F1", envelopes::KEY);
    let request = relay.post(&path, envelopes::error(&envelopes::new_id()));
    let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    assert_eq!(request.send().await.expect("an answer").status(), 200);
    takes(&a, 1, SOON).await;
    relay.finish().await;
    a.taken().remove(0).headers
}

#[tokio::test(flavor = "multi_thread")]
async fn upstreams_learn_the_clients_address_and_name_and_nothing_else_of_it() {
    let sent = [
        ("x-forwarded-for", "203.0.113.7"),
        ("user-agent", "sentry.test/1"),
        ("origin", "https://shop.example"),
        ("cookie", "session=secret"),
        ("authorization", "Bearer secret"),
        ("x-anything", "else"),
    ];
    for (server, chain) in [("trusted_proxies = [\"127.0.0.1\"]", "203.0.113.7, 127.0.0.1"), ("", "127.0.0.1")] {
        let got = forwarded(server, &sent).await;
        assert_eq!(got["x-forwarded-for"], chain);
        assert_eq!(got["x-sentry-forwarded-for"], chain, "Sentry's edge overwrites the other");
        assert_eq!(got["user-agent"], "sentry.test/1");
        assert_eq!(got["origin"], "https://shop.example");
        assert_eq!(got["content-type"], "application/x-sentry-envelope");
        assert!(got.contains_key("content-length"));
        let auth = "Sentry sentry_version=7, sentry_client=sentry.test/1, sentry_key=key-a";
        assert_eq!(got["x-sentry-auth"], auth, "one form of authentication");
        for name in ["cookie", "authorization", "x-anything"] {
            assert!(!got.contains_key(name), "{got:?}");
        }
    }
}

#[tokio::test]
async fn an_outage_and_its_cause_outlive_a_crash_until_the_next_answer() {
    let mut upstream = Upstream::start().await;
    let mut relay = Plan::new(&[("sentry", upstream.dsn("key-a", 11))]).start().await;
    relay.send_errors(1).await;
    relay.balanced(SOON).await;
    upstream.go_down().await;
    relay.send_errors(6).await;
    let outage = async |relay: &Relay, over: bool| {
        eventually("the outage is told", SOON, async || {
            let outages = relay.upstream("sentry").await["outages"].clone();
            match outages.as_array().map(Vec::as_slice) {
                Some([outage]) if outage["to"].is_null() != over => Ok(outage.clone()),
                _ => Err(outages.to_string()),
            }
        })
        .await
    };
    let lasting = outage(&relay, false).await;
    assert!(lasting["cause"].as_str().unwrap().contains("refused"), "{lasting}");
    relay.kill();
    upstream.come_back().await;
    let relay = relay.started().await;
    let over = outage(&relay, true).await;
    assert_eq!((&over["from"], &over["cause"]), (&lasting["from"], &lasting["cause"]));
    assert!(over["to"].as_str() > over["from"].as_str(), "{over}");
    relay.finish().await;
}
