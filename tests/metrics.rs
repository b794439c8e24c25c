//! The metrics as a contract: their names, types and labels, their values at the start, and what they must never contain.
//!
//! Rule: a renamed metric or a new label changes the list here and breaks everybody's dashboards.

mod support;

use std::collections::{BTreeMap, BTreeSet};

use support::envelopes::{self, KEY};
use support::eventually::eventually;
use support::relay::{Plan, Relay, SOON};
use support::upstream::{Reply, Upstream};
use switchyard::policy::outcome::DropReason;

/// Name, type and label names of each of our metrics. Relays that share a journal have more, see `postgres/relays.rs`.
const GOLDEN: &str = "
switchyard_accept_duration_seconds histogram
switchyard_accepted_items_total counter category project
switchyard_backfill_remaining_envelopes gauge upstream
switchyard_backlog_bytes gauge upstream
switchyard_backlog_envelopes gauge upstream
switchyard_backlog_oldest_seconds gauge upstream
switchyard_balance_difference_items gauge upstream
switchyard_batch_poison_events_total counter upstream
switchyard_build_info gauge commit version
switchyard_canary_age_seconds gauge upstream
switchyard_canary_success gauge upstream
switchyard_client_reports_total counter project upstream
switchyard_compared_events gauge project upstream
switchyard_config_last_reload_success_timestamp_seconds gauge
switchyard_config_reload_success gauge
switchyard_dead_letters gauge upstream
switchyard_delivered_items_total counter category project upstream
switchyard_delivery_attempts_total counter result upstream
switchyard_delivery_duration_seconds histogram upstream
switchyard_delivery_lag_seconds histogram upstream
switchyard_delivery_unsettled_total counter upstream
switchyard_differing_events gauge project upstream
switchyard_disk_free_bytes gauge
switchyard_dropped_items_total counter category project reason upstream
switchyard_duplicate_items_total counter category project
switchyard_journal_commit_duration_seconds histogram
switchyard_journal_errors_total counter
switchyard_journal_project_bytes gauge project
switchyard_journal_project_part_bytes gauge project
switchyard_journal_set_aside_records_total counter
switchyard_journal_size_bytes gauge
switchyard_last_switch_timestamp_seconds gauge
switchyard_lost_events gauge project upstream
switchyard_mended_envelopes_total counter upstream
switchyard_missing_events gauge project upstream
switchyard_notifications_total counter outcome
switchyard_open_connections gauge
switchyard_pending_items gauge category project upstream
switchyard_primary gauge upstream
switchyard_received_requests_total counter code project
switchyard_refused_items_total counter category project reason
switchyard_refused_requests_total counter reason
switchyard_returned_items_total counter category project upstream
switchyard_stored_events gauge project upstream
switchyard_switches_total counter
switchyard_unknown_events gauge project upstream
switchyard_upstream_circuit gauge state upstream
switchyard_upstream_limited_until_timestamp_seconds gauge category upstream
switchyard_upstream_project_alone gauge project upstream
switchyard_upstream_up gauge upstream
switchyard_verification_success gauge upstream
";

/// The closed sets of label values; other labels take names from the configuration.
const CLOSED: [(&str, &str); 5] = [
    (
        "category",
        "attachment attachment_item default error feedback internal log_byte log_item metric_bucket monitor \
         profile profile_chunk profile_chunk_ui replay security session span trace_metric transaction unknown",
    ),
    ("code", "200 201 202 204 301 302 304 400 401 403 404 405 408 409 413 414 415 429 431 500 502 503 504 508 other"),
    ("result", "delivered failed misconfigured rate_limited refused unsupported"),
    ("state", "closed half_open open"),
    ("upstream", "new old"),
];

const REFUSED: &str = "content_type disconnected encoding journal_failed journal_full loop malformed method mismatch no_such_route overloaded project_share \
                       proxy_overloaded proxy_protocol rate_limited timeout too_large too_many_connections unauthenticated unknown_project upstream_failed upstream_timeout";

/// One line of `/metrics`: name, labels, value.
type Line = (String, BTreeMap<String, String>, f64);

/// All samples, including buckets of histograms.
fn lines(text: &str) -> Vec<Line> {
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    let read = |line: &str| {
        let (series, value) = line.rsplit_once(' ').expect("a value");
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        let labels = labels.trim_end_matches('}').split(',').filter_map(|label| label.split_once('='));
        let labels = labels.map(|(key, value)| (key.to_owned(), value.trim_matches('"').to_owned())).collect();
        (name.to_owned(), labels, value.parse().expect("a number"))
    };
    samples.map(read).collect()
}

/// The metric of a sample: a histogram has three kinds of samples.
fn family(name: &str) -> &str {
    let cut = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
    cut.filter(|name| name.ends_with("_seconds")).unwrap_or(name)
}

/// Describes the metrics of `text` in the form of [`GOLDEN`].
fn described(text: &str) -> String {
    let mut metrics: BTreeMap<String, (String, BTreeSet<String>)> = BTreeMap::new();
    for line in text.lines() {
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            metrics.entry(name.to_owned()).or_default().0 = kind.to_owned();
        }
    }
    for (name, labels, _) in lines(text) {
        let (_, names) = metrics.get_mut(family(&name)).unwrap_or_else(|| panic!("{name} has no TYPE"));
        names.extend(labels.into_keys().filter(|label| label != "le"));
    }
    let ours = metrics.into_iter().filter(|(name, _)| name.starts_with("switchyard_"));
    let line = |(name, (kind, labels)): (String, (String, BTreeSet<String>))| {
        [name, kind].into_iter().chain(labels).collect::<Vec<_>>().join(" ")
    };
    format!("\n{}\n", ours.map(line).collect::<Vec<_>>().join("\n"))
}

fn words(text: &str) -> BTreeSet<&str> {
    text.split_whitespace().collect()
}

async fn two_upstreams() -> (Upstream, Upstream, Relay) {
    let (old, new) = (Upstream::start().await, Upstream::start().await);
    let plan = Plan::new(&[("old", old.dsn("0ld", 1)), ("new", new.dsn("4e3", 2))]);
    let relay = plan.start().await;
    (old, new, relay)
}

#[tokio::test]
async fn every_metric_exists_at_zero_from_the_start() {
    let (_old, _new, relay) = two_upstreams().await;
    let text = relay.metrics().await.expect("metrics");
    assert_eq!(described(&text), GOLDEN);
    for line in text.lines().filter(|line| line.starts_with("# TYPE switchyard_")) {
        let name = line.split(' ').nth(2).expect("a name");
        assert!(text.contains(&format!("# HELP {name} ")), "{name} says what it is");
    }
    for name in
        ["process_cpu_seconds_total", "process_resident_memory_bytes", "process_open_fds", "process_start_time_seconds"]
    {
        assert!(lines(&text).iter().any(|(have, ..)| have == name), "{name}");
    }
    // Metrics that are not zero at the start.
    let exceptions = [
        "switchyard_build_info",
        "switchyard_config_last_reload_success_timestamp_seconds",
        "switchyard_config_reload_success",
        "switchyard_disk_free_bytes",
        "switchyard_journal_commit_duration_seconds",
        "switchyard_journal_size_bytes",
        "switchyard_primary",
        "switchyard_upstream_circuit",
        "switchyard_upstream_up",
    ];
    for (name, labels, value) in lines(&text).iter().filter(|(name, ..)| name.starts_with("switchyard_")) {
        assert!(*value == 0.0 || exceptions.contains(&family(name)), "{name} {labels:?} is {value}");
    }
    let samples = relay.samples().await.expect("metrics");
    for (name, labels, value) in [
        ("switchyard_primary", [("upstream", "old")], 1.0),
        ("switchyard_primary", [("upstream", "new")], 0.0),
        ("switchyard_upstream_up", [("upstream", "new")], 1.0),
        ("switchyard_build_info", [("version", env!("CARGO_PKG_VERSION"))], 1.0),
    ] {
        assert_eq!(samples.sum(name, &labels), value, "{name}");
    }
    assert_eq!(samples.sum("switchyard_upstream_circuit", &[("upstream", "new"), ("state", "closed")]), 1.0);
    assert_eq!(samples.sum("switchyard_config_reload_success", &[]), 1.0);
    relay.finish().await;
}

#[tokio::test]
async fn label_values_come_from_closed_sets_whatever_arrives() {
    let (_old, new, relay) = two_upstreams().await;
    let before: BTreeSet<_> = lines(&relay.metrics().await.expect("metrics")).into_iter().map(|l| (l.0, l.1)).collect();
    new.then([
        Reply::status(500),
        Reply::with_header(200, "x-sentry-rate-limits", "1:strange;error:key"),
        Reply::status(400),
    ]);
    for kind in ["event", "x_never_heard_of", "attachment", "log", "statsd", "client_report", "nel"] {
        let id = envelopes::new_id();
        assert_eq!(relay.send(envelopes::envelope(&id, kind, "{}")).await.status(), 200);
    }
    for (path, body) in [
        ("/somewhere/else", ""),
        ("/api/../1/envelope/", ""),
        ("/api/77/envelope/?sentry_key=another", "{}"),
        ("/api/1/envelope/", "{}"),
        ("/api/x/envelope/?sentry_key=k", "{}"),
    ] {
        assert!(relay.post(path, body).send().await.expect("an answer").status().is_client_error());
    }
    assert_eq!(relay.send("nonsense").await.status(), 400);
    let method = relay
        .client()
        .request("BREW".parse().expect("a method"), format!("http://{}/api/1/envelope/", relay.address()));
    assert_eq!(method.send().await.expect("an answer").status(), 405);
    relay.balanced(SOON).await;
    let text = relay.metrics().await.expect("metrics");
    assert_eq!(described(&text), GOLDEN);
    let after: BTreeSet<_> = lines(&text).into_iter().map(|l| (l.0, l.1)).collect();
    let born: Vec<_> = after.difference(&before).collect();
    assert!(born.is_empty(), "series that did not exist from the start: {born:?}");
    let values = |label: &str, of: &str| -> BTreeSet<String> {
        let lines = after.iter().filter(|(name, _)| of.is_empty() || name == of);
        lines.filter_map(|(_, labels)| labels.get(label).cloned()).collect()
    };
    let owned = |text: &str| words(text).into_iter().map(str::to_owned).collect::<BTreeSet<_>>();
    for (label, set) in CLOSED {
        assert_eq!(values(label, ""), owned(set), "{label}");
    }
    let dropped = DropReason::ALL.map(|reason| reason.name().to_owned());
    assert_eq!(values("reason", "switchyard_dropped_items_total"), dropped.into());
    assert_eq!(values("reason", "switchyard_refused_requests_total"), owned(REFUSED));
    // The label is empty where no project was recognised.
    assert_eq!(values("project", ""), BTreeSet::from([String::new(), "shop".to_owned()]));
    relay.finish().await;
}

#[tokio::test]
async fn no_gauge_goes_on_telling_of_an_upstream_that_is_gone() {
    let (old, _new, relay) = two_upstreams().await;
    let of_old = async || {
        let text = relay.metrics().await.expect("metrics");
        let gauges = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" gauge"));
        let gauges: BTreeSet<&str> = gauges.collect();
        let of_old = |labels: &BTreeMap<String, String>| labels.get("upstream").is_some_and(|of| of == "old");
        let told = lines(&text).into_iter().filter(|(_, labels, value)| of_old(labels) && *value != 0.0);
        told.map(|(name, ..)| name).filter(|name| gauges.contains(name.as_str())).collect::<BTreeSet<_>>()
    };
    relay.send_errors(2).await;
    relay.balanced(SOON).await;
    assert!(of_old().await.contains("switchyard_primary"));
    let dsn = format!("old = \"{}\"\n", old.dsn("0ld", 1));
    let file = std::fs::read_to_string(relay.config()).expect("the file");
    let without =
        file.replacen("primary = \"old\"", "primary = \"new\"", 1).replace("[upstreams.old]\n", "").replace(&dsn, "");
    relay.replace_config(&without);
    eventually("it is gone", SOON, async || match of_old().await {
        left if left.is_empty() => Ok(()),
        left => Err(format!("{left:?}\n{}", relay.log())),
    })
    .await;
    let samples = relay.samples().await.expect("metrics");
    assert_eq!(samples.sum("switchyard_delivered_items_total", &[("upstream", "old")]), 2.0, "what was counted stays");
    assert_eq!(samples.sum("switchyard_primary", &[]), 1.0);
    relay.replace_config(&file);
    relay.flip_to("old").await;
    relay.finish().await;
}

#[tokio::test]
async fn figures_tell_what_happened() {
    let (_old, new, relay) = two_upstreams().await;
    new.then([Reply::status(400)]);
    relay.send_errors(1).await;
    relay.balanced(SOON).await;
    relay.send_errors(4).await;
    let id = envelopes::new_id();
    for _ in 0..3 {
        assert_eq!(relay.send(envelopes::error(&id)).await.status(), 200);
    }
    assert_eq!(relay.send("").await.status(), 400);
    let samples = relay.balanced(SOON).await;
    let of = |upstream| [("upstream", upstream), ("category", "error")];
    assert_eq!(samples.sum("switchyard_accepted_items_total", &[("project", "shop")]), 6.0);
    assert_eq!(samples.sum("switchyard_duplicate_items_total", &[("project", "shop"), ("category", "error")]), 2.0);
    assert_eq!(samples.sum("switchyard_delivered_items_total", &of("old")), 6.0);
    assert_eq!(samples.sum("switchyard_delivered_items_total", &of("new")), 5.0);
    let rejected = [("upstream", "new"), ("reason", "rejected")];
    assert_eq!(samples.sum("switchyard_dropped_items_total", &rejected), 1.0);
    assert_eq!(samples.sum("switchyard_dead_letters", &[("upstream", "new")]), 1.0);
    assert_eq!(samples.sum("switchyard_delivery_attempts_total", &[("upstream", "new"), ("result", "refused")]), 1.0);
    assert_eq!(samples.sum("switchyard_delivery_attempts_total", &[("upstream", "old"), ("result", "delivered")]), 6.0);
    assert_eq!(samples.sum("switchyard_delivery_duration_seconds_count", &[("upstream", "new")]), 6.0);
    assert_eq!(samples.sum("switchyard_delivery_lag_seconds_count", &[("upstream", "new")]), 5.0);
    assert_eq!(samples.sum("switchyard_accept_duration_seconds_count", &[]), 9.0);
    assert_eq!(samples.sum("switchyard_received_requests_total", &[("project", "shop"), ("code", "200")]), 8.0);
    assert_eq!(samples.sum("switchyard_received_requests_total", &[("project", "shop"), ("code", "400")]), 1.0);
    assert!(samples.sum("switchyard_journal_commit_duration_seconds_count", &[]) >= 1.0);
    assert!(samples.sum("switchyard_journal_size_bytes", &[]) > 0.0);
    assert!(samples.sum("switchyard_disk_free_bytes", &[]) > 0.0);
    relay.finish().await;
}

#[tokio::test]
async fn no_secret_appears_in_status_page_metrics_or_log() {
    const OLD: &str = "5ec4e70f0ld5ec4e70f0ld";
    const NEW: &str = "5ec4e70fnew-5ec4e70fnew";
    const TOKEN: &str = "5ec4e7-token-of-operators";
    let (mut old, new) = (Upstream::start().await, Upstream::start().await);
    let plan = Plan::new(&[("old", old.dsn(OLD, 1)), ("new", new.dsn(NEW, 2))]);
    let relay = plan.admin(&format!("token = \"{TOKEN}\"")).start().await;
    // Everything that is logged: deliveries that fail in each way, refusals, a broken file, a switch.
    new.then([Reply::status(403), Reply::status(500), Reply::status(400)]);
    relay.send_errors(2).await;
    old.go_down().await;
    relay.send_errors(1).await;
    let wrong = format!("/api/2/envelope/?sentry_key={KEY}");
    assert_eq!(relay.post(&wrong, "{}").send().await.expect("an answer").status(), 403);
    let mismatch = format!("{{\"dsn\":\"http://{NEW}@h/1\"}}");
    let answer = relay.send(mismatch).await;
    assert_eq!(answer.status(), 400);
    assert!(!answer.text().await.expect("a body").contains(NEW));
    let good = std::fs::read_to_string(relay.config()).expect("the file");
    relay.replace_config(&good.replace("id = \"1\"", "id = \"one\"").replace(&format!("{NEW}@"), &format!("{NEW}@ @")));
    eventually("the broken file is noticed", SOON, async || match relay.status().await["config"]["error"].is_null() {
        true => Err("no error yet".to_owned()),
        false => Ok(()),
    })
    .await;
    let mut seen = vec![relay.status().await.to_string()];
    let page = support::net::text(relay.client(), &format!("http://{}/", relay.admin_address())).await;
    seen.push(page.expect("the page"));
    seen.push(relay.metrics().await.expect("metrics"));
    relay.replace_config(&good);
    relay.flip_to("new").await;
    old.come_back().await;
    // A new DSN makes the relay retry what waited for the refused one.
    let flipped = std::fs::read_to_string(relay.config()).expect("the file");
    relay.replace_config(&flipped.replace("/2\"", "/3\""));
    relay.balanced(SOON).await;
    seen.push(relay.status().await.to_string());
    seen.push(relay.log());
    for text in seen {
        for secret in [KEY, OLD, NEW, TOKEN] {
            assert!(!text.contains(secret), "{secret} in {text}");
        }
    }
    relay.finish().await;
}
