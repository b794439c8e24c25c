//! A journal moves with the verb `journal move`: from a file into a database, back, and to another of its kind.

use std::collections::BTreeSet;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::support::envelopes;
use crate::support::eventually::eventually;
use crate::support::postgres::{Database, Server};
use crate::support::process::Process;
use crate::support::relay::{Plan, Relay, SOON};
use crate::support::upstream::{Reply, Upstream};

/// The option for a journal in a file.
const IN_A_FILE: &str = "path = \"journal.db\"";
/// The timeout of a verb.
const ENDED: Duration = Duration::from_secs(60);

/// A `journal` verb in the relay's folder.
fn verb(relay: &Relay, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_switchyard"));
    command.args(["--config", "config.toml", "journal"]).args(args).current_dir(relay.home());
    command
}

/// Runs the verb to its end; a verb that hangs is killed with the test.
async fn run(relay: &Relay, args: &[&str]) -> (i32, String) {
    let log = relay.home().join("verb.log");
    std::fs::remove_file(&log).ok();
    let mut running = Process::start("the verb", &mut verb(relay, args), &log, None);
    let ended = eventually("the verb ends", ENDED, async || running.ended().ok_or_else(|| running.last_words())).await;
    (ended.code().expect("a code"), std::fs::read_to_string(&log).expect("what it told"))
}

/// Moves a journal, which must succeed; returns the counts.
async fn moved(relay: &Relay, args: &[&str]) -> Value {
    let (code, told) = run(relay, &[&["move", "--json"], args].concat()).await;
    assert_eq!(code, 0, "{told}");
    serde_json::from_str::<Value>(&told).expect("JSON")["moved"].clone()
}

/// Runs a verb that must end with this code; returns its output.
async fn refused(relay: &Relay, args: &[&str], code: i32) -> String {
    let (ended, told) = run(relay, args).await;
    assert_eq!(ended, code, "{told}");
    told
}

/// Changes the place of the journal for the relay's next start.
fn keep_in(relay: &Relay, before: &str, after: &str) {
    let text = std::fs::read_to_string(relay.config()).expect("the configuration");
    assert!(text.contains(before), "{text}");
    relay.replace_config(&text.replace(before, after));
}

fn in_a_database(database: &Database) -> String {
    format!("url = \"{}\"\nnode = \"one\"\nspill_path = \"spill.db\"\ndurability = \"single\"", database.url)
}

/// Starts a relay on a journal that it must refuse with this reason.
async fn expect_no_start(relay: &mut Relay, why: &str) {
    relay.launch();
    let status = relay.ended(SOON).await;
    assert_eq!(status.code(), Some(74), "{}", relay.log());
    assert!(relay.log().contains(why), "{}", relay.log());
}

/// The facts that a move must not change.
async fn told(relay: &Relay) -> Value {
    let (_, report) = relay.verb(&["report", "--json"]).await;
    let report: Value = serde_json::from_str(&report).expect("a report");
    let upstreams = report["upstreams"].as_array().expect("upstreams").iter();
    let fields = ["name", "categories", "dropped", "waiting", "dead_letters"];
    let upstreams = upstreams.map(|upstream| fields.map(|field| upstream[field].clone())).collect::<Vec<_>>();
    let (_, letters) = relay.verb(&["dead-letters", "list", "--json"]).await;
    let letters: Value = serde_json::from_str(&letters).expect("letters");
    let letters = letters["dead_letters"].as_array().expect("letters").iter();
    let letters = letters.map(|letter| ["id", "upstream", "event_id", "answer"].map(|field| letter[field].clone()));
    let status = relay.status().await;
    serde_json::json!({
        "upstreams": upstreams,
        "letters": letters.collect::<Vec<_>>(),
        "switches": report["switches"],
        "accepted": report["intake"]["accepted"],
        "primary": status["primary"],
    })
}

/// Waits until an upstream has taken exactly these ids, once each.
async fn taken(relay: &Relay, name: &str, upstream: &Upstream, ids: &[String]) {
    let mut ids = ids.to_vec();
    ids.sort();
    eventually(&format!("{name} has everything once"), SOON, async || {
        let mut taken = upstream.taken_ids();
        taken.sort();
        if taken == ids { Ok(()) } else { Err(format!("{} of {}\n{}", taken.len(), ids.len(), relay.log())) }
    })
    .await;
}

/// An event with an attachment of 2.5 MiB.
fn large(id: &str) -> String {
    let bytes = "l".repeat(5 << 19);
    format!("{}{{\"type\":\"attachment\",\"length\":{}}}\n{bytes}\n", envelopes::error(id), bytes.len())
}

/// A relay with a backlog at `b`, a dead letter of `a`, switches and a large body; also the ids that it took.
async fn filled(a: &Upstream, b: &Upstream) -> (Relay, Vec<String>) {
    b.always(Reply::status(503));
    let relay = Plan::new(&[("a", a.dsn("key", 1)), ("b", b.dsn("key", 1))]).start().await;
    let mut ids = relay.send_errors(6).await;
    let id = envelopes::new_id();
    assert_eq!(relay.send(large(&id)).await.status(), 200);
    ids.push(id);
    taken(&relay, "a", a, &ids).await;
    relay.flip_to("b").await;
    relay.flip_to("a").await;
    a.then([Reply::status(400)]);
    ids.extend(relay.send_errors(1).await);
    eventually("a has refused one", SOON, async || {
        let letters = relay.upstream("a").await["dead_letters"].clone();
        if letters == 1 { Ok(()) } else { Err(letters.to_string()) }
    })
    .await;
    (relay, ids)
}

#[tokio::test]
async fn a_journal_moves_into_a_database_and_back_and_everything_is_delivered_once() {
    let (a, b, c) = (Upstream::start().await, Upstream::start().await, Upstream::start().await);
    let (mut relay, mut ids) = filled(&a, &b).await;
    let before = told(&relay).await;
    relay.stop().await;
    let database = Server::shared().database();
    let counts = moved(&relay, &["--to", &database.url, "--single"]).await;
    assert_eq!((&counts["records"], &counts["envelopes that wait for b"]), (&8.into(), &8.into()), "{counts}");
    assert_eq!((&counts["dead letters of a"], &counts["rows of switch"]), (&1.into(), &3.into()), "{counts}");
    expect_no_start(&mut relay, "was moved to another journal").await;
    keep_in(&relay, IN_A_FILE, &in_a_database(&database));
    let mut relay = relay.started().await;
    assert_eq!(told(&relay).await, before);
    let in_a: Vec<String> = ids[..7].to_vec();
    for id in [&ids[0], &ids[7]] {
        assert_eq!(relay.send(envelopes::error(id)).await.status(), 200, "a repeat");
    }
    ids.extend(relay.send_errors(2).await);
    taken(&relay, "a", &a, &[&in_a[..], &ids[8..]].concat()).await;

    // Half of the backlog is delivered here, the rest after the move back.
    relay.stop().await;
    let counts = moved(&relay, &["--to", "back.db"]).await;
    assert_eq!((&counts["records"], &counts["envelopes that wait for b"]), (&10.into(), &10.into()), "{counts}");
    expect_no_start(&mut relay, "was moved to another journal").await;
    keep_in(&relay, &in_a_database(&database), "path = \"back.db\"");
    let with_c = "[upstreams.b]\n\n[upstreams.c]\n";
    keep_in(&relay, "[upstreams.b]\n", with_c);
    keep_in(&relay, "[projects.upstreams]\n", &format!("[projects.upstreams]\nc = \"{}\"\n", c.dsn("key", 1)));
    b.always(Reply::Ok);
    let relay = relay.started().await;
    taken(&relay, "b", &b, &ids).await;
    let body = b.taken().into_iter().find(|seen| seen.event_id() == ids[6]).expect("the large one").items().len();
    assert!(body > 5 << 19, "{body}");
    let (code, told) = relay.verb(&["dead-letters", "retry", "--all"]).await;
    assert_eq!(code, 0, "{told}");
    taken(&relay, "a", &a, &ids).await;
    let (code, told) = relay.verb(&["backfill", "c", "--since", "1h"]).await;
    assert_eq!(code, 0, "{told}");
    taken(&relay, "c", &c, &ids).await;
    relay.finish().await;
}

/// Lets `a` refuse an event, and discards the dead letter; returns its number.
async fn refused_and_discarded(relay: &Relay, a: &Upstream) -> u64 {
    a.then([Reply::status(400)]);
    relay.send_errors(1).await;
    eventually("a has refused it", SOON, async || {
        let letters = relay.upstream("a").await["dead_letters"].clone();
        if letters == 1 { Ok(()) } else { Err(letters.to_string()) }
    })
    .await;
    let (_, told) = relay.verb(&["dead-letters", "list", "--json"]).await;
    let letters: Value = serde_json::from_str(&told).expect("letters");
    let number = letters["dead_letters"][0]["id"].as_u64().expect("a number");
    let (code, told) = relay.verb(&["dead-letters", "discard", &number.to_string()]).await;
    assert_eq!(code, 0, "{told}");
    number
}

#[tokio::test]
async fn the_number_of_a_discarded_dead_letter_is_not_used_again_after_a_move() {
    let a = Upstream::start().await;
    let mut relay = Plan::new(&[("a", a.dsn("key", 1))]).start().await;
    let mut numbers = vec![refused_and_discarded(&relay, &a).await];
    relay.stop().await;
    let database = Server::shared().database();
    moved(&relay, &["--to", &database.url, "--single"]).await;
    keep_in(&relay, IN_A_FILE, &in_a_database(&database));
    let mut relay = relay.started().await;
    numbers.push(refused_and_discarded(&relay, &a).await);
    relay.stop().await;
    moved(&relay, &["--to", "back.db"]).await;
    keep_in(&relay, &in_a_database(&database), "path = \"back.db\"");
    let relay = relay.started().await;
    numbers.push(refused_and_discarded(&relay, &a).await);
    assert!(numbers.is_sorted_by(|before, next| before < next), "{numbers:?}");
    relay.finish().await;
}

#[tokio::test]
async fn the_records_of_several_relays_move_into_one_file() {
    let (a, b) = (Upstream::start().await, Upstream::start().await);
    let database = Server::shared().database();
    let plan = |name: &str| {
        Plan::new(&[("a", a.dsn("key", 1)), ("b", b.dsn("key", 1))])
            .shared(&database.url, name)
            .journal("durability = \"single\"")
    };
    let (mut one, mut two) = (plan("one").start().await, plan("two").start().await);
    a.always(Reply::Hang);
    let mut ids = Vec::new();
    for _ in 0..20 {
        ids.extend(one.send_errors(2).await);
        ids.extend(two.send_errors(1).await);
    }
    taken(&one, "b", &b, &ids).await;
    eventually("that is committed", SOON, async || {
        let waiting = one.samples().await?.sum("switchyard_backlog_envelopes", &[("upstream", "b")]);
        if waiting == 0.0 { Ok(()) } else { Err(waiting.to_string()) }
    })
    .await;
    let told = refused(&one, &["move", "--to", "one.db"], 1).await;
    assert!(told.contains("relay one is on postgres://") && told.contains("stop all relays"), "{told}");
    one.kill();
    two.kill();
    assert!(database.number("SELECT count(*) FROM slice") > 0, "something was in hand");
    // The relays seem to have been silent for a while, so it is unknown what they have spilled since.
    database.execute("UPDATE node SET alive_until = clock_timestamp() - interval '1 minute'");
    database.execute("UPDATE node SET spilled = 3 WHERE name = 'two'");
    let told = refused(&one, &["move", "--to", "one.db"], 1).await;
    assert!(told.contains("relay one ended without a word, and may keep envelopes on its machine"), "{told}");
    assert!(told.contains("relay two still keeps 3 envelopes on its machine"), "{told}");
    // The relays seem to have stopped in order.
    database.execute("UPDATE node SET alive_until = '-infinity', spilled = 0");
    let counts = moved(&one, &["--to", "one.db"]).await;
    assert_eq!((&counts["records"], &counts["envelopes that wait for a"]), (&60.into(), &60.into()), "{counts}");
    let url = format!("url = \"{}\"\nnode = \"one\"\nspill_path = \"spill.db\"\ndurability = \"single\"", database.url);
    let text = std::fs::read_to_string(one.config()).expect("the configuration").replace("\n\n", "\n");
    one.replace_config(&text.replace(&url, "path = \"one.db\""));
    a.always(Reply::Ok);
    let one = one.started().await;
    taken(&one, "a", &a, &ids).await;
    taken(&one, "b", &b, &ids).await;
    one.finish().await;
}

#[tokio::test]
async fn a_relay_moves_to_another_database_with_its_records_and_primary() {
    let (a, b) = (Upstream::start().await, Upstream::start().await);
    let (from, to) = (Server::shared().database(), Server::shared().database());
    let plan = Plan::new(&[("a", a.dsn("key", 1)), ("b", b.dsn("key", 1))]).shared(&from.url, "one");
    let mut relay = plan.journal("durability = \"single\"").start().await;
    let mut ids = relay.send_errors(2).await;
    taken(&relay, "b", &b, &ids).await;
    relay.flip_to("b").await;
    relay.stop().await;
    moved(&relay, &["--to", &to.url, "--single"]).await;
    keep_in(&relay, &format!("\"{}\"", from.url), &format!("\"{}\"", to.url));
    // The primary of the journal holds.
    relay.rewrite_primary("a");
    let relay = relay.started().await;
    assert_eq!(relay.status().await["primary"], "b");
    ids.extend(relay.send_errors(1).await);
    taken(&relay, "a", &a, &ids).await;
    taken(&relay, "b", &b, &ids).await;
    relay.finish().await;
}

/// Makes every insert into the table wait until it is let go.
fn hold_up(database: &Database, table: &str) {
    database.execute(
        "CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(600); RETURN NEW; END'",
    );
    database.execute(&format!("CREATE TRIGGER hold BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION hold()"));
}

const HELD_UP: &str = "FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()";

async fn is_held_up(database: &Database) {
    eventually("somebody is held up", SOON, async || match database.number(&format!("SELECT count(*) {HELD_UP}")) {
        0 => Err("not yet".to_owned()),
        _ => Ok(()),
    })
    .await;
}

/// Ends the waiting sessions as if their processes were killed.
fn let_go(database: &Database, table: &str) {
    database.execute(&format!("SELECT pg_terminate_backend(pid) {HELD_UP}"));
    database.execute(&format!("DROP TRIGGER hold ON {table}; DROP FUNCTION hold"));
}

#[tokio::test]
async fn a_killed_move_leaves_the_source_unchanged_and_the_target_unused() {
    let (a, b) = (Upstream::start().await, Upstream::start().await);
    let (mut relay, ids) = filled(&a, &b).await;
    relay.stop().await;
    let database = Server::shared().database();
    let to = ["--to", &database.url, "--single"];
    // An empty file has nothing to move, but the attempt creates the tables, so that the next move can be held up.
    std::fs::write(relay.home().join("empty.db"), "").expect("an empty file");
    let told = refused(&relay, &[&["move", "--from", "empty.db"], &to[..]].concat(), 1).await;
    assert!(told.contains("there is nothing in"), "{told}");
    hold_up(&database, "large");
    let mut held: Child = verb(&relay, &[&["move"], &to[..]].concat()).stderr(Stdio::null()).spawn().expect("it runs");
    is_held_up(&database).await;
    let told = refused(&relay, &[&["move"], &to[..]].concat(), 74).await;
    assert!(told.contains("in use by another process"), "{told}");
    held.kill().expect("it was running");
    held.wait().expect("it ends");
    let_go(&database, "large");

    keep_in(&relay, IN_A_FILE, &in_a_database(&database));
    expect_no_start(&mut relay, "is filled in part by a move that was cut off").await;
    let told = refused(&relay, &["reopen"], 1).await;
    assert!(told.contains("run that move again"), "{told}");
    let counts = moved(&relay, &["--from", "journal.db"]).await;
    assert_eq!((&counts["records"], &counts["envelopes that wait for b"]), (&8.into(), &8.into()), "{counts}");
    b.always(Reply::Ok);
    let relay = relay.started().await;
    taken(&relay, "b", &b, &ids).await;
    relay.finish().await;
}

#[tokio::test]
async fn a_journal_moves_only_into_an_empty_one_and_can_be_reopened() {
    let (a, b) = (Upstream::start().await, Upstream::start().await);
    let (mut relay, ids) = filled(&a, &b).await;
    relay.stop().await;
    let (one, two) = (Server::shared().database(), Server::shared().database());
    let first = moved(&relay, &["--to", "other.db"]).await;
    let told = refused(&relay, &["move", "--to", "third.db"], 1).await;
    assert!(told.contains("was moved already"), "{told}");
    assert_eq!(moved(&relay, &["--from", "other.db", "--to", &one.url, "--single"]).await, first);
    assert_eq!(moved(&relay, &["--from", &one.url, "--to", &two.url, "--single"]).await, first);
    for to in [&two.url, "journal.db"] {
        let told = refused(&relay, &["move", "--from", &one.url, "--to", to, "--single"], 1).await;
        assert!(told.contains("is not empty") || told.contains("was moved"), "{told}");
    }
    let told = refused(&relay, &["move", "--from", &two.url, "--to", "journal.db", "--single"], 1).await;
    assert!(told.contains("name a new one"), "{told}");
    let (code, told) = run(&relay, &["reopen", &one.url, "--single"]).await;
    assert_eq!(code, 0, "{told}");
    let told = refused(&relay, &["move", "--from", &one.url, "--to", &two.url, "--single"], 1).await;
    assert!(told.contains("is not empty") && told.contains("account of"), "{told}");
    let (code, told) = run(&relay, &["reopen"]).await;
    assert_eq!(code, 0, "{told}");
    b.always(Reply::Ok);
    let relay = relay.started().await;
    taken(&relay, "b", &b, &ids).await;
    assert_eq!(b.taken_ids().into_iter().collect::<BTreeSet<_>>().len(), ids.len());
    relay.finish().await;
}

#[tokio::test]
async fn a_moved_journal_does_not_move_into_another_with_an_interrupted_move() {
    let (a, b) = (Upstream::start().await, Upstream::start().await);
    let (mut relay, ids) = filled(&a, &b).await;
    relay.stop().await;
    let first = Server::shared().database();
    let to_first = ["move", "--to", &first.url, "--single"];
    let bodies = relay.home().join("journal.db-bodies");
    let away = relay.home().join("away");
    std::fs::rename(&bodies, &away).expect("a folder of bodies");
    let told = refused(&relay, &to_first, 74).await;
    assert!(told.contains("journal.db-bodies is missing: it belongs to the journal"), "{told}");
    std::fs::rename(&away, &bodies).expect("it comes back");
    moved(&relay, &["--to", "second.db"]).await;
    let told = refused(&relay, &to_first, 1).await;
    assert!(told.contains("was moved already, and not into postgres://"), "{told}");
    keep_in(&relay, IN_A_FILE, "path = \"second.db\"");
    b.always(Reply::Ok);
    let relay = relay.started().await;
    taken(&relay, "b", &b, &ids).await;
    relay.finish().await;
}

#[tokio::test]
async fn a_move_interrupted_between_its_marks_ends_without_moving_again() {
    let (a, b) = (Upstream::start().await, Upstream::start().await);
    let (mut relay, ids) = filled(&a, &b).await;
    relay.stop().await;
    let (one, two) = (Server::shared().database(), Server::shared().database());
    moved(&relay, &["--to", &one.url, "--single"]).await;
    let on = ["--from", &one.url, "--to", &two.url, "--single"];
    let first = moved(&relay, &on).await;
    let mark = one.ask("SELECT state FROM meta").trim().replace("moved", "filling");
    two.execute(&format!("UPDATE meta SET state = '{mark}'"));
    // A move that moved a large body again would wait forever.
    hold_up(&two, "large");
    assert_eq!(moved(&relay, &on).await, first);
    let_go(&two, "large");
    keep_in(&relay, IN_A_FILE, &in_a_database(&two));
    b.always(Reply::Ok);
    let relay = relay.started().await;
    taken(&relay, "b", &b, &ids).await;
    relay.finish().await;
}

#[tokio::test]
async fn no_move_begins_while_a_relay_is_starting() {
    let (a, database) = (Upstream::start().await, Server::shared().database());
    let plan = Plan::new(&[("a", a.dsn("key", 1))]).shared(&database.url, "one").journal("durability = \"single\"");
    let mut relay = plan.start().await;
    relay.stop().await;
    hold_up(&database, "committed");
    relay.launch();
    is_held_up(&database).await;
    let told = refused(&relay, &["move", "--to", "other.db"], 74).await;
    assert!(told.contains("a relay is just starting on it"), "{told}");
    let_go(&database, "committed");
    relay.ended(SOON).await;
    moved(&relay, &["--to", "other.db"]).await;
}
