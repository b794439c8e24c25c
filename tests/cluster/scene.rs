//! Three relays, three servers, two upstreams, and senders at each relay.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::support::connection::Connection;
use crate::support::eventually::eventually;
use crate::support::load::{Load, Sendings, Style};
use crate::support::machines::Network;
use crate::support::patroni::Patroni;
use crate::support::relay::{Plan, Relay};
use crate::support::upstream::Upstream;

/// The timeout for every accepted envelope to be delivered after the worst failure.
pub(super) const LATE: Duration = Duration::from_secs(120);

/// The number of senders at each relay.
const SENDERS: u32 = 8;

/// The places of undelivered records: spilled, in hand of a relay, put off, or untried.
const WHERE_IT_IS: &str = "SELECT 'relay', incarnation::text, name, replaced || ' ' || gone, spilled FROM node
    UNION ALL SELECT 'in hand of ' || owner, target::text, '', '', sum(cardinality(records)) FROM slice GROUP BY owner, target
    UNION ALL SELECT 'put off', target::text, coalesce(owner::text, ''), (due > extract(epoch FROM now()) * 1000)::text, count(*) FROM pending GROUP BY 2, 3, 4
    UNION ALL SELECT 'untried of ' || f.incarnation, f.target::text, '', '', count(*) FROM frontier f
        JOIN record r ON r.id > f.reached AND r.id < (f.incarnation::bigint + 1) << 40 GROUP BY f.incarnation, f.target";

/// The state of each of these events: its incarnation and number, the slices and rows that name it, and whether its frontier has passed it.
const EACH: &str = "SELECT r.event_id, r.id >> 40, r.id & 1099511627775, r.targets, to_timestamp(r.accepted_at / 1000.0)::time,
    (SELECT string_agg(s.id || ' of ' || s.owner, ', ') FROM slice s WHERE s.target = {target} AND r.id = ANY(s.records)),
    (SELECT p.due || ' of ' || coalesce(p.owner, 0) FROM pending p WHERE p.target = {target} AND p.record = r.id),
    (SELECT f.reached >= r.id FROM frontier f WHERE f.target = {target} AND f.incarnation = r.id >> 40)
    FROM record r WHERE r.event_id::text = ANY(ARRAY[{ids}]::uuid[]::text[]) ORDER BY r.id LIMIT 40";

/// A small machine can carry two clusters at a time.
static PLACES: Semaphore = Semaphore::const_new(2);

/// The parties of a test.
pub(super) struct Scene {
    pub(super) servers: Patroni,
    pub(super) a: Upstream,
    pub(super) b: Upstream,
    pub(super) relays: Vec<Relay>,
    _place: SemaphorePermit<'static>,
}

/// The ids that an upstream got more than once, and how often.
pub(super) type Repeats = BTreeMap<String, usize>;

impl Scene {
    /// Starts everything.
    pub(super) async fn begin() -> Self {
        let mut scene = Self::without_relays(None).await;
        for number in 0..3 {
            scene.join(scene.plan(number)).await;
        }
        scene
    }

    /// Starts the servers and the upstreams, here or each on a machine of its own.
    pub(super) async fn without_relays(network: Option<&Network>) -> Self {
        let place = PLACES.acquire().await.expect("a place");
        let servers = Patroni::start(network).await;
        let (a, b) = (upstream(network).await, upstream(network).await);
        Self { servers, a, b, relays: vec![], _place: place }
    }

    /// The plan of a relay like the others.
    pub(super) fn plan(&self, number: usize) -> Plan {
        let plan = Plan::new(&[("a", self.a.dsn("key", 1)), ("b", self.b.dsn("key", 1))]);
        plan.shared(&self.servers.url(), &format!("relay-{number}"))
    }

    /// Starts a further relay.
    pub(super) async fn join(&mut self, plan: Plan) {
        self.relays.push(plan.start().await);
    }

    /// Starts senders at each relay, with about `per_second` envelopes a second in total.
    pub(super) fn load(&self, per_second: u32) -> Vec<Load> {
        let each = per_second / self.relays.len() as u32;
        self.relays.iter().map(|relay| load(&relay.address(), each)).collect()
    }

    /// Waits until `count` more envelopes are answered with 200 at each relay.
    pub(super) async fn more(&self, loads: &[Load], count: u64) {
        let goals: Vec<u64> = loads.iter().map(|load| load.answered() + count).collect();
        for (at, (load, goal)) in loads.iter().zip(goals).enumerate() {
            eventually("the load goes on", LATE, async || {
                let log = || self.relays[at].log().lines().rev().take(20).collect::<Vec<_>>().join("\n");
                if load.answered() >= goal { Ok(()) } else { Err(format!("{} answered\n{}", load.answered(), log())) }
            })
            .await;
        }
    }

    /// Waits until each upstream has all of these ids; returns the repeated ones.
    pub(super) async fn delivered(&self, ids: &BTreeSet<String>) -> [Repeats; 2] {
        let mut repeats = [Repeats::new(), Repeats::new()];
        for ((name, target, upstream), repeats) in
            [("a", "0", &self.a), ("b", "1", &self.b)].into_iter().zip(&mut repeats)
        {
            let taken = eventually("everything is delivered", LATE, async || {
                // The ids are compared only once there are enough of them.
                if upstream.taken_count() < ids.len() {
                    let taken: BTreeSet<String> = upstream.taken_ids().into_iter().collect();
                    let missing: Vec<_> = ids.difference(&taken).map(|id| format!("'{id}'")).collect();
                    let kept = format!(
                        "SELECT count(*) FROM record WHERE event_id::text = ANY(ARRAY[{}]::uuid[]::text[])",
                        missing.join(",")
                    );
                    let kept = self.servers.ask(&kept).await.unwrap_or_else(|error| error);
                    let whose = self.servers.ask(WHERE_IT_IS).await.unwrap_or_else(|error| error);
                    let each = EACH.replace("{ids}", &missing.join(",")).replace("{target}", target);
                    let each = self.servers.ask(&each).await.unwrap_or_else(|error| error);
                    let whose = format!("{} of {} are records\n{whose}{each}", kept.trim(), missing.len());
                    return Err(format!("{name} has {} of {}\n{whose}", upstream.taken_count(), ids.len()));
                }
                let mut taken = BTreeMap::<String, usize>::new();
                upstream.taken_ids().into_iter().for_each(|id| *taken.entry(id).or_default() += 1);
                let missing = ids.iter().filter(|id| !taken.contains_key(*id)).count();
                if missing == 0 { Ok(taken) } else { Err(format!("{name} lacks {missing} of {}", ids.len())) }
            })
            .await;
            repeats.extend(taken.into_iter().filter(|(_, times)| *times > 1));
        }
        repeats
    }

    /// Waits until all relays report the same balanced accounts and nothing waits.
    pub(super) async fn balanced(&self) {
        for relay in &self.relays {
            eventually("the accounts balance", LATE, async || {
                let status = relay.status().await;
                if status["difference"] == 0 && own_accounts_balance(&status) && self.waiting(relay).await == 0 {
                    Ok(())
                } else {
                    Err(status.to_string())
                }
            })
            .await;
        }
    }

    async fn waiting(&self, relay: &Relay) -> u64 {
        let mut waiting = 0;
        for name in ["a", "b"] {
            waiting += relay.upstream(name).await["backlog"]["envelopes"].as_u64().unwrap_or(u64::MAX >> 1);
        }
        waiting
    }
}

/// Whether the accounts in a relay's status balance when nothing waits.
fn own_accounts_balance(status: &Value) -> bool {
    let upstreams = status["upstreams"].as_array().expect("upstreams");
    upstreams.iter().flat_map(|upstream| upstream["accounts"].as_array().expect("accounts")).all(|account| {
        let count = |name: &str| account[name].as_u64().expect("a count");
        let dropped: u64 = account["dropped"].as_object().expect("reasons").values().filter_map(Value::as_u64).sum();
        count("accepted") + count("returned") == count("delivered") + dropped
    })
}

async fn upstream(network: Option<&Network>) -> Upstream {
    match network {
        Some(network) => Upstream::start_in(network.machine().await),
        None => Upstream::start().await,
    }
}

/// Starts senders at one address, with about `per_second` envelopes a second in total.
pub(super) fn load(address: &str, per_second: u32) -> Load {
    let pace = Some(Duration::from_secs(1) * SENDERS / per_second);
    Load::start(address, Style { senders: SENDERS as usize, pace, keep_alive: true })
}

/// Stops all senders; returns what they sent.
pub(super) async fn stop(loads: Vec<Load>) -> Sendings {
    let mut all = Sendings::default();
    for load in loads {
        all.0.extend(load.stop().await.0);
    }
    all
}

/// Sends an envelope once and returns the status of the answer.
pub(super) async fn send(address: &str, envelope: &str) -> Result<u16, String> {
    let mut connection = Connection::open(address).await.map_err(|error| error.to_string())?;
    Ok(connection.post(envelope).await.map_err(|error| error.to_string())?.status)
}
