//! An upstream whose DSN leads back to the relay by another name: what comes back is refused, waits, and is told.

use std::sync::{Arc, OnceLock};

use serde_json::Value;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::shows;
use super::support::envelopes::{self, KEY};
use super::support::relay::{Plan, Relay, SOON};
use super::support::upstream::Upstream;

/// Another address of a relay, which is told later: the DSN there, the place for the relay's own address, and what passes bytes on.
async fn other_name() -> (String, Arc<OnceLock<String>>, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let dsn = format!("http://{KEY}@{}/1", listener.local_addr().expect("an address"));
    let leads_to = Arc::new(OnceLock::<String>::new());
    let told = Arc::clone(&leads_to);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((mut client, _)) = listener.accept().await {
            let Some(relay) = told.get().cloned() else { continue };
            connections.spawn(async move {
                let mut relay = TcpStream::connect(relay).await.expect("the relay");
                let _ended = copy_bidirectional(&mut client, &mut relay).await;
            });
        }
    });
    (dsn, leads_to, tasks)
}

const SESSION: &str = "{}\n{\"type\":\"session\"}\n{\"sid\":\"8c1e2f1a3b4c4d5e8f90a1b2c3d4e5f6\",\"init\":true,\
    \"started\":\"2026-01-01T00:00:00Z\",\"status\":\"ok\",\"errors\":0,\"attrs\":{\"release\":\"a@1\"}}\n";

fn waits(upstream: &Value) -> bool {
    let told = upstream["last_error"].to_string();
    upstream["state"] == "misconfigured" && upstream["delivered"] == 0 && told.contains("508 Loop Detected")
}

async fn refused_as_loop(relay: &Relay) -> f64 {
    relay.samples().await.expect("metrics").sum("switchyard_refused_requests_total", &[("reason", "loop")])
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_back_by_another_name_is_refused_and_waits() {
    let (tracker, (dsn, leads_to, _passing)) = (Upstream::start().await, other_name().await);
    let relay = Plan::new(&[("a", dsn), ("b", tracker.dsn("key-b", 22))]).start().await;
    leads_to.set(relay.address()).expect("told once");

    assert_eq!(relay.send(SESSION).await.status(), 200);
    assert_eq!(relay.send(envelopes::error(&envelopes::new_id())).await.status(), 200);
    shows(&relay, "a", "the circle is told", |upstream| waits(upstream) && upstream["backlog"]["envelopes"] == 2).await;
    super::takes(&tracker, 2, SOON).await;
    assert!(refused_as_loop(&relay).await >= 1.0);

    let proxied = relay.client().get(format!("http://{}/api/0/projects/", relay.address())).send().await;
    assert_eq!(proxied.expect("an answer").status(), 508);
    assert_eq!(tracker.taken_count(), 2);
    let (_, told) = relay.verb(&["status"]).await;
    assert!(told.contains("leads back to it"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_relays_that_name_each_other_end_the_circle() {
    let (dsn, leads_to, _passing) = other_name().await;
    let first = Plan::new(&[("a", dsn)]).start().await;
    let second = Plan::new(&[("a", first.dsn())]).start().await;
    leads_to.set(second.address()).expect("told once");
    assert_eq!(first.send(SESSION).await.status(), 200);
    // The chain from the first to the second relay works; the way back is the circle.
    shows(&second, "a", "the circle is told", |upstream| waits(upstream) && upstream["backlog"]["envelopes"] == 1)
        .await;
    shows(&first, "a", "the second relay has it", |upstream| upstream["delivered"] == 1).await;
    assert!(refused_as_loop(&first).await >= 1.0);
}
