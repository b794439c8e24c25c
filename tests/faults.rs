//! One upstream misbehaves, and neither the client nor the other upstream notices. Everything arrives when the fault ends.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use support::eventually::eventually;
use support::fault_proxy::{Fault, FaultProxy};
use support::load::{Load, Sendings, Style};
use support::relay::{Plan, Relay, SOON};
use support::upstream::{Reply, Seen, Upstream};
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::Instant;

/// The timeout of the troubled upstream; whatever waits for it waits as long.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Far longer than an answer takes on a busy machine, and far less than a wait for the troubled upstream.
const UNMOVED: Duration = Duration::from_secs(1);

/// These tests measure the times of answers, so they run one at a time.
static ALONE: Mutex<()> = Mutex::const_new(());

/// A relay with a healthy upstream and one behind a proxy; no other test of this file runs meanwhile.
struct Scene {
    healthy: Upstream,
    troubled: Upstream,
    proxy: FaultProxy,
    relay: Relay,
    _alone: MutexGuard<'static, ()>,
}

impl Scene {
    async fn set() -> Self {
        let alone = ALONE.lock().await;
        let (healthy, troubled) = (Upstream::start().await, Upstream::start().await);
        let proxy = FaultProxy::start(&troubled.address()).await;
        let plan = Plan::new(&[("troubled", proxy.dsn("key-t", 22)), ("healthy", healthy.dsn("key-h", 11))]);
        let relay = plan.upstream("troubled", &format!("timeout = \"{}s\"", TIMEOUT.as_secs())).start().await;
        Self { healthy, troubled, proxy, relay, _alone: alone }
    }

    /// Sends `count` errors from a few services.
    async fn send(&self, count: u64) -> Sendings {
        let style = Style { senders: 4, pace: Some(Duration::from_millis(20)), keep_alive: true };
        let mut load = Load::start(&self.relay.address(), style);
        load.more(count).await;
        let sent = load.stop().await;
        assert_eq!(sent.failures().len(), 0, "{:?}", sent.failures());
        sent
    }

    /// Fails unless the healthy upstream soon has everything that was sent, once.
    async fn healthy_has(&self, sent: &Sendings) {
        let ids = sent.accepted();
        eventually("the healthy upstream has everything", Duration::from_secs(3), async || {
            let have: BTreeSet<String> = self.healthy.taken_ids().into_iter().collect();
            let missing = ids.difference(&have).count();
            if missing == 0 { Ok(()) } else { Err(format!("{missing} of {} are missing", ids.len())) }
        })
        .await;
        let all = self.healthy.taken_ids();
        assert_eq!(all.len(), all.iter().collect::<BTreeSet<_>>().len(), "nothing is doubled");
    }

    /// The longest time between sending an envelope and its arrival at the healthy upstream.
    fn longest_way(&self, sent: &Sendings) -> Duration {
        let sent_at: BTreeMap<&str, Instant> = sent.0.iter().map(|sent| (sent.id.as_str(), sent.at)).collect();
        let way = |seen: &Seen| Some(seen.at.duration_since(*sent_at.get(seen.event_id().as_str())?));
        self.healthy.taken().iter().filter_map(way).max().expect("something arrived")
    }

    /// Fails if an answer or a delivery of this load waited for the troubled upstream.
    async fn was_unmoved(&self, during: &Sendings, what: &str) {
        self.healthy_has(during).await;
        let (answer, way) = (during.slowest(), self.longest_way(during));
        println!("{what}: the slowest answer took {answer:?}, the longest way {way:?}");
        assert!(answer < UNMOVED, "an answer took {answer:?}");
        assert!(way < UNMOVED, "{way:?} from a client to the healthy upstream");
    }

    /// Fails unless a fault goes unnoticed and everything arrives when it ends.
    async fn stays_unmoved_by(self, fault: Fault) {
        let before = self.send(120).await;
        self.healthy_has(&before).await;
        self.proxy.set(fault);
        let during = self.send(160).await;
        self.was_unmoved(&during, &format!("{fault:?}")).await;
        self.proxy.set(Fault::Pass);
        self.recovers(&[before, during]).await;
    }

    async fn recovers(self, sent: &[Sendings]) {
        self.relay.balanced(Duration::from_secs(25)).await;
        let expected: BTreeSet<String> = sent.iter().flat_map(Sendings::accepted).collect();
        let have: BTreeSet<String> = self.troubled.taken_ids().into_iter().collect();
        assert_eq!(have, expected, "all of it and nothing else");
        self.relay.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_never_answers_delays_nobody_else() {
    Scene::set().await.stays_unmoved_by(Fault::BlackHole).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_resets_every_connection_delays_nobody_else() {
    Scene::set().await.stays_unmoved_by(Fault::Reset).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_answers_byte_by_byte_delays_nobody_else() {
    Scene::set().await.stays_unmoved_by(Fault::Drip(Duration::from_millis(100))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_answers_late_delays_nobody_else() {
    Scene::set().await.stays_unmoved_by(Fault::Delay(Duration::from_millis(1500))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_break_off_or_make_no_sense_are_tried_again() {
    let scene = Scene::set().await;
    let mut sent = vec![];
    for fault in [Fault::Garbage, Fault::CutAfter(9), Fault::HalfClose] {
        scene.proxy.set(fault);
        sent.push(scene.send(5).await);
        scene.healthy_has(&sent[sent.len() - 1]).await;
        eventually(&format!("{fault:?} is noticed"), SOON, async || {
            let upstream = scene.relay.upstream("troubled").await;
            if upstream["state"] == "up" { Err(format!("{upstream:#}")) } else { Ok(()) }
        })
        .await;
        scene.proxy.set(Fault::Pass);
        scene.relay.balanced(Duration::from_secs(25)).await;
    }
    scene.recovers(&sent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_only_fails_delays_nobody_else() {
    let scene = Scene::set().await;
    let before = scene.send(120).await;
    let mut all = vec![before];
    for reply in [Reply::status(500), Reply::with_header(429, "retry-after", "1")] {
        let what = format!("{reply:?}");
        scene.troubled.always(reply);
        let during = scene.send(120).await;
        scene.was_unmoved(&during, &what).await;
        all.push(during);
    }
    scene.troubled.always(Reply::Ok);
    scene.recovers(&all).await;
}
