//! Changes of the configuration while the relay runs, above all a switch of the primary: no restart, no failed request.

mod support;

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::process::Command;
use std::time::Duration;

use support::connection::Connection;
use support::envelopes::{self, KEY};
use support::eventually::eventually;
use support::load::{Load, Style};
use support::relay::{Plan, Relay, SOON, needs_a_file};
use support::upstream::{Reply, Upstream};
use tokio::time::{Instant, interval};

async fn two_upstreams() -> (Upstream, Upstream) {
    (Upstream::start().await, Upstream::start().await)
}

fn plan(a: &Upstream, b: &Upstream) -> Plan {
    Plan::new(&[("a", a.dsn("key-a", 11)), ("b", b.dsn("key-b", 22))])
}

/// Replaces `old` by `new` in the configuration file, as an editor would.
fn edit(relay: &Relay, old: &str, new: &str) {
    let before = fs::read_to_string(relay.config()).expect("the configuration");
    assert!(before.contains(old), "{old} is not in\n{before}");
    relay.replace_config(&before.replace(old, new));
}

/// Waits until the status matches.
async fn shows(relay: &Relay, what: &str, look: impl Fn(&serde_json::Value) -> bool) {
    eventually(what, Duration::from_secs(5), async || {
        let status = relay.status().await;
        if look(&status) { Ok(()) } else { Err(format!("{status:#}\n{}", relay.log())) }
    })
    .await;
}

/// Fails unless the upstream has taken each of these ids exactly once and nothing else.
fn has_each_once(upstream: &Upstream, ids: &[String]) {
    let (mut have, mut expected) = (upstream.taken_ids(), ids.to_vec());
    have.sort();
    expected.sort();
    assert_eq!(have.len(), expected.len(), "that many arrived");
    assert_eq!(have, expected);
}

/// Waits until `name` is the live primary; returns the time that took.
async fn live(relay: &Relay, name: &str) -> Duration {
    let (began, mut turns) = (Instant::now(), interval(Duration::from_millis(5)));
    loop {
        turns.tick().await;
        if relay.status().await["primary"] == name {
            return began.elapsed();
        }
        assert!(began.elapsed() < Duration::from_secs(10), "{}", relay.log());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_switch_under_load_is_live_within_two_seconds_and_loses_nothing() {
    let (a, b) = two_upstreams().await;
    let relay = plan(&a, &b).start().await;
    let style = Style { senders: 10, pace: Some(Duration::from_millis(20)), keep_alive: true };
    let began = Instant::now();
    let mut load = Load::start(&relay.address(), style);
    load.more(300).await;
    relay.rewrite_primary("b");
    let took = live(&relay, "b").await;
    load.more(300).await;
    let seconds = began.elapsed().as_secs_f64();
    let sent = load.stop().await;
    println!("live after {took:?}; {:.0} envelopes/s", sent.0.len() as f64 / seconds);
    assert!(took < Duration::from_secs(2), "live after {took:?}");
    assert_eq!(sent.failures().len(), 0, "{:?}", sent.failures());
    let samples = relay.balanced(Duration::from_secs(20)).await;
    let ids: Vec<String> = sent.accepted().into_iter().collect();
    has_each_once(&a, &ids);
    has_each_once(&b, &ids);
    assert_eq!(samples.sum("switchyard_primary", &[("upstream", "b")]), 1.0);
    assert_eq!(samples.sum("switchyard_primary", &[("upstream", "a")]), 0.0);
    assert_eq!(samples.sum("switchyard_switches_total", &[]), 1.0);
    assert!(samples.sum("switchyard_last_switch_timestamp_seconds", &[]) > 1.7e9);
    let status = relay.status().await;
    let switches = status["switches"].as_array().expect("switches");
    assert_eq!(switches.len(), 1, "{switches:?}");
    assert_eq!((&switches[0]["from"], &switches[0]["to"]), (&"a".into(), &"b".into()));
    let at = switches[0]["at"].as_str().expect("a time");
    assert!(status["started_at"].as_str() < Some(at) && Some(at) < status["now"].as_str(), "{status:#}");
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_switch_while_both_upstreams_have_a_backlog_loses_and_doubles_nothing() {
    let (mut a, mut b) = two_upstreams().await;
    let relay = plan(&a, &b).start().await;
    a.go_down().await;
    b.go_down().await;
    let mut ids = relay.send_errors(30).await;
    relay.flip_to("b").await;
    ids.extend(relay.send_errors(30).await);
    assert_eq!(relay.upstream("a").await["backlog"]["envelopes"], 60);
    assert_eq!(relay.upstream("b").await["role"], "primary");
    a.come_back().await;
    b.come_back().await;
    relay.balanced(Duration::from_secs(25)).await;
    has_each_once(&a, &ids);
    has_each_once(&b, &ids);
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_primary_receives_while_the_mirror_is_off() {
    let (a, b) = two_upstreams().await;
    let relay = plan(&a, &b).top("mirror = true").start().await;
    let both = relay.send_errors(2).await;
    edit(&relay, "mirror = true", "mirror = false");
    shows(&relay, "the mirror is off", |status| status["mirror"] == false).await;
    let alone = relay.send_errors(3).await;
    edit(&relay, "mirror = false", "mirror = true");
    shows(&relay, "the mirror is on", |status| status["mirror"] == true).await;
    let again = relay.send_errors(2).await;
    let samples = relay.balanced(SOON).await;
    has_each_once(&a, &[both.clone(), alone, again.clone()].concat());
    has_each_once(&b, &[both, again].concat());
    let dropped = |upstream| {
        samples.sum(
            "switchyard_dropped_items_total",
            &[("upstream", upstream), ("reason", "mirror_off"), ("category", "error")],
        )
    };
    assert_eq!((dropped("a"), dropped("b")), (0.0, 3.0));
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_project_may_have_a_primary_and_a_mirror_of_its_own() {
    let (a, b) = two_upstreams().await;
    let relay = plan(&a, &b).start().await;
    edit(&relay, "name = \"shop\"", "name = \"shop\"\nprimary = \"b\"\nmirror = false");
    shows(&relay, "the project has its own primary", |status| status["projects"][0]["primary"] == "b").await;
    let ids = relay.send_errors(3).await;
    relay.balanced(SOON).await;
    has_each_once(&a, &[]);
    has_each_once(&b, &ids);
    let status = relay.status().await;
    assert_eq!(status["primary"], "a", "of all others");
    assert_eq!((&status["switches"][0]["project"], &status["switches"][0]["to"]), (&"shop".into(), &"b".into()));
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_was_under_way_during_a_reload_goes_where_the_file_says_now() {
    let (a, b) = two_upstreams().await;
    let relay = plan(&a, &b).top("mirror = false").start().await;
    let id = envelopes::new_id();
    let envelope = envelopes::error(&id);
    let head = Connection::head(envelope.len()).replacen("\r\n\r\n", "\r\nexpect: 100-continue\r\n\r\n", 1);
    let mut slow = Connection::open(&relay.address()).await.expect("a connection");
    slow.write(head.as_bytes()).await.expect("the head is sent");
    assert_eq!(slow.answer().await.expect("an answer").status, 100, "it was let in");
    let file =
        fs::read_to_string(relay.config()).expect("the configuration").replace("primary = \"a\"", "primary = \"b\"");
    relay.replace_config(&file.replace("name = \"shop\"", "name = \"shop\"\nprimary = \"a\""));
    shows(&relay, "the project keeps the primary that it had", |status| {
        status["primary"] == "b" && status["projects"][0]["primary"] == "a"
    })
    .await;
    slow.write(envelope.as_bytes()).await.expect("the body is sent");
    assert_eq!(slow.answer().await.expect("an answer").status, 200);
    relay.balanced(SOON).await;
    has_each_once(&a, &[id]);
    has_each_once(&b, &[]);
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_file_changes_nothing_says_where_it_is_wrong_and_can_be_mended() {
    let (a, b) = two_upstreams().await;
    let relay = plan(&a, &b).start().await;
    let good = fs::read_to_string(relay.config()).expect("the configuration");
    let bad = good.replace("primary = \"a\"", "primary = \"b\"").replace("[admin]\nlisten", "[admin]\nlisen");
    relay.replace_config(&bad);
    shows(&relay, "the problem is shown", |status| {
        let error = status["config"]["error"].as_str().unwrap_or_default();
        let line = 1 + bad.lines().position(|line| line.starts_with("lisen")).expect("the line");
        error.contains("lisen") && error.contains(&format!("config.toml:{line}:")) && error.contains('^')
    })
    .await;
    assert_eq!(relay.status().await["primary"], "a", "all or nothing");
    assert_eq!(relay.samples().await.expect("samples").sum("switchyard_config_reload_success", &[]), 0.0);
    let ids = relay.send_errors(2).await;
    relay.replace_config(&good.replace("primary = \"a\"", "primary = \"b\""));
    shows(&relay, "the mended file is used", |status| status["primary"] == "b").await;
    assert!(relay.status().await["config"]["error"].is_null());
    let samples = relay.balanced(SOON).await;
    assert_eq!(samples.sum("switchyard_config_reload_success", &[]), 1.0);
    has_each_once(&b, &ids);
    relay.finish().await;
}

/// Puts something that is no configuration in the place of the file.
fn spoil(relay: &Relay, with: &str) {
    let path = relay.config();
    fs::remove_file(&path).expect("a file");
    match with {
        "a dangling link" => symlink(relay.home().join("nowhere"), path).expect("a link"),
        "a device" => symlink("/dev/zero", path).expect("a link"),
        "a pipe" => assert!(Command::new("mkfifo").arg(path).status().expect("mkfifo").success()),
        "a huge file" => fs::File::create(path).and_then(|file| file.set_len(1 << 30)).expect("a file"),
        _ => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_gone_or_none_is_told_like_a_broken_one_until_it_is_back() {
    let (a, b) = two_upstreams().await;
    let relay = plan(&a, &b).start().await;
    let good = fs::read_to_string(relay.config()).expect("the configuration");
    for with in ["nothing", "a dangling link", "a pipe", "a device", "a huge file"] {
        spoil(&relay, with);
        shows(&relay, with, |status| status["config"]["error"].is_string()).await;
        assert_eq!(relay.status().await["health"]["level"], "degraded", "{with}");
        assert_eq!(relay.samples().await.expect("samples").sum("switchyard_config_reload_success", &[]), 0.0);
        relay.replace_config(&good);
        shows(&relay, "the file is back", |status| status["config"]["error"].is_null()).await;
    }
    edit(&relay, "primary = \"a\"", "primary = \"b\"");
    shows(&relay, "the next edit is used", |status| status["primary"] == "b").await;
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_needs_a_restart_is_refused_naming_the_field() {
    let (a, b) = two_upstreams().await;
    let relay = plan(&a, &b).start().await;
    let good = fs::read_to_string(relay.config()).expect("the configuration");
    let other = good.replace(&format!("[\"{}\"]", relay.address()), "[\"127.0.0.1:9\"]");
    relay.replace_config(&other.replace("primary = \"a\"", "primary = \"b\""));
    shows(&relay, "the refusal is shown", |status| {
        status["config"]["error"]
            .as_str()
            .is_some_and(|error| error.contains("restart") && error.contains("server.listen"))
    })
    .await;
    let line = 1 + other.lines().position(|line| line.contains("127.0.0.1:9")).expect("the line");
    let log = relay.log();
    assert!(log.contains(&format!("config.toml:{line}:")) && log.contains('^'), "{log}");
    assert_eq!(relay.status().await["primary"], "a", "all or nothing");
    relay.replace_config(&good);
    shows(&relay, "the old file is fine", |status| status["config"]["error"].is_null()).await;
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sighup_reloads_the_file_and_the_secrets_it_names() {
    let (a, b) = two_upstreams().await;
    let mut relay = Plan::new(&[("a", a.dsn("key-a", 11)), ("b", "${file:secret}".to_owned())]).prepare();
    fs::write(relay.home().join("secret"), b.dsn("old-key", 22)).expect("a secret");
    relay.launch();
    relay.await_ready().await;
    relay.send_errors(1).await;
    relay.balanced(SOON).await;
    let loaded_at = relay.status().await["config"]["loaded_at"].clone();
    fs::write(relay.home().join("secret"), b.dsn("new-key", 22)).expect("a secret");
    relay.signal(rustix::process::Signal::HUP);
    shows(&relay, "it was loaded again", |status| status["config"]["loaded_at"] != loaded_at).await;
    relay.send_errors(1).await;
    relay.balanced(SOON).await;
    let keys: Vec<bool> =
        b.seen().iter().map(|seen| seen.headers["x-sentry-auth"].to_str().expect("text").contains("new-key")).collect();
    assert_eq!(keys, [false, true]);
    assert!(!relay.log().contains("new-key") && !relay.log().contains("old-key"), "{}", relay.log());
    relay.finish().await;
}

/// The signals that a process handles itself, one bit each.
fn caught(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap_or("0");
    u64::from_str_radix(line.trim(), 16).expect("a number")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sighup_during_the_start_reloads_when_the_relay_is_ready() {
    let (a, b) = two_upstreams().await;
    let mut relay = plan(&a, &b).prepare();
    // A lock on the file keeps the relay from starting.
    let journal = rusqlite::Connection::open(relay.home().join("journal.db")).expect("a file");
    journal.execute_batch("BEGIN EXCLUSIVE").expect("the lock");
    relay.launch();
    let terminate = 1 << (rustix::process::Signal::TERM.as_raw() - 1);
    eventually("it listens to SIGTERM", SOON, async || match caught(relay.pid()) & terminate {
        0 => Err("not yet".to_owned()),
        _ => Ok(()),
    })
    .await;
    relay.signal(rustix::process::Signal::HUP);
    drop(journal);
    relay.await_ready().await;
    shows(&relay, "it was loaded again", |_| relay.log().contains("was reloaded")).await;
    relay.send_errors(1).await;
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_on_a_full_disk_is_live_at_once_and_kept_later() {
    if needs_a_file("it fills the disk of the file") {
        return;
    }
    let (a, b) = two_upstreams().await;
    let c = Upstream::start().await;
    let mut relay = plan(&a, &b).journal("min_free_disk = \"0B\"").start().await;
    relay.stop().await;
    relay.launch_on_a_full_disk();
    relay.await_alive().await;
    relay.empty_the_disk();
    relay.await_ready().await;
    relay.send_errors(1).await;
    relay.balanced(SOON).await;
    relay.fill_the_disk();
    let refused = async || relay.send(envelopes::error(&envelopes::new_id())).await.status();
    assert_eq!(refused().await, 503);
    let before = fs::read_to_string(relay.config()).expect("the configuration");
    let after =
        before.replace("primary = \"a\"", "primary = \"b\"").replace("[[projects]]", "[upstreams.c]\n[[projects]]");
    let c_too = format!("[projects.upstreams]\nc = \"{}\"\n", c.dsn("key-c", 33));
    relay.replace_config(&after.replace("[projects.upstreams]\n", &c_too));
    shows(&relay, "it is in use", |status| status["primary"] == "b" && status["config"]["error"].is_null()).await;
    assert_eq!(refused().await, 503, "a changed file makes no room");
    relay.empty_the_disk();
    relay.await_ready().await;
    shows(&relay, "the switch is kept", |status| status["switches"][0]["to"] == "b").await;
    let ids = relay.send_errors(3).await;
    relay.balanced(SOON).await;
    eventually("the new one receives", SOON, async || match c.taken_count() {
        3 => Ok(()),
        n => Err(format!("{n} arrived")),
    })
    .await;
    has_each_once(&c, &ids);
    assert_eq!(relay.samples().await.expect("samples").sum("switchyard_config_reload_success", &[]), 1.0);
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_is_added_receives_from_then_on() {
    let (a, b) = two_upstreams().await;
    let c = Upstream::start().await;
    let relay = plan(&a, &b).start().await;
    let before = relay.send_errors(2).await;
    edit(&relay, "[[projects]]", "[upstreams.c]\n[[projects]]");
    edit(&relay, "[projects.upstreams]\n", &format!("[projects.upstreams]\nc = \"{}\"\n", c.dsn("key-c", 33)));
    shows(&relay, "it is there", |status| {
        status["projects"][0]["upstreams"].as_array().is_some_and(|all| all.len() == 3)
    })
    .await;
    let after = relay.send_errors(3).await;
    relay.balanced(SOON).await;
    has_each_once(&a, &[before, after.clone()].concat());
    eventually("it receives", SOON, async || {
        let have = c.taken_count();
        if have >= after.len() { Ok(()) } else { Err(format!("{have}")) }
    })
    .await;
    has_each_once(&c, &after);
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_backlog_of_a_removed_upstream_stays_counted_until_its_return() {
    let (a, mut b) = two_upstreams().await;
    let relay = plan(&a, &b).start().await;
    b.go_down().await;
    let ids = relay.send_errors(10).await;
    let with_b = fs::read_to_string(relay.config()).expect("the configuration");
    let dsn = format!("b = \"{}\"\n", b.dsn("key-b", 22));
    relay.replace_config(&with_b.replace("[upstreams.b]\n", "").replace(&dsn, ""));
    eventually("it is removed", SOON, async || {
        let upstream = relay.upstream("b").await;
        if upstream["role"] == "removed" { Ok(()) } else { Err(format!("{upstream:#}\n{}", relay.log())) }
    })
    .await;
    let removed = relay.upstream("b").await;
    assert_eq!(removed["backlog"]["envelopes"], 10, "{removed:#}");
    assert_eq!((&removed["difference"], &removed["state"]), (&0.into(), &"removed".into()));
    b.come_back().await;
    relay.replace_config(&with_b);
    relay.balanced(Duration::from_secs(20)).await;
    has_each_once(&a, &ids);
    has_each_once(&b, &ids);
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_corrected_dsn_is_tried_at_once_with_its_backlog() {
    let (a, b) = two_upstreams().await;
    b.when(|seen| {
        let auth = seen.headers["x-sentry-auth"].to_str().expect("text");
        (!auth.contains("sentry_key=right-key")).then(|| Reply::status(403))
    });
    let relay = Plan::new(&[("a", a.dsn("key-a", 11)), ("b", b.dsn("wrong-key", 22))]).start().await;
    let mut ids = relay.send_errors(5).await;
    eventually("it is said", SOON, async || {
        let upstream = relay.upstream("b").await;
        if upstream["state"] == "misconfigured" { Ok(()) } else { Err(format!("{upstream:#}")) }
    })
    .await;
    edit(&relay, "wrong-key", "right-key");
    shows(&relay, "it is loaded", |_| relay.log().contains("was reloaded")).await;
    ids.extend(relay.send_errors(1).await);
    relay.balanced(SOON).await;
    has_each_once(&b, &ids);
    assert_eq!(relay.upstream("b").await["state"], "up");
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dsn_restored_by_a_restart_is_tried_at_once_with_its_backlog() {
    if needs_a_file("what a file says after a restart does not hold for all relays") {
        return;
    }
    let (a, mut b) = two_upstreams().await;
    let mut relay = plan(&a, &b).start().await;
    b.go_down().await;
    let ids = relay.send_errors(5).await;
    relay.stop().await;
    let dsn = format!("b = \"{}\"\n", b.dsn("key-b", 22));
    edit(&relay, &dsn, "");
    b.come_back().await;
    relay = relay.started().await;
    eventually("it is said", SOON, async || match relay.log() {
        log if log.contains("upstream that has no DSN for their project any more") => Ok(()),
        log => Err(log),
    })
    .await;
    relay.stop().await;
    edit(&relay, "[projects.upstreams]\n", &format!("[projects.upstreams]\n{dsn}"));
    relay = relay.started().await;
    relay.balanced(SOON).await;
    has_each_once(&a, &ids);
    has_each_once(&b, &ids);
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_projects_backlog_never_goes_to_another_that_takes_its_name() {
    let (a, mut b) = two_upstreams().await;
    let blog = "[[projects]]\nname = \"blog\"\nid = \"2\"\npublic_key = \"b10c\"\n[projects.upstreams]\n";
    let dsns = format!("a = \"{}\"\nb = \"{}\"\n", a.dsn("blog-a", 33), b.dsn("blog-b", 44));
    let relay = plan(&a, &b).more(&format!("{blog}{dsns}")).start().await;
    b.go_down().await;
    let ids = relay.send_errors(4).await;
    let good = fs::read_to_string(relay.config()).expect("the configuration");
    let renamed = |shop: &str, blog: &str| {
        let named = |name: &str| format!("name = \"{name}\"");
        let text = good.replace(&named("shop"), &named("#")).replace(&named("blog"), &named(blog));
        text.replace(&named("#"), &named(shop))
    };
    relay.replace_config(&renamed("old-shop", "shop"));
    shows(&relay, "the other project's name is refused", |status| {
        let error = status["config"]["error"].as_str().unwrap_or_default();
        error.contains("named blog so far") && error.contains("would be named shop")
    })
    .await;
    relay.replace_config(&renamed("shop2", "blog"));
    shows(&relay, "what waits for the old name is shown", |status| {
        let upstreams = status["upstreams"].as_array().expect("upstreams");
        let own = upstreams.iter().find(|upstream| upstream["name"] == "b").expect("the upstream");
        own["stranded"] == serde_json::json!([{ "project": "shop", "items": 4 }])
    })
    .await;
    eventually("it is said", SOON, async || match relay.log() {
        log if log.contains("wait for a project that is not in the file any more") && log.contains("items=4") => Ok(()),
        log => Err(log),
    })
    .await;
    b.come_back().await;
    relay.replace_config(&good);
    relay.balanced(Duration::from_secs(20)).await;
    has_each_once(&b, &ids);
    assert!(b.taken().iter().all(|seen| seen.path.starts_with("/api/22/")), "all of it to the project's own");
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_upstream_is_served_when_its_earlier_requests_have_ended() {
    let (a, b) = two_upstreams().await;
    let pause = Duration::from_secs(3);
    b.always(Reply::Slow(pause));
    // Bugsink gets one request at a time.
    let relay = plan(&a, &b).upstream("b", "kind = \"bugsink\"").start().await;
    let with_b = fs::read_to_string(relay.config()).expect("the configuration");
    let dsn = format!("b = \"{}\"\n", b.dsn("key-b", 22));
    let ids = relay.send_errors(2).await;
    eventually("one is under way", SOON, async || if b.seen().is_empty() { Err("none".to_owned()) } else { Ok(()) })
        .await;
    relay.replace_config(&with_b.replace("[upstreams.b]\nkind = \"bugsink\"\n", "").replace(&dsn, ""));
    let count = |status: &serde_json::Value| status["projects"][0]["upstreams"].as_array().map(Vec::len);
    shows(&relay, "it is removed", |status| count(status) == Some(1)).await;
    relay.replace_config(&with_b);
    relay.balanced(Duration::from_secs(30)).await;
    has_each_once(&b, &ids);
    let at: Vec<Instant> = b.seen().iter().map(|seen| seen.at).collect();
    assert!(at.windows(2).all(|pair| pair[1] - pair[0] >= pause), "one at a time: {at:?}");
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_file_may_be_replaced_written_in_place_or_a_symbolic_link() {
    let (a, b) = two_upstreams().await;
    let relay = plan(&a, &b).start().await;
    let text = fs::read_to_string(relay.config()).expect("the configuration");
    let named = |name: &str| text.replace("primary = \"a\"", &format!("primary = \"{name}\""));
    relay.replace_config(&named("b"));
    shows(&relay, "moved over", |status| status["primary"] == "b").await;
    let mut file = fs::File::options().write(true).truncate(true).open(relay.config()).expect("the file");
    file.write_all(named("a").as_bytes()).expect("the new text");
    drop(file);
    shows(&relay, "written in place", |status| status["primary"] == "a").await;
    // Like a ConfigMap that Kubernetes mounts: a link to a link that is exchanged.
    let home = relay.home();
    for name in ["a", "b"] {
        fs::create_dir(home.join(name)).expect("a folder");
        fs::write(home.join(name).join("config.toml"), named(name)).expect("a configuration");
    }
    symlink("a", home.join("current")).expect("a link");
    symlink("current/config.toml", home.join("link")).expect("a link");
    fs::rename(home.join("link"), relay.config()).expect("the link in place of the file");
    symlink("b", home.join("next")).expect("a link");
    fs::rename(home.join("next"), home.join("current")).expect("the other link");
    shows(&relay, "the link leads elsewhere", |status| status["primary"] == "b").await;
    assert_eq!(relay.samples().await.expect("samples").sum("switchyard_switches_total", &[]), 3.0);
    assert!(relay.dsn().contains(KEY));
    relay.finish().await;
}
