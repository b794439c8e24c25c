//! Partitions between running parties, each on a machine of its own. The senders run beside the relays.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::{Instant, interval, timeout};

use super::scene::{LATE, Scene, stop};
use crate::support::envelopes;
use crate::support::eventually::eventually;
use crate::support::load::Sendings;
use crate::support::machines::Network;
use crate::support::net;

/// The most deliveries that a relay has in hand for an upstream.
const IN_HAND: usize = 64;
/// The time after which a silent relay counts as gone, with a margin.
const GONE: Duration = Duration::from_secs(20);
/// The maximum time to an answer: by then the relay has spilled the envelope to its disk. It includes a margin for a busy machine.
const STALL: Duration = Duration::from_secs(6 + 2);
/// The time for which a relay holds requests while the database does not answer, and the time within which a balancer gets its answer.
const HELD: Duration = Duration::from_secs(6);
const TOLD: Duration = Duration::from_secs(1);
/// The interval of the balancer's checks.
const OFTEN: Duration = Duration::from_millis(200);

fn all_200_and_soon(sent: &Sendings) {
    println!("the longest of {} answers took {:?}", sent.0.len(), sent.slowest());
    assert!(sent.failures().is_empty(), "{} of {}: {:?}", sent.failures().len(), sent.0.len(), sent.failures().first());
    assert!(sent.slowest() <= STALL, "{:?}", sent.slowest());
}

fn others(primary: usize) -> impl Iterator<Item = usize> + Clone {
    (0..3).filter(move |number| *number != primary)
}

#[tokio::test]
async fn a_primary_that_is_cut_off_acknowledges_nothing_and_follows_when_rejoined() {
    let network = Network::begin().await;
    let mut scene = Scene::without_relays(Some(&network)).await;
    for number in 0..3 {
        scene.join(scene.plan(number)).await;
    }
    let loads = scene.load(150);
    scene.more(&loads, 50).await;
    let primary = scene.servers.primary().await.unwrap();
    let cut = |is_cut| {
        let others = others(primary).map(|number| scene.servers.machine(number));
        network.cut(scene.servers.machine(primary), others.chain([scene.servers.machine_of_etcd()]), is_cut);
    };
    cut(true);
    let began = Instant::now();
    scene.servers.await_another(primary).await;
    println!("another server was the primary after {:?}", began.elapsed());
    scene.more(&loads, 50).await;
    cut(false);
    scene.servers.await_whole().await;
    scene.more(&loads, 50).await;
    let sent = stop(loads).await;
    all_200_and_soon(&sent);
    scene.delivered(&sent.accepted()).await;
    scene.balanced().await;
}

#[tokio::test]
async fn relays_acknowledge_only_from_disk_while_both_standbys_are_cut_off() {
    let network = Network::begin().await;
    let mut scene = Scene::without_relays(Some(&network)).await;
    for number in 0..3 {
        scene.join(scene.plan(number)).await;
    }
    let primary = scene.servers.primary().await.unwrap();
    let cut = |scene: &Scene, is_cut| {
        let others = others(primary).map(|number| scene.servers.machine(number));
        network.cut(scene.servers.machine(primary), others, is_cut);
    };
    scene.join(scene.plan(3).keeping_nothing()).await;
    let keeping_nothing = scene.relays.pop().unwrap();
    cut(&scene, true);
    let loads = scene.load(150);
    scene.more(&loads, 50).await;
    let refused = keeping_nothing.send(envelopes::error(&envelopes::new_id())).await;
    assert_eq!(refused.status(), 503);
    let sent = stop(loads).await;
    all_200_and_soon(&sent);
    let kept: u32 = scene.relays.iter().map(|relay| relay.spilled()).sum();
    assert_eq!(kept, sent.0.len() as u32, "each that was acknowledged is on the disk of its relay");
    cut(&scene, false);
    scene.servers.await_whole().await;
    scene.delivered(&sent.accepted()).await;
    scene.balanced().await;
    eventually("it takes them again", LATE, async || {
        let answer = keeping_nothing.send(envelopes::error(&envelopes::new_id())).await;
        if answer.status() == 200 { Ok(()) } else { Err(answer.status().to_string()) }
    })
    .await;
}

#[tokio::test]
async fn a_relay_that_is_cut_off_loses_nothing_and_holds_nobody_up() {
    let network = Network::begin().await;
    let mut scene = Scene::without_relays(Some(&network)).await;
    scene.relays.push(scene.plan(0).start_on(network.machine().await).await);
    for number in 1..3 {
        scene.join(scene.plan(number)).await;
    }
    let apart = scene.relays[0].machine().unwrap();
    let loads = scene.load(150);
    scene.more(&loads, 50).await;
    network.cut(apart, [scene.a.machine()], true);
    scene.more(&loads, 150).await;
    let first = stop(loads).await;
    let mut ids = first.accepted();
    eventually("the others deliver what it has not in hand", LATE, async || {
        let taken: BTreeSet<String> = scene.a.taken_ids().into_iter().collect();
        let missing = ids.difference(&taken).count();
        if missing <= IN_HAND { Ok(()) } else { Err(format!("{missing} of {}", ids.len())) }
    })
    .await;
    network.cut(apart, [scene.a.machine()], false);
    let repeated = scene.delivered(&ids).await.map(|repeats| repeats.len());
    println!("{repeated:?} were delivered again after it was cut off from the upstream");
    assert!(repeated[0] <= IN_HAND && repeated[1] == 0, "what it does not hear of: {repeated:?}");
    let loads = scene.load(150);
    scene.more(&loads, 50).await;
    let all = &scene.servers;
    let servers = || (0..3).map(move |number| all.machine(number));
    network.cut(apart, servers(), true);
    let (began, mut often) = (Instant::now(), interval(OFTEN));
    while began.elapsed() < HELD {
        often.tick().await;
        let asked = format!("http://{}/readyz", scene.relays[0].admin_address());
        let told = timeout(TOLD, net::text(scene.relays[0].client(), &asked)).await;
        assert!(matches!(told, Ok(Ok(_))), "{told:?} after {:?}", began.elapsed());
    }
    scene.more_until(&loads, began, GONE).await;
    network.cut(apart, servers(), false);
    scene.more(&loads, 50).await;
    let second = stop(loads).await;
    all_200_and_soon(&first);
    all_200_and_soon(&second);
    ids.extend(second.accepted());
    for (repeats, before) in scene.delivered(&ids).await.iter().zip(&repeated) {
        println!("{} were delivered again", repeats.len() - *before);
        assert!(repeats.len() - *before <= IN_HAND && repeats.values().all(|times| *times == 2), "{repeats:?}");
    }
    scene.balanced().await;
}
