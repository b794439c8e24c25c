//! An upstream whose name moves to another address or has several.
//!
//! Rule: the relay runs in its own mount namespace, where `/etc/hosts` is a file of the test. The system's resolver reads it at every
//! look-up.

use std::net::SocketAddr;
use std::time::Duration;

use rustix::process::Signal;

use crate::support::eventually::eventually;
use crate::support::net::free_port;
use crate::support::relay::{Plan, Relay, SOON};
use crate::support::upstream::Upstream;

const NAME: &str = "tracker.test";

/// A relay whose upstream has this name, which resolves to `addresses`.
async fn relay(port: u16, addresses: &[&str], line: &str) -> Relay {
    let dsn = format!("http://cafe@{NAME}:{port}/7");
    let mut relay = Plan::new(&[("tracker", dsn)]).upstream("tracker", line).prepare();
    resolve(&relay, addresses);
    relay.launch_with_hosts();
    relay.await_ready().await;
    relay
}

/// Makes the name resolve to these addresses from now on.
fn resolve(relay: &Relay, addresses: &[&str]) {
    let lines: String = addresses.iter().map(|address| format!("{address} {NAME}\n")).collect();
    std::fs::write(relay.home().join("hosts"), lines).expect("the file of names");
}

fn at_port(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().expect("an address"), port)
}

async fn at(addresses: [&str; 2]) -> (u16, [Upstream; 2]) {
    let port = free_port();
    let [old, new] = addresses.map(|address| at_port(address, port));
    (port, [Upstream::start_at(old).await, Upstream::start_at(new).await])
}

/// Sends one event after the other until `upstream` has one.
async fn reaches(relay: &Relay, upstream: &Upstream, within: Duration) {
    eventually("events go to the new address", within, async || {
        relay.send_errors(1).await;
        if upstream.taken_count() > 0 { Ok(()) } else { Err("they go to the old one".to_owned()) }
    })
    .await;
}

#[tokio::test]
async fn a_connection_at_its_maximum_age_is_replaced_at_the_names_new_address() {
    let (port, [old, new]) = at(["127.0.0.2", "127.0.0.3"]).await;
    let relay = relay(port, &["127.0.0.2"], "max_connection_age = \"1s\"").await;
    relay.send_errors(3).await;
    relay.balanced(SOON).await;
    assert_eq!((old.taken_count(), new.taken_count()), (3, 0));
    resolve(&relay, &["127.0.0.3"]);
    reaches(&relay, &new, SOON).await;
    relay.balanced(SOON).await;
    // No delivery failed: the old address answers all the time.
    assert_eq!(old.seen().len() + new.seen().len(), old.taken_count() + new.taken_count());
    relay.finish().await;
}

#[tokio::test]
async fn a_signal_or_an_edited_file_opens_new_connections() {
    let (port, [old, new]) = at(["127.0.0.2", "127.0.0.3"]).await;
    // With one request at a time there is one connection; a second would be new and lead to the new address.
    let relay = relay(port, &["127.0.0.2"], "max_connection_age = \"1h\"\nmax_in_flight = 1").await;
    relay.send_errors(3).await;
    relay.balanced(SOON).await;
    resolve(&relay, &["127.0.0.3"]);
    relay.send_errors(3).await;
    relay.balanced(SOON).await;
    assert_eq!((old.taken_count(), new.taken_count()), (6, 0), "the connection is kept");
    relay.signal(Signal::HUP);
    reaches(&relay, &new, SOON).await;
    relay.balanced(SOON).await;

    let before = old.taken_count();
    resolve(&relay, &["127.0.0.2"]);
    let file = std::fs::read_to_string(relay.config()).expect("the file");
    relay.replace_config(&file.replace("\"1h\"", "\"2h\""));
    eventually("events go to the first address again", SOON, async || {
        relay.send_errors(1).await;
        if old.taken_count() > before { Ok(()) } else { Err("they do not".to_owned()) }
    })
    .await;
    relay.finish().await;
}

#[tokio::test]
async fn every_address_of_a_name_is_tried_in_both_families() {
    let port = free_port();
    for (place, others) in [("127.0.0.2", ["::1", "127.0.0.9"]), ("::1", ["127.0.0.9", "127.0.0.8"])] {
        let upstream = Upstream::start_at(at_port(place, port)).await;
        let relay = relay(port, &[others[0], others[1], place], "").await;
        relay.send_errors(3).await;
        relay.balanced(SOON).await;
        assert_eq!((upstream.taken_count(), upstream.seen().len()), (3, 3));
        assert_eq!(relay.upstream("tracker").await["last_error"], serde_json::Value::Null);
        relay.finish().await;
    }
}
