//! Relays that die, freeze, join and leave, and share the work.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;

use super::scene::{Scene, load, stop};
use crate::support::eventually::eventually;
use crate::support::upstream::Reply;

#[tokio::test]
async fn a_relay_killed_with_leases_loses_nothing_and_repeats_little() {
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
async fn late_settlements_of_a_frozen_relay_change_nothing() {
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
async fn a_switch_under_load_is_live_at_all_relays_and_recorded_once() {
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
async fn each_relay_delivers_its_share_ten_seconds_after_one_joins_or_leaves() {
    let mut scene = Scene::begin().await;
    let mut loads = scene.load(300);
    even(&scene).await;
    scene.join(scene.plan(3)).await;
    loads.push(load(&scene.relays[3].address(), 100));
    even(&scene).await;
    let last = loads.pop().unwrap().stop().await;
    scene.relays[3].stop().await;
    scene.relays.pop();
    even(&scene).await;
    let sent = stop(loads).await;
    let mut ids = sent.accepted();
    ids.extend(last.accepted());
    let repeats = scene.delivered(&ids).await;
    assert!(repeats.iter().all(|repeats| repeats.is_empty()), "{repeats:?}");
    scene.balanced().await;
}

/// Waits until each relay delivers its share to each upstream.
async fn even(scene: &Scene) {
    let (fair, mut before) = (1.0 / scene.relays.len() as f64, attempts(scene).await);
    eventually("each delivers its part", Duration::from_secs(10), async || {
        let now = attempts(scene).await;
        let gained: Vec<[f64; 2]> =
            now.iter().zip(&before).map(|(now, old)| [now[0] - old[0], now[1] - old[1]]).collect();
        for upstream in 0..2 {
            let all: f64 = gained.iter().map(|parts| parts[upstream]).sum();
            if all < 300.0 {
                return Err("too little to tell".to_owned());
            }
            if gained.iter().any(|parts| (parts[upstream] / all - fair).abs() > 0.1) {
                before.clone_from(&now);
                return Err(format!("{gained:?}"));
            }
        }
        println!("{} relays: {gained:?}", scene.relays.len());
        Ok(())
    })
    .await;
}

/// The number of delivery attempts of each relay to each upstream.
async fn attempts(scene: &Scene) -> Vec<[f64; 2]> {
    let mut attempts = Vec::new();
    for relay in &scene.relays {
        let samples = relay.samples().await.expect("its samples");
        let name = "switchyard_delivery_attempts_total";
        // A relay has no series for an upstream that it has never tried.
        let has = samples.values_of(name, "upstream");
        let count = |upstream| if has.contains(upstream) { samples.sum(name, &[("upstream", upstream)]) } else { 0.0 };
        attempts.push([count("a"), count("b")]);
    }
    attempts
}
