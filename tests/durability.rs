//! Envelopes that were answered with 200 arrive, through kill -9 at any moment, stops, outages and a full journal.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::Duration;

use rusqlite::Connection;
use support::envelopes;
use support::eventually::eventually;
use support::load::{Load, Style};
use support::net;
use support::relay::{Plan, Relay, SOON};
use support::upstream::{Reply, Upstream};
use tokio::sync::mpsc;

/// The most repeats that a kill may cause at an upstream: requests in flight (`max_in_flight`), and outcomes whose settlement was not
/// committed.
const REPEATS: usize = 8 + 64;

async fn two_upstreams() -> (Upstream, Upstream) {
    (Upstream::start().await, Upstream::start().await)
}

fn plan(a: &Upstream, b: &Upstream) -> Plan {
    Plan::new(&[("a", a.dsn("key-a", 11)), ("b", b.dsn("key-b", 22))]).journal("min_free_disk = \"0B\"")
}

/// Waits until no more requests arrive.
async fn quiet(upstream: &Upstream) {
    let mut before = usize::MAX;
    eventually("nothing arrives any more", SOON, async || {
        let now = upstream.seen().len();
        let is_quiet = now == std::mem::replace(&mut before, now);
        is_quiet.then_some(()).ok_or_else(|| format!("{now} have arrived"))
    })
    .await;
}

/// Waits until the upstream has taken all of these ids.
async fn arrived(upstream: &Upstream, ids: &[String], within: Duration) {
    eventually("everything arrives", within, async || {
        let have: BTreeSet<String> = upstream.taken_ids().into_iter().collect();
        let missing = ids.iter().filter(|id| !have.contains(*id)).count();
        if missing == 0 { Ok(()) } else { Err(format!("{missing} of {} are missing", ids.len())) }
    })
    .await;
}

/// A reproducible sequence of pseudo-random numbers: splitmix64.
struct Dice(u64);

impl Dice {
    fn throw(&mut self, most: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % most
    }
}

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// For each kill, the number of ids taken before it that were taken again after it. `ends` are the lengths of `ids` at each kill.
fn repeats(ids: &[String], ends: &[usize]) -> Vec<usize> {
    let (mut last_taken, mut repeats) = (BTreeMap::new(), vec![0; ends.len()]);
    for (i, id) in ids.iter().enumerate() {
        let round = ends.iter().filter(|end| **end <= i).count();
        if let Some(before) = last_taken.insert(id, round) {
            assert!(before < round, "{id} was taken twice without a kill in between");
            repeats[before] += 1;
        }
    }
    repeats
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_answered_with_200_is_lost_through_kills_at_random_moments() {
    let rounds = from_environment("SWITCHYARD_KILL_ROUNDS").unwrap_or(20);
    let seed = from_environment("SWITCHYARD_KILL_SEED").unwrap_or_else(|| uuid::Uuid::new_v4().as_u64_pair().0);
    println!("SWITCHYARD_KILL_ROUNDS={rounds} SWITCHYARD_KILL_SEED={seed}");
    let mut dice = Dice(seed);
    let (a, b) = two_upstreams().await;
    let mut relay = plan(&a, &b).start().await;
    let style = Style { senders: 16, pace: None, keep_alive: true };
    let mut load = Load::start(&relay.address(), style);
    let (mut ends_a, mut ends_b) = (vec![], vec![]);
    for _ in 0..rounds {
        load.more(1 + dice.throw(150)).await;
        relay.kill();
        quiet(&a).await;
        quiet(&b).await;
        ends_a.push(a.taken_count());
        ends_b.push(b.taken_count());
        relay.launch();
        relay.await_ready().await;
    }
    load.more(1).await;
    let sent = load.stop().await;
    let accepted = sent.accepted();
    relay.balanced(Duration::from_secs(60)).await;
    let (ids_a, ids_b) = (a.taken_ids(), b.taken_ids());
    let (set_a, set_b) = (ids_a.iter().cloned().collect::<BTreeSet<_>>(), ids_b.iter().cloned().collect());
    assert_eq!(set_a, set_b, "both have the same");
    let lost: Vec<&String> = accepted.difference(&set_a).collect();
    assert!(lost.is_empty(), "{} of {} were lost: {lost:?}", lost.len(), accepted.len());
    let repeated = [repeats(&ids_a, &ends_a), repeats(&ids_b, &ends_b)];
    println!("{} accepted, {} not answered, repeated {repeated:?}", accepted.len(), sent.failures().len());
    for count in repeated.into_iter().flatten() {
        assert!(count <= REPEATS, "one kill made {count} arrive again");
    }
    relay.finish().await;
}

/// A channel on which the test learns of each request the moment it arrives.
fn watched(upstream: &Upstream, reply: Reply) -> mpsc::UnboundedReceiver<()> {
    let (arrived, arrivals) = mpsc::unbounded_channel();
    upstream.when(move |_| {
        arrived.send(()).expect("the test looks");
        Some(reply.clone())
    });
    arrivals
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_between_delivery_and_settling_repeats_the_delivery_and_loses_nothing() {
    let (a, b) = two_upstreams().await;
    let mut relay = plan(&a, &b).start().await;
    let mut ids = vec![];
    for reply in [Reply::Ok, Reply::Slow(Duration::from_millis(3)), Reply::Slow(Duration::from_secs(5)), Reply::Ok] {
        let mut arrivals = watched(&a, reply);
        ids.extend(relay.send_errors(1).await);
        arrivals.recv().await.expect("a delivery");
        relay.kill();
        a.when(|_| None);
        relay.launch();
        relay.await_ready().await;
        relay.balanced(SOON).await;
    }
    for upstream in [&a, &b] {
        arrived(upstream, &ids, SOON).await;
        for id in &ids {
            let times = upstream.taken_ids().iter().filter(|taken| *taken == id).count();
            assert!((1..=2).contains(&times), "{id} was taken {times} times");
        }
    }
    let samples = relay.balanced(SOON).await;
    let delivered = samples.sum("switchyard_delivered_items_total", &[("upstream", "a"), ("category", "error")]);
    assert_eq!(delivered, 4.0, "each counts once");
    relay.finish().await;
}

/// Fails unless the envelopes came in the order of sending; those that failed before are left out, as they wait for their own time.
fn in_order(upstream: &Upstream, ids: &[String]) {
    let tried: BTreeSet<String> =
        upstream.seen().iter().filter(|seen| !seen.taken).map(support::upstream::Seen::event_id).collect();
    assert!(tried.len() <= 20, "an upstream that fails is not tried with everything, but with {}", tried.len());
    let untried = |ids: &[String]| ids.iter().filter(|id| !tried.contains(*id)).cloned().collect::<Vec<_>>();
    assert_eq!(untried(&upstream.taken_ids()), untried(ids), "in order, after {} were tried", tried.len());
}

/// Fails unless the upstream has taken each of these ids exactly once and nothing else.
fn has_each_once(upstream: &Upstream, ids: &[String]) {
    let (mut have, mut expected) = (upstream.taken_ids(), ids.to_vec());
    have.sort();
    expected.sort();
    assert_eq!(have, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_outlives_a_restart_and_goes_out_once_in_order() {
    let (a, mut b) = two_upstreams().await;
    let mut relay = plan(&a, &b).upstream("a", "max_in_flight = 1").start().await;
    a.always(Reply::status(503));
    b.go_down().await;
    let ids = relay.send_errors(60).await;
    relay.stop().await;
    relay.launch();
    relay.await_ready().await;
    let backlog = relay.upstream("b").await["backlog"]["envelopes"].clone();
    assert_eq!(backlog, 60);
    a.always(Reply::Ok);
    b.come_back().await;
    relay.balanced(Duration::from_secs(30)).await;
    has_each_once(&a, &ids);
    has_each_once(&b, &ids);
    in_order(&a, &ids);
    relay.finish().await;
}

/// Runs a second relay with this configuration in the folder of `relay`; returns exit code and output.
async fn second_instance(relay: &Relay, config: &str) -> (Option<i32>, String) {
    fs::write(relay.home().join("second.toml"), config).expect("a second configuration");
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_switchyard"));
    command.args(["run", "--config", "second.toml"]).current_dir(relay.home());
    let log = relay.home().join("second.log");
    let mut process = support::process::Process::start("second", &mut command, &log, None);
    let ended = eventually("the second ends", SOON, async || process.ended().ok_or_else(|| process.last_words())).await;
    (ended.code(), fs::read_to_string(log).expect("its output"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_relay_on_the_same_journal_is_refused_and_the_first_goes_on() {
    let (a, b) = two_upstreams().await;
    let relay = plan(&a, &b).start().await;
    let config = fs::read_to_string(relay.config()).expect("the configuration");
    let config = config.replace(&relay.address(), &format!("127.0.0.1:{}", net::free_port()));
    let config = config.replace(&relay.admin_address(), &format!("127.0.0.1:{}", net::free_port()));
    let (code, output) = second_instance(&relay, &config).await;
    assert_eq!(code, Some(74), "{output}");
    assert!(output.contains("journal.db is in use by another process"), "{output}");
    let ids = relay.send_errors(3).await;
    arrived(&a, &ids, SOON).await;
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_relay_on_a_link_to_the_journal_is_refused_too() {
    let (a, b) = two_upstreams().await;
    let relay = plan(&a, &b).start().await;
    std::os::unix::fs::symlink("journal.db", relay.home().join("link.db")).expect("a link");
    let config = fs::read_to_string(relay.config()).expect("the configuration");
    let config = config.replace("journal.db", "link.db");
    let config = config.replace(&relay.address(), &format!("127.0.0.1:{}", net::free_port()));
    let config = config.replace(&relay.admin_address(), &format!("127.0.0.1:{}", net::free_port()));
    let (code, output) = second_instance(&relay, &config).await;
    assert_eq!(code, Some(74), "{output}");
    assert!(output.contains("journal.db is in use by another process"), "{output}");
    let ids = relay.send_errors(3).await;
    arrived(&a, &ids, SOON).await;
    relay.finish().await;
}

/// Starts the relay on a journal that it must refuse and leave unchanged.
async fn refused(relay: &mut Relay, journal: &Path, why: &str) {
    let before = fs::read(journal).expect("the file");
    relay.launch();
    let status = relay.ended(SOON).await;
    assert_eq!(status.code(), Some(74), "{}", relay.log());
    assert!(relay.log().contains(why), "{}", relay.log());
    assert_eq!(fs::read(journal).expect("the file"), before, "not a byte of it changed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_of_a_newer_version_is_refused_and_left_unchanged() {
    let (a, b) = two_upstreams().await;
    let mut relay = plan(&a, &b).start().await;
    relay.send_errors(2).await;
    relay.balanced(SOON).await;
    relay.stop().await;
    let journal = relay.home().join("journal.db");
    // Sets the version and returns the previous one.
    let version = |number: i64| {
        let conn = Connection::open(&journal).expect("the journal");
        let before = conn.query_row("PRAGMA user_version", [], |row| row.get::<_, i64>(0)).expect("a version");
        conn.execute_batch(&format!("PRAGMA user_version = {number}")).expect("another version");
        before
    };
    let own = version(99);
    refused(&mut relay, &journal, "has format 99").await;
    version(own);
    relay.launch();
    relay.await_ready().await;
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_no_journal_is_refused_and_left_unchanged() {
    let (a, b) = two_upstreams().await;
    let mut relay = plan(&a, &b).prepare();
    let journal = relay.home().join("journal.db");
    fs::write(&journal, "my only copy of something else\n").expect("a file");
    refused(&mut relay, &journal, "no journal of switchyard").await;
    fs::remove_file(&journal).expect("the file");
    let conn = Connection::open(&journal).expect("a database");
    conn.execute_batch("CREATE TABLE recipe (name TEXT); INSERT INTO recipe VALUES ('soup')").expect("a table");
    drop(conn);
    refused(&mut relay, &journal, "no journal of switchyard").await;
    fs::remove_file(&journal).expect("the file");
    relay.launch();
    relay.await_ready().await;
    relay.finish().await;
}

/// An envelope of about 64 KiB.
fn large(id: &str) -> String {
    let message = "m".repeat(64 << 10);
    envelopes::envelope(id, "event", &format!(r#"{{"event_id":"{id}","message":"{message}"}}"#))
}

/// The sizes of the journal's database file and of its WAL, in bytes.
fn size(relay: &Relay) -> (u64, u64) {
    let length = |name| fs::metadata(relay.home().join(name)).map_or(0, |meta| meta.len());
    (length("journal.db"), length("journal.db-wal"))
}

const MIB: u64 = 1 << 20;

/// Sends envelopes of 64 KiB until one is refused with 503 and `Retry-After`; returns the ids of those taken.
async fn fill(relay: &Relay) -> Vec<String> {
    let mut ids = vec![];
    for _ in 0..400 {
        let id = envelopes::new_id();
        let answer = relay.send(large(&id)).await;
        if answer.status() == 503 {
            assert!(answer.headers().contains_key("retry-after"), "{:?}", answer.headers());
            return ids;
        }
        assert_eq!(answer.status(), 200);
        ids.push(id);
    }
    panic!("25 MiB went into a journal of 8 MiB");
}

#[tokio::test(flavor = "multi_thread")]
async fn delivered_records_make_room_and_the_file_stays_within_its_bound() {
    let (a, b) = two_upstreams().await;
    let relay = plan(&a, &b).journal("max_size = \"8MiB\"").start().await;
    for round in 0..40 {
        for _ in 0..8 {
            let answer = relay.send(large(&envelopes::new_id())).await;
            assert_eq!(answer.status(), 200, "in round {round}");
        }
        relay.balanced(SOON).await;
        let (file, log) = size(&relay);
        assert!(file <= 9 * MIB && log <= 16 * MIB, "{file} and {log} bytes in round {round}");
    }
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_journal_answers_503_and_says_why_and_recovers_by_itself() {
    let (mut a, b) = two_upstreams().await;
    let relay = plan(&a, &b).journal("max_size = \"8MiB\"").journal("retain = \"1s\"").start().await;
    a.go_down().await;
    let mut ids = fill(&relay).await;
    let (file, log) = size(&relay);
    assert!(file <= 9 * MIB && log <= 16 * MIB, "{file} and {log} bytes");
    let readiness = format!("http://{}/readyz", relay.admin_address());
    let answer = relay.client().get(&readiness).send().await.expect("an answer");
    assert_eq!(answer.status(), 503);
    let why = answer.text().await.expect("a text");
    assert!(why.contains("full") && why.contains("max_size"), "{why}");
    assert_eq!(relay.status().await["ready"], false);
    arrived(&b, &ids, SOON).await;
    a.come_back().await;
    eventually("it takes envelopes again", Duration::from_secs(30), async || {
        net::text(relay.client(), &readiness).await.map(drop)
    })
    .await;
    ids.extend(relay.send_errors(3).await);
    relay.balanced(Duration::from_secs(30)).await;
    arrived(&a, &ids, SOON).await;
    eventually("the file shrinks", Duration::from_secs(15), async || match size(&relay) {
        (file, log) if file + log < 3 * MIB => Ok(()),
        sizes => Err(format!("{sizes:?} bytes")),
    })
    .await;
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_on_a_full_disk_answers_503_and_recovers_without_a_restart() {
    let (a, b) = two_upstreams().await;
    let c = Upstream::start().await;
    let mut relay = plan(&a, &b).start().await;
    relay.send_errors(2).await;
    relay.balanced(SOON).await;
    relay.stop().await;
    // Changes made while the relay was stopped must be kept too: another primary and a new upstream.
    let config = fs::read_to_string(relay.config()).expect("the configuration");
    let config =
        config.replace("primary = \"a\"", "primary = \"b\"").replace("[[projects]]", "[upstreams.c]\n[[projects]]");
    let c_too = format!("[projects.upstreams]\nc = \"{}\"\n", c.dsn("key-c", 33));
    relay.replace_config(&config.replace("[projects.upstreams]\n", &c_too));
    relay.launch_on_a_full_disk();
    relay.await_alive().await;
    for _ in 0..3 {
        let answer = relay.send(envelopes::error(&envelopes::new_id())).await;
        assert_eq!(answer.status(), 503);
        assert!(answer.headers().contains_key("retry-after"), "{:?}", answer.headers());
    }
    assert!(relay.samples().await.expect("samples").sum("switchyard_journal_errors_total", &[]) > 0.0);
    relay.empty_the_disk();
    relay.await_ready().await;
    let ids = relay.send_errors(3).await;
    for upstream in [&a, &b, &c] {
        arrived(upstream, &ids, SOON).await;
    }
    relay.balanced(SOON).await;
    eventually("the switch is kept", SOON, async || {
        let status = relay.status().await;
        let last = &status["switches"][0];
        let is_kept = last["to"] == "b" && last["reason"] == "changed while stopped";
        if is_kept { Ok(()) } else { Err(format!("{status:#}")) }
    })
    .await;
    relay.kill();
    relay.launch();
    relay.await_ready().await;
    assert_eq!(relay.upstream("c").await["backlog"]["envelopes"], 0);
    relay.finish().await;
}
