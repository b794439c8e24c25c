//! Relays that die, freeze, start anew, and take the same event at once.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;

use super::scene::{Scene, stop};
use crate::support::envelopes;
use crate::support::eventually::eventually;
use crate::support::upstream::Reply;

#[tokio::test]
async fn a_relay_that_is_killed_with_leases_loses_nothing_and_repeats_little() {
    let mut scene = Scene::begin().await;
    let mut loads = scene.load(300);
    scene.more(&loads, 300).await;
    let mut killed = scene.relays.remove(0);
    let ended = loads.remove(0);
    killed.kill();
    scene.more(&loads, 300).await;
    let sent = stop(loads).await;
    assert!(sent.failures().is_empty(), "the others take all: {:?}", sent.failures().first());
    let mut ids = sent.accepted();
    ids.extend(ended.stop().await.accepted());
    for repeats in scene.delivered(&ids).await {
        assert!(repeats.len() <= 64 && repeats.values().all(|times| *times == 2), "{repeats:?}");
    }
    scene.balanced().await;
}

#[tokio::test]
async fn a_relay_that_was_frozen_past_its_end_changes_nothing_by_its_late_settlements() {
    let scene = Scene::begin().await;
    scene.a.always(Reply::Hang);
    let ids: Vec<String> = scene.relays[0].send_errors(30).await;
    eventually("some are under way", Duration::from_secs(10), async || {
        if scene.a.seen().is_empty() { Err("none") } else { Ok(()) }.map_err(str::to_owned)
    })
    .await;
    scene.relays[0].signal(Signal::STOP);
    scene.a.always(Reply::Ok);
    scene.delivered(&ids.iter().cloned().collect()).await;
    scene.relays[0].signal(Signal::CONT);
    scene.balanced().await;
    let status = scene.relays[1].upstream("a").await;
    assert_eq!(status["delivered"], 30, "each is counted once: {status}");
}

#[tokio::test]
async fn one_event_at_three_relays_at_once_is_one_record_and_one_delivery_each() {
    let scene = Scene::begin().await;
    let ids: Vec<String> = (0..50).map(|_| envelopes::new_id()).collect();
    for id in &ids {
        let send = |at: usize| scene.relays[at].send(envelopes::error(id));
        let (one, two, three) = tokio::join!(send(0), send(1), send(2));
        for answer in [one, two, three] {
            assert_eq!(answer.status(), 200);
        }
    }
    let repeats = scene.delivered(&ids.into_iter().collect()).await;
    assert!(repeats.iter().all(|repeats| repeats.is_empty()), "{repeats:?}");
    scene.balanced().await;
    assert_eq!(scene.servers.ask("SELECT count(*) FROM record").await.unwrap().trim(), "50");
}

#[tokio::test]
async fn a_switch_under_load_is_live_at_all_relays_and_stands_once_in_the_history() {
    let scene = Scene::begin().await;
    let loads = scene.load(200);
    scene.relays[1].flip_to("b").await;
    for relay in &scene.relays {
        eventually("it is live", Duration::from_secs(2), async || {
            let status = relay.status().await;
            if status["primary"] == json!("b") { Ok(()) } else { Err(status["primary"].to_string()) }
        })
        .await;
    }
    let sent = stop(loads).await;
    assert!(sent.failures().is_empty());
    let repeats = scene.delivered(&sent.accepted()).await;
    assert!(repeats.iter().all(|repeats| repeats.is_empty()), "{repeats:?}");
    let kept = scene.servers.ask("SELECT count(*) FROM switch WHERE before IS NOT NULL").await.unwrap();
    assert_eq!(kept.trim(), "1");
}

#[tokio::test]
async fn each_relay_delivers_its_part() {
    let scene = Scene::begin().await;
    let loads = scene.load(300);
    scene.more(&loads, 300).await;
    let sent = stop(loads).await;
    scene.delivered(&sent.accepted()).await;
    let mut parts = Vec::new();
    for relay in &scene.relays {
        let samples = relay.samples().await.unwrap();
        parts.push(samples.sum("switchyard_delivery_attempts_total", &[("upstream", "a")]));
    }
    let all: f64 = parts.iter().sum();
    assert!(parts.iter().all(|part| (part / all - 1.0 / 3.0).abs() <= 0.1), "{parts:?}");
}
