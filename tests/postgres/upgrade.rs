//! Relays of the previous and the current format on one database, and its contents.

use std::process::Command;
use std::time::Duration;

use crate::relays::Scene;
use crate::support::envelopes;
use crate::support::eventually::eventually;
use crate::support::postgres::Database;
use crate::support::relay::{Relay, SOON};
use crate::support::upstream::Upstream;

/// A database of format 1: eleven records that wait for `b`, one of them large, and a dead letter of `a`.
const DUMP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/postgres/format1.sql");
/// A killed relay counts as alive for 15 seconds, and may be probing `b`.
const UNTIL_GONE: Duration = Duration::from_secs(30);
const FORMAT: &str = "SELECT 10 * format + oldest FROM meta";
const IN_DAYS: &str = "SELECT count(*) FROM body";

/// Loads the dump as if it were new; returns the ids of its events.
fn before(database: &Database) -> Vec<String> {
    let read =
        Command::new("psql").args(["-q", "-X", "-v", "ON_ERROR_STOP=1", "-d", &database.url, "-f", DUMP]).output();
    let read = read.expect("psql");
    assert!(read.status.success(), "{}", String::from_utf8_lossy(&read.stderr));
    database.execute(
        "CREATE TEMPORARY TABLE since AS SELECT extract(epoch FROM now())::bigint * 1000 - max(accepted_at) AS ms FROM record;
         UPDATE record SET accepted_at = accepted_at + ms FROM since;
         UPDATE key SET at = at + ms FROM since;
         UPDATE pending SET due = due + ms FROM since;
         UPDATE control SET common = NULL",
    );
    let ids = database.ask("SELECT replace(event_id::text, '-', '') FROM record ORDER BY id");
    ids.lines().map(str::to_owned).collect()
}

async fn has_taken(upstream: &Upstream, ids: &[String], relay: &Relay) {
    let mut ids = ids.to_vec();
    ids.sort();
    eventually("everything is delivered once", UNTIL_GONE, async || {
        let mut taken = upstream.taken_ids();
        taken.sort();
        if taken == ids { Ok(()) } else { Err(format!("{} of {}\n{}", taken.len(), ids.len(), relay.log())) }
    })
    .await;
}

#[tokio::test]
async fn a_database_of_the_previous_format_is_upgraded_with_its_contents() {
    let scene = Scene::begin().await;
    let mut ids = before(&scene.database);
    let mut relay = scene.plan("one").start().await;
    assert_eq!(scene.database.number(FORMAT), 21);
    has_taken(&scene.b, &ids, &relay).await;
    let large =
        scene.b.taken().into_iter().find(|seen| seen.event_id() == ids[6]).expect("the large one").items().len();
    assert!(large > 5 << 19, "{large}");
    assert!(relay.send(envelopes::error(&ids[0])).await.status().is_success(), "a repeat");
    let (code, told) = relay.verb(&["dead-letters", "retry", "--all"]).await;
    assert_eq!(code, 0, "{told}");
    has_taken(&scene.a, &ids[7..8], &relay).await;

    // A relay of the previous version could start again and would look for bodies there.
    ids.extend(relay.send_errors(2).await);
    has_taken(&scene.b, &ids, &relay).await;
    assert_eq!((scene.database.number(IN_DAYS), scene.database.number("SELECT count(body) FROM record")), (0, 12));

    assert_eq!(scene.database.number(FORMAT), 21);
    relay.stop().await;
    // The relay was the only one, and no relay of the previous version ran meanwhile.
    scene.database.execute(
        "UPDATE meta SET earlier = clock_timestamp() - interval '25 hours';
         UPDATE node SET alive_until = clock_timestamp() - interval '2 hours' WHERE format > 1",
    );
    relay.launch();
    relay.await_ready().await;
    eventually("the upgrade is over", SOON, async || match scene.database.number(FORMAT) {
        22 => Ok(()),
        other => Err(format!("{other}\n{}", relay.log())),
    })
    .await;
    // For a minute, a relay of the previous version that was just starting may still join.
    ids.extend(relay.send_errors(1).await);
    has_taken(&scene.b, &ids, &relay).await;
    assert_eq!(scene.database.number(IN_DAYS), 0);
    scene.database.execute("UPDATE meta SET earlier = clock_timestamp() - interval '2 minutes'");
    eventually("bodies stand by the day", SOON, async || {
        ids.extend(relay.send_errors(1).await);
        if scene.database.number(IN_DAYS) > 0 { Ok(()) } else { Err(relay.log()) }
    })
    .await;
    has_taken(&scene.b, &ids, &relay).await;
    relay.finish().await;
}

#[tokio::test]
async fn no_day_is_used_while_a_relay_of_the_previous_format_may_run() {
    let scene = Scene::begin().await;
    let mut ids = before(&scene.database);
    let mut relay = scene.plan("two").start().await;
    // An old relay runs; one ran less than a day ago; one may have run while no new relay watched, for hours or for a moment. None of this
    // ends the upgrade.
    for (earlier, replaced, looked) in
        [("25 hours", false, "0"), ("23 hours", true, "0"), ("25 hours", true, "2 hours"), ("25 hours", true, "0")]
    {
        relay.stop().await;
        scene.database.execute(&format!(
            "UPDATE meta SET earlier = clock_timestamp() - interval '{earlier}';
             UPDATE node SET alive_until = clock_timestamp() - interval '{looked}' WHERE format > 1;
             UPDATE node SET replaced = {replaced}, merged = false WHERE name = 'one';
             INSERT INTO attempt VALUES (5, 0, 'delivered', 1)"
        ));
        relay.launch();
        relay.await_ready().await;
        eventually("it has done what the one that leads does first", SOON, async || {
            if scene.database.number("SELECT count(*) FROM attempt WHERE hour = 5") == 0 {
                Ok(())
            } else {
                Err(relay.log())
            }
        })
        .await;
        ids.extend(relay.send_errors(1).await);
        has_taken(&scene.b, &ids, &relay).await;
        assert_eq!((scene.database.number(FORMAT), scene.database.number(IN_DAYS)), (21, 0));
    }
    relay.finish().await;
}

/// Appends as a relay of format 1 does: its incarnation names no format, and the body is in the row.
const AS_BEFORE: &str = "WITH entered AS (
         INSERT INTO node (name, version, started_at, alive_until)
         VALUES ('before', '0.1.0', 0, clock_timestamp() + interval '15 seconds') RETURNING incarnation),
     began AS (INSERT INTO committed (incarnation, number) SELECT incarnation, 0 FROM entered),
     reached AS (INSERT INTO frontier SELECT target.id, incarnation, incarnation::bigint << 40 FROM entered, target),
     counted AS (INSERT INTO waiting SELECT incarnation, target.id, 1, 'error', 1 FROM entered, target)
     INSERT INTO record SELECT * FROM unnest(ARRAY[(SELECT incarnation::bigint << 40 | 1 FROM entered)],
         ARRAY[extract(epoch FROM now())::bigint * 1000 - 25 * 3600000], ARRAY[1], ARRAY[3::bigint], ARRAY[length($body$)::bigint],
         ARRAY[1000::bigint], ARRAY['error=1'], ARRAY['$id'::uuid], ARRAY[''::bytea], ARRAY['{}'], ARRAY[$body::bytea], ARRAY[NULL::bigint])";

#[tokio::test]
async fn records_that_a_relay_of_the_previous_format_appends_are_delivered() {
    let scene = Scene::begin().await;
    let relay = scene.plan("one").start().await;
    let mut ids = relay.send_errors(1).await;
    has_taken(&scene.b, &ids, &relay).await;
    scene.database.execute("UPDATE meta SET oldest = 1");
    let id = envelopes::new_id();
    let client = scene.database.ask("SELECT client FROM record LIMIT 1");
    let body = format!("convert_to('{}', 'UTF8')", envelopes::error(&id));
    let sql = AS_BEFORE.replace("length($body$)", &format!("length({body})")).replace("$body", &body);
    scene.database.execute(&sql.replace("$id", &id).replace("'{}'", &format!("'{}'", client.trim())));
    ids.push(id.clone());
    has_taken(&scene.a, &ids, &relay).await;
    has_taken(&scene.b, &ids, &relay).await;
    let kept = format!("SELECT count(*) FROM record WHERE event_id = '{id}'");
    eventually("it is pruned", SOON, async || match scene.database.number(&kept) {
        0 => Ok(()),
        _ => Err(relay.log()),
    })
    .await;
    drop(relay);
}
