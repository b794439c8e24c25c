//! Large bodies while relays and servers die.

use super::scene::{LATE, Scene};
use crate::support::connection::Connection;
use crate::support::envelopes;
use crate::support::eventually::eventually;

const MIB: usize = 1 << 20;

/// The pieces of an envelope of the maximum size.
fn pieces(id: &str) -> Vec<Vec<u8>> {
    let payload = 200 * MIB - 1024;
    let head = format!("{{\"event_id\":\"{id}\"}}\n{{\"type\":\"attachment\",\"length\":{payload}}}\n");
    let mut pieces = vec![head.into_bytes()];
    pieces.extend((0..200).map(|at: u8| vec![at; if at < 199 { MIB } else { MIB - 1024 }]));
    pieces.push(b"\n".to_vec());
    pieces
}

/// Sends the first `count` pieces of a body; returns the connection.
async fn send(address: &str, pieces: &[Vec<u8>], count: usize) -> Connection {
    let mut connection = Connection::open(address).await.expect("a connection");
    let length = pieces.iter().map(Vec::len).sum();
    connection.write(Connection::head(length).as_bytes()).await.expect("the head is taken");
    for piece in &pieces[..count] {
        connection.write(piece).await.expect("the body is taken");
    }
    connection
}

/// Waits until both upstreams have the body as it was sent.
async fn arrives(scene: &Scene, body: &[u8]) {
    for upstream in [&scene.a, &scene.b] {
        eventually("it arrives", LATE, async || match upstream.taken_count() {
            0 => Err("nothing yet".to_owned()),
            _ => Ok(()),
        })
        .await;
        assert!(upstream.taken()[0].body == body, "as it was sent");
    }
}

/// Waits until the database has this body and no other.
async fn is_kept_alone(scene: &Scene, body: &[u8]) {
    let kept = "SELECT count(DISTINCT id), coalesce(sum(length(bytes)), 0) FROM large LEFT JOIN piece ON large = id";
    eventually("only that is kept", LATE, async || {
        let found = scene.servers.ask(kept).await?;
        if found.trim() == format!("1|{}", body.len()) { Ok(()) } else { Err(found) }
    })
    .await;
}

#[tokio::test]
async fn a_large_body_survives_a_failover_and_an_unanswered_one_leaves_nothing() {
    let mut scene = Scene::begin().await;
    scene.a.go_down().await;
    scene.b.go_down().await;
    let body = pieces(&envelopes::new_id());
    let unanswered = send(&scene.relays[2].address(), &body, 50).await;
    eventually("a part is in the database", LATE, async || {
        let found = scene.servers.ask("SELECT count(*) FROM piece").await?;
        if found.trim() == "0" { Err("none".to_owned()) } else { Ok(()) }
    })
    .await;
    scene.relays[2].kill();
    drop(unanswered);
    scene.relays.pop();
    let mut answered = send(&scene.relays[0].address(), &body, body.len()).await;
    assert_eq!(answered.answer().await.unwrap().status, 200);
    let primary = scene.servers.primary().await.unwrap();
    scene.servers.kill(primary, false);
    scene.servers.await_another(primary).await;
    scene.a.come_back().await;
    scene.b.come_back().await;
    arrives(&scene, &body.concat()).await;
    scene.balanced().await;
    is_kept_alone(&scene, &body.concat()).await;
}

#[tokio::test]
async fn a_large_upload_during_the_primarys_death_gets_200_and_arrives() {
    let mut scene = Scene::begin().await;
    let body = pieces(&envelopes::new_id());
    let mut answered = send(&scene.relays[0].address(), &body, 100).await;
    let primary = scene.servers.primary().await.unwrap();
    scene.servers.kill(primary, true);
    for piece in &body[100..] {
        answered.write(piece).await.expect("the body is taken");
    }
    assert_eq!(answered.answer().await.unwrap().status, 200, "{}", scene.relays[0].log());
    scene.servers.await_another(primary).await;
    arrives(&scene, &body.concat()).await;
    scene.balanced().await;
    is_kept_alone(&scene, &body.concat()).await;
}
