//! The report: every number is compared with the upstreams' records over 48 simulated hours. The accounts behind it balance whatever
//! happens.

mod support;

#[path = "report/caps.rs"]
mod caps;
#[allow(dead_code, reason = "each test crate uses its part")]
#[path = "peers/install.rs"]
mod install;
#[path = "report/pages.rs"]
mod pages;
#[path = "report/refusals.rs"]
mod refusals;
#[path = "report/simulation.rs"]
mod simulation;
#[path = "report/stored.rs"]
mod stored;
#[path = "report/time.rs"]
mod time;
#[path = "report/words.rs"]
mod words;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::Value;
use simulation::Simulation;
use support::envelopes;
use support::eventually::eventually;
use support::relay::{Plan, SOON};
use support::upstream::{Reply, Seen, Upstream};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const BOTH: [&str; 2] = ["sentry", "glitchtip"];

/// The test's own record of what happened in the simulation.
#[derive(Default)]
struct Diary {
    /// The time of sending in milliseconds and the category of each envelope, by event id.
    sent: BTreeMap<String, (u64, &'static str)>,
    repeats: u64,
    refused_requests: u64,
}

impl Diary {
    async fn error(&mut self, relay: &Simulation) -> String {
        self.send(relay, "event", "error").await
    }

    async fn transaction(&mut self, relay: &Simulation) -> String {
        self.send(relay, "transaction", "transaction").await
    }

    async fn send(&mut self, relay: &Simulation, kind: &str, category: &'static str) -> String {
        let id = envelopes::new_id();
        let payload = r#"{"message":"x","release":"api@1.2.3"}"#;
        assert_eq!(relay.send(envelopes::envelope(&id, kind, payload)).await, 200);
        self.sent.insert(id.clone(), (relay.now(), category));
        id
    }

    fn count(&self, category: &str) -> u64 {
        self.sent.values().filter(|(_, of)| *of == category).count() as u64
    }
}

/// An hour of traffic in steps of 20 minutes; each step ends before the next begins.
async fn an_hour(relay: &Simulation, diary: &mut Diary, upstreams: &[&str]) {
    for _ in 0..3 {
        diary.error(relay).await;
        diary.transaction(relay).await;
        relay.quiet(upstreams).await;
        relay.advance(20 * MINUTE).await;
    }
}

/// The seconds from sending each envelope to its 2xx at an upstream, sorted.
fn lags(relay: &Simulation, diary: &Diary, upstream: &Upstream) -> Vec<f64> {
    let lag = |seen: &Seen| (relay.at(seen.at) - diary.sent[&seen.event_id()].0) as f64 / 1000.0;
    let mut lags: Vec<f64> = upstream.taken().iter().map(lag).collect();
    lags.sort_by(f64::total_cmp);
    lags
}

fn assert_near(told: &Value, exact: f64, what: &str) {
    let told = told.as_f64().unwrap_or_else(|| panic!("{what}: {told}"));
    assert!((told - exact).abs() <= exact / 64.0 + 0.001, "{what}: {told} in place of {exact}");
}

fn ids(missed: &Value) -> BTreeSet<String> {
    let sample = missed["sample"].as_array().expect("a list").iter();
    sample.map(|one| one["event_id"].as_str().expect("a text").to_owned()).collect()
}

fn of<'a>(report: &'a Value, name: &str) -> &'a Value {
    report["upstreams"]
        .as_array()
        .expect("a list")
        .iter()
        .find(|upstream| upstream["name"] == name)
        .expect("the upstream")
}

/// The names of the criteria that fail.
fn failed(report: &Value) -> Vec<&str> {
    let all = report["criteria"].as_array().expect("a list").iter();
    all.filter(|one| one["passed"] == false).map(|one| one["name"].as_str().expect("a text")).collect()
}

#[tokio::test(start_paused = true)]
async fn every_number_of_a_report_is_what_the_upstreams_recorded() {
    let (sentry, mut glitchtip) = (Upstream::start().await, Upstream::start().await);
    let plan = Plan::new(&[("sentry", sentry.dsn("key-a", 1)), ("glitchtip", glitchtip.dsn("key-b", 2))])
        .journal(r#"retain = "72h""#)
        .more("[report]\nrequire_stored = false\nexpect = [\"shop\", \"api\"]");
    let mut relay = Simulation::start(plan).await;
    let mut diary = Diary::default();

    for _ in 0..6 {
        an_hour(&relay, &mut diary, &BOTH).await;
    }
    // An outage of three hours at the candidate; seven envelopes at once open its circuit.
    glitchtip.go_down().await;
    let outage_from = relay.now();
    for _ in 0..7 {
        diary.error(&relay).await;
    }
    relay.quiet(&["sentry"]).await;
    relay.state("glitchtip", "down").await;
    for _ in 0..3 {
        an_hour(&relay, &mut diary, &["sentry"]).await;
    }
    glitchtip.come_back().await;
    relay.drained("glitchtip", &glitchtip, diary.sent.len()).await;
    let back = glitchtip.taken().into_iter().map(|seen| relay.at(seen.at)).find(|at| *at > outage_from).unwrap();
    // A quota: the candidate takes nothing for an hour.
    glitchtip.then([Reply::with_header(429, "Retry-After", "3600")]);
    diary.error(&relay).await;
    relay.state("glitchtip", "limited").await;
    an_hour(&relay, &mut diary, &["sentry"]).await;
    relay.drained("glitchtip", &glitchtip, diary.sent.len()).await;
    // A repeat, an invalid request, and an envelope that each upstream refuses.
    let again = diary.error(&relay).await;
    assert_eq!(relay.send(envelopes::error(&again)).await, 200);
    assert_eq!(relay.send("no envelope").await, 400);
    (diary.repeats, diary.refused_requests) = (1, 1);
    relay.quiet(&BOTH).await;
    glitchtip.then([Reply::Status(400, vec![], "will not".into())]);
    let missed_by_glitchtip = diary.error(&relay).await;
    relay.quiet(&BOTH).await;
    sentry.then([Reply::Status(413, vec![], "cannot".into())]);
    let missed_by_sentry = diary.transaction(&relay).await;
    relay.quiet(&BOTH).await;
    // The relay is stopped for ten minutes.
    relay.restart(10 * MINUTE).await;
    while relay.elapsed() < 30 * HOUR {
        an_hour(&relay, &mut diary, &BOTH).await;
    }
    relay.switch("glitchtip").await;
    an_hour(&relay, &mut diary, &BOTH).await;
    relay.switch("sentry").await;
    while relay.elapsed() < 48 * HOUR {
        an_hour(&relay, &mut diary, &BOTH).await;
    }
    relay.advance(MINUTE).await;
    relay.kept(0, sentry.taken_count()).await;

    let window = relay.elapsed();
    let report = relay.report(&format!("?since={}ms", window.as_millis())).await;
    assert_eq!((&report["primary"], &report["candidate"]), (&"sentry".into(), &"glitchtip".into()));
    for (name, upstream, limited) in [("sentry", &sentry, 0), ("glitchtip", &glitchtip, 1)] {
        check_upstream(&relay, &diary, of(&report, name), upstream, limited);
    }
    // The outage lasts until the first answer after it, and lowers the availability.
    let glitchtips = of(&report, "glitchtip");
    let outages = glitchtips["outages"].as_array().unwrap();
    assert_eq!(outages.len(), 1, "{outages:?}");
    assert_eq!((relay.ms(&outages[0]["from"]), relay.ms(&outages[0]["to"])), (outage_from, back));
    assert!(outages[0]["cause"].as_str().unwrap().contains("refused"));
    let (down, window) = ((back - outage_from) as f64 / 1000.0, window.as_secs_f64());
    assert_eq!(glitchtips["outage_seconds"], down);
    let up = report["relay"]["up_seconds"].as_f64().unwrap();
    assert_eq!(report["relay"]["window_seconds"], window);
    assert_eq!(up, window - 600.0);
    assert_near(&glitchtips["availability_percent"], (up - down) / up * 100.0, "availability");
    assert_eq!(of(&report, "sentry")["availability_percent"], 100.0);
    assert_eq!((&report["relay"]["starts"], &report["relay"]["crashes"]), (&2.into(), &0.into()));
    // The intake.
    for category in ["error", "transaction"] {
        assert_eq!(report["intake"]["accepted"][category], diary.count(category));
    }
    assert_eq!(report["intake"]["duplicates"], serde_json::json!({ "error": diary.repeats }));
    assert_eq!(report["intake"]["refused"], serde_json::json!({ "malformed": diary.refused_requests }));
    assert_eq!(
        report["services"],
        serde_json::json!([
            { "name": "shop", "seen": true, "projects": ["shop"] },
            { "name": "api", "seen": true, "projects": ["shop"] },
        ])
    );
    // The comparison of both upstreams.
    let comparison = &report["comparison"];
    assert_eq!((&comparison["compared"], &comparison["complete"]), (&diary.sent.len().into(), &true.into()));
    assert_eq!(ids(&comparison["candidate_missed"]), BTreeSet::from([missed_by_glitchtip]));
    assert_eq!(ids(&comparison["primary_missed"]), BTreeSet::from([missed_by_sentry]));
    assert_eq!(comparison["candidate_missed"]["reasons"], serde_json::json!({ "rejected": 1 }));
    let switches: Vec<_> = report["switches"].as_array().unwrap().iter().map(|switch| &switch["to"]).collect();
    assert_eq!(switches, ["sentry", "glitchtip"]);
    assert_eq!(failed(&report), ["uptime", "refused", "availability", "lag"]);
    assert_eq!((&report["ready"], relay.cli(&[]).await.0), (&false.into(), 1));
    // Each criterion says until when it counts: a report whose window begins later does not include the fault.
    for name in failed(&report) {
        let all = report["criteria"].as_array().expect("a list");
        let one = all.iter().find(|one| one["name"] == name).expect("the criterion");
        let left = relay.ms(&one["until"]) - relay.elapsed().as_millis() as u64;
        let later = relay.report(&format!("?since={}ms", relay.now() - left)).await;
        assert!(!failed(&later).contains(&name), "{name}: {one}, {later}");
        let before = relay.report(&format!("?since={}ms", relay.now() - left + 3_600_001)).await;
        assert!(failed(&before).contains(&name), "{name}: {one}, {before}");
    }

    // Nothing is wrong in the last twelve hours.
    let report = relay.report("?since=12h").await;
    assert_eq!(failed(&report), Vec::<&str>::new());
    let (code, text) = relay.cli(&["--since", "12h"]).await;
    assert!(
        code == 0 && text.contains("ready: glitchtip meets all 9 criteria, but none shows that it stores"),
        "{code} {text}"
    );
    let page = relay.page().await;
    assert!(page.contains("not ready: glitchtip fails uptime, refused, availability, lag"), "{page}");
    // A chart for each upstream, with the outage as a band and both switches as lines.
    let charts: Vec<&str> = page.split("<figure>").skip(1).collect();
    assert_eq!(charts.len(), 2, "{page}");
    for (chart, name, outages) in [(charts[0], "sentry", 0), (charts[1], "glitchtip", 1)] {
        let chart = chart.split("</figure>").next().expect("a chart");
        let told = format!("{outages} outage{}", if outages == 1 { "" } else { "s" });
        assert!(chart.contains(&format!("<b>{name}</b>")) && chart.contains(&told), "{chart}");
        assert_eq!(chart.matches("class=\"outage\"").count(), outages, "{chart}");
        assert_eq!(chart.matches("class=\"switch\"").count(), 2, "{chart}");
    }
    let first = relay.status_page().await;
    assert!(first.contains("▲ Not yet</b>") && first.contains("glitchtip fails uptime, refused"), "{first}");
    assert_eq!(relay.refusal("?candidate=sentry").await, "sentry is the primary already: name another upstream");
    relay.stop().await;
}

/// Compares the report's counts, attempts and lags of an upstream with its records.
fn check_upstream(relay: &Simulation, diary: &Diary, told: &Value, upstream: &Upstream, limited: usize) {
    let (taken, seen) = (upstream.taken(), upstream.seen());
    for category in told["categories"].as_array().expect("a list") {
        let name = category["category"].as_str().expect("a text");
        assert_eq!(category["accepted"], diary.count(name), "{name}");
        let delivered = taken.iter().filter(|seen| diary.sent[&seen.event_id()].1 == name).count();
        assert_eq!(category["delivered"], delivered, "{name}");
        let rejected = category["dropped"]["rejected"].as_u64().unwrap_or(0);
        assert_eq!(rejected, diary.count(name) - delivered as u64, "{name}");
        assert_eq!(category["pending"], 0, "{name}");
    }
    assert_eq!(told["dropped"], serde_json::json!({ "rejected": 1 }));
    assert_eq!(told["attempts"]["delivered"], taken.len());
    assert_eq!(told["attempts"]["rate_limited"], limited);
    assert_eq!(told["attempts"]["refused"], seen.len() - taken.len() - limited);
    assert_eq!((&told["dead_letters"], &told["waiting"], &told["difference"]), (&1.into(), &0.into(), &0.into()));
    let lags = lags(relay, diary, upstream);
    let rank = |share: f64| lags[((lags.len() as f64 * share).ceil() as usize).max(1) - 1];
    assert_eq!(told["lag"]["count"], lags.len());
    assert_near(&told["lag"]["p50_seconds"], rank(0.5), "p50");
    assert_near(&told["lag"]["p99_seconds"], rank(0.99), "p99");
    assert_eq!(told["lag"]["max_seconds"], lags[lags.len() - 1]);
}

#[tokio::test]
async fn a_report_counts_refused_items_by_reason_through_restarts() {
    let (a, b) = (Upstream::start().await, Upstream::start().await);
    let limits = "[limits]\nsession = { rate = \"1/h\", burst = 1 }\n[limits.storm]\nlimit = 1\nwindow = \"1h\"";
    let plan = Plan::new(&[("a", a.dsn("cafe", 1)), ("b", b.dsn("beef", 2))]).more(limits);
    let mut relay = plan.start().await;
    for (kind, payload, statuses) in [
        ("session", "{}", [200, 429, 429]),
        ("event", r#"{"exception":{"values":[{"type":"TypeError","value":"x"}]}}"#, [200, 200, 200]),
    ] {
        for status in statuses {
            let sent = envelopes::envelope(&envelopes::new_id(), kind, payload);
            assert_eq!(relay.send(sent).await.status(), status);
        }
    }
    relay.balanced(SOON).await;
    relay.stop().await;
    let relay = relay.started().await;
    let path = format!("http://{}", relay.admin_address());
    let report = support::net::json(relay.client(), &format!("{path}/api/report")).await.unwrap();
    assert_eq!(report["intake"]["refused_items"], serde_json::json!({ "collapsed": 2, "rate_limited": 2 }));
    let page = support::net::text(relay.client(), &format!("{path}/report")).await.unwrap();
    assert!(page.contains("collapsed 2"), "{page}");
    relay.finish().await;
}

/// Reproducible pseudo-random numbers.
struct Dice(AtomicU64);

impl Dice {
    fn new(seed: u64) -> Self {
        Self(AtomicU64::new(seed))
    }

    /// A number below `n` (Marsaglia's xorshift, which never reaches 0 from another number).
    fn roll(&self, n: u64) -> u64 {
        let mut x = self.0.load(Ordering::Relaxed);
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.0.store(x, Ordering::Relaxed);
        x % n
    }
}

/// Makes three of ten answers fail or limit, each in its own way, with so few in a row that nothing waits for long.
fn go_wrong(upstream: &Upstream, seed: u64) {
    let dice = Dice::new(seed);
    upstream.when(move |_| {
        Some(match dice.roll(20) {
            0 | 1 => Reply::status(503),
            2 => Reply::Close,
            3 => Reply::with_header(429, "X-Sentry-Rate-Limits", "1:error;transaction;session:key"),
            4 => Reply::status(400),
            5 => Reply::with_header(200, "X-Sentry-Rate-Limits", "1:transaction:key"),
            _ => Reply::Ok,
        })
    });
}

#[tokio::test]
async fn the_accounts_balance_through_random_faults_restarts_and_reloads() {
    let seed = std::env::var("SWITCHYARD_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(20_240_607);
    let (dice, a, b) = (Dice::new(seed), Upstream::start().await, Upstream::start().await);
    go_wrong(&a, seed + 1);
    go_wrong(&b, seed + 2);
    let plan = Plan::new(&[("a", a.dsn("key-a", 1)), ("b", b.dsn("key-b", 2))]);
    let mut relay = plan.top("mirror = true").upstream("b", r#"on_rate_limit = "hold""#).start().await;
    let config = std::fs::read_to_string(relay.config()).unwrap();
    let (mut sent, mut items) = (Vec::new(), 0);
    for round in 0..60 {
        match dice.roll(12) {
            0 => {
                relay.kill();
                relay = relay.started().await;
            }
            1 => {
                relay.stop().await;
                relay = relay.started().await;
            }
            2 | 3 => {
                let (mirror, mode) =
                    (["true", "false"][dice.roll(2) as usize], ["hold", "drop"][dice.roll(2) as usize]);
                let text = config.replace("mirror = true", &format!("mirror = {mirror}"));
                let spared = [
                    "",
                    "[upstreams.a.shadow]\nitems = [\"event\"]\n",
                    "[upstreams.b.shadow]\nsample = { error = 0.5, transaction = 0.5 }\ndaily_cap = { error = 20 }\n",
                ][dice.roll(3) as usize];
                relay.replace_config(&(text.replace("\"hold\"", &format!("\"{mode}\"")) + "\n" + spared));
                relay.signal(rustix::process::Signal::HUP);
            }
            4 => relay.rewrite_primary(["a", "b"][dice.roll(2) as usize]),
            _ => {
                for _ in 0..=dice.roll(8) {
                    let (id, kind) = (envelopes::new_id(), ["event", "transaction"][dice.roll(2) as usize]);
                    let session = ["", "{\"type\":\"session\"}\n{}\n"][dice.roll(2) as usize];
                    let answer = relay.send(envelopes::envelope(&id, kind, r#"{"message":"x"}"#) + session).await;
                    // Every upstream in use may limit one of the two items; then the other goes alone.
                    let told = answer.headers().get("x-sentry-rate-limits").map_or("", |told| told.to_str().unwrap());
                    let limited = |category: &str| told.contains(category);
                    let taken = u64::from(!limited(if kind == "event" { "error" } else { kind }))
                        + u64::from(!session.is_empty() && !limited("session"));
                    assert_eq!(answer.status(), if taken == 0 { 429 } else { 200 });
                    if taken > 0 {
                        sent.push(id);
                    }
                    items += taken;
                }
            }
        }
        assert_eq!(relay.status().await["difference"], 0, "seed {seed}, round {round}");
    }
    [&a, &b].into_iter().for_each(|upstream| upstream.when(|_| None));
    eventually("nothing waits", 3 * SOON, async || {
        let status = relay.status().await;
        let waiting = status["upstreams"].as_array().unwrap().iter();
        let waiting: u64 = waiting.map(|upstream| upstream["backlog"]["envelopes"].as_u64().unwrap()).sum();
        if waiting == 0 && status["difference"] == 0 { Ok(()) } else { Err(format!("seed {seed}: {status}")) }
    })
    .await;
    for (name, upstream) in [("a", &a), ("b", &b)] {
        let told = relay.upstream(name).await;
        let dropped: u64 = told["dropped"].as_object().unwrap().values().map(|n| n.as_u64().unwrap()).sum();
        let taken: BTreeSet<String> = upstream.taken_ids().into_iter().collect();
        let missing = sent.iter().filter(|id| !taken.contains(*id)).count() as u64;
        // An envelope that was taken before a crash and refused after it counts as dropped, so `missing` may be smaller.
        assert!(missing <= dropped, "seed {seed}, {name}: {missing} are missing, {dropped} are explained: {told}");
        assert_eq!(told["delivered"].as_u64().unwrap() + dropped, items, "seed {seed}, {name}: {told}");
    }
    relay.stop().await;
}
