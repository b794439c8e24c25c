//! Whole relays on one database: two processes, each with its own file.

use std::process::Command;
use std::time::Duration;

use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::support::envelopes;
use crate::support::eventually::eventually;
use crate::support::fault_proxy::{Fault, FaultProxy};
use crate::support::load::{Load, Style};
use crate::support::postgres::{Database, Server};
use crate::support::relay::{Plan, Relay, SOON};
use crate::support::upstream::{Reply, Upstream};

pub(crate) const TOKEN: &str = "0123456789abcdef0123456789abcdef";
/// The time within which the work of a killed relay moves to others.
const MOVED: Duration = Duration::from_secs(17);

/// The primary `a`, the upstream `b`, and the database.
pub(crate) struct Scene {
    pub(crate) a: Upstream,
    pub(crate) b: Upstream,
    pub(crate) database: Database,
}

impl Scene {
    pub(crate) async fn begin() -> Self {
        let (a, b) = (Upstream::start().await, Upstream::start().await);
        Self { a, b, database: Server::shared().database() }
    }

    pub(crate) fn plan(&self, name: &str) -> Plan {
        Plan::new(&[("a", self.a.dsn("key", 1)), ("b", self.b.dsn("key", 1))])
            .shared(&self.database.url, name)
            .journal("durability = \"single\"")
            .admin(&format!("token = \"{TOKEN}\""))
    }

    /// Starts a relay and waits until it is ready.
    async fn relay(&self, name: &str) -> Relay {
        self.plan(name).start().await
    }

    /// Waits until each upstream has taken exactly these ids, once each, and both relays report it.
    async fn delivered(&self, relays: &[&Relay], mut ids: Vec<String>, within: Duration) {
        ids.sort();
        for (name, upstream) in [("a", &self.a), ("b", &self.b)] {
            eventually("everything is delivered", within, async || {
                let mut taken = upstream.taken_ids();
                taken.sort();
                let logs: String = relays.iter().map(|relay| relay.log()).collect();
                let told = || format!("{name} took {} of {}\n{logs}", taken.len(), ids.len());
                if taken == ids { Ok(()) } else { Err(told()) }
            })
            .await;
        }
        for relay in relays {
            eventually("each relay tells the account of all", SOON, async || {
                let samples = relay.balanced(SOON).await;
                let count = |name| samples.sum("switchyard_delivered_items_total", &[("upstream", name)]);
                let delivered = [count("a"), count("b")];
                if delivered == [ids.len() as f64; 2] { Ok(()) } else { Err(format!("{delivered:?}")) }
            })
            .await;
        }
    }
}

/// Switches the primary through the admin listener.
async fn switch(relay: &Relay, to: &str) {
    let url = format!("http://{}/api/primary", relay.admin_address());
    let order = json!({ "to": to, "reason": "the trial is over" });
    let answer = relay.client().post(url).bearer_auth(TOKEN).json(&order).send().await.expect("an answer");
    assert_eq!(answer.status(), StatusCode::OK, "{:?}", answer.text().await);
}

/// Waits until both relays have this primary.
async fn live(relays: [&Relay; 2], name: &str) {
    eventually("it is live at both", Duration::from_secs(3), async || {
        let primaries = [relays[0].status().await["primary"].clone(), relays[1].status().await["primary"].clone()];
        if primaries == [name, name] {
            Ok(())
        } else {
            Err(format!("{primaries:?}\n{}\n{}", relays[0].log(), relays[1].log()))
        }
    })
    .await;
}

/// The switches in a relay's status, oldest first, each as `from` and `to`.
async fn history(relay: &Relay) -> Vec<(Value, Value)> {
    let status = relay.status().await;
    let switches = status["switches"].as_array().expect("switches").iter().rev();
    switches.map(|switch| (switch["from"].clone(), switch["to"].clone())).collect()
}

#[tokio::test]
async fn envelopes_and_repeats_at_either_relay_reach_each_upstream_once() {
    let scene = Scene::begin().await;
    let (one, two) = (scene.relay("one").await, scene.relay("two").await);
    let mut ids = Vec::new();
    for _ in 0..10 {
        ids.extend(one.send_errors(3).await);
        ids.extend(two.send_errors(2).await);
    }
    scene.delivered(&[&one, &two], ids.clone(), SOON).await;
    for (relay, id) in [(&two, &ids[0]), (&one, &ids[3]), (&one, &ids[0])] {
        assert_eq!(relay.send(envelopes::error(id)).await.status(), StatusCode::OK);
    }
    ids.extend(one.send_errors(1).await);
    scene.delivered(&[&one, &two], ids, SOON).await;
}

#[tokio::test]
async fn a_switch_at_one_relay_is_live_at_the_other_and_recorded_once() {
    let scene = Scene::begin().await;
    let (one, mut two) = (scene.relay("one").await, scene.relay("two").await);
    live([&one, &two], "a").await;
    two.rewrite_primary("b");
    live([&one, &two], "b").await;
    switch(&one, "a").await;
    live([&one, &two], "a").await;
    let all = [("a", "b"), ("b", "a")].map(|(from, to)| (Value::from(from), Value::from(to)));
    for relay in [&one, &two] {
        eventually("the history is whole", SOON, async || match history(relay).await {
            told if told == all => Ok(()),
            told => Err(format!("{told:?}")),
        })
        .await;
    }
    two.stop().await;
    let two = two.started().await;
    assert_eq!(two.status().await["primary"], "a", "the file says b, and all relays have a");
    assert_eq!(history(&two).await, all);
    let (code, told) = two.verb(&["switch", "b", "--reason", "the file says so"]).await;
    assert_eq!(code, 0, "{told}");
    assert!(told.contains("before: a") && told.contains("undo: switchyard switch a"), "{told}");
    live([&one, &two], "b").await;
    assert_eq!(history(&one).await.len(), 3);
    let ids = [one.send_errors(2).await, two.send_errors(2).await].concat();
    scene.delivered(&[&one, &two], ids, SOON).await;
}

/// Runs a verb with the relay's folder mounted read-only, as in a container.
fn verb_where_nothing_can_be_written(relay: &Relay, args: &[&str]) -> (bool, String) {
    // A user other than root may mount only in a user namespace.
    let script = r#"unshare -m true 2>/dev/null && how=-m || how=-rm
                    exec unshare "$how" sh -c 'mount --bind . . && mount -o remount,bind,ro . && cd "$PWD" && exec "$0" "$@"' "$0" "$@""#;
    let mut command = Command::new("sh");
    command.args(["-c", script, env!("CARGO_BIN_EXE_switchyard")]).args(args).current_dir(relay.home());
    let output = command.output().expect("it runs");
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

#[tokio::test]
async fn a_switch_by_the_command_line_needs_no_writable_file() {
    let scene = Scene::begin().await;
    let (one, two) = (scene.relay("one").await, scene.relay("two").await);
    let before = std::fs::read(one.config()).unwrap();
    let (done, told) = verb_where_nothing_can_be_written(&one, &["switch", "b", "--reason", "the file is mounted"]);
    assert!(done && told.contains("after the order (before: a)"), "{told}");
    live([&one, &two], "b").await;
    let (done, told) = verb_where_nothing_can_be_written(&one, &["switch", "b"]);
    assert!(done && told.contains("already; nothing was changed"), "{told}");
    assert_eq!(std::fs::read(one.config()).unwrap(), before);
    let (done, told) = verb_where_nothing_can_be_written(&one, &["switch", "a"]);
    assert!(done && told.contains("(before: b)"), "{told}");
    live([&one, &two], "a").await;
    assert_eq!(history(&two).await.len(), 2);
}

#[tokio::test]
async fn accounts_balance_when_they_are_read_while_relays_work() {
    let scene = Scene::begin().await;
    let (one, two) = (scene.relay("one").await, scene.relay("two").await);
    let style = || Style { senders: 8, pace: None, keep_alive: true };
    let loads = [&one, &two].map(|relay| Load::start(&relay.address(), style()));
    for _ in 0..20 {
        for relay in [&one, &two] {
            let status = relay.status().await;
            assert_eq!(status["difference"], 0, "{status}");
        }
    }
    for load in loads {
        let sent = load.stop().await;
        assert!(sent.failures().is_empty(), "{:?}", sent.failures());
    }
}

#[tokio::test]
async fn the_records_of_a_killed_relay_are_soon_delivered_by_the_other() {
    let scene = Scene::begin().await;
    let mut one = scene.relay("one").await;
    scene.a.always(Reply::Hang);
    let mut ids = one.send_errors(40).await;
    eventually("some are under way to a, and b has all", SOON, async || {
        match (scene.a.seen().len(), scene.b.taken_count()) {
            (0, _) => Err("none".to_owned()),
            (_, 40) => Ok(()),
            (_, taken) => Err(format!("b has {taken}")),
        }
    })
    .await;
    scene.a.always(Reply::Ok);
    let two = scene.relay("two").await;
    one.kill();
    ids.extend(two.send_errors(5).await);
    scene.delivered(&[&two], ids, MOVED).await;
}

#[tokio::test]
async fn a_relay_whose_name_another_takes_ends_and_says_why() {
    let scene = Scene::begin().await;
    let mut one = scene.relay("one").await;
    let ids = one.send_errors(3).await;
    let two = scene.relay("one").await;
    let status = one.ended(SOON).await;
    assert!(!status.success());
    assert!(one.log().contains("give each a journal.node of its own"), "{}", one.log());
    scene.delivered(&[&two], ids, SOON).await;
}

/// The metrics that only relays with a shared journal have, besides those of `tests/metrics.rs`.
const SHARED: [&str; 5] = [
    "switchyard_relay_config_differs",
    "switchyard_relay_leads",
    "switchyard_relay_leases",
    "switchyard_relay_up",
    "switchyard_spilled_envelopes",
];

/// The relays on the journal in a relay's status: name, version, whether it is alive, and whether it is the relay itself.
async fn who(relay: &Relay) -> Value {
    let status = relay.status().await;
    let relays = status["journal"]["relays"].as_array().expect("relays");
    relays.iter().map(|one| json!([one["name"], one["version"], one["alive"], one["own"]])).collect()
}

#[tokio::test]
async fn each_relay_lists_the_others_and_what_a_lost_one_spilled() {
    const VERSION: &str = env!("CARGO_PKG_VERSION");
    let scene = Scene::begin().await;
    let (one, mut two) = (scene.relay("one").await, scene.relay("two").await);
    assert_eq!(who(&one).await, json!([["one", VERSION, true, true], ["two", VERSION, true, false]]));
    assert_eq!(who(&two).await, json!([["one", VERSION, true, false], ["two", VERSION, true, true]]));
    let samples = one.samples().await.expect("metrics");
    assert_eq!(samples.sum("switchyard_relay_up", &[]), 2.0);
    two.kill();
    scene.database.execute(
        "UPDATE node SET alive_until = now() - interval '1 minute', spilled = 3, spilled_bytes = 4096 WHERE name = 'two'",
    );
    assert_eq!(who(&one).await, json!([["one", VERSION, true, true], ["two", VERSION, false, false]]));
    let sentence = one.status().await["health"]["sentence"].to_string();
    assert!(sentence.contains("the relay two is gone; 3 envelopes are kept on the disk of two alone"), "{sentence}");
    let (code, told) = one.verb(&["status"]).await;
    assert_eq!(code, 0, "{told}");
    let line = format!("  two: version {VERSION}, gone, 0 in hand, 3 envelopes (4 KiB) kept on its machine");
    assert!(told.contains(&line), "{told}");
    let page = crate::support::net::text(one.client(), &format!("http://{}/", one.admin_address())).await;
    assert!(page.is_ok_and(|page| page.contains("one (this one)") && page.contains("3 envelopes (4 KiB)")));
    let samples = one.samples().await.expect("metrics");
    for (name, value) in [("relay_up", 0.0), ("relay_leases", 0.0), ("spilled_envelopes", 3.0)] {
        assert_eq!(samples.sum(&format!("switchyard_{name}"), &[("relay", "two")]), value, "{name}");
    }
    let text = one.metrics().await.expect("metrics");
    for name in SHARED {
        assert!(text.contains(&format!("# TYPE {name} gauge")), "{name}");
    }
}

#[tokio::test]
async fn a_stopped_relay_is_not_listed_and_returns_under_its_name() {
    let scene = Scene::begin().await;
    let (one, mut two) = (scene.relay("one").await, scene.relay("two").await);
    let names =
        async || who(&one).await.as_array().expect("relays").iter().map(|one| one[0].clone()).collect::<Vec<_>>();
    two.stop().await;
    assert_eq!(names().await, ["one"]);
    let _two = two.started().await;
    assert_eq!(names().await, ["one", "two"]);
}

/// The report of a relay without the times of the request.
async fn report(relay: &Relay) -> Value {
    let url = format!("http://{}/api/report", relay.admin_address());
    let answer = relay.client().get(url).bearer_auth(TOKEN).send().await.expect("an answer");
    let mut report: Value = answer.json().await.expect("a report");
    without_moments(&mut report);
    report
}

/// Removes the time of the request and the texts with durations up to it.
fn without_moments(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|name, _| {
                !matches!(&**name, "now" | "since" | "counted_since" | "known_since" | "seen_since" | "observed_at")
                    && !matches!(&**name, "window_seconds" | "up_seconds" | "found" | "verdict")
            });
            fields.values_mut().for_each(without_moments);
        }
        Value::Array(values) => values.iter_mut().for_each(without_moments),
        _ => {}
    }
}

#[tokio::test]
async fn a_report_says_the_same_at_each_relay() {
    let scene = Scene::begin().await;
    let (one, two) = (scene.relay("one").await, scene.relay("two").await);
    scene.b.then([Reply::status(400)]);
    let mut ids = one.send_errors(12).await;
    ids.extend(two.send_errors(8).await);
    assert_eq!(two.send(envelopes::error(&ids[0])).await.status(), StatusCode::OK);
    assert_eq!(one.send("no envelope").await.status(), StatusCode::BAD_REQUEST);
    switch(&one, "b").await;
    live([&one, &two], "b").await;
    eventually("both tell all of it, and the same", Duration::from_secs(30), async || {
        let (first, second) = (report(&one).await, report(&two).await);
        let told = format!("{first:#}\n{second:#}");
        let is_whole = first["intake"]["accepted"]["error"] == 20
            && first["intake"]["duplicates"]["error"] == 1
            && first["intake"]["refused"].as_object().is_some_and(|refused| !refused.is_empty())
            && first["comparison"]["compared"] == 20;
        if is_whole && first == second { Ok(()) } else { Err(told) }
    })
    .await;
}

#[tokio::test]
async fn a_large_envelope_is_delivered_to_a_tracker_whose_events_are_read() {
    let scene = Scene::begin().await;
    let relay = scene.plan("one").upstream("b", "kind = \"glitchtip\"").start().await;
    let (id, bytes) = (envelopes::new_id(), "l".repeat(5 << 19));
    let attachment = format!("{{\"type\":\"attachment\",\"length\":{}}}\n{bytes}\n", bytes.len());
    assert_eq!(relay.send(envelopes::error(&id) + &attachment).await.status(), StatusCode::OK);
    for upstream in [&scene.a, &scene.b] {
        eventually("it has it", SOON, async || match upstream.taken_count() {
            1 => Ok(()),
            count => Err(format!("{count}\n{}", relay.log())),
        })
        .await;
    }
    relay.finish().await;
}

#[tokio::test]
async fn while_the_database_is_out_of_reach_the_status_says_that_nobody_knows_what_waits() {
    let scene = Scene::begin().await;
    let port = Server::shared().port().to_string();
    let proxy = FaultProxy::start(&format!("127.0.0.1:{port}")).await;
    let url = scene.database.url.replacen(&port, &proxy.address().port().to_string(), 1);
    let plan = Plan::new(&[("a", scene.a.dsn("key", 1)), ("b", scene.b.dsn("key", 1))]);
    let relay = plan.shared(&url, "one").journal("durability = \"single\"").start().await;
    scene.b.always(Reply::status(503));
    let ids = relay.send_errors(3).await;
    let waiting = async || {
        let samples = relay.samples().await.expect("metrics");
        samples.sum("switchyard_backlog_envelopes", &[("upstream", "b")])
    };
    eventually("they wait", SOON, async || {
        let count = waiting().await;
        if count == 3.0 { Ok(()) } else { Err(count.to_string()) }
    })
    .await;
    proxy.set(Fault::Reset);
    let health = eventually("it is told", SOON * 2, async || {
        let status = relay.status().await;
        if status["unread"].is_null() { Err(status.to_string()) } else { Ok(status["health"].to_string()) }
    })
    .await;
    assert!(health.contains("nobody knows what waits, the journal failed"), "{health}");
    let page = crate::support::net::text(relay.client(), &format!("http://{}/", relay.admin_address())).await;
    assert!(page.as_ref().is_ok_and(|page| page.contains("Not known")), "{page:?}");
    assert_eq!(waiting().await, 3.0, "the metrics say what was known last");
    proxy.set(Fault::Pass);
    scene.b.always(Reply::Ok);
    scene.delivered(&[&relay], ids, MOVED * 2).await;
}
