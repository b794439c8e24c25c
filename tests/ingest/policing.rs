//! A project's limits on what it may send, and on repeats of the same error.

use std::time::Duration;

use reqwest::Response;
use serde_json::{Value, json};

use crate::support::envelopes::{self, envelope, new_id};
use crate::support::eventually::eventually;
use crate::support::relay::{Plan, Relay, SOON};
use crate::support::upstream::{Seen, Upstream};
use crate::{front_of, keyed};

/// A relay with these limits, and its only upstream.
async fn limited(limits: &str) -> (Relay, Upstream) {
    front_of(|plan| plan.more(&format!("[limits]\n{limits}"))).await
}

/// An item as it stands in an envelope.
pub(crate) fn item(kind: &str, payload: &str) -> String {
    format!("{{\"type\":\"{kind}\",\"length\":{}}}\n{payload}\n", payload.len())
}

pub(crate) fn header(answer: &Response, name: &str) -> Option<String> {
    answer.headers().get(name).map(|value| value.to_str().expect("text").to_owned())
}

/// The limits in an answer, as categories; each must last a whole number of seconds between one and an hour.
pub(crate) fn told(answer: &Response) -> Vec<String> {
    let line = header(answer, "x-sentry-rate-limits").unwrap_or_default();
    let category = |limit: &str| {
        let (seconds, rest) = limit.split_once(':').expect("a limit");
        assert!((1..=3600).contains(&seconds.parse::<u64>().expect("whole seconds")), "{limit}");
        rest.strip_suffix(":project:switchyard").expect("scope and reason").to_owned()
    };
    line.split(", ").filter(|limit| !limit.is_empty()).map(category).collect()
}

pub(crate) async fn refused_items(relay: &Relay, category: &str, reason: &str) -> f64 {
    let labels = [("project", "shop"), ("category", category), ("reason", reason)];
    relay.samples().await.expect("metrics").sum("switchyard_refused_items_total", &labels)
}

/// Replaces the sections `[limits…]` of the file and waits until it is loaded.
async fn reload(relay: &Relay, limits: &str) {
    let before = std::fs::read_to_string(relay.config()).expect("the file");
    let (rest, _) = before.split_once("[limits]").expect("limits");
    let loaded = async || relay.status().await["config"]["loaded_at"].clone();
    let then = loaded().await;
    relay.replace_config(&format!("{rest}{limits}\n"));
    eventually("the file is loaded", SOON, async || match loaded().await == then {
        true => Err(relay.log()),
        false => Ok(()),
    })
    .await;
}

#[tokio::test]
async fn a_project_over_its_limit_gets_429_with_the_time_to_wait() {
    let (relay, upstream) = limited("error = { rate = \"2/h\", burst = 3 }").await;
    let ids = relay.send_errors(3).await;
    let answer = relay.send(envelopes::error(&new_id())).await;
    assert_eq!(answer.status(), 429);
    assert_eq!(told(&answer), ["error"]);
    let wait: u64 = header(&answer, "retry-after").expect("a wait").parse().expect("seconds");
    assert!((1700..=1800).contains(&wait), "{wait}");
    assert!(answer.json::<Value>().await.expect("JSON")["detail"].is_string());
    // Other categories are not affected, and client reports are never limited.
    for kind in ["transaction", "session", "client_report", "x_unknown"] {
        let answer = relay.send(envelope(&new_id(), kind, "{}")).await;
        assert_eq!((answer.status().as_u16(), told(&answer)), (200, vec![]), "{kind}");
    }
    relay.balanced(SOON).await;
    assert_eq!(upstream.taken_ids()[..3], ids);
    assert_eq!(upstream.taken_count(), 7);
    assert_eq!(refused_items(&relay, "error", "rate_limited").await, 1.0);
    let expected = json!([{"project": "shop", "category": "error", "reason": "rate_limited", "items": 1}]);
    assert_eq!(relay.status().await["refused"], expected);
    relay.finish().await;
}

#[tokio::test]
async fn limited_items_are_dropped_with_their_dependants_and_the_rest_goes_on() {
    let (relay, upstream) =
        limited("error = \"1/h\"\nsession = { rate = \"1/h\", burst = 3 }\nattachment = { rate = \"1KiB/h\", burst = \"2KiB\" }")
            .await;
    relay.send_errors(1).await;
    let id = new_id();
    let rest = item("session", "{\"sid\":\"x\"}");
    let dependants = item("attachment", "of the event") + &item("user_report", "{}");
    let answer = relay.send(envelopes::error(&id) + &dependants + &rest).await;
    assert_eq!((answer.status().as_u16(), told(&answer)), (200, vec!["error".to_owned()]));
    assert_eq!(answer.json::<Value>().await.expect("JSON"), json!({ "id": id }));
    // An attachment by itself has its own limit in bytes.
    let attachment = |bytes: usize| envelope(&new_id(), "attachment", &"x".repeat(bytes));
    for (bytes, status) in [(1500, 200), (1500, 429), (500, 200), (4000, 429)] {
        assert_eq!(relay.send(attachment(bytes)).await.status(), status, "{bytes}");
    }
    // An answer names each limit that was exceeded.
    let answer = relay.send(envelopes::error(&new_id()) + attachment(4000).split_once('\n').expect("a header").1).await;
    assert_eq!((answer.status().as_u16(), told(&answer)), (429, vec!["error".to_owned()]));
    let answer = relay.send(envelopes::error(&new_id()) + &rest.repeat(3)).await;
    assert_eq!((answer.status().as_u16(), told(&answer)), (200, vec!["error".to_owned(), "session".to_owned()]));
    relay.balanced(SOON).await;
    let items: Vec<Vec<u8>> = upstream.taken().iter().map(|seen| seen.items().to_vec()).collect();
    assert!(items.contains(&rest.clone().into_bytes()), "only the session is left");
    assert!(items.contains(&rest.repeat(2).into_bytes()), "two of three sessions are left");
    assert_eq!(refused_items(&relay, "feedback", "rate_limited").await, 1.0);
    assert_eq!(refused_items(&relay, "attachment_item", "rate_limited").await, 4.0);
    relay.finish().await;
}

#[tokio::test]
async fn an_item_in_two_categories_is_held_to_both_limits() {
    let logs = |count: usize, bytes: usize| {
        let header = format!("{{\"type\":\"log\",\"item_count\":{count},\"length\":{bytes}}}");
        format!("{{}}\n{header}\n{}\n", "x".repeat(bytes))
    };
    let (relay, upstream) = limited(
        "log_item = { rate = \"10/h\", burst = 10 }\nlog_byte = { rate = \"1KiB/h\", burst = \"4KiB\" }\n\
         attachment_item = \"2/h\"",
    )
    .await;
    for (count, bytes, told_of) in
        [(6, 1000, None), (6, 100, Some("log_item")), (1, 3500, Some("log_byte")), (3, 1000, None)]
    {
        let answer = relay.send(logs(count, bytes)).await;
        let expected: Vec<&str> = told_of.into_iter().collect();
        assert_eq!(told(&answer), expected, "{count} {bytes}");
        assert_eq!(answer.status(), if expected.is_empty() { 200 } else { 429 }, "{count} {bytes}");
    }
    for (attached, told_of) in [(2, vec![]), (1, vec!["attachment_item"])] {
        let answer = relay.send(format!("{{}}\n{}", item("attachment", "x").repeat(attached))).await;
        assert_eq!(told(&answer), told_of);
    }
    relay.balanced(SOON).await;
    assert_eq!(upstream.taken_count(), 3);
    assert_eq!(refused_items(&relay, "log_item", "rate_limited").await, 7.0);
    assert_eq!(refused_items(&relay, "log_byte", "rate_limited").await, 3600.0);
    relay.finish().await;
}

#[tokio::test]
async fn a_reload_keeps_spent_limits_and_a_limited_event_is_no_repeat() {
    let (relay, upstream) = limited("error = { rate = \"1/h\", burst = 2 }").await;
    relay.send_errors(2).await;
    let id = new_id();
    assert_eq!(relay.send(envelopes::error(&id)).await.status(), 429);
    reload(&relay, "[limits]\nsession = \"1/s\"\nerror = { rate = \"1/h\", burst = 2 }").await;
    assert_eq!(relay.send(envelopes::error(&id)).await.status(), 429, "the bucket is as empty as before");
    reload(&relay, "[limits]\nerror = { rate = \"1/h\", burst = 3 }").await;
    assert_eq!(relay.send(envelopes::error(&id)).await.status(), 200, "two of three were spent");
    assert_eq!(relay.send(envelopes::error(&new_id())).await.status(), 429);
    reload(&relay, "[limits]").await;
    relay.send_errors(5).await;
    relay.balanced(SOON).await;
    assert_eq!(upstream.taken_ids().iter().filter(|taken| **taken == id).count(), 1);
    assert_eq!(upstream.taken_count(), 8);
    relay.finish().await;
}

#[tokio::test]
async fn other_endpoints_have_the_same_limits_and_check_ins_never_get_429() {
    let (relay, upstream) = limited("monitor = \"1/h\"\nsecurity = \"1/h\"").await;
    let ping = keyed("/api/1/cron/nightly/") + "&status=ok";
    let report = keyed("/api/1/security/");
    for (again, status) in [(false, 200), (true, 429)] {
        let answer = relay.client().get(format!("http://{}{ping}", relay.address())).send().await.expect("an answer");
        assert_eq!((answer.status().as_u16(), told(&answer)), (202, vec![]));
        let answer = relay.post(&report, "{\"csp-report\":{}}").header("content-type", "application/csp-report");
        let answer = answer.send().await.expect("an answer");
        assert_eq!(answer.status(), status);
        assert_eq!(told(&answer), if again { vec!["security".to_owned()] } else { vec![] });
    }
    relay.balanced(SOON).await;
    assert_eq!(upstream.taken_count(), 2);
    for category in ["monitor", "security"] {
        assert_eq!(refused_items(&relay, category, "rate_limited").await, 1.0, "{category}");
    }
    relay.finish().await;
}

#[tokio::test]
async fn each_project_has_its_own_buckets_and_may_have_its_own_limits() {
    const OTHER: &str = "0ddba11c0ffee0decade0b0e5ca1ab1e";
    let (relay, _upstream) = {
        let upstream = Upstream::start().await;
        let own = format!(
            "[projects.limits]\nerror = {{ rate = \"1/h\", burst = 4 }}\n\
             [[projects]]\nname = \"blog\"\nid = \"2\"\npublic_key = \"{OTHER}\"\n\
             [projects.upstreams]\ntracker = \"{}\"\n[limits]\nerror = {{ rate = \"1/h\", burst = 2 }}",
            upstream.dsn("cafe", 8)
        );
        let plan = Plan::new(&[("tracker", upstream.dsn("cafe", 7))]).more(&own);
        (plan.start().await, upstream)
    };
    relay.send_errors(4).await;
    assert_eq!(relay.send(envelopes::error(&new_id())).await.status(), 429);
    let path = format!("/api/2/envelope/?sentry_key={OTHER}");
    for status in [200, 200, 429] {
        let answer = relay.post(&path, envelopes::error(&new_id())).send().await.expect("an answer");
        assert_eq!(answer.status(), status);
    }
    relay.finish().await;
}

#[tokio::test]
async fn a_storm_of_identical_errors_is_dropped_after_the_first_few() {
    let (relay, upstream) = limited("[limits.storm]\nlimit = 3\nwindow = \"2s\"").await;
    let error = |line: u32| {
        let frame = format!("{{\"filename\":\"pay.js\",\"function\":\"pay\",\"lineno\":{line},\"in_app\":true}}");
        let exception = format!("{{\"type\":\"TypeError\",\"value\":\"x\",\"stacktrace\":{{\"frames\":[{frame}]}}}}");
        let id = new_id();
        let event = format!("{{\"event_id\":\"{id}\",\"exception\":{{\"values\":[{exception}]}}}}");
        (envelope(&id, "event", &event) + &item("attachment", &id), id)
    };
    let mut passed = vec![];
    for n in 0..10 {
        let (body, id) = error(7);
        let answer = relay.send(body).await;
        assert_eq!((answer.status().as_u16(), told(&answer)), (200, vec![]));
        assert_eq!(answer.json::<Value>().await.expect("JSON"), json!({ "id": id }));
        passed.extend((n < 3).then_some(id));
    }
    let (other, id) = error(8);
    relay.send(other + &item("session", "{}")).await;
    passed.push(id);
    relay.balanced(SOON).await;
    assert_eq!(upstream.taken_ids(), passed);
    assert_eq!(refused_items(&relay, "error", "collapsed").await, 7.0);
    assert_eq!(refused_items(&relay, "attachment_item", "collapsed").await, 7.0);
    let storms = relay.status().await["storms"].clone();
    assert_eq!((&storms[0]["what"], &storms[0]["collapsed"]), (&json!("TypeError"), &json!(7)));
    // When the window ends, the next error passes, and the log reports the dropped ones.
    eventually("the window is over", Duration::from_secs(5), async || {
        relay.send(error(7).0).await;
        relay.balanced(SOON).await;
        match upstream.taken_count() > passed.len() {
            true => Ok(()),
            false => Err("it still collapses".to_owned()),
        }
    })
    .await;
    assert!(relay.log().contains("identical errors were dropped before this one"), "{}", relay.log());
    let attached: Vec<Seen> = upstream.taken();
    assert!(attached.iter().all(|seen| String::from_utf8_lossy(seen.items()).contains("attachment")));
    relay.finish().await;
}
