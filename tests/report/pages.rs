//! The status page and the report in Chromium, in each state that a person meets. Nothing in them hinders a screen reader or a phone, and
//! pictures of them are kept.
//!
//! Rule: the tests assert what a page must have. A person must judge its looks, so the tests print the folder of the pictures.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use serde_json::Value;
use tokio::task::spawn_blocking;

use crate::simulation::Simulation;
use crate::support::envelopes::{envelope, new_id};
use crate::support::relay::Plan;
use crate::support::upstream::{Reply, Upstream};
use crate::{HOUR, MINUTE, install};

/// The maximum size of a page, in bytes.
const LARGEST: u64 = 100_000;
/// The maximum number of sheets of a printed report.
const SHEETS: u64 = 2;

/// The admin token of the relay in the tests that sign in.
const TOKEN: &str = "a-token-for-looks-of-the-pages";

/// Opens the status page and the report; returns the browser's findings for each view.
async fn look(scene: &'static str, relay: &Simulation) -> Vec<Value> {
    look_at(scene, &[("status", ""), ("report", "report")], relay).await
}

/// Like [`look`], for these pages with their paths. With a token, the first page is opened before signing in.
async fn look_at(scene: &'static str, pages: &[(&str, &str)], relay: &Simulation) -> Vec<Value> {
    let pictures = Path::new(env!("CARGO_TARGET_TMPDIR")).join("looks");
    fs::create_dir_all(&pictures).expect("a folder for pictures");
    let admin = relay.admin_address();
    let urls: Vec<String> = pages.iter().map(|(page, path)| format!("{scene}-{page}=http://{admin}/{path}")).collect();
    let signs_in = pages[0].0 == "login";
    let run = spawn_blocking(move || {
        install::debian("chromium", "chromium");
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/clients/browser/look.cjs");
        let mut node = Command::new("node");
        node.arg(program).arg(&pictures).env("NODE_PATH", install::looking_modules());
        node.args(&urls).env("TOKEN", TOKEN);
        if !signs_in {
            node.env_remove("TOKEN");
        }
        let told = install::run("Chromium", &mut node);
        println!("pictures: {}", pictures.join(format!("{scene}-*.png")).display());
        told
    });
    let looks: Vec<Value> = serde_json::from_str(&run.await.expect("it ended")).expect("what the browser tells");
    assert_eq!(looks.len(), 3 * pages.len(), "each page in light, in dark and on a phone: {looks:?}");
    for told in &looks {
        assert_eq!((&told["status"], &told["beyond"]), (&200.into(), &0.into()), "it scrolls sideways: {told}");
        assert_eq!(told["found"], Value::from(Vec::<Value>::new()), "axe-core found something: {told:#}");
        assert!(told["size"].as_u64().expect("a number") < LARGEST, "{told}");
    }
    looks
}

/// The plan of a relay between Sentry and GlitchTip.
fn plan(sentry: &Upstream, glitchtip: &Upstream) -> Plan {
    Plan::new(&[("sentry", sentry.dsn("key-a", 1)), ("glitchtip", glitchtip.dsn("key-b", 2))])
        .upstream("glitchtip", "kind = \"glitchtip\"")
        .more("[report]\nrequire_stored = false")
}

/// Sends `errors` errors and half as many transactions.
async fn traffic(relay: &Simulation, errors: usize) {
    for n in 0..errors {
        assert_eq!(relay.send(envelope(&new_id(), "event", r#"{"message":"a message"}"#)).await, 200);
        if n % 2 == 0 {
            let trace = r#"{"contexts":{"trace":{"trace_id":"0af7651916cd43dd8448eb211c80319c"}}}"#;
            assert_eq!(relay.send(envelope(&new_id(), "transaction", trace)).await, 200);
        }
    }
}

/// Simulates hours in half-hour steps, with more traffic by day than by night; each step ends before the next begins.
async fn hours(relay: &Simulation, hours: std::ops::Range<usize>, upstreams: &[&str]) {
    const BY_HOUR: [usize; 24] = [1, 1, 0, 1, 0, 1, 2, 3, 5, 7, 8, 8, 6, 7, 9, 8, 7, 6, 5, 4, 4, 3, 2, 2];
    for half in hours.start * 2..hours.end * 2 {
        traffic(relay, BY_HOUR[half / 2 % 24] + half % 3 % 2).await;
        relay.settled(upstreams).await;
        relay.advance(30 * MINUTE).await;
    }
}

#[tokio::test(start_paused = true)]
async fn pages_of_a_relay_that_has_just_begun() {
    let (sentry, glitchtip) = (Upstream::start().await, Upstream::start().await);
    let relay = Simulation::start(plan(&sentry, &glitchtip)).await;
    look("empty", &relay).await;
    relay.stop().await;
}

#[tokio::test(start_paused = true)]
async fn pages_with_upstreams_of_long_names() {
    let upstreams = [Upstream::start().await, Upstream::start().await, Upstream::start().await];
    let names =
        ["sentry_of_the_whole_company_in_the_first_house_1", "glitchtip", "bugsink_of_the_team_beside_it_in_house_2"];
    let named: Vec<(&str, String)> =
        (1..).zip(names).zip(&upstreams).map(|((n, name), own)| (name, own.dsn(&format!("key-{n}"), n))).collect();
    let relay = Simulation::start(Plan::new(&named)).await;
    look_at("long", &[("status", ""), ("report", &format!("report?candidate={}", names[2]))], &relay).await;
    relay.stop().await;
}

#[tokio::test(start_paused = true)]
async fn pages_of_a_signed_in_browser() {
    let (sentry, glitchtip) = (Upstream::start().await, Upstream::start().await);
    let relay = Simulation::start(plan(&sentry, &glitchtip).admin(&format!("token = \"{TOKEN}\""))).await;
    hours(&relay, 8..10, &["sentry", "glitchtip"]).await;
    glitchtip.then([Reply::Status(400, vec![], "the tag \"customer\" is too long".into())]);
    traffic(&relay, 3).await;
    relay.settled(&["sentry", "glitchtip"]).await;
    relay.advance(MINUTE).await;
    let pages = [
        ("login", "login"),
        ("status", ""),
        ("switch", "switch?to=glitchtip"),
        ("discard", "discard?id=1"),
        ("report", "report"),
    ];
    look_at("signed-in", &pages, &relay).await;
    relay.stop().await;
}

#[tokio::test(start_paused = true)]
async fn pages_of_a_healthy_relay() {
    let (sentry, glitchtip) = (Upstream::start().await, Upstream::start().await);
    let relay = Simulation::start(plan(&sentry, &glitchtip)).await;
    hours(&relay, 8..14, &["sentry", "glitchtip"]).await;
    traffic(&relay, 3).await;
    relay.settled(&["sentry", "glitchtip"]).await;
    relay.advance(MINUTE).await;
    look("well", &relay).await;
    relay.stop().await;
}

#[tokio::test(start_paused = true)]
async fn pages_while_a_tracker_is_down() {
    let (sentry, mut glitchtip) = (Upstream::start().await, Upstream::start().await);
    let relay = Simulation::start(plan(&sentry, &glitchtip)).await;
    hours(&relay, 8..11, &["sentry", "glitchtip"]).await;
    glitchtip.go_down().await;
    traffic(&relay, 7).await;
    relay.state("glitchtip", "down").await;
    hours(&relay, 11..13, &["sentry"]).await;
    look("down", &relay).await;
    relay.stop().await;
}

#[tokio::test(start_paused = true)]
async fn pages_while_the_journal_is_full() {
    let (sentry, glitchtip) = (Upstream::start().await, Upstream::start().await);
    let plan = plan(&sentry, &glitchtip).journal("max_size = \"4MiB\"").journal("min_free_disk = \"0B\"");
    let relay = Simulation::start(plan).await;
    hours(&relay, 8..9, &["sentry", "glitchtip"]).await;
    sentry.always(Reply::status(503));
    glitchtip.always(Reply::status(503));
    let large = format!(r#"{{"message":"{}"}}"#, "x".repeat(100 << 10));
    let mut refused = 0;
    while refused < 3 {
        match relay.send(envelope(&new_id(), "event", &large)).await {
            200 => relay.advance(MINUTE).await,
            status => (refused, _) = (refused + 1, assert_eq!(status, 503)),
        }
    }
    look("full", &relay).await;
    relay.stop().await;
}

#[tokio::test(start_paused = true)]
async fn pages_after_48_hours_with_trouble_of_every_kind() {
    let (sentry, mut glitchtip) = (Upstream::start().await, Upstream::start().await);
    let both = ["sentry", "glitchtip"];
    let plan = plan(&sentry, &glitchtip).journal(r#"retain = "72h""#);
    let mut relay = Simulation::start(plan).await;
    hours(&relay, 0..10, &both).await;
    glitchtip.go_down().await;
    traffic(&relay, 7).await;
    relay.state("glitchtip", "down").await;
    hours(&relay, 10..13, &["sentry"]).await;
    glitchtip.come_back().await;
    relay.drained("glitchtip", &glitchtip, sentry.taken_count()).await;
    hours(&relay, 13..20, &both).await;
    glitchtip.then([Reply::with_header(429, "Retry-After", "3600")]);
    hours(&relay, 20..21, &["sentry"]).await;
    relay.drained("glitchtip", &glitchtip, sentry.taken_count()).await;
    for reply in [Reply::Status(400, vec![], "the tag \"customer\" is too long".into()), Reply::status(413)] {
        glitchtip.then([reply]);
        traffic(&relay, 1).await;
        relay.settled(&both).await;
    }
    hours(&relay, 21..30, &both).await;
    relay.restart(10 * MINUTE).await;
    hours(&relay, 30..40, &both).await;
    relay.switch("glitchtip").await;
    hours(&relay, 40..44, &both).await;
    relay.switch("sentry").await;
    while relay.elapsed() < 48 * HOUR {
        hours(&relay, 44..45, &both).await;
    }
    let looks = look("two-days", &relay).await;
    let sheets = looks[5]["sheets"].as_u64().expect("a number of sheets");
    assert!(sheets <= SHEETS, "the report takes {sheets} sheets");
    relay.stop().await;
}

#[tokio::test(start_paused = true)]
async fn pages_with_50_projects_and_8_upstreams() {
    let mut upstreams = Vec::new();
    for _ in 0..8 {
        upstreams.push(Upstream::start().await);
    }
    let named: Vec<(String, String)> =
        upstreams.iter().zip(1..).map(|(upstream, n)| (format!("tracker-{n}"), upstream.dsn("key", n))).collect();
    let dsns: Vec<(&str, String)> = named.iter().map(|(name, dsn)| (name.as_str(), dsn.clone())).collect();
    let key = |n: usize| format!("0b0e5ca1ab1e0ddba11c0ffee0dec{n:03}");
    let project = |n: usize| {
        let own: String = named.iter().map(|(name, dsn)| format!("{name} = \"{dsn}{n:02}\"\n")).collect();
        let head = format!("[[projects]]\nname = \"service-{n}\"\nid = \"{n}\"\npublic_key = \"{}\"\n", key(n));
        format!("{head}[projects.upstreams]\n{own}")
    };
    let projects: String = (2..=50).map(project).collect();
    let relay = Simulation::start(Plan::new(&dsns).more(&projects)).await;
    let names: Vec<&str> = dsns.iter().map(|(name, _)| *name).collect();
    for n in 2..=50 {
        for kind in ["event", "transaction"] {
            assert_eq!(relay.send_to(n, &key(n), envelope(&new_id(), kind, "{}")).await, 200);
        }
        relay.settled(&names).await;
    }
    hours(&relay, 0..24, &names).await;
    relay.status_page().await;
    let began = Instant::now();
    let page = relay.status_page().await;
    println!("50 projects, 8 upstreams: {} bytes in {:?}, with this build", page.len(), began.elapsed());
    look("many", &relay).await;
    relay.stop().await;
}
