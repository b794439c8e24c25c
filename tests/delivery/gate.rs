//! Gates before a tracker that demand headers of their own: an access gateway, HTTP Basic.

use std::process::Command;
use std::sync::{Arc, Mutex};

use crate::support::eventually::eventually;
use crate::support::net;
use crate::support::relay::{Plan, Relay, SOON};
use crate::support::upstream::{Reply, Seen, Upstream};

const ID: &str = "service-of-the-relay.access";
const SECRET: &str = "5ec4e7-of-the-gate";

/// Puts a gate before the upstream. It refuses every request without its header and repeats what it was sent. Returns the paths of refused
/// requests.
fn gate(upstream: &Upstream, inside: impl Fn(&Seen) -> Option<Reply> + Send + 'static) -> Arc<Mutex<Vec<String>>> {
    let turned_away: Arc<Mutex<Vec<String>>> = Arc::default();
    let noted = Arc::clone(&turned_away);
    upstream.when(move |seen| {
        let sent = seen.headers.get("cf-access-client-secret").map_or("", |value| value.to_str().expect("text"));
        if sent == SECRET && seen.headers["cf-access-client-id"] == ID {
            return inside(seen);
        }
        noted.lock().expect("no panic").push(seen.path.clone());
        Some(Reply::Status(403, vec![], format!("not let in with '{sent}'")))
    });
    turned_away
}

fn holds(seen: &Seen, word: &str) -> bool {
    String::from_utf8_lossy(&seen.body).contains(word)
}

fn with_headers(plan: Plan, secret: &str) -> Plan {
    let headers = format!("{{ CF-Access-Client-Id = \"{ID}\", CF-Access-Client-Secret = \"{secret}\" }}");
    plan.upstream("a", &format!("headers = {headers}"))
}

async fn check_online(relay: &Relay) -> String {
    let config = relay.config();
    let run = move || {
        let mut check = Command::new(env!("CARGO_BIN_EXE_switchyard"));
        check.args(["check", "--online", "--json", "--config"]).arg(config).output().expect("the binary")
    };
    let output = tokio::task::spawn_blocking(run).await.expect("the verb ends");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstreams_headers_go_with_every_request_to_it_alone() {
    let (a, b) = (Upstream::start().await, Upstream::start().await);
    let is_broken = Arc::new(Mutex::new(false));
    let (broken, limited) = (Arc::clone(&is_broken), Mutex::new(true));
    let turned_away = gate(&a, move |seen| {
        // Only a service's event is limited: the relay's own items are in no client report.
        if holds(seen, "a message") && std::mem::take(&mut *limited.lock().expect("no panic")) {
            return Some(Reply::with_header(429, "retry-after", "1"));
        }
        broken.lock().expect("no panic").then(|| Reply::status(503))
    });
    let plan = Plan::new(&[("a", a.dsn("key-a", 11)), ("b", b.dsn("key-b", 22))])
        .upstream("a", "client_reports = \"1s\"\non_rate_limit = \"drop\"")
        .more("[canary]\ninterval = \"3s\"\ntimeout = \"2s\"")
        .api("a", "glitchtip", Some("org/shop"), "of-the-api");
    let relay = with_headers(plan, SECRET).start().await;
    // Deliveries, a client report about dropped items, and canaries that are read back.
    relay.send_errors(3).await;
    let saw = async |what: &str, is_it: &dyn Fn(&Seen) -> bool| {
        let arrived = async || if a.seen().iter().any(is_it) { Ok(()) } else { Err(relay.log()) };
        eventually(what, SOON, arrived).await;
    };
    saw("a delivery", &|seen| holds(seen, "a message")).await;
    saw("a report", &|seen| holds(seen, "client_report")).await;
    saw("a read-back", &|seen| seen.path.starts_with("/api/0/projects/org/shop/events/")).await;
    // A request that is passed on to the primary.
    let asked = format!("http://{}/api/0/organizations/", relay.address());
    assert_eq!(relay.client().get(asked).send().await.expect("an answer").status(), 200);
    saw("what is passed on", &|seen| seen.path == "/api/0/organizations/").await;
    // Probes of `check`.
    let found = check_online(&relay).await;
    assert!(found.contains("takes the key"), "{found}");
    // The probe of the circuit breaker.
    let before = a.questions();
    *is_broken.lock().expect("no panic") = true;
    relay.send_errors(10).await;
    eventually("the circuit asks", SOON * 3, async || if a.questions() > before { Ok(()) } else { Err(relay.log()) })
        .await;
    *is_broken.lock().expect("no panic") = false;
    assert_eq!(*turned_away.lock().expect("no panic"), Vec::<String>::new());
    assert!(b.seen().iter().all(|seen| !seen.headers.contains_key("cf-access-client-id")), "not to another upstream");
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_applies_new_headers_to_the_backlog_and_shows_no_value() {
    const WRONG: &str = "5ec4e7-that-expired";
    let a = Upstream::start().await;
    let turned_away = gate(&a, |_| None);
    let relay = with_headers(Plan::new(&[("a", a.dsn("key-a", 11))]), WRONG).start().await;
    relay.send_errors(3).await;
    eventually("it is not let in", SOON, async || match relay.upstream("a").await {
        upstream if upstream["state"] == "misconfigured" => Ok(()),
        upstream => Err(upstream.to_string()),
    })
    .await;
    assert!(!turned_away.lock().expect("no panic").is_empty());
    let found = check_online(&relay).await;
    assert!(found.contains("not let in with '***'"), "{found}");
    let page = net::text(relay.client(), &format!("http://{}/", relay.admin_address())).await.expect("the page");
    let mut shown = vec![page, relay.status().await.to_string(), relay.metrics().await.expect("metrics"), found];
    assert!(shown[1].contains("not let in with '***'"), "{}", shown[1]);
    let config = std::fs::read_to_string(relay.config()).expect("the configuration");
    relay.replace_config(&config.replace(WRONG, SECRET));
    relay.balanced(SOON).await;
    assert_eq!(a.taken_count(), 3);
    shown.push(relay.log());
    assert!(relay.log().contains("upstreams.a.headers.CF-Access-Client-Secret changed"), "{}", relay.log());
    for text in shown {
        assert!(!text.contains(WRONG) && !text.contains(SECRET), "{text}");
    }
    relay.finish().await;
}
