//! SDKs learn of an upstream's limit only when no upstream in use takes the data.

use serde_json::Value;

use super::policing::{header, item, refused_items, told};
use crate::support::envelopes::{self, KEY, envelope, new_id};
use crate::support::eventually::eventually;
use crate::support::relay::{Plan, Relay, SOON};
use crate::support::upstream::{Reply, Upstream};

const DROP: &str = "on_rate_limit = \"drop\"";

/// A relay with the primary `a` and the upstream `b`. Both drop limited items, so that nothing waits for minutes.
async fn pair(shape: impl FnOnce(Plan) -> Plan) -> (Relay, Upstream, Upstream) {
    let (a, b) = (Upstream::start().await, Upstream::start().await);
    let plan = Plan::new(&[("a", a.dsn("cafe", 7)), ("b", b.dsn("beef", 8))]).upstream("a", DROP).upstream("b", DROP);
    (shape(plan).start().await, a, b)
}

/// Makes the upstream with this name answer an unlimited item with 200 and this limit.
async fn limits(relay: &Relay, (name, upstream): (&str, &Upstream), limit: &str) {
    upstream.then([Reply::with_header(200, "x-sentry-rate-limits", limit)]);
    assert_eq!(relay.send(envelope(&new_id(), "client_report", "{}")).await.status(), 200);
    eventually("the limit is known", SOON, async || match relay.upstream(name).await {
        upstream if upstream["state"] == "limited" => Ok(()),
        upstream => Err(upstream.to_string()),
    })
    .await;
}

/// Sends an envelope; returns the status, the limited categories in the answer, and its `Retry-After`.
async fn answer(relay: &Relay, envelope: String) -> (u16, Vec<String>, Option<u64>) {
    let answer = relay.send(envelope).await;
    let wait = header(&answer, "retry-after").map(|text| text.parse().expect("seconds"));
    (answer.status().as_u16(), told(&answer), wait)
}

const TAKEN: (u16, Vec<String>, Option<u64>) = (200, vec![], None);

#[tokio::test]
async fn sdks_learn_of_limits_only_when_no_upstream_takes_the_data() {
    let (relay, a, b) = pair(|plan| plan).await;
    limits(&relay, ("a", &a), "3000:error:organization").await;
    assert_eq!(answer(&relay, envelopes::error(&new_id())).await, TAKEN, "b takes it");
    limits(&relay, ("b", &b), "600:error;transaction:organization").await;
    let (status, told, wait) = answer(&relay, envelopes::error(&new_id())).await;
    assert_eq!((status, told), (429, vec!["error".to_owned()]));
    assert!(wait.is_some_and(|wait| (300..=600).contains(&wait)), "the shorter of two: {wait:?}");
    assert_eq!(answer(&relay, envelope(&new_id(), "transaction", "{}")).await, TAKEN, "a takes it");
    // Items that depend on the event are dropped with it, the rest goes on.
    let id = new_id();
    let mixed = envelopes::error(&id) + &item("user_report", "{}") + &item("session", "{}");
    let (status, told, _) = answer(&relay, mixed).await;
    assert_eq!((status, told), (200, vec!["error".to_owned()]));
    let samples = relay.balanced(SOON).await;
    assert_eq!(samples.sum("switchyard_delivered_items_total", &[("category", "session")]), 2.0);
    assert_eq!(refused_items(&relay, "error", "upstream_limited").await, 2.0);
    assert_eq!(refused_items(&relay, "feedback", "upstream_limited").await, 1.0);
    let refused = relay.status().await["refused"].clone();
    let error = |entry: &&Value| entry["category"] == "error" && entry["reason"] == "upstream_limited";
    assert_eq!(refused.as_array().and_then(|all| all.iter().find(error)).map(|entry| &entry["items"]), Some(&2.into()));
    let status = relay.status().await;
    assert_eq!((&status["refused_items"]["upstream_limited"], &status["limiting"]), (&3.into(), &true.into()));
    let told = "3 items were refused in the last two hours, because every upstream in use limited them";
    let health = &status["health"];
    assert!(health["level"] == "losing_data" && health["sentence"].to_string().contains(told), "{health}");
    relay.finish().await;
}

#[tokio::test]
async fn an_absurd_upstream_limit_locks_sdks_out_for_an_hour_at_most() {
    let upstream = Upstream::start().await;
    let relay = Plan::new(&[("a", upstream.dsn("cafe", 7))]).upstream("a", DROP).start().await;
    limits(&relay, ("a", &upstream), "999999999999:error:organization").await;
    let (status, told, wait) = answer(&relay, envelopes::error(&new_id())).await;
    assert_eq!((status, told), (429, vec!["error".to_owned()]));
    assert!(wait.is_some_and(|wait| (1800..=3600).contains(&wait)), "an hour at the most: {wait:?}");
    assert!(relay.log().contains("asks for a wait of more than a day"), "{}", relay.log());
    relay.finish().await;
}

#[tokio::test]
async fn a_shadow_outside_the_mirror_does_not_hide_the_primarys_limit() {
    let (relay, a, b) = pair(|plan| plan.top("mirror = false")).await;
    limits(&relay, ("a", &a), "600:session:organization").await;
    let (status, told, _) = answer(&relay, envelope(&new_id(), "session", "{}")).await;
    assert_eq!((status, told), (429, vec!["session".to_owned()]));
    assert_eq!((a.taken_count(), b.taken_count()), (1, 0));
    // With the other upstream as primary the session is taken.
    relay.flip_to("b").await;
    assert_eq!(answer(&relay, envelope(&new_id(), "session", "{}")).await, TAKEN);
    relay.finish().await;
}

#[tokio::test]
async fn an_upstream_that_never_stores_a_category_hides_no_limit_on_it() {
    let (relay, a, _b) = pair(|plan| plan.upstream("b", "kind = \"bugsink\"")).await;
    assert_eq!(answer(&relay, envelope(&new_id(), "transaction", "{}")).await, TAKEN);
    limits(&relay, ("a", &a), "600:transaction;error:organization").await;
    let (status, told, _) = answer(&relay, envelope(&new_id(), "transaction", "{}")).await;
    assert_eq!((status, told), (429, vec!["transaction".to_owned()]));
    assert_eq!(answer(&relay, envelopes::error(&new_id())).await, TAKEN, "b takes errors");
    relay.finish().await;
}

#[tokio::test]
async fn client_reports_and_check_ins_by_url_are_taken_despite_every_limit() {
    let (relay, a, b) = pair(|plan| plan).await;
    for (name, upstream) in [("a", &a), ("b", &b)] {
        limits(&relay, (name, upstream), "600::organization").await;
    }
    for kind in ["session", "log", "event", "attachment"] {
        assert_eq!(answer(&relay, envelope(&new_id(), kind, "{}")).await.0, 429, "{kind}");
    }
    for kind in ["client_report", "form_data", "never_heard_of"] {
        assert_eq!(answer(&relay, envelope(&new_id(), kind, "{}")).await, TAKEN, "{kind}");
    }
    let report = relay.post(&format!("/api/1/security/?sentry_key={KEY}"), "{\"csp-report\":{}}");
    let report = report.header("content-type", "application/csp-report").send().await.expect("an answer");
    assert_eq!((report.status().as_u16(), told(&report)), (429, vec!["security".to_owned()]));
    let check_in = relay.post(&format!("/api/1/cron/nightly/{KEY}/?status=ok"), "").send().await.expect("an answer");
    assert_eq!(check_in.status(), 202);
    let samples = relay.balanced(SOON).await;
    assert_eq!(samples.sum("switchyard_accepted_items_total", &[("category", "monitor")]), 1.0);
    assert_eq!(refused_items(&relay, "security", "upstream_limited").await, 1.0);
    relay.finish().await;
}

#[tokio::test]
async fn our_limit_holds_for_check_ins_that_every_upstream_limits_too() {
    let (relay, a, b) = pair(|plan| plan.more("[limits]\nmonitor = \"2/h\"")).await;
    for (name, upstream) in [("a", &a), ("b", &b)] {
        limits(&relay, (name, upstream), "600:monitor:organization").await;
    }
    for _ in 0..5 {
        let ping = relay.post(&format!("/api/1/cron/nightly/{KEY}/?status=ok"), "").send().await.expect("an answer");
        assert_eq!(ping.status(), 202);
    }
    let samples = relay.balanced(SOON).await;
    assert_eq!(samples.sum("switchyard_accepted_items_total", &[("category", "monitor")]), 2.0);
    assert_eq!(refused_items(&relay, "monitor", "rate_limited").await, 3.0);
    relay.finish().await;
}

#[tokio::test]
async fn held_items_go_out_and_sdks_send_again_when_the_limit_ends() {
    let upstream = Upstream::start().await;
    let relay = Plan::new(&[("tracker", upstream.dsn("cafe", 7))]).start().await;
    let (mut accepted, mut id) = (vec![], new_id());
    // A refused event is sent again and is no repeat.
    let mut send = async || {
        let status = relay.send(envelopes::error(&id)).await.status().as_u16();
        if status == 200 {
            accepted.push(std::mem::replace(&mut id, new_id()));
        }
        status
    };
    upstream.always(Reply::with_header(429, "x-sentry-rate-limits", "2:error:organization"));
    for expected in [429, 200] {
        eventually(&format!("{expected}"), SOON, async || match send().await {
            status if status == expected => Ok(()),
            status => Err(status.to_string()),
        })
        .await;
        upstream.always(Reply::Ok);
    }
    relay.balanced(SOON).await;
    let taken: std::collections::BTreeSet<String> = upstream.taken_ids().into_iter().collect();
    assert_eq!((taken.len(), upstream.taken_count()), (accepted.len(), accepted.len()));
    assert!(accepted.iter().all(|id| taken.contains(id)), "{accepted:?}");
    relay.finish().await;
}
