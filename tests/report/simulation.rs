//! The relay in this process, in simulated time that only the test advances. Front door, listeners and journal are real, the clock is not.
//!
//! The journal's threads and the sockets run in real time; `until` waits for them while the simulated time stands still.

use std::path::PathBuf;
use std::process::Command;
use std::sync::mpsc;
use std::time::Duration;

use reqwest::Client;
use serde_json::Value;
use switchyard::clock::{Clock, Timestamp};
use switchyard::config;
use switchyard::daemon::{self, Options};
use switchyard::http::Listeners;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{Instant, advance};
use tokio_util::sync::CancellationToken;

use crate::support::envelopes::KEY;
use crate::support::relay::{Plan, Relay};
use crate::support::upstream::Upstream;

/// 2026-01-05, midnight: the beginning of an hour.
const START: Timestamp = Timestamp::from_millis(1_767_571_200_000);
/// The timeout for real work.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Simulation {
    relay: Relay,
    client: Client,
    clock: Clock,
    began: Instant,
    running: JoinSet<()>,
    stop: CancellationToken,
    /// Keeps tokio from advancing its paused time by itself while it exists.
    _hold: mpsc::Sender<()>,
}

impl Simulation {
    /// Starts a relay by this plan at midnight.
    pub(crate) async fn start(plan: Plan) -> Self {
        let (hold, held) = mpsc::channel();
        drop(spawn_blocking(move || held.recv().is_ok()));
        let relay = plan.prepare();
        // Kept connections would not outlive hours.
        let client = Client::builder().no_proxy().pool_max_idle_per_host(0).build().expect("an HTTP client");
        let (clock, began) = (Clock::simulated(START), Instant::now());
        let (running, stop) = (JoinSet::new(), CancellationToken::new());
        let mut simulation = Self { relay, client, clock, began, running, stop, _hold: hold };
        simulation.launch().await;
        simulation
    }

    async fn launch(&mut self) {
        self.stop = CancellationToken::new();
        let journal = self.relay.home().join("journal.db");
        let text = std::fs::read_to_string(self.relay.config()).expect("the configuration");
        std::fs::write(self.relay.config(), text.replace("\"journal.db\"", &format!("{journal:?}"))).expect("the same");
        let loaded = config::load(&self.relay.config()).expect("a configuration");
        let listeners = Listeners::inherit().expect("no sockets of systemd");
        let hangup = signal(SignalKind::hangup()).expect("a signal");
        let options = Options { path: self.relay.config(), loaded, listeners, clock: self.clock.clone(), hangup };
        let (stop, ready) = (self.stop.clone(), CancellationToken::new());
        let is_ready = ready.clone();
        self.running.spawn(async move { daemon::run(options, stop, || is_ready.cancel()).await.expect("it runs") });
        until("it is ready", async || ready.is_cancelled().then_some(())).await;
    }

    /// Stops the relay in order.
    pub(crate) async fn stop(mut self) {
        self.end().await;
    }

    async fn end(&mut self) {
        self.stop.cancel();
        while let Some(ended) = self.running.join_next().await {
            ended.expect("it ends in order");
        }
    }

    /// Stops the relay in order and starts it again after this time.
    pub(crate) async fn restart(&mut self, after: Duration) {
        self.end().await;
        advance(after).await;
        self.launch().await;
    }

    /// The simulated time in milliseconds.
    pub(crate) fn now(&self) -> u64 {
        self.clock.now().as_millis()
    }

    /// The simulated time of an instant, in milliseconds.
    pub(crate) fn at(&self, instant: Instant) -> u64 {
        self.clock.at(instant).as_millis()
    }

    /// A time that the relay reported, in milliseconds.
    pub(crate) fn ms(&self, told: &Value) -> u64 {
        let at: Timestamp = serde_json::from_value(told.clone()).expect("a moment");
        at.as_millis()
    }

    /// The simulated time since the start.
    pub(crate) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// Sets the clock as an administrator or a time server does, and waits until the relay has noticed.
    pub(crate) async fn set_clock(&self, change: impl FnOnce(Timestamp) -> Timestamp) {
        self.clock.set(change(self.clock.now()));
        for _ in 0..3 {
            advance(Duration::from_secs(1)).await;
            self.upstream("b").await;
        }
    }

    /// Advances the time.
    pub(crate) async fn advance(&self, duration: Duration) {
        advance(duration).await;
    }

    /// `host:port` of the admin listener.
    pub(crate) fn admin_address(&self) -> String {
        self.relay.admin_address()
    }

    /// Sends an envelope; returns the status of the answer.
    pub(crate) async fn send(&self, envelope: impl Into<reqwest::Body>) -> u16 {
        self.send_to(1, KEY, envelope).await
    }

    /// Like [`send`](Self::send), to the project with this id and key.
    pub(crate) async fn send_to(&self, project: usize, key: &str, envelope: impl Into<reqwest::Body>) -> u16 {
        let path = format!("/api/{project}/envelope/?sentry_version=7&sentry_key={key}");
        let url = format!("http://{}{path}", self.relay.address());
        self.client.post(url).body(envelope).send().await.expect("an answer").status().as_u16()
    }

    async fn ask(&self, path: &str) -> (u16, String) {
        let url = format!("http://{}{path}", self.relay.admin_address());
        let answer = self.client.get(url).send().await.expect("an answer");
        (answer.status().as_u16(), answer.text().await.expect("its text"))
    }

    /// One upstream of the status.
    pub(crate) async fn upstream(&self, name: &str) -> Value {
        let status = self.status().await;
        let all = status["upstreams"].as_array().expect("upstreams").iter();
        all.clone().find(|upstream| upstream["name"] == name).expect("the upstream").clone()
    }

    /// Waits until nothing waits for these upstreams, without advancing the time.
    pub(crate) async fn quiet(&self, names: &[&str]) {
        until("nothing waits", async || self.is_quiet(names).await.then_some(())).await;
    }

    /// Waits until nothing waits for these upstreams, and advances the time by a second now and then for retries.
    pub(crate) async fn settled(&self, names: &[&str]) {
        for look in 1..10_000 {
            if self.is_quiet(names).await {
                return;
            }
            real_moment().await;
            if look % 25 == 0 {
                advance(Duration::from_secs(1)).await;
            }
        }
        panic!("something still waits: {}", self.status().await);
    }

    async fn is_quiet(&self, names: &[&str]) -> bool {
        let status = self.status().await;
        let upstreams = status["upstreams"].as_array().expect("upstreams");
        let waits = |upstream: &&Value| upstream["backlog"]["envelopes"] != 0;
        !upstreams.iter().filter(waits).any(|upstream| names.iter().any(|name| upstream["name"] == *name))
    }

    async fn status(&self) -> Value {
        let status: Value = serde_json::from_str(&self.ask("/api/status").await.1).expect("a status");
        assert_eq!(status["difference"], 0, "{status}");
        status
    }

    /// Advances the time by a second and lets the work that begins in it end.
    pub(crate) async fn second(&self) {
        self.steps(Duration::from_secs(1)).await;
    }

    async fn steps(&self, duration: Duration) {
        advance(duration).await;
        for _ in 0..2 {
            real_moment().await;
            self.ask("/healthz").await;
        }
    }

    /// Advances the time by two seconds at a time until a condition holds.
    pub(crate) async fn seconds_until(&self, what: &str, mut is_so: impl AsyncFnMut() -> bool) {
        for _ in 0..2000 {
            if is_so().await {
                return;
            }
            self.steps(Duration::from_secs(2)).await;
        }
        panic!("never: {what}; {}", self.ask("/api/status").await.1);
    }

    /// Advances the time until every event that an upstream took is verified.
    pub(crate) async fn all_known(&self, name: &str) {
        let is_known = async || {
            let own = self.upstream(name).await["verification"].clone();
            let content = &own["content"];
            own["unknown"] == 0 && (content.is_null() || content["compared"].is_u64())
        };
        self.seconds_until("it is known what is stored", is_known).await;
        self.steps(Duration::from_secs(2)).await;
    }

    /// Posts an order to the admin listener; returns its answer.
    pub(crate) async fn order(&self, path: &str, body: &Value) -> Value {
        let url = format!("http://{}{path}", self.relay.admin_address());
        let order = self.client.post(url).header("content-type", "application/json").body(body.to_string());
        let text = order.send().await.expect("an answer").text().await.expect("its text");
        serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}"))
    }

    /// The number of envelopes that wait for an upstream.
    pub(crate) async fn waiting(&self, name: &str) -> u64 {
        self.upstream(name).await["backlog"]["envelopes"].as_u64().expect("a number")
    }

    /// Waits until an upstream has this state, without advancing the time.
    pub(crate) async fn state(&self, name: &str, state: &str) {
        until(state, async || (self.upstream(name).await["state"] == state).then_some(())).await;
    }

    /// Advances the time by seconds until an upstream has taken `count` envelopes, as a backlog drains slowly at first. The work of each
    /// second ends before the next.
    pub(crate) async fn drained(&self, name: &str, upstream: &Upstream, count: usize) {
        for _ in 0..7200 {
            let settled = async || (self.waiting(name).await == (count - upstream.taken_count()) as u64).then_some(());
            until("what was taken is settled", settled).await;
            if upstream.taken_count() == count {
                return;
            }
            advance(Duration::from_secs(1)).await;
        }
        panic!("{} of {count} were taken", upstream.taken_count());
    }

    /// Waits until the journal's evidence has this number of deliveries, which the next upkeep adds.
    pub(crate) async fn kept(&self, at: usize, delivered: usize) {
        let told = async || {
            let told = self.report("").await["upstreams"][at]["attempts"]["delivered"].clone();
            (told == delivered).then_some(())
        };
        until("the evidence is kept", told).await;
    }

    /// The dropped items of an upstream by reason.
    pub(crate) async fn dropped(&self, name: &str) -> Value {
        self.upstream(name).await["dropped"].clone()
    }

    /// Replaces a part of the configuration and waits until the change is live.
    pub(crate) async fn rewrite(&self, before: &str, after: &str) {
        let text = self.config();
        assert!(text.contains(before), "{text}");
        self.replace_config(&text.replace(before, after)).await;
    }

    /// The text of the configuration.
    pub(crate) fn config(&self) -> String {
        std::fs::read_to_string(self.relay.config()).expect("the configuration")
    }

    /// Replaces the configuration and waits until it is live.
    pub(crate) async fn replace_config(&self, text: &str) {
        let loaded_at = async || {
            let status: Value = serde_json::from_str(&self.ask("/api/status").await.1).expect("a status");
            status["config"]["loaded_at"].clone()
        };
        let then = loaded_at().await;
        self.relay.replace_config(text);
        // The file watch checks repeatedly until the file has stopped changing.
        until("it is live", async || {
            advance(Duration::from_millis(100)).await;
            (loaded_at().await != then).then_some(())
        })
        .await;
    }

    /// Switches the primary through the admin listener.
    pub(crate) async fn switch(&self, to: &str) {
        let url = format!("http://{}/api/primary", self.relay.admin_address());
        let body = serde_json::json!({ "to": to, "reason": "to see how it goes" }).to_string();
        let order = self.client.post(url).header("content-type", "application/json").body(body);
        let answer = order.send().await.expect("an answer");
        assert_eq!(answer.status(), 200);
    }

    /// The report from `/api/report`.
    pub(crate) async fn report(&self, query: &str) -> Value {
        let (status, text) = self.ask(&format!("/api/report{query}")).await;
        assert_eq!(status, 200, "{text}");
        serde_json::from_str(&text).expect("a report")
    }

    /// The reason why `/api/report` refuses a query.
    pub(crate) async fn refusal(&self, query: &str) -> String {
        let (status, text) = self.ask(&format!("/api/report{query}")).await;
        assert_eq!(status, 400, "{text}");
        let told: Value = serde_json::from_str(&text).expect("a refusal");
        told["detail"].as_str().expect("why").to_owned()
    }

    /// The report page.
    pub(crate) async fn page(&self) -> String {
        self.ask("/report").await.1
    }

    /// The status page.
    pub(crate) async fn status_page(&self) -> String {
        self.ask("/").await.1
    }

    /// The exit code and the output of `switchyard report`.
    pub(crate) async fn cli(&self, args: &[&str]) -> (i32, String) {
        self.begin(&[&["report"], args].concat()).await
    }

    /// Runs a verb, in real time; returns its exit code and output.
    pub(crate) fn begin(&self, args: &[&str]) -> impl Future<Output = (i32, String)> + use<> {
        let (config, args): (PathBuf, Vec<String>) =
            (self.relay.config(), args.iter().map(|arg| (*arg).to_owned()).collect());
        let run = spawn_blocking(move || {
            let mut command = Command::new(env!("CARGO_BIN_EXE_switchyard"));
            command.arg("--config").arg(config).args(args).output().expect("the command line")
        });
        async move {
            let output = run.await.expect("it ran");
            (output.status.code().expect("an exit code"), String::from_utf8_lossy(&output.stdout).into_owned())
        }
    }
}

/// Checks repeatedly in real time until `look` returns a value.
async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(std::time::Instant::now() < deadline, "never: {what}");
        real_moment().await;
    }
}

/// Lets the threads that run in real time proceed for a moment.
async fn real_moment() {
    spawn_blocking(|| std::thread::sleep(Duration::from_millis(2))).await.expect("a moment");
}
