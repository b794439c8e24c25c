//! A full journal evicts a shadow's oldest envelopes and never the primary's.

use std::collections::BTreeSet;
use std::time::Duration;

use reqwest::Response;

use crate::support::envelopes;
use crate::support::eventually::eventually;
use crate::support::relay::{Plan, Relay, SOON};
use crate::support::upstream::{Reply, Upstream};

/// An event of 64 KiB.
fn large(id: &str) -> String {
    let payload = serde_json::json!({ "event_id": id, "message": "x".repeat(64 << 10) }).to_string();
    envelopes::envelope(id, "event", &payload)
}

/// Sends an event of 64 KiB; returns its id and the answer.
async fn send(relay: &Relay) -> (String, Response) {
    let id = envelopes::new_id();
    let answer = relay.send(large(&id)).await;
    (id, answer)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shadows_oldest_records_give_way_and_nobody_is_refused() {
    let (primary, mut shadow) = (Upstream::start().await, Upstream::start().await);
    // The primary does not take one envelope; its room cannot be freed.
    let poison = envelopes::new_id();
    let marked = poison.clone();
    primary.when(move |seen| (seen.event_id() == marked).then(|| Reply::status(503)));
    let plan = Plan::new(&[("primary", primary.dsn("0ld", 1)), ("shadow", shadow.dsn("4e3", 2))]);
    let relay = plan.journal("max_size = \"4MiB\"").journal("min_free_disk = \"0B\"").start().await;
    shadow.go_down().await;
    let mut ids = relay.send_errors(1).await;
    assert_eq!(relay.send(envelopes::error(&poison)).await.status(), 200);
    for _ in 0..160 {
        let (id, answer) = send(&relay).await;
        assert_eq!(answer.status(), 200, "10 MiB for an upstream that is down, in a journal of 4 MiB");
        ids.push(id);
    }
    eventually("the primary has all", SOON, async || match primary.taken_count() {
        161 => Ok(()),
        n => Err(n.to_string()),
    })
    .await;
    primary.when(|_| None);
    shadow.come_back().await;
    let samples = relay.balanced(Duration::from_secs(30)).await;
    let labels = [("upstream", "shadow"), ("category", "error"), ("reason", "evicted")];
    let evicted = samples.sum("switchyard_dropped_items_total", &labels) as usize;
    assert!((100..160).contains(&evicted), "{evicted}");
    let labels = [("upstream", "primary"), ("reason", "evicted")];
    assert_eq!(samples.sum("switchyard_dropped_items_total", &labels), 0.0);
    let told = relay.log().matches("the oldest that wait for this shadow give way").count();
    assert!((1..=3).contains(&told), "it is said, once a minute: {told} times");
    let status = relay.upstream("shadow").await;
    assert_eq!(status["dropped"]["evicted"], evicted, "{status}");
    let have: BTreeSet<String> = shadow.taken_ids().into_iter().collect();
    assert_eq!(have.len() + evicted, 162);
    let newest = &ids[ids.len() - 20..];
    assert!(newest.iter().all(|id| have.contains(id)), "the newest are there");
    assert!(have.contains(&poison), "what stays for the primary stays for the shadow");
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_primarys_backlog_never_gives_way_and_service_returns_by_itself() {
    let (mut primary, mut shadow) = (Upstream::start().await, Upstream::start().await);
    let plan = Plan::new(&[("primary", primary.dsn("0ld", 1)), ("shadow", shadow.dsn("4e3", 2))]);
    let relay = plan.journal("max_size = \"4MiB\"").journal("min_free_disk = \"0B\"").start().await;
    primary.go_down().await;
    shadow.go_down().await;
    let mut ids = vec![];
    loop {
        let (id, answer) = send(&relay).await;
        if answer.status() == 503 {
            break;
        }
        ids.push(id);
        assert!(ids.len() < 100, "6 MiB in a journal of 4 MiB");
    }
    // Evicting the shadow's copies would free nothing while the primary needs the envelopes.
    let samples = relay.samples().await.expect("metrics");
    assert_eq!(samples.sum("switchyard_dropped_items_total", &[("upstream", "shadow")]), 0.0);
    primary.come_back().await;
    eventually("it takes envelopes again", Duration::from_secs(30), async || {
        let (id, answer) = send(&relay).await;
        if answer.status() == 200 {
            ids.push(id);
            return Ok(());
        }
        Err(answer.status().to_string())
    })
    .await;
    shadow.come_back().await;
    relay.balanced(Duration::from_secs(30)).await;
    assert_eq!(primary.taken_ids().into_iter().collect::<BTreeSet<_>>(), ids.into_iter().collect::<BTreeSet<_>>());
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_projects_own_primary_keeps_its_backlog_through_a_switch() {
    let (mut a, b) = (Upstream::start().await, Upstream::start().await);
    let other = format!(
        "[[projects]]\nname = \"other\"\nid = \"2\"\npublic_key = \"07e2\"\nprimary = \"b\"\n[projects.upstreams]\n\
         a = \"{}\"\nb = \"{}\"",
        a.dsn("0ld", 3),
        b.dsn("4e3", 4)
    );
    let plan = Plan::new(&[("a", a.dsn("0ld", 1)), ("b", b.dsn("4e3", 2))]).more(&other);
    let relay = plan.journal("max_size = \"4MiB\"").journal("min_free_disk = \"0B\"").start().await;
    a.go_down().await;
    let gone = async |upstream: &str, project: &str| {
        let labels = [("upstream", upstream), ("project", project), ("reason", "evicted")];
        relay.samples().await.expect("metrics").sum("switchyard_dropped_items_total", &labels)
    };
    for _ in 0..20 {
        assert_eq!(send(&relay).await.1.status(), 200);
    }
    for _ in 0..60 {
        let path = "/api/2/envelope/?sentry_version=7&sentry_key=07e2";
        let answer = relay.post(path, large(&envelopes::new_id())).send().await.expect("an answer");
        assert_eq!(answer.status(), 200, "what a shadow waits for gives way");
    }
    assert!(gone("a", "other").await > 0.0);
    assert_eq!((gone("a", "shop").await, gone("b", "other").await), (0.0, 0.0));
    // The former primary is a shadow now.
    relay.flip_to("b").await;
    for _ in 0..60 {
        assert_eq!(send(&relay).await.1.status(), 200);
    }
    assert!(gone("a", "shop").await > 0.0);
    a.come_back().await;
    let samples = relay.balanced(Duration::from_secs(30)).await;
    let lost = samples.sum("switchyard_dropped_items_total", &[("upstream", "a"), ("reason", "evicted")]);
    assert_eq!(a.taken_count() + lost as usize, 140);
    assert_eq!(b.taken_count(), 140);
    relay.finish().await;
}
