//! Orderly restarts, one after another, behind the balancer of `deploy/cluster/`.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use super::scene::{Scene, load, send, stop};
use crate::support::envelopes;
use crate::support::eventually::eventually;
use crate::support::net;
use crate::support::process::Process;
use crate::support::relay::Relay;

/// Starts the balancer at this port in front of these relays.
fn balancer(home: &Path, port: u16, relays: &[Relay]) -> Process {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/cluster/haproxy.cfg");
    let mut text = std::fs::read_to_string(file).expect("the balancer's file");
    text = text.replace("bind :8484", &format!("bind 127.0.0.1:{port}"));
    for (number, relay) in (1..).zip(relays) {
        let here = format!("{} check port {}", relay.address(), relay.admin_port());
        text = text.replace(&format!("relay-{number}:8484"), &here);
    }
    std::fs::write(home.join("haproxy.cfg"), text).expect("a file");
    let mut command = Command::new("haproxy");
    command.args(["-db", "-f", "haproxy.cfg"]).current_dir(home);
    Process::start("haproxy", &mut command, &home.join("log"), None)
}

#[tokio::test]
async fn rolling_restarts_of_relays_and_servers_lose_and_double_nothing() {
    let mut scene = Scene::begin().await;
    let (home, port) = (TempDir::with_prefix("switchyard-haproxy-").expect("a folder"), net::free_port());
    let _balancer = balancer(home.path(), port, &scene.relays);
    let address = format!("127.0.0.1:{port}");
    eventually("the balancer passes requests on", Duration::from_secs(10), async || {
        match send(&address, &envelopes::error(&envelopes::new_id())).await {
            Ok(200) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    let loads = vec![load(&address, 150)];
    scene.more(&loads, 100).await;
    for number in 0..3 {
        scene.relays[number].stop().await;
        scene.more(&loads, 50).await;
        scene.relays[number].launch();
        scene.relays[number].await_ready().await;
        scene.more(&loads, 100).await;
    }
    let primary = scene.servers.primary().await.unwrap();
    scene.servers.await_whole().await;
    for number in (0..3).filter(|number| *number != primary).chain([primary]) {
        scene.servers.restart(number).await;
        scene.more(&loads, 50).await;
    }
    let sent = stop(loads).await;
    println!("the longest of {} answers took {:?}", sent.0.len(), sent.slowest());
    assert!(sent.failures().is_empty(), "{} of {}: {:?}", sent.failures().len(), sent.0.len(), sent.failures().first());
    let repeats = scene.delivered(&sent.accepted()).await;
    assert!(repeats.iter().all(|repeats| repeats.is_empty()), "{repeats:?}");
    scene.balanced().await;
}
