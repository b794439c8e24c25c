//! The journal's files and other processes of the machine: others cannot read the files, and a reader does not make them grow.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::Duration;

use rusqlite::Connection;

use crate::support::envelopes::{envelope, new_id};
use crate::support::eventually::eventually;
use crate::support::relay::{Plan, Relay, SOON};
use crate::support::upstream::{Reply, Upstream};

const FILES: [&str; 5] = ["journal.db", "journal.db-wal", "journal.db-shm", "journal.db.lock", "journal.db-bodies"];

fn modes(home: &Path) -> [u32; 5] {
    FILES.map(|name| fs::metadata(home.join(name)).expect(name).permissions().mode() & 0o777)
}

/// Sends an event of 64 KiB; returns the status and body of the answer, which must not reveal anything about the machine.
async fn send(relay: &Relay) -> (u16, String) {
    let payload = serde_json::json!({ "message": "x".repeat(64 << 10) }).to_string();
    let answer = relay.send(envelope(&new_id(), "event", &payload)).await;
    (answer.status().as_u16(), answer.text().await.expect("a body"))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_journals_files_are_private_and_an_older_journals_become_so() {
    let upstream = Upstream::start().await;
    let mut relay = Plan::new(&[("a", upstream.dsn("0ld", 1))]).start().await;
    let (home, closed) = (relay.home(), [0o600, 0o600, 0o600, 0o600, 0o700]);
    assert_eq!(modes(&home), closed);
    relay.kill();
    for name in FILES {
        fs::set_permissions(home.join(name), fs::Permissions::from_mode(0o755)).expect("another mode");
    }
    let mut relay = relay.started().await;
    assert_eq!(modes(&home), closed);
    relay.stop().await;
    let relay = relay.started().await;
    let told = relay.log().matches("others on this machine could read the journal").count();
    assert_eq!(told, 1, "{}", relay.log());
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lasting_reader_is_named_and_does_not_grow_the_wal_without_bound() {
    let upstream = Upstream::start().await;
    let plan = Plan::new(&[("a", upstream.dsn("0ld", 1))]).journal("max_size = \"8MiB\"");
    let relay = plan.journal("min_free_disk = \"0B\"").start().await;
    assert_eq!(send(&relay).await.0, 200);
    let reader = Connection::open(relay.home().join("journal.db")).expect("the journal");
    reader.execute_batch("BEGIN").expect("a transaction");
    reader.query_row("SELECT count(*) FROM record", [], |_| Ok(())).expect("a read");
    let log = || fs::metadata(relay.home().join("journal.db-wal")).expect("the log").len();
    let mut sent = 0;
    while send(&relay).await.0 != 503 {
        sent += 1;
        assert!(sent < 800, "50 MiB in a journal of 8 MiB, a log of {}", log());
    }
    eventually("the status names the reader", SOON, async || {
        let why = relay.status().await["not_ready"].to_string();
        why.contains("another process reads the journal").then_some(()).ok_or(why)
    })
    .await;
    relay.balanced(SOON).await;
    let before = log();
    assert!(before < 32 << 20, "{before}");
    for _ in 0..200 {
        assert_eq!(send(&relay).await.0, 503);
    }
    let grown = log() - before;
    assert!(grown < 512 << 10, "200 refusals made the log grow by {grown} bytes");
    drop(reader);
    eventually("it takes envelopes again", Duration::from_secs(30), async || match send(&relay).await {
        (200, _) => Ok(()),
        (status, body) => Err(format!("{status} {body}")),
    })
    .await;
    relay.finish().await;
}

/// The bytes that the journal occupies on disk, as `du` counts them.
fn on_disk(home: &Path) -> u64 {
    let taken = |path: &Path| fs::metadata(path).map_or(0, |file| file.blocks() * 512);
    let bodies = fs::read_dir(home.join("journal.db-bodies")).expect("the folder of bodies");
    let bodies = bodies.map(|file| taken(&file.expect("a file").path())).sum::<u64>();
    bodies + FILES[..4].iter().map(|name| taken(&home.join(name))).sum::<u64>()
}

/// Waits until the status shows the size of the files, within two pages, and at least `least` bytes.
async fn says_what_the_files_take(relay: &Relay, least: u64) {
    eventually("the status says what du says", SOON, async || {
        let (before, said) = (on_disk(&relay.home()), relay.status().await["journal"]["size_bytes"].as_u64());
        let (after, said) = (on_disk(&relay.home()), said.expect("a size"));
        let is_right = before == after && said.abs_diff(after) <= 2 * 16_384 && after >= least;
        is_right.then_some(()).ok_or_else(|| format!("{said} said, {before} and {after} taken, {least} expected"))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_shows_the_journals_size_on_disk_including_the_wal() {
    let upstream = Upstream::start().await;
    upstream.always(Reply::status(503));
    let relay = Plan::new(&[("a", upstream.dsn("0ld", 1))]).start().await;
    for _ in 0..50 {
        assert_eq!(send(&relay).await.0, 200);
    }
    let reader = Connection::open(relay.home().join("journal.db")).expect("the journal");
    reader.execute_batch("BEGIN").expect("a transaction");
    reader.query_row("SELECT count(*) FROM record", [], |_| Ok(())).expect("a read");
    for _ in 0..150 {
        assert_eq!(send(&relay).await.0, 200);
    }
    let large = envelope(&new_id(), "attachment", &"x".repeat(3 << 20));
    assert_eq!(relay.send(large).await.status(), 200);
    says_what_the_files_take(&relay, 14 << 20).await;
    drop(reader);
    upstream.always(Reply::Ok);
    relay.balanced(3 * SOON).await;
    says_what_the_files_take(&relay, 10 << 20).await;
    relay.finish().await;
}
