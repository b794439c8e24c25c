//! Whole relays on the backend in memory: two in this process, each with its own runtime, ports and configuration.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use reqwest::StatusCode;
use serde_json::{Value, json};
use switchyard::config::load;
use switchyard::daemon::{self, Backend, Options};
use switchyard::http::Listeners;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::journal::Journal;
use crate::support::envelopes::{self, KEY};
use crate::support::eventually::eventually;
use crate::support::net;
use crate::support::relay::SOON;
use crate::support::upstream::{Reply, Upstream};
use crate::telemetry::ledger::Ledger;
use crate::toy::Cluster;

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// The upstreams `a` and `b`, and the state that the relays share.
struct Scene {
    a: Upstream,
    b: Upstream,
    cluster: Cluster,
    /// A node of the test, which only reads.
    looker: Arc<dyn Journal>,
    accounts: Ledger,
}

/// One relay.
struct Relay {
    port: u16,
    admin_port: u16,
    owner: u64,
    client: reqwest::Client,
    /// Cancelled to end the relay like a loss of power.
    power: CancellationToken,
    thread: Option<JoinHandle<()>>,
    _home: TempDir,
}

impl Scene {
    async fn begin() -> Self {
        let (cluster, accounts) = (Cluster::new(64 << 20), Ledger::default());
        let looker = Arc::new(cluster.join("looker", accounts.clone()));
        Self { a: Upstream::start().await, b: Upstream::start().await, cluster, looker, accounts }
    }

    /// Starts a relay and waits until it is ready.
    async fn relay(&self) -> Relay {
        let home = TempDir::with_prefix("switchyard-").expect("a folder");
        let (port, admin_port) = (net::free_port(), net::free_port());
        let text = format!(
            "primary = \"a\"\n[server]\nlisten = [\"127.0.0.1:{port}\"]\n[admin]\nlisten = \"127.0.0.1:{admin_port}\"\ntoken = \"{TOKEN}\"\n\
             [upstreams.a]\ntimeout = \"60s\"\n[upstreams.b]\n[[projects]]\nname = \"shop\"\nid = \"1\"\npublic_key = \"{KEY}\"\n\
             [projects.upstreams]\na = \"{}\"\nb = \"{}\"\n",
            self.a.dsn("key", 1),
            self.b.dsn("key", 1)
        );
        let ledger = Ledger::default();
        let node = Arc::new(self.cluster.join(&format!("relay-{port}"), ledger.clone()));
        let (owner, file) = (node.owner(), home.path().join("config.toml"));
        std::fs::write(&file, text).expect("a configuration");
        let loaded = load(&file).unwrap_or_else(|error| panic!("{error:?}"));
        let backend = Backend { journal: node, ledger, secret: [7; 32] };
        let power = CancellationToken::new();
        let lost = power.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
            let runtime = runtime.expect("a runtime");
            runtime.block_on(lost.run_until_cancelled(async {
                let hangup = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup()).expect("a signal");
                let (listeners, clock) = (Listeners::default(), Clock::system());
                let options = Options { path: file, loaded, listeners, clock, hangup };
                daemon::run_on(backend, options, CancellationToken::new(), || {}).await.expect("it runs");
            }));
            runtime.shutdown_background();
        });
        let relay = Relay { port, admin_port, owner, client: net::client(), power, thread: Some(thread), _home: home };
        eventually("the relay is ready", SOON, async || net::text(&relay.client, &relay.admin("/readyz")).await).await;
        relay
    }

    /// The quantity that waits for an upstream.
    async fn waiting(&self, name: &str) -> u64 {
        let target = self.looker.target(name).await.expect("a target");
        self.looker.backlog(target).await.expect("a backlog").quantities.iter().map(|(.., quantity)| quantity).sum()
    }

    /// Waits until an upstream's accounts balance: accepted + returned = delivered + dropped + pending. Returns accepted and delivered.
    async fn balanced(&self, name: &str) -> (u64, u64) {
        // A settlement between reading the accounts and the backlog shows in one of them, so this retries.
        eventually("the accounts balance", SOON, async || {
            let accounts = self.accounts.accounts();
            let own =
                accounts.iter().filter(|(key, _)| key.upstream.as_deref() == Some(name)).map(|(_, account)| account);
            let own: Vec<_> = own.collect();
            let expected: i64 = own.iter().map(|account| account.expected_pending()).sum();
            match self.waiting(name).await as i64 {
                waiting if waiting == expected => Ok((
                    own.iter().map(|account| account.accepted).sum(),
                    own.iter().map(|account| account.delivered).sum(),
                )),
                waiting => Err(format!("{name}: {waiting} waiting, {expected} expected")),
            }
        })
        .await
    }

    /// Waits until each upstream has taken exactly these ids, once each, and its accounts balance.
    async fn delivered(&self, mut ids: Vec<String>) {
        ids.sort();
        for (name, upstream) in [("a", &self.a), ("b", &self.b)] {
            eventually("everything is delivered", SOON, async || {
                let mut taken = upstream.taken_ids();
                taken.sort();
                if taken == ids && self.waiting(name).await == 0 { Ok(()) } else { Err(format!("{name}: {taken:?}")) }
            })
            .await;
            let many = ids.len() as u64;
            assert_eq!(self.balanced(name).await, (many, many));
        }
    }
}

impl Relay {
    fn admin(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.admin_port)
    }

    /// Sends an error, which must be taken.
    async fn send(&self, id: &str) {
        let url = format!("http://127.0.0.1:{}/api/1/envelope/?sentry_version=7&sentry_key={KEY}", self.port);
        let answer = self.client.post(url).body(envelopes::error(id)).send().await.expect("an answer");
        assert_eq!(answer.status(), StatusCode::OK);
    }

    /// Sends `count` errors; returns their ids.
    async fn send_errors(&self, count: usize) -> Vec<String> {
        let ids: Vec<String> = (0..count).map(|_| envelopes::new_id()).collect();
        for id in &ids {
            self.send(id).await;
        }
        ids
    }

    async fn status(&self) -> Value {
        net::json(&self.client, &self.admin("/api/status")).await.expect("a status")
    }

    /// Ends the relay and all its tasks, like a loss of power.
    fn lose_power(&mut self) {
        self.power.cancel();
        self.thread.take().expect("it runs").join().expect("it ran");
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.power.cancel();
    }
}

#[tokio::test]
async fn envelopes_of_either_relay_reach_each_upstream_once() {
    let scene = Scene::begin().await;
    let (one, two) = (scene.relay().await, scene.relay().await);
    let mut ids = Vec::new();
    for _ in 0..10 {
        ids.extend(one.send_errors(3).await);
        ids.extend(two.send_errors(2).await);
    }
    scene.delivered(ids.clone()).await;
    for relay in [&one, &two] {
        assert_eq!(relay.status().await["difference"], 0, "each tells the accounts of both");
    }
    one.send(&ids[0]).await;
    scene.delivered(ids).await;
}

#[tokio::test]
async fn an_event_repeated_at_another_relay_is_delivered_once() {
    let scene = Scene::begin().await;
    let (one, two) = (scene.relay().await, scene.relay().await);
    let ids = one.send_errors(3).await;
    two.send(&ids[1]).await;
    let three = scene.relay().await;
    three.send(&ids[2]).await;
    scene.delivered(ids).await;
}

#[tokio::test]
async fn a_switch_at_one_relay_is_live_at_the_other() {
    let scene = Scene::begin().await;
    let (one, two) = (scene.relay().await, scene.relay().await);
    assert_eq!((&one.status().await["primary"], &two.status().await["primary"]), (&json!("a"), &json!("a")));
    let order = json!({ "to": "b", "reason": "the trial is over" });
    let answer =
        one.client.post(one.admin("/api/primary")).bearer_auth(TOKEN).json(&order).send().await.expect("an answer");
    assert_eq!(answer.status(), StatusCode::OK);
    eventually("it is live at both", SOON, async || {
        let primaries = [one.status().await["primary"].clone(), two.status().await["primary"].clone()];
        if primaries == ["b", "b"] { Ok(()) } else { Err(format!("{primaries:?}")) }
    })
    .await;
    let ids = [one.send_errors(2).await, two.send_errors(2).await].concat();
    scene.delivered(ids).await;
}

#[tokio::test]
async fn records_leased_by_a_dead_relay_are_delivered_by_the_other() {
    let scene = Scene::begin().await;
    let mut one = scene.relay().await;
    scene.a.always(Reply::Hang);
    let mut ids = one.send_errors(40).await;
    eventually("some are under way to a, and b has all", SOON, async || {
        match (scene.a.seen().len(), scene.b.taken_count()) {
            (0, _) => Err("none".to_owned()),
            (_, 40) => Ok(()),
            (_, taken) => Err(format!("b has {taken}")),
        }
    })
    .await;
    assert_eq!((scene.balanced("a").await, scene.balanced("b").await.0), ((40, 0), 40));
    scene.a.always(Reply::Ok);
    let two = scene.relay().await;
    eventually("all but what is leased is delivered", SOON, async || {
        let (taken, leased) = (scene.a.taken_count(), scene.cluster.leased_by(one.owner));
        let is_all = taken + leased == 40 && scene.waiting("a").await == leased as u64;
        if is_all { Ok(()) } else { Err(format!("{taken} taken, {leased} leased")) }
    })
    .await;
    one.lose_power();
    let leased = scene.cluster.leased_by(one.owner);
    assert!(leased > 0, "it died too late");
    assert_eq!(scene.balanced("a").await, (40, 40 - leased as u64), "what is leased waits");
    scene.cluster.bury(one.owner);
    ids.extend(two.send_errors(5).await);
    scene.delivered(ids).await;
    assert_eq!(two.status().await["difference"], 0);
}

#[tokio::test]
async fn an_unsettled_outcome_is_counted_and_its_record_delivered_again() {
    let scene = Scene::begin().await;
    scene.cluster.set_broken(true);
    let relay = scene.relay().await;
    relay.send_errors(3).await;
    eventually("three outcomes are not taken", SOON, async || {
        let text = net::text(&relay.client, &relay.admin("/metrics")).await?;
        let counts = |name| text.contains(&format!("switchyard_delivery_unsettled_total{{upstream=\"{name}\"}} 3\n"));
        if counts("a") && counts("b") { Ok(()) } else { Err(text) }
    })
    .await;
    for (name, upstream) in [("a", &scene.a), ("b", &scene.b)] {
        assert_eq!(
            (upstream.taken_count(), scene.balanced(name).await),
            (3, (3, 0)),
            "{name} took them, and they wait"
        );
    }
    scene.cluster.set_broken(false);
    scene.cluster.end_leases();
    for (name, upstream) in [("a", &scene.a), ("b", &scene.b)] {
        eventually("they are delivered again", SOON, async || {
            match (upstream.taken_count(), scene.waiting(name).await) {
                (6, 0) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
        assert_eq!(scene.balanced(name).await, (3, 3), "{name}");
    }
}

#[tokio::test]
async fn a_relay_that_cannot_extend_a_lease_asks_again_before_it_ends() {
    let scene = Scene::begin().await;
    // A worker first asks for an extension after fifteen seconds, and the answer comes when the lease would have ended.
    scene.cluster.set_leases(Duration::from_secs(33), 1);
    let relay = scene.relay().await;
    scene.a.always(Reply::Slow(Duration::from_secs(36)));
    let ids = relay.send_errors(1).await;
    eventually("it is extended when it is asked again", Duration::from_secs(40), async || {
        match scene.cluster.extensions() {
            (0, 1..) => Ok(()),
            (failures, answered) => Err(format!("{failures} are to fail, {answered} are answered")),
        }
    })
    .await;
    scene.delivered(ids).await;
    assert_eq!(scene.a.seen().len(), 1, "it was sent once");
    assert_eq!(relay.status().await["difference"], 0);
}
