//! Changes while a request is under way: a limit ends, or the upstream's kind changes.
//!
//! Rule: an upstream has the items that were sent to it and taken, whatever else could be sent by the time of its answer.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::support::envelopes;
use super::support::relay::{Plan, Relay, SOON};
use super::support::upstream::{Reply, Seen, Upstream};
use super::{shows, takes};

/// A relay with an upstream `a` of this kind and another one without limits, so that the relay accepts what `a` limits.
async fn scene(kind: &str) -> (Upstream, Upstream, Relay) {
    let (a, b) = (Upstream::start().await, Upstream::start().await);
    let plan = Plan::new(&[("a", a.dsn("key-a", 11)), ("b", b.dsn("key-b", 22))]);
    let relay = plan.upstream("a", &format!("kind = \"{kind}\"")).start().await;
    (a, b, relay)
}

/// Makes the upstream answer with a 429 that limits a category, once the token is cancelled.
fn held_limit(upstream: &Upstream, limits: &str) -> CancellationToken {
    let word = CancellationToken::new();
    let reply = Reply::with_header(429, "x-sentry-rate-limits", limits);
    upstream.then([Reply::Held(word.clone(), Box::new(reply))]);
    word
}

/// Waits until `count` requests have arrived.
async fn sees(upstream: &Upstream, count: usize) {
    super::eventually("a request is under way", SOON, async || match upstream.seen().len() {
        seen if seen == count => Ok(()),
        seen => Err(format!("{seen} requests")),
    })
    .await;
}

fn kinds(seen: &Seen) -> Vec<String> {
    envelopes::items(&seen.body).into_iter().map(|item| item.kind).collect()
}

fn event_and_session() -> String {
    envelopes::error(&envelopes::new_id()) + "{\"type\":\"session\"}\n{}\n"
}

async fn becomes(relay: &Relay, from: &str, to: &str) {
    let text = std::fs::read_to_string(relay.config()).expect("the configuration");
    relay.replace_config(&text.replace(&format!("kind = \"{from}\""), &format!("kind = \"{to}\"")));
    shows(relay, "a", "it is loaded", |_| relay.log().contains("was reloaded")).await;
}

async fn delivered(relay: &Relay, category: &str) -> f64 {
    let samples = relay.balanced(SOON).await;
    samples.sum("switchyard_delivered_items_total", &[("upstream", "a"), ("category", category)])
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_delivers_no_item_that_a_limit_held_back() {
    let (a, _b, relay) = scene("sentry").await;
    a.then([Reply::with_header(200, "x-sentry-rate-limits", "2:session:organization")]);
    relay.send_errors(1).await;
    shows(&relay, "a", "sessions are limited", |upstream| upstream["state"] == "limited").await;
    let word = held_limit(&a, "2:error:organization");
    assert_eq!(relay.send(event_and_session()).await.status(), 200);
    sees(&a, 2).await;
    shows(&relay, "a", "the limit is over", |upstream| upstream["limits"] == serde_json::json!([])).await;
    word.cancel();
    takes(&a, 3, SOON).await;
    let seen = a.seen();
    let sent: Vec<_> = seen.iter().map(kinds).collect();
    assert_eq!(sent[1..], [vec!["event"], vec!["session"], vec!["event"]], "the session goes at once, the event waits");
    assert!(seen[3].at - seen[2].at >= Duration::from_millis(1500), "until its limit is over");
    assert_eq!((delivered(&relay, "error").await, delivered(&relay, "session").await), (2.0, 1.0));
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_429_that_limits_no_sent_item_delivers_nothing() {
    let (a, _b, mut relay) = scene("sentry").await;
    a.then([Reply::with_header(200, "x-sentry-rate-limits", "60:session:organization")]);
    relay.send_errors(1).await;
    shows(&relay, "a", "sessions are limited", |upstream| upstream["state"] == "limited").await;
    a.then([Reply::with_header(429, "x-sentry-rate-limits", "60:monitor:organization")]);
    assert_eq!(relay.send(event_and_session()).await.status(), 200);
    sees(&a, 2).await;
    let later = envelopes::envelope(&envelopes::new_id(), "transaction", "{\"transaction\":\"t\"}");
    assert_eq!(relay.send(later).await.status(), 200);
    let count = async |category| {
        let samples = relay.samples().await.expect("samples");
        samples.sum("switchyard_delivered_items_total", &[("upstream", "a"), ("category", category)])
    };
    super::eventually("what came later is delivered", SOON, async || match count("transaction").await {
        1.0 => Ok(()),
        count => Err(count.to_string()),
    })
    .await;
    assert_eq!((count("error").await, &relay.upstream("a").await["backlog"]["envelopes"]), (1.0, &1.into()));
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_read_by_the_kind_at_the_time_of_the_request() {
    let (a, _b, relay) = scene("generic").await;
    let word = held_limit(&a, "1:error:organization");
    assert_eq!(relay.send(event_and_session()).await.status(), 200);
    sees(&a, 1).await;
    becomes(&relay, "generic", "sentry").await;
    word.cancel();
    takes(&a, 1, SOON).await;
    assert_eq!(kinds(&a.taken()[0]), ["event", "session"], "nobody says that the session was taken before");
    assert_eq!((delivered(&relay, "error").await, delivered(&relay, "session").await), (1.0, 1.0));
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn items_that_a_new_kind_does_not_store_are_counted_as_unsupported() {
    let (a, _b, relay) = scene("sentry").await;
    let word = held_limit(&a, "1:transaction:organization");
    let transaction = envelopes::envelope(&envelopes::new_id(), "transaction", "{\"transaction\":\"t\"}");
    assert_eq!(relay.send(transaction).await.status(), 200);
    sees(&a, 1).await;
    becomes(&relay, "sentry", "bugsink").await;
    word.cancel();
    let samples = relay.balanced(SOON).await;
    assert_eq!(super::dropped(&samples, "a", "unsupported"), 1.0);
    assert_eq!(a.seen().len(), 1);
    relay.finish().await;
}
