//! A primary that freezes, dies with its Patroni or loses its Patroni, while another server takes its place.

use std::time::Duration;

use tokio::time::Instant;

use super::outage::outage;
use super::scene::{LATE, Scene, stop};
use crate::support::eventually::eventually;
use crate::support::relay::Relay;

#[tokio::test]
async fn a_frozen_primary_acknowledges_nothing_when_it_resumes() {
    let scene = Scene::begin().await;
    let loads = scene.load(200);
    scene.more(&loads, 100).await;
    let primary = scene.servers.primary().await.unwrap();
    scene.servers.freeze(primary, true);
    let frozen = Instant::now();
    scene.servers.await_another(primary).await;
    scene.more(&loads, 100).await;
    scene.more_until(&loads, frozen, outage().min(Duration::from_secs(60))).await;
    scene.servers.freeze(primary, false);
    scene.more(&loads, 100).await;
    let sent = stop(loads).await;
    assert!(sent.failures().is_empty(), "{:?}", sent.failures().first());
    println!("the longest of {} answers took {:?}", sent.0.len(), sent.slowest());
    scene.delivered(&sent.accepted()).await;
    scene.balanced().await;
    assert!(scene.servers.timeline().await.unwrap() > 1, "what the one that took its place has committed counts");
}

#[tokio::test]
async fn killing_the_primary_and_its_patroni_loses_and_doubles_nothing() {
    let mut scene = Scene::begin().await;
    let loads = scene.load(200);
    scene.more(&loads, 100).await;
    let primary = scene.servers.primary().await.unwrap();
    scene.servers.kill(primary, true);
    scene.servers.await_another(primary).await;
    scene.more(&loads, 100).await;
    let sent = stop(loads).await;
    assert!(sent.failures().is_empty(), "{:?}", sent.failures().first());
    let repeats = scene.delivered(&sent.accepted()).await;
    for repeats in repeats {
        assert!(repeats.len() <= 64 * 3, "no more than what was in flight at the three relays: {}", repeats.len());
    }
    scene.balanced().await;
}

#[tokio::test]
async fn an_orphaned_primary_keeps_no_relay_from_the_elected_one() {
    let mut scene = Scene::begin().await;
    let loads = scene.load(200);
    scene.more(&loads, 100).await;
    let primary = scene.servers.primary().await.unwrap();
    // The old primary goes on and says that it takes writes, but no standby confirms them.
    scene.servers.orphan(primary);
    scene.servers.await_another(primary).await;
    scene.more(&loads, 100).await;
    let sent = stop(loads).await;
    assert!(sent.failures().is_empty(), "{:?}", sent.failures().first());
    println!("the longest of {} answers took {:?}", sent.0.len(), sent.slowest());
    scene.delivered(&sent.accepted()).await;
    scene.balanced().await;
    eventually("all is moved over to the one elected", LATE, async || {
        let kept: Vec<u32> = scene.relays.iter().map(Relay::spilled).collect();
        if kept.iter().all(|kept| *kept == 0) { Ok(()) } else { Err(format!("{kept:?}")) }
    })
    .await;
}
