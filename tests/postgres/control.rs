//! One configuration and one leader: whole relays on one database, each with its own file.

use std::time::{Duration, Instant};

use reqwest::StatusCode;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::relays::{Scene, TOKEN};
use crate::support::envelopes;
use crate::support::eventually::eventually;
use crate::support::relay::{Plan, Relay, SOON};
use crate::support::upstream::{Seen, Upstream};

/// The time until another relay leads after the leader falls silent: a term, with a margin.
const NEXT_TERM: Duration = Duration::from_secs(8);
/// The time within which a published file or a switch is live at all relays.
const LIVE: Duration = Duration::from_secs(3);

fn plan(scene: &Scene, name: &str) -> Plan {
    scene.plan(name).top("mirror = true").upstream("a", "max_age = \"2s\"\nclient_reports = \"1s\"")
}

/// Two relays, the first of which leads.
async fn relays(scene: &Scene) -> (Relay, Relay) {
    let one = plan(scene, "one").start().await;
    leads(&one, "one").await;
    (one, plan(scene, "two").start().await)
}

/// The entry of the relay `name` in a relay's status.
async fn told(relay: &Relay, name: &str) -> Value {
    let status = relay.status().await;
    let relays = status["journal"]["relays"].as_array().expect("relays");
    relays.iter().find(|relay| relay["name"] == name).expect("the relay").clone()
}

/// Waits until a relay reports that `name` leads.
async fn leads(relay: &Relay, name: &str) {
    eventually("it leads", NEXT_TERM, async || {
        let told = told(relay, name).await;
        if told["leads"] == true { Ok(()) } else { Err(format!("{told}\n{}", relay.log())) }
    })
    .await;
}

/// Replaces a text in a relay's file.
fn edit(relay: &Relay, from: &str, to: &str) {
    let text = std::fs::read_to_string(relay.config()).expect("the configuration");
    assert!(text.contains(from), "{text}");
    relay.replace_config(&text.replace(from, to));
}

/// Waits until a relay's status matches.
async fn shows(relay: &Relay, what: &str, is_so: impl Fn(&Value) -> bool) {
    eventually(what, LIVE, async || {
        let status = relay.status().await;
        if is_so(&status) { Ok(()) } else { Err(format!("{status}\n{}", relay.log())) }
    })
    .await;
}

/// Waits until both relays report this value of `mirror`.
async fn mirrored(relays: [&Relay; 2], mirror: bool) {
    for relay in relays {
        shows(relay, "the mirror is that of all", |status| status["mirror"] == mirror).await;
    }
}

/// Waits until both relays report that the file of `two` differs in these settings.
async fn differs(relays: [&Relay; 2], names: Value) {
    for relay in relays {
        eventually("in what it differs is told", LIVE, async || {
            let told = told(relay, "two").await["differs"].clone();
            if told == names { Ok(()) } else { Err(format!("{told}\n{}", relay.log())) }
        })
        .await;
    }
}

#[tokio::test]
async fn the_leaders_file_is_live_at_all_relays_and_differing_files_are_reported() {
    let scene = Scene::begin().await;
    let (one, two) = relays(&scene).await;
    edit(&one, "mirror = true", "mirror = false");
    mirrored([&one, &two], false).await;
    differs([&one, &two], json!(["mirror"])).await;
    edit(&two, "max_age = \"2s\"", "max_age = \"9s\"");
    differs([&one, &two], json!(["mirror", "upstreams.a.max_age"])).await;
    mirrored([&one, &two], false).await;
    let sentence = one.status().await["health"]["sentence"].to_string();
    assert!(sentence.contains("the file of two differs from the common configuration"), "{sentence}");
    let (_, shown) = one.verb(&["status"]).await;
    assert!(shown.contains("its file differs in mirror and upstreams.a.max_age"), "{shown}");
    let page = crate::support::net::text(one.client(), &format!("http://{}/", one.admin_address())).await;
    assert!(page.is_ok_and(|page| page.contains("its file differs in mirror and upstreams.a.max_age")));
    let samples = one.samples().await.expect("metrics");
    for (relay, leads, differs) in [("one", 1.0, 0.0), ("two", 0.0, 1.0)] {
        assert_eq!(samples.sum("switchyard_relay_leads", &[("relay", relay)]), leads);
        assert_eq!(samples.sum("switchyard_relay_config_differs", &[("relay", relay)]), differs);
    }
    assert!(two.log().contains("the file differs from the common configuration"), "{}", two.log());
    two.signal(Signal::HUP);
    edit(&one, "max_age = \"2s\"", "max_age = \"9s\"");
    edit(&two, "mirror = true", "mirror = false");
    differs([&one, &two], json!([])).await;
}

#[tokio::test]
async fn a_new_leaders_stale_file_changes_nothing_until_a_sighup() {
    let scene = Scene::begin().await;
    let (mut one, two) = relays(&scene).await;
    edit(&one, "mirror = true", "mirror = false");
    mirrored([&one, &two], false).await;
    one.stop().await;
    leads(&two, "two").await;
    switch(&two, "b").await;
    shows(&two, "what was published holds", |status| status["primary"] == "b" && status["mirror"] == false).await;
    let one = one.started().await;
    differs([&one, &two], json!(["mirror"])).await;
    mirrored([&one, &two], false).await;
    edit(&two, "max_age = \"2s\"", "max_age = \"9s\"");
    differs([&one, &two], json!(["mirror", "upstreams.a.max_age"])).await;
    mirrored([&one, &two], false).await;
    two.signal(Signal::HUP);
    mirrored([&one, &two], true).await;
    eventually("now it is the other one that differs", LIVE, async || {
        let told = told(&two, "one").await["differs"].clone();
        if told == json!(["mirror", "upstreams.a.max_age"]) { Ok(()) } else { Err(told.to_string()) }
    })
    .await;
}

#[tokio::test]
async fn a_leader_whose_file_needs_a_restart_ignores_it_and_follows_switches() {
    const PLACE: &str = "durability = \"single\"";
    let scene = Scene::begin().await;
    let (one, two) = relays(&scene).await;
    let text = std::fs::read_to_string(one.config()).expect("the configuration");
    let text = text.replace("primary = \"a\"", "primary = \"b\"");
    one.replace_config(&text.replace(PLACE, &format!("{PLACE}\nmax_size = \"2GiB\"")));
    let says_why = |status: &Value| {
        let why = status["config"]["error"].as_str().unwrap_or_default();
        why.contains("journal.max_size: a restart is needed to change this")
    };
    shows(&one, "it says why", says_why).await;
    assert_eq!(two.status().await["primary"], "a");
    for to in ["b", "a"] {
        switch(&two, to).await;
        shows(&one, "the switch is live", |status| status["primary"] == to).await;
    }
    shows(&one, "it says why again", says_why).await;
    assert_eq!(two.status().await["primary"], "a");
    one.replace_config(&text);
    shows(&two, "the rest of the change is a switch", |status| status["primary"] == "b").await;
    shows(&one, "nothing is wrong", |status| status["config"]["error"].is_null()).await;
}

#[tokio::test]
async fn a_relay_ignores_and_reports_settings_it_cannot_use_and_follows_switches() {
    let scene = Scene::begin().await;
    let one = plan(&scene, "one").variable("SWITCHYARD_TEST_AGE", "9s".into()).start().await;
    leads(&one, "one").await;
    let two = plan(&scene, "two").start().await;
    edit(&one, "max_age = \"2s\"", "max_age = \"${SWITCHYARD_TEST_AGE}\"");
    shows(&two, "it says why", |status| {
        let why = status["config"]["error"].as_str().unwrap_or_default();
        why.contains("the environment variable SWITCHYARD_TEST_AGE is not set")
    })
    .await;
    let kept = scene.database.number("SELECT count(*) FROM control WHERE common LIKE '%${SWITCHYARD_TEST_AGE}%'");
    assert_eq!(kept, 1, "no variable is followed in the database");
    edit(&one, "${SWITCHYARD_TEST_AGE}", "9s");
    shows(&two, "it takes what it can", |status| status["config"]["error"].is_null()).await;
    two.replace_config("broken");
    shows(&two, "the file is broken", |status| !status["config"]["error"].is_null()).await;
    switch(&one, "b").await;
    shows(&two, "the switch is live", |status| status["primary"] == "b").await;
    shows(&two, "the file is broken still", |status| !status["config"]["error"].is_null()).await;
}

/// Switches the primary through the admin listener.
async fn switch(relay: &Relay, to: &str) {
    let url = format!("http://{}/api/primary", relay.admin_address());
    let answer = relay.client().post(url).bearer_auth(TOKEN).json(&json!({ "to": to })).send().await;
    assert_eq!(answer.expect("an answer").status(), StatusCode::OK);
}

/// The time from the answer to a switch at one relay until the switch is live at the other.
async fn live_after(one: &Relay, two: &Relay, to: &str) -> Duration {
    switch(one, to).await;
    let answered = Instant::now();
    while two.status().await["primary"] != to {
        assert!(answered.elapsed() < LIVE, "{}", two.log());
    }
    answered.elapsed()
}

#[tokio::test]
async fn a_switch_is_live_at_the_other_relay_at_once_or_by_polling() {
    const CUT: &str = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
        WHERE datname = current_database() AND query = 'SELECT revision FROM control'";
    let scene = Scene::begin().await;
    let (one, two) = relays(&scene).await;
    let mut told = vec![];
    for to in ["b", "a", "b", "a"] {
        told.push(live_after(&one, &two, to).await);
    }
    println!("live by NOTIFY after {told:?}");
    assert!(told.iter().all(|took| *took < Duration::from_secs(1)), "{told:?}");
    let mut looked = vec![];
    for to in ["b", "a"] {
        assert!(scene.database.number(CUT) >= 2, "both are cut off");
        looked.push(live_after(&one, &two, to).await);
    }
    println!("live by looking after {looked:?}");
    assert!(looked.iter().all(|took| *took < Duration::from_millis(2500)), "{looked:?}");
}

/// The number of dropped errors in the client reports that an upstream got.
fn told_dropped(upstream: &Upstream) -> u64 {
    let of = |seen: Seen| {
        let items = envelopes::items(&seen.body).into_iter().filter(|item| item.kind == "client_report");
        let reports = items.map(|item| {
            let payload = item.bytes.splitn(2, |b| *b == b'\n').nth(1).expect("a payload").to_vec();
            serde_json::from_slice::<Value>(&payload).expect("JSON")
        });
        let entries = reports.flat_map(|report| report["discarded_events"].as_array().expect("entries").clone());
        entries.map(|entry| entry["quantity"].as_u64().expect("a number")).sum::<u64>()
    };
    upstream.taken().into_iter().map(of).sum()
}

#[tokio::test]
async fn a_leader_paused_past_its_term_does_nothing_twice() {
    let mut scene = Scene::begin().await;
    let (one, two) = relays(&scene).await;
    one.signal(Signal::STOP);
    leads(&two, "two").await;
    scene.a.go_down().await;
    two.send_errors(3).await;
    eventually("they expire", SOON, async || match two.upstream("a").await["dropped"]["expired"].as_u64() {
        Some(3) => Ok(()),
        other => Err(format!("{other:?}\n{}", two.log())),
    })
    .await;
    one.signal(Signal::CONT);
    scene.a.come_back().await;
    eventually("all that was dropped is told", SOON, async || match told_dropped(&scene.a) {
        3 => Ok(()),
        other => Err(format!("{other}\n{}\n{}", one.log(), two.log())),
    })
    .await;
    leads(&one, "two").await;
    assert_eq!(told(&one, "one").await["leads"], false);
    for relay in [one, two] {
        assert_eq!(relay.upstream("a").await["dropped"]["expired"], 3, "once");
        relay.finish().await;
    }
    assert_eq!(told_dropped(&scene.a), 3, "once");
}
