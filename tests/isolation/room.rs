//! Room in the journal: one project fills it while the primary fails, and other projects' envelopes are taken and delivered.

use std::collections::BTreeSet;

use tokio::time::Instant;

use super::second::{self, Times};
use crate::support::envelopes::{KEY, envelope, new_id};
use crate::support::eventually::eventually;
use crate::support::relay::{Plan, Relay, SOON};
use crate::support::upstream::{Reply, Upstream};
use crate::support::wire::{Wire, head};

const APP: &str = "0b0e5ca1ab1e0ddba11c0ffee0decade";
const SITE: &str = "0b0e5ca1ab1e0ddba11c0ffee0decadf";
/// The size of the attacker's bodies: in memory, and in a file.
const SMALL: usize = 64 << 10;
const LARGE: usize = 3 << 20;

/// The sections of two more projects.
fn others(upstream: &Upstream) -> String {
    let section = |name: &str, id: u64, key: &str| {
        let dsn = upstream.dsn(&format!("0{id}"), id);
        format!(
            "[[projects]]\nname = \"{name}\"\nid = \"{id}\"\npublic_key = \"{key}\"\n[projects.upstreams]\na = \"{dsn}\"\n"
        )
    };
    section("app", 2, APP) + &section("site", 3, SITE)
}

/// Sends an event with `bytes` bytes of text; returns its id and the status of the answer.
async fn send(relay: &Relay, (id, key): (u64, &str), bytes: usize) -> (String, u16) {
    let event = new_id();
    let payload = format!(r#"{{"message":"{}"}}"#, "x".repeat(bytes));
    let kind = if bytes > 1 << 20 { "attachment" } else { "event" };
    let path = format!("/api/{id}/envelope/?sentry_version=7&sentry_key={key}");
    let answer = relay.post(&path, envelope(&event, kind, &payload)).send().await.expect("an answer");
    if answer.status() == 503 {
        assert_eq!(answer.headers()["retry-after"], "30");
        let told = answer.text().await.expect("a body");
        assert_eq!(told, r#"{"causes":[],"detail":"the submission cannot be stored now"}"#);
        return (event, 503);
    }
    (event, answer.status().as_u16())
}

/// Sends until ten envelopes in a row are refused; returns the number of bytes taken.
async fn fill(relay: &Relay, project: (u64, &str), bytes: usize) -> usize {
    let (mut taken, mut refused) = (0, 0);
    while refused < 10 {
        match send(relay, project, bytes).await.1 {
            200 => (taken, refused) = (taken + bytes, 0),
            status => (refused, _) = (refused + 1, assert_eq!(status, 503)),
        }
        assert!(taken < 64 << 20, "there is no end of it");
    }
    taken
}

/// Sends 30 events of each other project, all of which must be taken; returns the times to the answers.
async fn both(relay: &Relay, sent: &mut BTreeSet<String>) -> Times {
    let mut times = Times::default();
    for _ in 0..30 {
        for project in [(2, APP), (3, SITE)] {
            let began = Instant::now();
            let (id, status) = send(relay, project, 4 << 10).await;
            assert_eq!(status, 200, "of {project:?}, after {} were taken: {}", sent.len(), relay.log());
            times.add(began.elapsed());
            sent.insert(id);
        }
    }
    times
}

/// Sends for the attacker forever, whatever the answers.
async fn go_on_sending(relay: &Relay, project: (u64, &str)) {
    loop {
        send(relay, project, SMALL).await;
    }
}

async fn one_key_fills_the_journal(bytes: usize) {
    let upstream = Upstream::start().await;
    upstream.always(Reply::status(503));
    let plan = Plan::new(&[("a", upstream.dsn("01", 1))]).journal("max_size = \"24MiB\"");
    let mut relay = plan.journal("min_free_disk = \"0B\"").more(&others(&upstream)).start().await;
    let (mut sent, attacker) = (BTreeSet::new(), (1, KEY));
    let calm = both(&relay, &mut sent).await;
    let taken = fill(&relay, attacker, bytes).await + fill(&relay, attacker, SMALL).await;
    assert!(taken > 12 << 20, "the common half and its own part: {taken}");
    let attacked = tokio::select! {
        attacked = both(&relay, &mut sent) => attacked,
        () = go_on_sending(&relay, attacker) => unreachable!("it goes on"),
    };
    second::compare(&format!("a journal filled with bodies of {bytes} bytes"), &calm, &attacked);
    let more = fill(&relay, attacker, SMALL).await;
    assert!(more <= 4 * SMALL, "the attacker gets what is left of a step or two, and no more: {more}");
    let status = relay.status().await;
    assert_eq!(
        (&status["ready"], &status["journal"]["projects"][0]["name"]),
        (&true.into(), &"shop".into()),
        "{status:#}"
    );
    relay.kill();
    relay = relay.started().await;
    let more = fill(&relay, attacker, SMALL).await;
    assert!(more <= 4 * SMALL, "a restart forgets nothing: {more}");
    both(&relay, &mut sent).await;
    let samples = relay.samples().await.expect("metrics");
    let of = |project| samples.sum("switchyard_journal_project_bytes", &[("project", project)]);
    assert!(
        of("shop") > 12e6 && of("app") > 90.0 * 4096.0 && of("app") < 90.0 * 8192.0,
        "{} {}",
        of("shop"),
        of("app")
    );
    let refused = samples.sum("switchyard_refused_requests_total", &[("reason", "project_share")]);
    assert!(refused >= 1.0 && samples.sum("switchyard_refused_requests_total", &[("reason", "journal_full")]) == 0.0);
    let log = relay.log();
    assert!(log.contains("has taken its share of the journal") && log.contains("shop"), "{log}");
    upstream.always(Reply::Ok);
    eventually("everything of the others is delivered", 6 * SOON, async || {
        let have: BTreeSet<String> = upstream.taken_ids().into_iter().collect();
        let missing = sent.difference(&have).count();
        if missing == 0 { Ok(()) } else { Err(format!("{missing} are missing")) }
    })
    .await;
    relay.balanced(6 * SOON).await;
    assert_eq!(send(&relay, attacker, bytes).await.1, 200, "what was delivered gives way");
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_key_that_fills_its_share_of_the_journal_leaves_others_delivered() {
    one_key_fills_the_journal(SMALL).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_key_that_fills_its_share_with_large_bodies_leaves_others_delivered() {
    one_key_fills_the_journal(LARGE).await;
}

/// Begins bodies that never end, each of which is in a file.
async fn files_under_way(relay: &Relay, count: usize) -> Vec<Wire> {
    let path = format!("/api/1/envelope/?sentry_version=7&sentry_key={KEY}");
    let announced = head("POST", &path, &[("content-length", &(LARGE + 1000).to_string())]);
    let begin = async |()| {
        let mut wire = Wire::connect(&relay.address()).await;
        wire.offer(&announced).await;
        wire.offer(b"{}\n").await;
        wire.offer(&vec![b'x'; LARGE - 3]).await;
        wire
    };
    futures_util::future::join_all((0..count).map(|_| begin(()))).await
}

#[tokio::test(flavor = "multi_thread")]
async fn open_files_of_one_key_leave_room_for_large_bodies_of_others() {
    let upstream = Upstream::start().await;
    let plan = Plan::new(&[("a", upstream.dsn("01", 1))]).journal("max_size = \"48MiB\"");
    let relay = plan.journal("min_free_disk = \"0B\"").more(&others(&upstream)).start().await;
    let wires = files_under_way(&relay, 32).await;
    eventually("the files take the common half and the part of their project", SOON, async || {
        let samples = relay.samples().await?;
        let bytes = samples.sum("switchyard_journal_project_bytes", &[("project", "shop")]);
        if bytes > 24e6 { Ok(()) } else { Err(bytes.to_string()) }
    })
    .await;
    let mut wires = futures_util::future::join_all(wires.into_iter().map(go_on)).await;
    for project in [(2, APP), (3, SITE)] {
        for _ in 0..2 {
            assert_eq!(send(&relay, project, LARGE).await.1, 200, "of {project:?}: {}", relay.log());
        }
    }
    wires.clear();
    eventually("what was given up leaves its room", SOON, async || {
        let samples = relay.samples().await?;
        let bytes = samples.sum("switchyard_journal_project_bytes", &[("project", "shop")]);
        if bytes == 0.0 { Ok(()) } else { Err(bytes.to_string()) }
    })
    .await;
    relay.finish().await;
}

/// Sends one more byte.
async fn go_on(mut wire: Wire) -> Wire {
    wire.offer(b"x").await;
    wire
}

#[tokio::test(flavor = "multi_thread")]
async fn the_only_project_has_all_of_the_journal() {
    let upstream = Upstream::start().await;
    upstream.always(Reply::status(503));
    let plan = Plan::new(&[("a", upstream.dsn("01", 1))]).journal("max_size = \"24MiB\"");
    let mut relay = plan.journal("min_free_disk = \"0B\"").start().await;
    let taken = fill(&relay, (1, KEY), SMALL).await;
    assert!(taken > 21 << 20, "{taken}");
    relay.stop().await;
}

/// `mib` MiB of zeros after this beginning, packed.
fn packed(beginning: &str, mib: usize) -> Vec<u8> {
    zstd::encode_all(&[beginning.as_bytes(), &vec![0; mib << 20]].concat()[..], 1).expect("memory")
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_of_no_known_key_cost_nobody_an_envelope_and_one_that_names_its_key_is_taken() {
    let (primary, shadow) = (Upstream::start().await, Upstream::start().await);
    shadow.always(Reply::status(503));
    let plan = Plan::new(&[("primary", primary.dsn("01", 1)), ("shadow", shadow.dsn("02", 2))]);
    let plan = plan.server("tunnel = \"/tunnel\"").journal("max_size = \"24MiB\"");
    let relay = plan.journal("min_free_disk = \"0B\"").start().await;
    let mut sent = BTreeSet::new();
    for _ in 0..200 {
        let (id, status) = send(&relay, (1, KEY), SMALL).await;
        assert_eq!(status, 200);
        sent.insert(id);
    }
    // Each would need half of what waits for the shadow.
    let stranger = format!("{{\"dsn\":\"http://{APP}@relay/1\"}}\n");
    for path in ["/api/1/envelope/", "/tunnel"] {
        for (beginning, status) in [("", 400), ("{}\n", 401), (&stranger, 403)] {
            let plain = [beginning.as_bytes(), &vec![0; 18 << 20]].concat();
            let answer = relay.post(path, plain).send().await.expect("an answer");
            assert_eq!(answer.status(), status, "{path} {beginning}");
            let answer = relay.post(path, packed(beginning, 18)).header("content-encoding", "zstd").send().await;
            assert_eq!(answer.expect("an answer").status(), status, "{path} {beginning}, packed");
        }
    }
    let evicted = async || {
        let samples = relay.samples().await.expect("metrics");
        samples.sum("switchyard_dropped_items_total", &[("upstream", "shadow"), ("reason", "evicted")])
    };
    assert_eq!(evicted().await, 0.0, "{}", relay.log());
    assert_eq!(relay.status().await["ready"], true);
    // A body that names its key is the project's, and its shadow gives way.
    let ours = format!("{{\"dsn\":\"http://{KEY}@relay/1\"}}\n{{\"type\":\"attachment\"}}\n");
    let answer = relay.post("/tunnel", packed(&ours, 14)).header("content-encoding", "zstd").send().await;
    assert_eq!(answer.expect("an answer").status(), 200, "{}", relay.log());
    assert!(evicted().await > 0.0);
    shadow.always(Reply::Ok);
    relay.balanced(6 * SOON).await;
    let have: BTreeSet<String> = primary.taken_ids().into_iter().collect();
    assert!(sent.is_subset(&have));
    relay.finish().await;
}
