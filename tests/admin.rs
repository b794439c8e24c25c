//! The operator's view: health, the status page, and switching the primary through the admin listener.
//!
//! Rule: every request goes through the listeners of the real daemon, and every test ends with balanced accounts and an orderly stop.

#[path = "admin/doors.rs"]
mod doors;
#[path = "admin/pages.rs"]
mod pages;
mod support;
#[path = "admin/truth.rs"]
mod truth;

use std::fs;

use reqwest::{Response, StatusCode};
use serde_json::{Value, json};
use support::envelopes;
use support::eventually::eventually;
use support::net;
use support::relay::{Plan, Relay, SOON};
use support::upstream::{Reply, Upstream};

const TOKEN: &str = "a-token-of-the-operators";

async fn two_upstreams() -> (Upstream, Upstream, Plan) {
    let (old, new) = (Upstream::start().await, Upstream::start().await);
    let plan = Plan::new(&[("old", old.dsn("0ld", 1)), ("new", new.dsn("4e3", 2))]);
    (old, new, plan)
}

/// Adds comments beside `primary` in the configuration and waits until it is loaded; returns its text.
async fn with_comments(relay: &Relay) -> String {
    let before = fs::read_to_string(relay.config()).expect("the file");
    let commented = before.replacen("primary = \"old\"", "# who is trusted\nprimary =   \"old\" # since 2019", 1);
    relay.replace_config(&commented);
    eventually("the comments are loaded", SOON, async || {
        if relay.log().contains("the configuration was reloaded") { Ok(()) } else { Err(relay.log()) }
    })
    .await;
    commented
}

async fn get(relay: &Relay, path: &str) -> (StatusCode, String) {
    let response =
        relay.client().get(format!("http://{}{path}", relay.admin_address())).send().await.expect("an answer");
    (response.status(), response.text().await.expect("a body"))
}

/// A `POST /api/primary` with these headers.
async fn order(relay: &Relay, headers: &[(&str, &str)], body: &Value) -> Response {
    let mut request = relay.client().post(format!("http://{}/api/primary", relay.admin_address())).json(body);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.send().await.expect("an answer")
}

#[tokio::test]
async fn an_upstreams_outage_changes_neither_liveness_nor_readiness() {
    let (mut old, new, plan) = two_upstreams().await;
    let relay = plan.start().await;
    old.go_down().await;
    relay.send_errors(3).await;
    eventually("the outage is known", SOON, async || {
        match relay.upstream("old").await["last_error"].is_null() {
            true => Err("no error yet"),
            false => Ok(()),
        }
        .map_err(str::to_owned)
    })
    .await;
    assert_eq!(get(&relay, "/healthz").await, (StatusCode::OK, "alive\n".into()));
    assert_eq!(get(&relay, "/readyz").await, (StatusCode::OK, "ready\n".into()));
    for path in [
        "/api/relay/healthcheck/live/",
        "/api/relay/healthcheck/ready/",
        "/api/relay/healthcheck/live",
        "//api/relay/healthcheck/ready",
    ] {
        let healthy = net::json(relay.client(), &format!("http://{}{path}", relay.address())).await;
        assert_eq!(healthy, Ok(json!({ "is_healthy": true })), "{path}");
    }
    assert_eq!(get(&relay, "/elsewhere").await.0, StatusCode::NOT_FOUND);
    // The admin listener takes no submissions, and the public one shows no metrics.
    let submission = relay.client().post(format!("http://{}/api/1/envelope/", relay.admin_address())).body("{}");
    assert_eq!(submission.send().await.expect("an answer").status(), 404);
    assert!(net::text(relay.client(), &format!("http://{}/metrics", relay.address())).await.is_err());
    old.come_back().await;
    relay.finish().await;
    assert_eq!((old.taken_count(), new.taken_count()), (3, 3));
}

#[tokio::test]
async fn a_full_disk_makes_a_relay_unready_but_keeps_it_alive() {
    let (old, new, plan) = two_upstreams().await;
    let mut relay = plan.journal("min_free_disk = \"1000TiB\"").prepare();
    relay.launch();
    let (health, client) = (format!("http://{}/healthz", relay.admin_address()), relay.client().clone());
    eventually("it is alive", SOON, async || net::text(&client, &health).await).await;

    let (status, why) = get(&relay, "/readyz").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(why.contains("min_free_disk"), "{why}");
    let probe =
        |path: &str| relay.client().get(format!("http://{}/api/relay/healthcheck/{path}/", relay.address())).send();
    assert_eq!(probe("live").await.expect("an answer").status(), 200);
    let ready = probe("ready").await.expect("an answer");
    assert_eq!(ready.status(), 503);
    assert_eq!(ready.json::<Value>().await.expect("JSON"), json!({ "is_healthy": false }));

    for _ in 0..3 {
        let refusal = relay.send(envelopes::error(&envelopes::new_id())).await;
        assert_eq!(refusal.status(), 503);
        assert_eq!(refusal.headers()["retry-after"], "30");
        let refusal: Value = refusal.json().await.expect("JSON");
        let detail = refusal["detail"].as_str().expect("a detail");
        assert!(!detail.contains("journal.db") && !detail.contains("TiB"), "paths and sizes are for the log: {detail}");
    }
    assert_eq!(
        relay.samples().await.expect("metrics").sum("switchyard_refused_requests_total", &[("reason", "journal_full")]),
        3.0
    );
    let status = relay.status().await;
    assert_eq!(status["ready"], false);
    assert!(status["not_ready"].as_str().expect("a reason").contains("min_free_disk"), "{status}");
    assert!(get(&relay, "/").await.1.contains("nothing is accepted, "));
    let told = "3 submissions were refused with 503 in the last two hours (journal_full)";
    let health = refused(&relay, "journal_full", 3).await;
    assert!(health["sentence"].as_str().expect("a sentence").contains(told), "{health}");
    // An event that was refused for want of room is no repeat later: nothing was kept of it.
    relay.finish().await;
    assert_eq!((old.seen().len(), new.seen().len()), (0, 0));
}

/// The health once so many requests are told that were refused for this reason.
async fn refused(relay: &Relay, reason: &str, requests: u64) -> Value {
    eventually("the refusals are told", SOON * 3, async || {
        let status = relay.status().await;
        if status["refused_requests"][reason] == requests {
            Ok(status["health"].clone())
        } else {
            Err(status.to_string())
        }
    })
    .await
}

#[tokio::test]
async fn a_key_that_nobody_has_is_told_and_not_all_is_well() {
    let (_old, _new, plan) = two_upstreams().await;
    let relay = plan.start().await;
    let wrong = "/api/1/envelope/?sentry_key=0000000000000000000000000000bad1";
    assert_eq!(relay.post(wrong, "{}").send().await.expect("an answer").status(), 403);
    let health = refused(&relay, "unknown_project", 1).await;
    let told = "Degraded: 1 request was refused in the last two hours for a key or project that is not configured, see the log.";
    assert_eq!(health, json!({ "level": "degraded", "sentence": told }));
    let (_, page) = get(&relay, "/").await;
    assert!(
        page.contains("Requests refused in the last two hours") && page.contains("<td>unknown project</td>"),
        "{page}"
    );
    relay.finish().await;
}

#[tokio::test]
async fn the_status_page_shows_the_primary_the_upstreams_and_the_backlog() {
    let (old, new, plan) = two_upstreams().await;
    new.always(Reply::Status(503, vec![], "<script>alert(1)</script>".to_owned()));
    let relay = plan.start().await;
    relay.send_errors(5).await;
    let page = eventually("the page tells of the outage", SOON, async || {
        let (_, page) = get(&relay, "/").await;
        if page.contains("503 Service Unavailable") { Ok(page) } else { Err(page) }
    })
    .await;
    let response = relay.client().get(format!("http://{}/", relay.admin_address())).send().await.expect("an answer");
    assert_eq!(response.headers()["content-type"], "text/html; charset=utf-8");
    assert!(response.headers()["content-security-policy"].to_str().expect("a policy").contains("default-src 'none'"));
    assert!(page.contains("<dt>Primary</dt><dd><b>old</b></dd>") && page.contains("mirror on"), "{page}");
    assert!(page.contains("<b>new</b>") && page.contains("shadow"), "{page}");
    assert!(
        page.contains("&lt;script&gt;") && !page.contains("<script>alert"),
        "what an upstream says is only text: {page}"
    );
    let backlog = relay.upstream("new").await["backlog"].clone();
    assert_eq!(backlog["envelopes"], 5);
    assert!(
        backlog["bytes"].as_u64().expect("bytes") > 500 && backlog["oldest_seconds"].as_f64().expect("an age") > 0.0
    );
    assert!(page.contains("<dd>5<span class=\"muted\">, the oldest "), "{page}");
    assert!(page.contains("Degraded</h2>") && page.contains("http-equiv=\"refresh\" content=\"60\""), "{page}");
    eventually("the primary has all", SOON, async || match old.taken_count() {
        5 => Ok(()),
        n => Err(n.to_string()),
    })
    .await;
    new.always(Reply::Ok);
    relay.balanced(SOON * 2).await;
    let account = relay.upstream("new").await["accounts"][0].clone();
    let expected = json!({"project": "shop", "category": "error", "accepted": 5, "returned": 0, "delivered": 5, "dropped": {},
        "pending": 0, "difference": 0, "stored": 0, "missing": 0, "lost": 0});
    assert_eq!(account, expected);
    relay.finish().await;
}

#[tokio::test]
async fn an_order_switches_the_primary_and_is_kept_with_its_reason() {
    let (old, new, plan) = two_upstreams().await;
    let relay = plan.top("mirror = false   # the old one is paid by the event").start().await;
    let commented = with_comments(&relay).await;
    relay.send_errors(2).await;

    let answer = order(&relay, &[], &json!({"to": "new", "reason": "48 hours are over", "author": "Kim"})).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.json::<Value>().await.expect("JSON"), json!({"primary": "new"}));
    // The switch is live before the answer.
    assert_eq!(relay.status().await["primary"], "new");
    relay.send_errors(3).await;
    relay.balanced(SOON).await;
    assert_eq!((old.taken_count(), new.taken_count()), (2, 3));
    let after = fs::read_to_string(relay.config()).expect("the file");
    assert_eq!(after, commented.replacen("\"old\" # since", "\"new\" # since", 1), "every other byte stays");

    let switches = relay.status().await["switches"].clone();
    assert_eq!(switches.as_array().expect("switches").len(), 1, "{switches}");
    let switch = &switches[0];
    assert_eq!((&switch["from"], &switch["to"]), (&json!("old"), &json!("new")));
    assert_eq!((&switch["reason"], &switch["author"]), (&json!("48 hours are over"), &json!("Kim")));
    let (_, page) = get(&relay, "/").await;
    assert!(page.contains("48 hours are over") && page.contains("Kim"), "{page}");
    let samples = relay.samples().await.expect("metrics");
    assert_eq!(samples.sum("switchyard_switches_total", &[]), 1.0);
    assert_eq!(samples.sum("switchyard_primary", &[("upstream", "new")]), 1.0);
    assert_eq!(samples.sum("switchyard_primary", &[("upstream", "old")]), 0.0);
    assert!(samples.sum("switchyard_last_switch_timestamp_seconds", &[]) > 1.0e9);
    assert!(relay.log().contains("48 hours are over"), "{}", relay.log());

    // An order to the current primary is no switch.
    assert_eq!(order(&relay, &[], &json!({"to": "new"})).await.status(), 200);
    assert_eq!(relay.status().await["switches"].as_array().expect("switches").len(), 1);
    // A switch by hand is kept too, without the reason of an earlier order.
    relay.replace_config(&commented);
    eventually("the way back is live and kept", SOON, async || {
        let status = relay.status().await;
        let is_kept = status["switches"].as_array().is_some_and(|switches| switches.len() == 2);
        if status["primary"] == "old" && is_kept { Ok(()) } else { Err(status.to_string()) }
    })
    .await;
    let back = relay.status().await["switches"][0].clone();
    assert_eq!((&back["to"], &back["reason"], &back["author"]), (&json!("old"), &Value::Null, &Value::Null));
    relay.finish().await;
}

#[tokio::test]
async fn an_announced_reason_waits_for_its_edit_through_other_reloads() {
    let (_old, _new, plan) = two_upstreams().await;
    let relay = plan.start().await;
    let announced = json!({"to": "new", "reason": "as agreed", "author": "Kim", "announced": true});
    assert_eq!(order(&relay, &[], &announced).await.status(), 200);
    assert_eq!(relay.status().await["primary"], "old", "nothing is switched before the edit");
    let before = fs::read_to_string(relay.config()).expect("the file");
    relay.replace_config(&format!("{before}\n# somebody else's line\n"));
    eventually("the other edit is loaded", SOON, async || {
        if relay.log().contains("the configuration was reloaded") { Ok(()) } else { Err(relay.log()) }
    })
    .await;
    relay.flip_to("new").await;
    eventually("the switch is kept with its reason", SOON, async || {
        let switch = relay.status().await["switches"][0].clone();
        let is_kept = (&switch["reason"], &switch["author"]) == (&json!("as agreed"), &json!("Kim"));
        if is_kept { Ok(()) } else { Err(switch.to_string()) }
    })
    .await;
    relay.finish().await;
}

#[tokio::test]
async fn an_order_that_cannot_be_carried_out_changes_nothing() {
    let (_old, _new, plan) = two_upstreams().await;
    let relay = plan.start().await;
    let before = fs::read_to_string(relay.config()).expect("the file");
    let unknown = order(&relay, &[], &json!({"to": "newer"})).await;
    assert_eq!(unknown.status(), 409);
    let detail = unknown.json::<Value>().await.expect("JSON")["detail"].as_str().expect("a detail").to_owned();
    assert!(["\"newer\"", "new", "old"].iter().all(|name| detail.contains(name)), "{detail}");
    for body in [json!({}), json!({"to": 1}), json!({"to": "new", "force": true})] {
        assert!(order(&relay, &[], &body).await.status().is_client_error(), "{body}");
    }
    let get =
        relay.client().get(format!("http://{}/api/primary", relay.admin_address())).send().await.expect("an answer");
    assert_eq!(get.status(), 405);
    // An order leaves a broken file as it is.
    relay.replace_config(&format!("{before}\nnonsense = = 1\n"));
    let broken = order(&relay, &[], &json!({"to": "new"})).await;
    assert_eq!(broken.status(), 409);
    assert_eq!(fs::read_to_string(relay.config()).expect("the file"), format!("{before}\nnonsense = = 1\n"));
    assert_eq!(relay.status().await["primary"], "old");
    // An order takes back an edit with which the file could not be used.
    let with_third = format!("{before}\n[upstreams.third]   # no project has a DSN there\n");
    relay.replace_config(&with_third);
    eventually("the third upstream is there", SOON, async || match relay.status().await["upstreams"].clone() {
        all if all.as_array().is_some_and(|all| all.len() == 3) => Ok(()),
        all => Err(all.to_string()),
    })
    .await;
    let unusable = order(&relay, &[], &json!({"to": "third"})).await;
    assert_eq!(unusable.status(), 409);
    let why = unusable.text().await.expect("a body");
    assert!(why.contains("this project has no DSN at its primary"), "{why}");
    assert_eq!(fs::read_to_string(relay.config()).expect("the file"), with_third);
    let status = relay.status().await;
    assert_eq!((&status["primary"], &status["config"]["error"]), (&json!("old"), &Value::Null));
    relay.finish().await;
}

#[tokio::test]
async fn a_browser_changes_nothing_without_the_token() {
    let (_old, _new, plan) = two_upstreams().await;
    let relay = plan.admin(&format!("token = \"{TOKEN}\"")).start().await;
    let to_new = json!({"to": "new"});
    let bearer = format!("Bearer {TOKEN}");
    let origin = format!("http://{}", relay.admin_address());
    for headers in [
        vec![("origin", "https://elsewhere.example")],
        vec![("origin", origin.as_str())],
        vec![("sec-fetch-site", "same-origin")],
        vec![("referer", "https://elsewhere.example/page")],
        vec![("origin", "null"), ("authorization", "Bearer wrong")],
        vec![("origin", "null"), ("authorization", TOKEN)],
        vec![],
    ] {
        let refused = order(&relay, &headers, &to_new).await;
        assert_eq!(refused.status(), 403, "{headers:?}");
        assert!(refused.text().await.expect("a body").contains("token"), "{headers:?}");
    }
    // A form needs no preflight, so its content type must be refused as well.
    let form = relay.client().post(format!("http://{}/api/primary", relay.admin_address())).body("{\"to\":\"new\"}");
    let form = form.bearer_auth(TOKEN);
    assert_eq!(form.header("content-type", "text/plain").send().await.expect("an answer").status(), 415);
    assert_eq!(relay.status().await["primary"], "old");
    let taken = order(&relay, &[("origin", "https://elsewhere.example"), ("authorization", &bearer)], &to_new).await;
    assert_eq!(taken.status(), 200);
    assert_eq!(relay.status().await["primary"], "new");
    assert!(!relay.log().contains(TOKEN));
    relay.finish().await;
}
