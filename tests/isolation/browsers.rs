//! The key of a project that browsers use is in every page, so anyone can flood it. The flood fills nothing for the others.

use std::time::{Duration, Instant};

use crate::support::envelopes::{KEY, envelope, new_id};
use crate::support::eventually::eventually;
use crate::support::relay::{Plan, Relay, SOON};
use crate::support::upstream::Upstream;

const APP: &str = "0badc0de0badc0de0badc0de0badc0de";
/// The burst of the default limit on `feedback`, which refills by ten each second.
const BURST: usize = 100;

/// A relay with the projects `shop` and `app`; `more` goes into the section of `app`.
async fn two(more: &str) -> (Relay, Upstream) {
    let upstream = Upstream::start().await;
    let dsn = upstream.dsn("beef", 8);
    let app = format!(
        "[[projects]]\nname = \"app\"\nid = \"2\"\npublic_key = \"{APP}\"\n{more}\n[projects.upstreams]\ntracker = \"{dsn}\"\n"
    );
    let relay = Plan::new(&[("tracker", upstream.dsn("cafe", 7))]).more(&app).start().await;
    (relay, upstream)
}

/// Sends a feedback to a project, with or without the origin of a page; returns the status.
async fn send(relay: &Relay, (id, key): (u8, &str), origin: bool) -> u16 {
    let request = relay.post(&format!("/api/{id}/envelope/?sentry_key={key}"), envelope(&new_id(), "feedback", "{}"));
    let request = if origin { request.header("origin", "https://shop.example") } else { request };
    request.send().await.expect("an answer").status().as_u16()
}

/// Sends more than a burst with the origin of a page; returns the number of refusals.
async fn flood(relay: &Relay, of: (u8, &str)) -> usize {
    let mut refused = 0;
    // The bucket refills meanwhile, so it takes more than a burst to empty it.
    for _ in 0..BURST * 8 {
        refused += usize::from(send(relay, of, true).await == 429);
        if refused > 9 {
            break;
        }
    }
    refused
}

async fn seen(relay: &Relay) -> Vec<bool> {
    let projects = relay.status().await["projects"].as_array().expect("projects").clone();
    projects.iter().map(|project| project["browsers"].as_bool().expect("a flag")).collect()
}

/// The 99th percentile of the time to an answer for a feedback of `app`; all must be taken.
async fn of_app(relay: &Relay, count: usize) -> Duration {
    let mut took = vec![];
    for _ in 0..count {
        let began = Instant::now();
        assert_eq!(send(relay, (2, APP), false).await, 200);
        took.push(began.elapsed());
    }
    took.sort();
    took[count * 99 / 100]
}

#[tokio::test]
async fn a_page_brings_limits_to_its_own_project_alone() {
    let (relay, upstream) = two("").await;
    let alone = of_app(&relay, 200).await;
    assert_eq!(seen(&relay).await, [false, false]);
    // A request with a wrong key does not mark the project as one that browsers use.
    assert_eq!(send(&relay, (2, KEY), true).await, 403);
    let (refused, beside) = tokio::join!(flood(&relay, (1, KEY)), of_app(&relay, 200));
    eprintln!("p99 of app: {alone:?} alone, {beside:?} beside the flood; {refused} of the flood refused");
    assert_eq!(refused, 10);
    assert_eq!(seen(&relay).await, [true, false]);
    // `app` has no limit, so it may send more than a burst.
    of_app(&relay, BURST).await;
    let samples = relay.balanced(SOON).await;
    let limited = samples.sum("switchyard_refused_items_total", &[("project", "shop"), ("reason", "rate_limited")]);
    assert_eq!(limited, 10.0);
    let lines = relay.log().matches("browsers send for this project").count();
    assert_eq!(lines, 1, "{}", relay.log());
    let delivered = upstream.taken().iter().filter(|seen| seen.path == "/api/8/envelope/").count();
    assert_eq!(delivered, 400 + BURST, "all of app arrives");
    relay.finish().await;
}

#[tokio::test]
async fn the_browsers_option_overrides_what_was_seen_and_a_reload_keeps_that() {
    let (relay, _upstream) = two("browsers = false").await;
    assert_eq!(send(&relay, (1, KEY), true).await, 200);
    assert_eq!(flood(&relay, (2, APP)).await, 0, "said to be no browsers");
    assert_eq!(seen(&relay).await, [true, false]);
    let file = std::fs::read_to_string(relay.config()).expect("the file");
    relay.replace_config(&file.replace("browsers = false", "browsers = true"));
    eventually("the file is live", SOON, async || match seen(&relay).await[1] {
        true => Ok(()),
        false => Err(relay.log()),
    })
    .await;
    assert_eq!(seen(&relay).await, [true, true], "what was seen stays");
    assert_eq!(flood(&relay, (2, APP)).await, 10);
    relay.finish().await;
}
