//! Parties that run, and do not reach each other for a while.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;

use super::scene::{LATE, Scene, stop};
use crate::support::eventually::eventually;
use crate::support::line::Line;
use crate::support::patroni::Patroni;

/// What a relay has in hand of an upstream.
const IN_HAND: usize = 64;
/// How long it takes until a relay that is not heard is taken for one that is gone, and a little more.
const GONE: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_primary_cut_off_from_etcd_and_its_standbys_acknowledges_nothing_and_follows_when_it_is_joined_again() {
    let mut scene = Scene::without_relays(true).await;
    for number in 0..3 {
        scene.join(scene.plan(number)).await;
    }
    let loads = scene.load(150);
    scene.more(&loads, 50).await;
    let primary = scene.servers.primary().await.unwrap();
    scene.servers.cut(primary, true);
    let cut = Instant::now();
    scene.servers.await_another(primary).await;
    println!("another server was the primary after {:?}", cut.elapsed());
    scene.more(&loads, 50).await;
    scene.servers.cut(primary, false);
    scene.servers.await_whole().await;
    scene.more(&loads, 50).await;
    let sent = stop(loads).await;
    assert!(sent.failures().is_empty(), "{} of {}: {:?}", sent.failures().len(), sent.0.len(), sent.failures().first());
    println!("the longest of {} answers took {:?}", sent.0.len(), sent.slowest());
    scene.delivered(&sent.accepted()).await;
    scene.balanced().await;
}

#[tokio::test]
async fn a_relay_cut_off_from_an_upstream_then_from_the_database_loses_nothing_and_holds_nobody_up() {
    let mut scene = Scene::without_relays(false).await;
    let a = Line::to(scene.a.port()).await;
    let mut servers = Vec::new();
    for port in scene.servers.ports() {
        servers.push(Line::to(port).await);
    }
    let ports: Vec<u16> = servers.iter().map(Line::port).collect();
    let over = format!("http://key@127.0.0.1:{}/1", a.port());
    scene.join(scene.plan_over(&over, &Patroni::url_at(&ports), 0)).await;
    for number in 1..3 {
        scene.join(scene.plan(number)).await;
    }
    let loads = scene.load(150);
    scene.more(&loads, 50).await;
    a.cut(true);
    scene.more(&loads, 150).await;
    let first = stop(loads).await;
    let ids = first.accepted();
    eventually("the others deliver what it has not in hand", LATE, async || {
        let taken: BTreeSet<String> = scene.a.taken_ids().into_iter().collect();
        let missing = ids.difference(&taken).count();
        if missing <= IN_HAND { Ok(()) } else { Err(format!("{missing} of {}", ids.len())) }
    })
    .await;
    a.cut(false);
    scene.delivered(&ids).await;
    let loads = scene.load(150);
    servers.iter().for_each(|line| line.cut(true));
    scene.more_until(&loads, Instant::now(), GONE).await;
    servers.iter().for_each(|line| line.cut(false));
    scene.more(&loads, 50).await;
    let second = stop(loads).await;
    for sent in [&first, &second] {
        println!("the longest of {} answers took {:?}", sent.0.len(), sent.slowest());
        assert!(
            sent.failures().is_empty(),
            "{} of {}: {:?}",
            sent.failures().len(),
            sent.0.len(),
            sent.failures().first()
        );
    }
    let mut ids = ids;
    ids.extend(second.accepted());
    for repeats in scene.delivered(&ids).await {
        println!("{} were delivered again", repeats.len());
        assert!(repeats.len() <= 64 && repeats.values().all(|times| *times == 2), "{repeats:?}");
    }
    scene.balanced().await;
}
