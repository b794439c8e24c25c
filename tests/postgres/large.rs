//! Large bodies that lose one of their two places during the upload: the database or the local disk.

use std::fs;

use crate::relays::Scene;
use crate::support::connection::{Answer, Connection};
use crate::support::envelopes;
use crate::support::eventually::eventually;
use crate::support::line::Line;
use crate::support::postgres::Server;
use crate::support::relay::{Plan, Relay, SOON};

const MIB: usize = 1 << 20;

/// An envelope of 4 MiB.
fn body() -> Vec<u8> {
    let head =
        format!("{{\"event_id\":\"{}\"}}\n{{\"type\":\"attachment\",\"length\":{}}}\n", envelopes::new_id(), 4 * MIB);
    let payload = (0..4 * MIB).map(|at| (at * 31 + at / 251) as u8);
    head.into_bytes().into_iter().chain(payload).chain([b'\n']).collect()
}

/// Sends a body and calls `lose` when a part of it is in the database; returns the answer.
async fn send(scene: &Scene, relay: &Relay, body: &[u8], lose: impl FnOnce()) -> Answer {
    let mut connection = Connection::open(&relay.address()).await.expect("a connection");
    let (first, rest) = body.split_at(2 * MIB);
    connection.write(Connection::head(body.len()).as_bytes()).await.expect("the head is taken");
    connection.write(first).await.expect("it is taken");
    eventually("a part is in the database", SOON, async || match scene.database.number("SELECT count(*) FROM piece") {
        0 => Err("none".to_owned()),
        _ => Ok(()),
    })
    .await;
    lose();
    connection.write(rest).await.expect("the rest is taken");
    connection.answer().await.expect("an answer")
}

/// Waits until both upstreams have the body as it was sent and the database keeps nothing else.
async fn delivered(scene: &Scene, relay: &Relay, body: &[u8]) {
    for upstream in [&scene.a, &scene.b] {
        eventually("it arrives", SOON, async || match upstream.taken_count() {
            1 => Ok(()),
            count => Err(format!("{count}\n{}", relay.log())),
        })
        .await;
        assert!(upstream.taken()[0].body == body, "as it was sent");
    }
    kept(scene, &format!("1|{}", body.len())).await;
}

/// Waits until the database has this number of large bodies and of their bytes.
async fn kept(scene: &Scene, expected: &str) {
    let sql = "SELECT count(DISTINCT id), coalesce(sum(length(bytes)), 0) FROM large LEFT JOIN piece ON large = id";
    eventually("nothing else is kept", SOON, async || match scene.database.ask(sql) {
        found if found.trim() == expected => Ok(()),
        found => Err(found),
    })
    .await;
}

/// A relay that reaches its database over a line.
async fn over(line: &Line, scene: &Scene, change: impl FnOnce(Plan) -> Plan) -> Relay {
    let url = scene.database.url.replace(&Server::shared().port().to_string(), &line.port().to_string());
    change(scene.plan("one").shared(&url, "one")).start().await
}

#[tokio::test]
async fn a_large_upload_gets_200_although_the_database_is_lost_meanwhile() {
    let (scene, line, body) = (Scene::begin().await, Line::to(Server::shared().port()).await, body());
    let relay = over(&line, &scene, |plan| plan).await;
    let answer = send(&scene, &relay, &body, || line.cut(true)).await;
    assert_eq!((answer.status, relay.spilled()), (200, 1), "{}\n{}", answer.body, relay.log());
    line.cut(false);
    delivered(&scene, &relay, &body).await;
    relay.finish().await;
}

#[tokio::test]
async fn a_large_upload_without_spill_gets_503_when_the_database_is_lost() {
    let (scene, line, body) = (Scene::begin().await, Line::to(Server::shared().port()).await, body());
    let relay = over(&line, &scene, Plan::keeping_nothing).await;
    let answer = send(&scene, &relay, &body, || line.cut(true)).await;
    assert_eq!(answer.status, 503, "{}\n{}", answer.body, relay.log());
    line.cut(false);
    kept(&scene, "0|0").await;
    relay.finish().await;
}

#[tokio::test]
async fn a_large_upload_goes_on_in_the_database_when_the_disk_is_lost() {
    let (scene, body) = (Scene::begin().await, body());
    let relay = scene.plan("one").start().await;
    let lose = || fs::remove_dir_all(relay.home().join("spill.db-bodies")).expect("the folder of bodies");
    let answer = send(&scene, &relay, &body, lose).await;
    assert_eq!(answer.status, 200, "{}\n{}", answer.body, relay.log());
    delivered(&scene, &relay, &body).await;
    relay.finish().await;
}
