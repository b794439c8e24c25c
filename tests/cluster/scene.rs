//! Three relays, three servers, two upstreams, and senders at each relay.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};

use crate::support::eventually::eventually;
use crate::support::load::{Load, Sendings, Style};
use crate::support::patroni::Patroni;
use crate::support::relay::{Plan, Relay};
use crate::support::upstream::Upstream;

/// How long everything accepted may take to be where it belongs after the worst.
pub(super) const LATE: Duration = Duration::from_secs(60);

/// Two clusters at a time are what a small machine can carry.
static PLACES: Semaphore = Semaphore::const_new(2);

/// What the tests look at.
pub(super) struct Scene {
    pub(super) servers: Patroni,
    pub(super) a: Upstream,
    pub(super) b: Upstream,
    pub(super) relays: Vec<Relay>,
    _place: SemaphorePermit<'static>,
}

/// What each upstream got too often, and how often.
pub(super) type Repeats = BTreeMap<String, usize>;

impl Scene {
    /// Everything runs.
    pub(super) async fn begin() -> Self {
        let place = PLACES.acquire().await.expect("a place");
        let (servers, a, b) = (Patroni::start().await, Upstream::start().await, Upstream::start().await);
        let mut scene = Self { servers, a, b, relays: vec![], _place: place };
        for number in 0..3 {
            scene.join(number).await;
        }
        scene
    }

    /// A further relay.
    pub(super) async fn join(&mut self, number: usize) {
        let plan = Plan::new(&[("a", self.a.dsn("key", 1)), ("b", self.b.dsn("key", 1))]);
        let relay = plan.shared(&self.servers.url(), &format!("relay-{number}")).start().await;
        self.relays.push(relay);
    }

    /// Senders at each relay: together about so many envelopes a second.
    pub(super) fn load(&self, per_second: u32) -> Vec<Load> {
        let senders = 8;
        let pace = Some(Duration::from_secs(1) * senders * self.relays.len() as u32 / per_second);
        let style = Style { senders: senders as usize, pace, keep_alive: true };
        self.relays.iter().map(|relay| Load::start(&relay.address(), style)).collect()
    }

    /// Waits until so many more are answered with 200 at each relay.
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

    /// Waits until each upstream has all of these; returns what it got more than once.
    pub(super) async fn delivered(&self, ids: &BTreeSet<String>) -> [Repeats; 2] {
        let mut repeats = [Repeats::new(), Repeats::new()];
        for ((name, upstream), repeats) in [("a", &self.a), ("b", &self.b)].into_iter().zip(&mut repeats) {
            let taken = eventually("everything is delivered", LATE, async || {
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

    /// Each relay tells the same account: so much accepted and delivered at each upstream, and nothing waits.
    pub(super) async fn balanced(&self) {
        for relay in &self.relays {
            eventually("the accounts balance", LATE, async || {
                let status = relay.status().await;
                if status["difference"] == 0 && self.waiting(relay).await == 0 {
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

/// Ends them all; what was sent.
pub(super) async fn stop(loads: Vec<Load>) -> Sendings {
    let mut all = Sendings::default();
    for load in loads {
        all.0.extend(load.stop().await.0);
    }
    all
}
