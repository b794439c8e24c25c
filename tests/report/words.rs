//! The report's words beside its figures: when they begin, what they mean, and which project saw a service.

use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::simulation::Simulation;
use crate::support::eventually::eventually;
use crate::support::relay::{Plan, Relay, SOON};
use crate::support::upstream::{Reply, Upstream};
use crate::support::{envelopes, net};
use crate::{HOUR, MINUTE};

async fn report_of(relay: &Relay) -> Value {
    net::json(relay.client(), &format!("http://{}/api/report", relay.admin_address())).await.expect("a report")
}

fn criterion<'a>(report: &'a Value, name: &str) -> &'a Value {
    let all = report["criteria"].as_array().expect("criteria");
    all.iter().find(|criterion| criterion["name"] == name).expect("the criterion")
}

/// The standard output of a verb.
async fn says(relay: &Relay, verb: &'static str) -> String {
    let config = relay.config();
    let run = tokio::task::spawn_blocking(move || {
        Command::new(env!("CARGO_BIN_EXE_switchyard")).arg("--config").arg(config).arg(verb).output().expect("it runs")
    });
    String::from_utf8_lossy(&run.await.expect("it ran").stdout).into_owned()
}

#[tokio::test]
async fn a_test_event_makes_no_service_heard() {
    let (a, b) = (Upstream::start().await, Upstream::start().await);
    let relay = Plan::new(&[("a", a.dsn("key-a", 1)), ("b", b.dsn("key-b", 2))]).start().await;
    assert_eq!(relay.verb(&["send-test"]).await.0, 0);
    let seen = async |expected: bool| {
        eventually(&format!("seen: {expected}"), SOON, async || {
            let report = report_of(&relay).await;
            let criterion = criterion(&report, "services");
            let services = report["services"].as_array().ok_or("no services")?;
            let is_so = criterion["passed"] == expected && services.iter().all(|one| one["seen"] == expected);
            if is_so { Ok(()) } else { Err(format!("{criterion} {services:?}")) }
        })
        .await;
    };
    seen(false).await;
    relay.send_errors(1).await;
    seen(true).await;
    relay.finish().await;
}

#[tokio::test]
async fn the_table_of_the_report_adds_up_after_a_backfill() {
    let (a, b) = (Upstream::start().await, Upstream::start().await);
    let plan = Plan::new(&[("a", a.dsn("key-a", 1)), ("b", b.dsn("key-b", 2))]).top("mirror = false");
    let relay = plan.start().await;
    relay.send_errors(3).await;
    relay.balanced(SOON).await;
    let before = report_of(&relay).await;
    let withheld = criterion(&before, "withheld");
    assert!(
        withheld["passed"] == false && withheld["found"].as_str().expect("a text").starts_with("3 items: mirror_off 3")
    );
    let told = says(&relay, "status").await;
    assert!(told.contains("dropped as mirror_off: 3 (the mirror was off"), "{told}");
    let order = relay.client().post(format!("http://{}/api/backfill", relay.admin_address()));
    let order = order.header("content-type", "application/json").body(r#"{"upstream":"b","since":"1h"}"#);
    assert!(order.send().await.expect("an answer").status().is_success());
    eventually("b has them", SOON, async || if b.taken_count() == 3 { Ok(()) } else { Err(relay.log()) }).await;
    relay.balanced(SOON).await;
    let report = report_of(&relay).await;
    let category = &report["upstreams"][1]["categories"][0];
    assert_eq!((&category["returned"], &category["delivered"]), (&json!(3), &json!(3)), "{category}");
    assert_eq!(category["backfilled"], 3, "{category}");
    let withheld = criterion(&report, "withheld");
    let found = withheld["found"].as_str().expect("a text");
    assert!(
        withheld["passed"] == true && found.starts_with("0 items, and 3 that a backfill took up since"),
        "{withheld}"
    );
    // Items that are withheld after the backfill count by themselves.
    relay.send_errors(1).await;
    relay.balanced(SOON).await;
    let after = report_of(&relay).await;
    let withheld = criterion(&after, "withheld");
    assert!(
        withheld["passed"] == false && withheld["found"].as_str().expect("a text").starts_with("1 item, and 3 "),
        "{withheld}"
    );
    let text = says(&relay, "report").await;
    let header: Vec<&str> =
        text.lines().find(|line| line.contains("UPSTREAM")).expect("a header").split_whitespace().collect();
    assert_eq!(header[3..8], ["ACCEPTED", "RETURNED", "DELIVERED", "DROPPED", "PENDING"], "{text}");
    let row = text.lines().find(|line| line.trim_start().starts_with("b ")).expect("a row");
    let figures: Vec<u64> = row.split_whitespace().skip(3).take(5).map(|n| n.parse().expect("a number")).collect();
    assert_eq!(figures, [4, 3, 3, 4, 0], "{text}");
    assert!(text.contains("mirror_off 4 (the mirror was off"), "{text}");
    assert!(text.contains("of these taken up by a backfill since: 3"), "{text}");
    let page = net::text(relay.client(), &format!("http://{}/report", relay.admin_address())).await.expect("a page");
    assert!(page.contains(r#"<th scope="row">Returned</th>"#), "{page}");
    relay.finish().await;
}

#[tokio::test]
async fn a_refused_event_that_is_retried_and_delivered_is_no_refusal() {
    let (a, b) = (Upstream::start().await, Upstream::start().await);
    let refused = || Reply::Status(400, vec![], "not today".to_owned());
    b.then([refused(), refused()]);
    let relay = Plan::new(&[("a", a.dsn("key-a", 1)), ("b", b.dsn("key-b", 2))]).start().await;
    relay.send_errors(2).await;
    relay.balanced(SOON).await;
    let before = report_of(&relay).await;
    let criterion_of = |report: &Value| {
        let refused = criterion(report, "refused");
        (refused["passed"].clone(), refused["found"].as_str().expect("a text").to_owned())
    };
    let found = criterion_of(&before).1;
    assert!(found.starts_with("2 items refused for good, 0 answers that our DSN is wrong"), "{found}");
    let letters = net::json(relay.client(), &format!("http://{}/api/dead-letters", relay.admin_address())).await;
    let id = letters.expect("letters")["dead_letters"][0]["id"].clone();
    let retry = |order: Value| {
        let request = relay.client().post(format!("http://{}/api/dead-letters/retry", relay.admin_address()));
        request.header("content-type", "application/json").body(order.to_string()).send()
    };
    // One is refused again and counts again; then both are taken.
    b.then([refused()]);
    assert!(retry(json!({ "ids": [id] })).await.expect("an answer").status().is_success());
    let again = async || match criterion_of(&report_of(&relay).await) {
        (passed, found) if found.starts_with("2 items refused for good and 1 that were retried since,") => Ok(passed),
        found => Err(format!("{found:?}")),
    };
    assert_eq!(eventually("it is refused again", SOON, again).await, false);
    assert!(retry(json!({ "all": true })).await.expect("an answer").status().is_success());
    eventually("b has them", SOON, async || if b.taken_count() == 2 { Ok(()) } else { Err(relay.log()) }).await;
    relay.balanced(SOON).await;
    let after = report_of(&relay).await;
    let (passed, found) = criterion_of(&after);
    let expected = "0 items refused for good and 3 that were retried since, 0 answers that our DSN is wrong";
    assert!(passed == true && found.starts_with(expected), "{found}");
    let category = &after["upstreams"][1]["categories"][0];
    assert_eq!((&category["dropped"]["rejected"], &category["retried"]), (&json!(3), &json!(3)), "{category}");
    assert!(says(&relay, "report").await.contains("of these refused and retried since: 3"));
    assert_eq!(relay.upstream("b").await["lately"]["refused"], 0, "the status says the same");
    relay.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_report_on_a_minute_judges_lag_and_says_when_it_begins() {
    let (a, b) = (Upstream::start().await, Upstream::start().await);
    b.then([Reply::with_header(429, "Retry-After", "30")]);
    let relay = Simulation::start(Plan::new(&[("a", a.dsn("key-a", 1)), ("b", b.dsn("key-b", 2))])).await;
    assert_eq!(relay.send(envelopes::error(&envelopes::new_id())).await, 200);
    relay.quiet(&["a"]).await;
    relay.state("b", "limited").await;
    relay.advance(MINUTE / 2 + Duration::from_secs(1)).await;
    relay.quiet(&["b"]).await;
    relay.advance(MINUTE / 6).await;
    relay.kept(1, 1).await;
    relay.advance(8 * MINUTE).await;
    let report = relay.report("?since=1m").await;
    let lag = criterion(&report, "lag");
    assert_eq!((&lag["passed"], &lag["found"]), (&json!(false), &json!("nothing was delivered")));
    assert_eq!(relay.send(envelopes::error(&envelopes::new_id())).await, 200);
    relay.quiet(&["a", "b"]).await;
    relay.advance(MINUTE / 3).await;
    relay.kept(1, 2).await;
    let report = relay.report("?since=1m").await;
    let lag = criterion(&report, "lag");
    assert_eq!(lag["passed"], true, "{lag}");
    // The lag of half a minute, eight minutes ago, lies in the same hour.
    assert_eq!(criterion(&relay.report("?since=9m").await, "lag")["passed"], false);
    let (_, text) = relay.cli(&["--since", "1m"]).await;
    let told = "counted by whole hours: from 5 Jan 2026, 00:00:00 UTC on; lag and losses are judged from 5 Jan 2026, 00:05:00 UTC on; \
                requests and lags are as of 5 Jan 2026, 00:09:";
    assert!(text.contains(told), "{text}");
    assert_eq!(text.matches("counted").count(), 1, "it is said once: {text}");
    relay.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_verdict_on_minutes_of_48_hours_is_not_ready_anywhere() {
    let (a, b) = (Upstream::start().await, Upstream::start().await);
    let plan = Plan::new(&[("a", a.dsn("key-a", 1)), ("b", b.dsn("key-b", 2))]);
    let relay = Simulation::start(plan.more("[report]\nrequire_stored = false")).await;
    // The relay waits for its services for two hours, which show nothing.
    relay.advance(2 * HOUR).await;
    for _ in 0..3 {
        relay.advance(Duration::from_secs(1)).await;
        relay.status_page().await;
    }
    assert_eq!(relay.send(envelopes::error(&envelopes::new_id())).await, 200);
    relay.quiet(&["a", "b"]).await;
    relay.advance(MINUTE / 6).await;
    relay.kept(1, 1).await;
    relay.advance(12 * MINUTE).await;
    let told = "not ready: b was seen for 12 min of 48 h only, and meets the other 8 criteria; not judged: canary";
    let report = relay.report("").await;
    assert_eq!(report["verdict"], told);
    let seen = criterion(&report, "seen");
    assert_eq!(seen["found"], "12 min 13 s of 48 h; enough at 6 Jan 2026, 23:36:00 UTC", "{seen}");
    let canary = criterion(&report, "canary");
    assert_eq!((&canary["passed"], &canary["judged"]), (&json!(true), &json!(false)), "{canary}");
    let (code, text) = relay.cli(&[]).await;
    assert!(code == 1 && text.contains(told) && text.contains("not judged  "), "{text}");
    let page = relay.page().await;
    assert!(page.contains(told) && page.contains("not judged</td>"), "{page}");
    let status = relay.status_page().await;
    assert!(status.contains("▲ Not yet</b>") && status.contains("b was seen for 12 min of 48 h only"), "{status}");
    // The 12 minutes by themselves are fine.
    let (code, text) = relay.cli(&["--since", "12m"]).await;
    assert!(code == 0 && text.contains("; seen for 12 min; not judged: canary"), "{text}");
    relay.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_window_older_than_the_relay_counts_from_its_first_start() {
    let (a, b) = (Upstream::start().await, Upstream::start().await);
    let plan = Plan::new(&[("a", a.dsn("key-a", 1)), ("b", b.dsn("key-b", 2))]);
    let mut relay = Simulation::start(plan).await;
    relay.advance(HOUR).await;
    let report = relay.report("?since=48h").await;
    let uptime = criterion(&report, "uptime");
    assert!(uptime["passed"] == true && report["relay"]["window_seconds"] == 3600.0, "{uptime}");
    let found = uptime["found"].as_str().expect("a text");
    assert!(found.ends_with(", from its first start at 5 Jan 2026, 00:00:00 UTC on"), "{found}");
    let (_, text) = relay.cli(&["--since", "48h"]).await;
    assert!(text.contains("of 1 h since its first start at 5 Jan 2026, 00:00:00 UTC"), "{text}");
    // An hour without the relay counts in every window that overlaps it.
    relay.restart(HOUR).await;
    // Status and page show it for two hours.
    let status = relay.status_page().await;
    assert!(status.contains("items, and what came in 60 min without the relay, which nobody can count"), "{status}");
    assert!(status.contains("the relay did not run for 60 min in the last two hours"), "{status}");
    relay.advance(HOUR).await;
    for (query, window) in [("?since=48h", 3.0 * 3600.0), ("?since=90m", 1.5 * 3600.0)] {
        let report = relay.report(query).await;
        assert_eq!(report["relay"]["window_seconds"], window, "{query}");
        assert_eq!(criterion(&report, "uptime")["passed"], false, "{query}");
    }
    // Nobody can count what services sent in that hour, and the report says so.
    let report = relay.report("?since=48h").await;
    assert_eq!(report["relay"]["gaps"], json!([{ "from": "2026-01-05T01:00:00Z", "to": "2026-01-05T02:00:00Z" }]));
    let lost = criterion(&report, "lost")["found"].as_str().expect("a text").to_owned();
    let uncounted = "and what services sent in the 60 min without the relay, which nobody can count";
    assert!(lost.contains(uncounted), "{lost}");
    let gap =
        "it did not run from 5 Jan 2026, 01:00:00 UTC to 5 Jan 2026, 02:00:00 UTC: what services sent then is lost";
    let (_, text) = relay.cli(&["--since", "48h"]).await;
    assert!(text.contains(gap), "{text}");
    let page = relay.page().await;
    assert!(page.contains("It did not run from") && page.contains("nobody can count it"), "{page}");
    // The gap counts until it is older than the window.
    let uptime = criterion(&report, "uptime");
    assert_eq!(uptime["until"], "2026-01-07T02:00:00Z", "{uptime}");
    assert!(
        uptime["found"].as_str().expect("a text").ends_with("; counts until 7 Jan 2026, 02:00:00 UTC at the latest")
    );
    relay.stop().await;
}

#[tokio::test]
async fn a_service_expected_later_has_its_history_and_its_project() {
    const WEB: &str = "0123456789abcdef0123456789abcdef";
    let (a, b) = (Upstream::start().await, Upstream::start().await);
    let dsns = format!("a = \"{}\"\nb = \"{}\"", a.dsn("key-w", 3), b.dsn("key-x", 4));
    let web = format!("[[projects]]\nname = \"web\"\nid = \"2\"\npublic_key = \"{WEB}\"\n[projects.upstreams]\n{dsns}");
    let plan = Plan::new(&[("a", a.dsn("key-a", 1)), ("b", b.dsn("key-b", 2))]).more(&web);
    let relay = plan.start().await;
    let event = |name: &str| {
        let payload = format!(r#"{{"message":"x","server_name":"{name}"}}"#);
        envelopes::envelope(&envelopes::new_id(), "event", &payload)
    };
    for name in ["svc-a", "svc-both"] {
        assert_eq!(relay.send(event(name)).await.status(), 200);
    }
    // A client with the key of `web` may claim to be `svc-b` or `shop`.
    for name in ["svc-b", "svc-both", "shop/svc-b"] {
        let sent = relay.post(&format!("/api/2/envelope/?sentry_key={WEB}"), event(name)).send().await;
        assert_eq!(sent.expect("an answer").status(), 200);
    }
    let text = std::fs::read_to_string(relay.config()).expect("the configuration");
    let expect = r#"expect = ["shop", "svc-a", "shop/svc-a", "svc-b", "svc-both", "shop/svc-b", "svc-c"]"#;
    relay.replace_config(&format!("{text}\n[report]\n{expect}\n"));
    let service =
        |name: &str, projects: &[&str]| json!({ "name": name, "seen": !projects.is_empty(), "projects": projects });
    let expected = json!([
        service("shop", &["shop"]),
        service("svc-a", &["shop"]),
        service("shop/svc-a", &["shop"]),
        service("svc-b", &["web"]),
        service("svc-both", &["shop", "web"]),
        service("shop/svc-b", &[]),
        service("svc-c", &[]),
    ]);
    eventually("the services are seen", 3 * SOON, async || {
        let services = report_of(&relay).await["services"].clone();
        if services == expected { Ok(()) } else { Err(format!("{services:#}")) }
    })
    .await;
    let text = says(&relay, "report").await;
    assert!(text.contains("nothing from shop/svc-b, svc-c"), "{text}");
    relay.finish().await;
}

#[tokio::test]
async fn a_service_is_seen_wherever_its_name_stands_and_after_many_others() {
    let (a, b) = (Upstream::start().await, Upstream::start().await);
    let relay = Plan::new(&[("a", a.dsn("key-a", 1)), ("b", b.dsn("key-b", 2))]).start().await;
    let event = |padding: usize, name: &str| {
        let payload = format!(r#"{{"message":"{}","server_name":"{name}"}}"#, "x".repeat(padding));
        envelopes::envelope(&envelopes::new_id(), "event", &payload)
    };
    for n in 0..100 {
        assert_eq!(relay.send(event(0, &format!("pod-{n}"))).await.status(), 200);
    }
    assert_eq!(relay.send(event(200_000, "svc-deep")).await.status(), 200);
    let attachment = format!("{{\"type\":\"attachment\",\"length\":2000000}}\n{}\n", "y".repeat(2_000_000));
    let large = event(0, "svc-large");
    let (header, item) = large.split_once('\n').expect("an envelope");
    assert_eq!(relay.send(format!("{header}\n{attachment}{item}")).await.status(), 200);
    let text = std::fs::read_to_string(relay.config()).expect("the configuration");
    let expect = r#"expect = ["pod-3", "pod-99", "shop/pod-98", "svc-deep", "svc-large", "svc-none"]"#;
    relay.replace_config(&format!("{text}\n[report]\n{expect}\n"));
    let told = async || {
        let services = report_of(&relay).await["services"].clone();
        let silent = services.as_array().expect("services").iter().filter(|service| service["seen"] == false);
        silent.map(|service| service["name"].as_str().expect("a name").to_owned()).collect::<Vec<_>>()
    };
    eventually("the services are seen", 3 * SOON, async || match told().await {
        silent if silent == ["svc-none"] => Ok(()),
        silent => Err(format!("{silent:?}")),
    })
    .await;
    // A service that sends from now on is noted at once.
    assert_eq!(relay.send(event(0, "svc-none")).await.status(), 200);
    eventually("all are seen", 3 * SOON, async || match told().await {
        silent if silent.is_empty() => Ok(()),
        silent => Err(format!("{silent:?}")),
    })
    .await;
    relay.finish().await;
}

#[tokio::test]
async fn a_limit_on_everything_is_one_line() {
    let (a, b) = (Upstream::start().await, Upstream::start().await);
    b.then([Reply::with_header(429, "Retry-After", "3")]);
    let relay = Plan::new(&[("a", a.dsn("key-a", 1)), ("b", b.dsn("key-b", 2))]).start().await;
    relay.send_errors(1).await;
    eventually("it is limited", SOON, async || {
        let told = says(&relay, "status").await;
        let lines: Vec<&str> = told.lines().filter(|line| line.contains("limited:")).collect();
        match lines.as_slice() {
            [one] if one.contains("limited: everything until ") => Ok(()),
            _ => Err(told),
        }
    })
    .await;
    relay.finish().await;
}
