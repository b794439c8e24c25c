//! Servers that die and return.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::scene::{LATE, Scene, send, stop};
use crate::support::envelopes;
use crate::support::eventually::eventually;
use crate::support::load::Sendings;
use crate::support::relay::Relay;

/// The maximum time to an answer when only the primary dies, with a margin for a busy machine.
const STALL: Duration = Duration::from_secs(6 + 2);

impl Scene {
    /// Sends each event to all relays at once, in several tasks, until `end`; every answer must be 200. The tasks return the ids.
    pub(super) fn thrice(&self, end: &CancellationToken) -> JoinSet<BTreeSet<String>> {
        let addresses: Vec<String> = self.relays.iter().map(Relay::address).collect();
        let mut senders = JoinSet::new();
        for _ in 0..4 {
            let (addresses, end) = (addresses.clone(), end.clone());
            senders.spawn(async move {
                let mut ids = BTreeSet::new();
                while !end.is_cancelled() {
                    let id = envelopes::new_id();
                    let envelope = envelopes::error(&id);
                    let sent = addresses.iter().map(|address| send(address, &envelope));
                    let statuses = join_all(sent).await;
                    assert!(statuses.iter().all(|status| *status == Ok(200)), "{statuses:?}");
                    ids.insert(id);
                }
                ids
            });
        }
        senders
    }
}

fn all_200(sent: &Sendings) {
    let failures = sent.failures();
    assert!(failures.is_empty(), "{} of {}: {:?}", failures.len(), sent.0.len(), failures.first());
}

#[tokio::test]
async fn a_killed_primary_delays_answers_and_repeats_nothing() {
    let mut scene = Scene::begin().await;
    let (loads, end) = (scene.load(150), CancellationToken::new());
    let thrice = scene.thrice(&end);
    scene.more(&loads, 50).await;
    let primary = scene.servers.primary().await.unwrap();
    scene.servers.kill(primary, false);
    let killed = Instant::now();
    scene.servers.await_safe().await;
    scene.more(&loads, 50).await;
    println!("it went on after {:?}", killed.elapsed());
    end.cancel();
    let sent = stop(loads).await;
    all_200(&sent);
    println!("the longest of {} answers took {:?}", sent.0.len(), sent.slowest());
    assert!(sent.slowest() <= STALL, "{:?}", sent.slowest());
    let mut ids = sent.accepted();
    ids.extend(thrice.join_all().await.into_iter().flatten());
    let repeats = scene.delivered(&ids).await;
    assert!(repeats.iter().all(|repeats| repeats.is_empty()), "{repeats:?}");
    scene.balanced().await;
    let records = scene.servers.ask("SELECT count(*), count(DISTINCT event_id) FROM record").await.unwrap();
    assert_eq!(records.trim(), format!("{0}|{0}", ids.len()), "each is one record");
}

#[tokio::test]
async fn relays_acknowledge_only_from_disk_while_both_standbys_are_down() {
    let mut scene = Scene::begin().await;
    let primary = scene.servers.primary().await.unwrap();
    let standbys: Vec<usize> = (0..3).filter(|number| *number != primary).collect();
    scene.join(scene.plan(3).keeping_nothing()).await;
    let keeping_nothing = scene.relays.pop().unwrap();
    let before = scene.relays[0].send_errors(30).await.into_iter().collect();
    scene.delivered(&before).await;
    for standby in &standbys {
        scene.servers.kill(*standby, true);
    }
    let loads = scene.load(150);
    scene.more(&loads, 100).await;
    let refused = keeping_nothing.send(envelopes::error(&envelopes::new_id())).await;
    assert_eq!(refused.status(), 503);
    let sent = stop(loads).await;
    all_200(&sent);
    println!("the longest of {} answers took {:?}", sent.0.len(), sent.slowest());
    let kept: u32 = scene.relays.iter().map(|relay| relay.spilled()).sum();
    assert_eq!(kept, sent.0.len() as u32, "each that was acknowledged is on the disk of its relay");
    for standby in standbys {
        scene.servers.revive(standby);
    }
    scene.servers.await_whole().await;
    let repeats = scene.delivered(&sent.accepted()).await;
    assert!(repeats.iter().all(|repeats| repeats.is_empty()), "{repeats:?}");
    scene.balanced().await;
    eventually("it takes them again", LATE, async || {
        let answer = keeping_nothing.send(envelopes::error(&envelopes::new_id())).await;
        if answer.status() == 200 { Ok(()) } else { Err(answer.status().to_string()) }
    })
    .await;
}
