//! A tracker whose API was down while thousands of events were delivered: few requests find the waiting events, and new events are verified
//! meanwhile.

use futures_util::future::join_all;

use crate::support::eventually::eventually;
use crate::support::glitchtip::Glitchtip;
use crate::support::relay::{Relay, SOON};
use crate::support::upstream::{Reply, Upstream};
use crate::{A_WHILE, figures, scene, verification};

/// Many times the number of events that one step verifies.
const MANY: usize = 3000;

/// Delivers events while the API is down; returns their ids.
async fn behind() -> (Upstream, Glitchtip, Relay, Vec<String>) {
    let (primary, glitchtip, relay) = scene("").await;
    relay.send_errors(1).await;
    figures(&relay, &[("stored", 1)]).await;
    glitchtip.set_trouble(Some(Reply::status(503)));
    relay.send_errors(4).await;
    eventually("the trouble is said", A_WHILE, async || match verification(&relay).await["trouble"].as_str() {
        Some(_) => Ok(()),
        None => Err(relay.log()),
    })
    .await;
    let ids = join_all((0..10).map(|_| relay.send_errors(MANY / 10))).await.concat();
    relay.balanced(SOON).await;
    let own = verification(&relay).await;
    assert_eq!((&own["missing"], own["unknown"].as_u64()), (&0.into(), Some(MANY as u64 + 4)), "{own}");
    (primary, glitchtip, relay, ids)
}

#[tokio::test(flavor = "multi_thread")]
async fn one_walk_through_the_list_finds_thousands_of_events() {
    let (_primary, glitchtip, relay, _) = behind().await;
    let all = MANY as u64 + 5;
    let before = glitchtip.questions();
    glitchtip.set_trouble(None);
    figures(&relay, &[("delivered", all), ("stored", all), ("missing", 0), ("unknown", 0)]).await;
    // The relay reads 31 pages, those with the latest events twice, and the events that it compares.
    let asked = glitchtip.questions() - before;
    println!("{asked} questions for {all} events");
    assert!(asked < 150, "{asked} questions for {all} events");
    eventually("nothing waits", SOON, async || match verification(&relay).await["behind_since"].as_str() {
        None => Ok(()),
        since => Err(format!("{since:?}")),
    })
    .await;
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_events_among_thousands_are_found_through_a_restart() {
    let (_primary, glitchtip, mut relay, ids) = behind().await;
    ids.iter().step_by(MANY / 20).for_each(|id| glitchtip.delete(id));
    glitchtip.set_trouble(None);
    eventually("some are found", A_WHILE, async || match verification(&relay).await["stored"].as_u64() {
        Some(stored) if stored > 1 => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    relay.stop().await;
    let relay = relay.started().await;
    let all = MANY as u64 + 5;
    figures(&relay, &[("delivered", all), ("stored", all - 20), ("missing", 20), ("unknown", 0)]).await;
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_event_is_looked_for_while_thousands_wait() {
    let (_primary, glitchtip, relay, _) = behind().await;
    // The list fails beyond its first page.
    glitchtip.twist(|seen, reply| match seen.query.as_ref().is_some_and(|query| query.contains("cursor=")) {
        true => Reply::status(503),
        false => reply,
    });
    glitchtip.set_trouble(None);
    eventually("it answers again", A_WHILE, async || match verification(&relay).await["stored"].as_u64() {
        Some(stored) if stored > 1 => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    let new = relay.send_errors(1).await.remove(0);
    eventually("the new one is asked for by its id", A_WHILE, async || {
        let asked = glitchtip.upstream.seen().iter().any(|seen| seen.method == "GET" && seen.path.contains(&new));
        if asked { Ok(()) } else { Err(format!("{}", verification(&relay).await)) }
    })
    .await;
    let own = verification(&relay).await;
    assert!(own["missing"] == 0 && own["unknown"].as_u64() > Some(MANY as u64 / 2), "the old ones wait: {own}");
    assert!(own["behind_since"].as_str().is_some(), "{own}");
    relay.finish().await;
}
