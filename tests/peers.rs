//! The relay between real peers: Node and Python services on one side, Bugsink, Kent and Prometheus on the other.
//!
//! Rule: each test compares the events that the SDKs say they captured with what the trackers return, and ends with balanced accounts.
//! Peers are installed into `target/peers/` on first use; one that cannot be installed fails the test. These tests know the contract, not
//! the sources.

mod support;

mod peers {
    pub(crate) mod balancers;
    pub(crate) mod bugsink;
    mod content;
    mod forward_proxy;
    #[allow(dead_code, reason = "each test crate uses its part")]
    pub(crate) mod install;
    pub(crate) mod kent;
    pub(crate) mod prometheus;
    pub(crate) mod relay;
    pub(crate) mod sdk;
    pub(crate) mod status_page;
    mod verified;
}

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use peers::bugsink::{Bugsink, Project, Quotas};
use peers::install;
use peers::kent::Kent;
use peers::prometheus::{Prometheus, check_metrics};
use peers::relay::{self, Upstream};
use peers::sdk::{Captured, Plan, Service, assert_intact};
use serde_json::Value;
use support::envelopes::{KEY, envelope, new_id};
use support::eventually::eventually;
use support::relay::Relay;
use support::upstream::Upstream as Recorder;

/// The project at Kent; every test has its own Kent.
const KENT_PROJECT: u64 = 7;

/// A timeout for a service of a few seconds to flush and end.
const A_RUN: Duration = Duration::from_secs(40);

/// A timeout for every acknowledged envelope to arrive, including an upstream's restart and the retries.
const ARRIVAL: Duration = Duration::from_secs(45);

#[tokio::test]
async fn opentelemetry_exports_reach_both_upstreams_byte_for_byte() {
    let upstreams = [Recorder::start().await, Recorder::start().await];
    let dsns = [("first", upstreams[0].dsn("cafe", 7)), ("second", upstreams[1].dsn("beef", 8))];
    let relay = support::relay::Plan::new(&dsns).start().await;
    let address = format!("http://{}/api/1/integration/otlp", relay.address());
    let run = tokio::task::spawn_blocking(move || {
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/clients/otel_service.py");
        install::run(
            "OpenTelemetry's SDK",
            Command::new(install::python_with_opentelemetry()).arg(program).args([&address, KEY]),
        )
    });
    run.await.expect("the service ends with success");
    relay.balanced(ARRIVAL).await;
    let [first, second] = [0, 1].map(|at| {
        let seen = upstreams[at].taken().into_iter();
        let below_project = |path: &str| path.splitn(4, '/').last().expect("a path").to_owned();
        seen.map(|seen| (below_project(&seen.path), seen.body)).collect::<BTreeMap<_, _>>()
    });
    assert_eq!(first, second);
    for (path, word) in [("integration/otlp/v1/traces", "checkout"), ("integration/otlp/v1/logs", "stock is low")] {
        assert!(String::from_utf8_lossy(&first[path]).contains(word), "{path}: {first:?}");
    }
    relay.finish().await;
}

#[tokio::test]
async fn the_peers_work_without_the_relay() {
    let (mut bugsink, mut kent) =
        tokio::join!(Bugsink::start_with(Quotas { per_5_minutes: 5, per_hour: 1000 }), Kent::start());
    let project = bugsink.project("direct").await;

    let plan = Plan { errors: 3, ..Plan::default() };
    let to_kent = Service::python(&kent.dsn(KENT_PROJECT), &plan);
    let to_bugsink = Service::node(&project.dsn, &plan).finished(A_RUN).await;
    assert!(to_bugsink.status.success());
    bugsink.stop().await;
    bugsink.start_again().await;
    assert_stored(&bugsink, &project, &[("node", &to_bugsink.captured)]).await;

    let to_kent = to_kent.finished(A_RUN).await;
    assert!(to_kent.status.success());
    assert_arrived(&mut kent, &[("python", &to_kent.captured)]).await;
    kent.flush().await;
    kent.look().await.expect("Kent answers");
    assert_eq!(kent.arrivals(KENT_PROJECT).count(), 0);

    // Three events are stored already and the quota is five.
    let beyond = Service::python(&project.dsn, &Plan { errors: 6, pause: Duration::from_millis(200), ..plan })
        .finished(A_RUN)
        .await;
    assert_eq!(beyond.captured.len(), 6);
    assert_eq!(bugsink.stored(&project).await, Ok(5));
}

#[tokio::test]
async fn both_trackers_receive_all_data_of_node_and_python_services() {
    let (bugsink, mut kent) = tokio::join!(Bugsink::start(), Kent::start());
    let project = bugsink.project("both").await;
    let mut relay = between(&project, &kent).await;

    let plan = Plan { errors: 8, transactions: 2, profile: true, ..Plan::default() };
    let (node, python) = (Service::node(&relay.dsn(), &plan), Service::python(&relay.dsn(), &plan));
    let (node, python) = tokio::join!(node.finished(A_RUN), python.finished(A_RUN));
    assert!(node.status.success() && python.status.success());
    let runs: [(&str, &[Captured]); 2] = [("node", &node.captured), ("python", &python.captured)];

    assert_stored(&bugsink, &project, &runs).await;
    assert_arrived(&mut kent, &runs).await;
    assert_addressed_to(&kent, "anykey");
    let profiled: BTreeSet<String> = kent.times(KENT_PROJECT, "profile").into_keys().collect();
    let transactions = node.captured.iter().filter(|captured| captured.kind == "transaction");
    assert_eq!(profiled, transactions.map(|captured| captured.event_id.clone()).collect());
    assert_same_bodies(&bugsink.events(&project).await, &kent);

    let samples = relay.balanced(ARRIVAL).await;
    assert_eq!(samples.sum("switchyard_accepted_items_total", &[("category", "error")]), 16.0);
    assert_eq!(samples.sum("switchyard_accepted_items_total", &[("category", "transaction")]), 4.0);
    relay.stop().await;
}

#[tokio::test]
async fn switches_and_a_killed_tracker_under_traffic_lose_and_double_nothing() {
    let (mut bugsink, mut kent) = tokio::join!(Bugsink::start(), Kent::start());
    let project = bugsink.project("switched").await;
    let mut relay = between(&project, &kent).await;

    let node = Service::node(&relay.dsn(), &Plan { errors: 60, pause: Duration::from_millis(150), ..Plan::default() });
    let python =
        Service::python(&relay.dsn(), &Plan { errors: 30, pause: Duration::from_millis(300), ..Plan::default() });
    let services = [&node, &python];
    captured_in_all(services, 10, &mut kent).await;
    relay.flip_to("kent").await;
    captured_in_all(services, 20, &mut kent).await;
    bugsink.kill();
    captured_in_all(services, 50, &mut kent).await;
    bugsink.start_again().await;
    relay.flip_to("bugsink").await;

    let (node, python) = tokio::join!(node.finished(A_RUN), python.finished(A_RUN));
    assert!(node.status.success() && python.status.success());
    let runs: [(&str, &[Captured]); 2] = [("node", &node.captured), ("python", &python.captured)];
    assert_eq!(runs.iter().map(|(_, captured)| captured.len()).sum::<usize>(), 90);
    assert_arrived(&mut kent, &runs).await;
    assert_stored(&bugsink, &project, &runs).await;

    let samples = relay.balanced(ARRIVAL).await;
    assert_eq!(samples.sum("switchyard_accepted_items_total", &[("category", "error")]), 90.0);
    assert_eq!(samples.sum("switchyard_dropped_items_total", &[("category", "error")]), 0.0);
    assert_eq!(samples.sum("switchyard_switches_total", &[]), 2.0);
    relay.stop().await;
}

/// The number of events for a Bugsink that is down, and its quotas. The events exceed the quota of five minutes; stock quotas only apply to
/// more than 1,000 events.
fn queued() -> (usize, Quotas) {
    let number = std::env::var("SWITCHYARD_QUOTA_EVENTS").map_or(251, |n| n.parse().expect("a number of events"));
    (number, if number > 1000 { Quotas::STOCK } else { Quotas { per_5_minutes: 100, per_hour: 1000 } })
}

#[tokio::test]
async fn a_bugsink_at_its_quota_pauses_and_loses_and_doubles_nothing() {
    let (events, quotas) = queued();
    let is_stock = quotas.per_5_minutes == Quotas::STOCK.per_5_minutes;
    let mut bugsink = Bugsink::start_with(quotas).await;
    let project = bugsink.project("quota").await;
    bugsink.stop().await;
    bugsink.shorten_pauses();
    if is_stock {
        bugsink.shorten_periods();
    }
    let mut relay = relay::start(&[Upstream { name: "bugsink", kind: "bugsink", dsn: &project.dsn }]).await;
    let sent = relay.send_errors(events).await;
    bugsink.start_again().await;
    eventually("it is at its quota", ARRIVAL, async || {
        let (stored, upstream) = (bugsink.stored(&project).await?, relay.upstream("bugsink").await);
        let is_at_it = stored >= quotas.per_5_minutes.into() && upstream["state"] == "limited";
        if is_at_it { Ok(()) } else { Err(format!("{stored} {upstream}")) }
    })
    .await;
    assert_eq!(bugsink.stored(&project).await, Ok(quotas.per_5_minutes.into()));
    if !is_stock {
        bugsink.stop().await;
        bugsink.reconfigure(Quotas::OUT_OF_THE_WAY);
        bugsink.start_again().await;
    }
    let patience = if is_stock { Duration::from_secs(1200) } else { ARRIVAL };
    let samples = relay.balanced(patience).await;
    let count = |name, labels: &[(&str, &str)]| samples.sum(name, labels);
    assert_eq!(count("switchyard_delivered_items_total", &[("category", "error")]), events as f64);
    let paused = count("switchyard_delivery_attempts_total", &[("result", "rate_limited")]);
    println!("{events} events, {paused} refusals");
    assert!((1.0..events as f64 / 10.0).contains(&paused), "{paused} refusals: it waited, and asked again");
    let stored_events = bugsink.events(&project).await;
    let stored = by_id(&stored_events);
    let lost: Vec<&String> = sent.iter().filter(|id| !stored.contains_key(id.as_str())).collect();
    assert_eq!((lost.len(), stored_events.len()), (0, sent.len()), "{lost:?} are lost");
    relay.stop().await;
}

#[tokio::test]
async fn node_keeps_sending_transactions_to_a_bugsink_with_its_kind() {
    let (bugsink, mut kent) = tokio::join!(Bugsink::start(), Kent::start());
    let project = bugsink.project("transactions").await;
    let mut relay = between(&project, &kent).await;
    // Bugsink answers the errors before the first transaction, and each transaction before the next.
    let plan = Plan { errors: 3, transactions: 6, pause: Duration::from_millis(300), ..Plan::default() };
    let node = Service::node(&relay.dsn(), &plan).finished(A_RUN).await;
    assert!(node.status.success());
    assert_eq!(node.captured.iter().filter(|captured| captured.kind == "transaction").count(), 6);
    assert_arrived(&mut kent, &[("node", &node.captured)]).await;
    let samples = relay.balanced(ARRIVAL).await;
    let unsupported = [("upstream", "bugsink"), ("category", "transaction"), ("reason", "unsupported")];
    assert_eq!(samples.sum("switchyard_dropped_items_total", &unsupported), 6.0);
    assert_eq!(samples.sum("switchyard_refused_items_total", &[]), 0.0);
    relay.stop().await;
}

#[tokio::test]
async fn node_keeps_sending_transactions_to_a_bugsink_without_a_kind() {
    let (bugsink, mut kent) = tokio::join!(Bugsink::start(), Kent::start());
    let project = bugsink.project("limits").await;
    // Without its kind the relay takes Bugsink's answers for limits on transactions.
    let dsns = [("bugsink", project.dsn.clone()), ("kent", kent.dsn(KENT_PROJECT))];
    let relay = support::relay::Plan::new(&dsns).upstream("bugsink", "on_rate_limit = \"drop\"").start().await;
    let errors = Service::node(&relay.dsn(), &Plan { errors: 2, ..Plan::default() }).finished(A_RUN).await;
    eventually("Bugsink limits transactions", ARRIVAL, async || match relay.upstream("bugsink").await {
        upstream if upstream["state"] == "limited" => Ok(()),
        upstream => Err(upstream.to_string()),
    })
    .await;
    let plan = Plan { errors: 1, transactions: 4, pause: Duration::from_millis(200), ..Plan::default() };
    let node = Service::node(&relay.dsn(), &plan).finished(A_RUN).await;
    assert!(node.status.success() && node.captured.len() == 5);
    let runs: [(&str, &[Captured]); 2] = [("node", &errors.captured), ("node", &node.captured)];
    assert_arrived(&mut kent, &runs).await;
    assert_stored(&bugsink, &project, &runs).await;
    let samples = relay.balanced(ARRIVAL).await;
    let labels = [("upstream", "bugsink"), ("category", "transaction"), ("reason", "rate_limited")];
    assert_eq!(samples.sum("switchyard_dropped_items_total", &labels), 4.0);
    relay.finish().await;
}

#[tokio::test]
async fn bugsink_is_recognised_and_stores_each_event_of_an_envelope() {
    let (bugsink, mut kent) = tokio::join!(Bugsink::start(), Kent::start());
    let project = bugsink.project("several").await;
    let mut relay = between(&project, &kent).await;
    let ids = [new_id(), new_id(), new_id()];
    let event = |id: &String| {
        format!(
            "{{\"type\":\"event\"}}\n{{\"event_id\":\"{id}\",\"platform\":\"other\",\"message\":\"one of three\"}}\n"
        )
    };
    let items: String = ids.iter().map(event).collect();
    assert_eq!(relay.send(format!("{{\"event_id\":\"{}\"}}\n{items}", new_id())).await.status(), 200);
    let transaction = new_id();
    assert_eq!(relay.send(envelope(&transaction, "transaction", "{\"type\":\"transaction\"}")).await.status(), 200);
    relay.balanced(ARRIVAL).await;
    let events = bugsink.events(&project).await;
    let stored: BTreeSet<&str> = events.iter().filter_map(|event| event["event_id"].as_str()).collect();
    assert_eq!(stored, ids.iter().map(String::as_str).collect());
    assert_eq!(relay.upstream("bugsink").await["state"], "up", "what it never stores is no limit");
    kent.look().await.expect("Kent answers");
    assert_eq!(kent.arrivals(KENT_PROJECT).filter(|arrival| arrival.kind() == "event").count(), 3);

    let text = std::fs::read_to_string(relay.config()).expect("the configuration").replace("kind = \"bugsink\"", "");
    relay.replace_config(&text);
    let mut check = Command::new(env!("CARGO_BIN_EXE_switchyard"));
    check.args(["check", "--online", "--json", "--config"]).arg(relay.config());
    let output = tokio::task::spawn_blocking(move || check.output().expect("the binary")).await.expect("it ends");
    let found: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let kinds: BTreeMap<&str, &Value> = found["online"]
        .as_array()
        .expect("probes")
        .iter()
        .map(|probe| (probe["upstream"].as_str().expect("a name"), &probe["kind"]))
        .collect();
    assert_eq!(kinds, BTreeMap::from([("bugsink", &Value::from("bugsink")), ("kent", &Value::Null)]), "{found}");
    relay.stop().await;
}

#[tokio::test]
async fn a_bugsink_stores_compressed_envelopes() {
    let bugsink = Bugsink::start().await;
    let project = bugsink.project("compressed").await;
    let plan = support::relay::Plan::new(&[("bugsink", project.dsn.clone())]);
    let relay = plan.upstream("bugsink", "kind = \"bugsink\"\ncompress = \"gzip\"").start().await;
    let ids = [new_id(), new_id()];
    for (id, length) in ids.iter().zip([8_000, 200_000]) {
        let message = "a word ".repeat(length / 7);
        let event = format!("{{\"event_id\":\"{id}\",\"platform\":\"other\",\"extra\":{{\"long\":\"{message}\"}}}}");
        assert_eq!(relay.send(envelope(id, "event", &event)).await.status(), 200);
    }
    relay.balanced(ARRIVAL).await;
    let events = bugsink.events(&project).await;
    let stored: BTreeSet<&str> = events.iter().filter_map(|event| event["event_id"].as_str()).collect();
    assert_eq!(stored, ids.iter().map(String::as_str).collect());
    assert!(!relay.log().contains("refuses envelopes compressed"), "{}", relay.log());
    relay.finish().await;
}

#[tokio::test]
async fn bugsink_resolves_auto_to_the_sdks_address() {
    let bugsink = Bugsink::start().await;
    let project = bugsink.project("addresses").await;
    let plan =
        support::relay::Plan::new(&[("bugsink", project.dsn.clone())]).upstream("bugsink", "on_rate_limit = \"drop\"");
    let relay = plan.server("trusted_proxies = [\"127.0.0.1\"]").start().await;
    let id = new_id();
    let event = serde_json::json!({
        "event_id": id, "timestamp": "2026-01-01T00:00:00Z", "platform": "javascript", "level": "error",
        "exception": { "values": [{ "type": "Error", "value": "no proxy in sight" }] },
        "user": { "ip_address": "{{auto}}" },
    });
    let path = format!("/api/1/envelope/?sentry_key={KEY}");
    let answer = relay
        .post(&path, envelope(&id, "event", &event.to_string()))
        .header("x-forwarded-for", "[2001:db8::7]:4711")
        .send()
        .await;
    assert_eq!(answer.expect("an answer").status(), 200);
    eventually("Bugsink has stored it", ARRIVAL, async || match bugsink.stored(&project).await {
        Ok(1) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    assert_eq!(bugsink.tag_values("user.ip_address"), ["2001:db8::7"]);
    relay.finish().await;
}

#[tokio::test]
async fn prometheus_scrapes_what_was_sent() {
    let kent = Kent::start().await;
    let (first, second) = (kent.dsn(1), kent.dsn(2));
    let mut relay = relay::start(&[
        Upstream { name: "first", kind: "generic", dsn: &first },
        Upstream { name: "second", kind: "generic", dsn: &second },
    ])
    .await;
    let prometheus = Prometheus::scraping(&relay.admin_address()).await;
    check_metrics(&relay.metrics().await.expect("a scrape")).expect("nothing to complain of before the first event");

    let plan = Plan { errors: 12, transactions: 3, ..Plan::default() };
    let (node, python) = (Service::node(&relay.dsn(), &plan), Service::python(&relay.dsn(), &plan));
    let (node, python) = tokio::join!(node.finished(A_RUN), python.finished(A_RUN));
    assert!(node.status.success() && python.status.success());

    for (category, sent) in [("error", 24.0), ("transaction", 6.0)] {
        let accepted = format!("sum(switchyard_accepted_items_total{{category='{category}'}})");
        assert_scraped(&prometheus, &accepted, sent).await;
        for upstream in ["first", "second"] {
            let labels = format!("upstream='{upstream}',category='{category}'");
            assert_scraped(&prometheus, &format!("sum(switchyard_delivered_items_total{{{labels}}})"), sent).await;
            assert_scraped(&prometheus, &format!("sum(switchyard_dropped_items_total{{{labels}}})"), 0.0).await;
        }
    }
    assert_scraped(&prometheus, "sum(switchyard_backlog_envelopes)", 0.0).await;
    check_metrics(&relay.metrics().await.expect("a scrape")).expect("nothing to complain of after the traffic");
    relay.balanced(ARRIVAL).await;
    relay.stop().await;
}

/// A relay between the services and both trackers; Bugsink is primary.
async fn between(project: &Project, kent: &Kent) -> Relay {
    let kent = kent.dsn(KENT_PROJECT);
    relay::start(&[
        Upstream { name: "bugsink", kind: "bugsink", dsn: &project.dsn },
        Upstream { name: "kent", kind: "generic", dsn: &kent },
    ])
    .await
}

/// Waits until the services have captured `count` events together, and polls Kent meanwhile.
async fn captured_in_all(services: [&Service; 2], count: usize, kent: &mut Kent) {
    eventually(&format!("{count} events are captured"), A_RUN, async || {
        kent.look().await?;
        let captured: usize = services.iter().map(|service| service.captured().len()).sum();
        if captured >= count { Ok(()) } else { Err(format!("{captured} so far")) }
    })
    .await;
}

/// Fails unless Bugsink has every error of `runs` intact, once, and nothing else.
async fn assert_stored(bugsink: &Bugsink, project: &Project, runs: &[(&str, &[Captured])]) {
    let errors: Vec<(&str, &Captured)> = of_kind(runs, "error");
    eventually("Bugsink has every error", ARRIVAL, async || match bugsink.stored(project).await? {
        stored if stored >= errors.len() as u64 => Ok(()),
        stored => Err(format!("{stored} of {}", errors.len())),
    })
    .await;
    let stored = bugsink.events(project).await;
    assert_eq!(stored.len(), errors.len());
    let stored = by_id(&stored);
    for (name, captured) in errors {
        let event =
            stored.get(captured.event_id.as_str()).unwrap_or_else(|| panic!("{name} {captured:?} is not in Bugsink"));
        assert_intact(name, captured, event);
    }
}

/// Fails unless Kent has every error and transaction of `runs` intact, once, and no others.
async fn assert_arrived(kent: &mut Kent, runs: &[(&str, &[Captured])]) {
    for (kind, item) in [("error", "event"), ("transaction", "transaction")] {
        let expected: BTreeMap<String, usize> =
            of_kind(runs, kind).iter().map(|(_, captured)| (captured.event_id.clone(), 1)).collect();
        eventually(&format!("Kent has every {kind} once"), ARRIVAL, async || {
            kent.look().await?;
            let times = kent.times(KENT_PROJECT, item);
            assert!(times.values().all(|times| *times == 1), "Kent has something twice: {times:?}");
            if times == expected { Ok(()) } else { Err(format!("{} of {}: {times:?}", times.len(), expected.len())) }
        })
        .await;
    }
    let bodies: BTreeMap<&str, &Value> = kent
        .arrivals(KENT_PROJECT)
        .filter(|arrival| arrival.kind() == "event")
        .map(|arrival| (arrival.event_id(), &arrival.body))
        .collect();
    for (name, captured) in of_kind(runs, "error") {
        assert_intact(name, captured, bodies[captured.event_id.as_str()]);
    }
}

/// Fails unless every key in an envelope's header is the upstream's.
fn assert_addressed_to(kent: &Kent, key: &str) {
    let keys =
        kent.arrivals(KENT_PROJECT).filter_map(|arrival| arrival.envelope_header["trace"]["public_key"].as_str());
    let keys: BTreeSet<&str> = keys.collect();
    assert_eq!(keys, BTreeSet::from([key]));
}

/// Fails unless both trackers hold the same JSON for each event.
fn assert_same_bodies(stored: &[Value], kent: &Kent) {
    let stored = by_id(stored);
    for arrival in kent.arrivals(KENT_PROJECT).filter(|arrival| arrival.kind() == "event") {
        assert_eq!(stored.get(arrival.event_id()), Some(&&arrival.body));
    }
}

/// Waits until a scraped expression has this value.
async fn assert_scraped(prometheus: &Prometheus, expression: &str, expected: f64) {
    eventually(&format!("{expression} is {expected}"), ARRIVAL, async || match prometheus.query(expression).await? {
        value if value == expected => Ok(()),
        value => Err(format!("it is {value}")),
    })
    .await;
}

fn of_kind<'a>(runs: &[(&'a str, &'a [Captured])], kind: &str) -> Vec<(&'a str, &'a Captured)> {
    let all = runs.iter().flat_map(|(name, captured)| captured.iter().map(|one| (*name, one)));
    all.filter(|(_, captured)| captured.kind == kind).collect()
}

fn by_id(events: &[Value]) -> BTreeMap<&str, &Value> {
    events.iter().map(|event| (event["event_id"].as_str().expect("an event's id"), event)).collect()
}
