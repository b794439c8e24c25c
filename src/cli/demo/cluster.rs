//! `switchyard demo --cluster`: three relays that share one journal in PostgreSQL, a switch that takes effect at all of them, and a relay
//! that is killed while it has records in hand.
//!
//! Each relay is a process of its own, started from this program, so that it can be killed with SIGKILL. The demo asks them over their
//! listeners, as anybody would.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::cli::admin::{AdminClient, Announcement};
use crate::cli::failure::{Exit, Failure};
use crate::cli::locate::Contact;
use crate::cli::process;
use crate::cli::terminal::{Tone, as_word, say, tint};
use crate::telemetry::status::Status;

use super::guarded::{Guarded, last_words};
use super::server::Server;
use super::stage::{self, Folder, Ports, Tracker};
use super::traffic::{KEY, ROUND, Sent, Traffic};
use super::watch::{
    DEADLINE, EACH, at_rest, balanced, eventually, failed, millis, say_all_received, show_arrivals, step, wait_for_all,
};

const NAMES: [&str; 3] = ["relay-1", "relay-2", "relay-3"];
/// How long a relay may take to start, and how often it is started: a relay whose database does not answer ends, and systemd would restart
/// it, too.
const START: Duration = Duration::from_secs(15);
const STARTS: usize = 4;
/// How long the others may take to deliver a dead relay's records. A relay counts as dead after 15 seconds.
const MOVED: Duration = Duration::from_secs(45);

/// A relay of the demo.
#[derive(Debug)]
struct Relay {
    name: &'static str,
    config: PathBuf,
    log: PathBuf,
    dsn: String,
    admin: AdminClient,
    traffic: Traffic,
    running: Option<Guarded>,
}

/// The parts of the demo, in the order in which they are dropped.
#[derive(Debug)]
struct Cluster {
    relays: [Relay; 3],
    trackers: [Tracker; 2],
    sent: Vec<Sent>,
    _server: Server,
    _folder: Folder,
}

/// Plays the demo. Unless `exit` is set, it then stays until it is dropped.
pub(super) async fn play(exit: bool) -> Result<(), Failure> {
    let mut cluster = Cluster::start().await?;
    cluster.introduce()?;
    cluster.mirror().await?;
    cluster.switch().await?;
    cluster.kill().await?;
    cluster.account().await?;
    if exit {
        return Ok(());
    }
    cluster.invite()?;
    show_arrivals(cluster.trackers.each_ref().map(|tracker| &tracker.sink)).await
}

impl Relay {
    fn prepare(
        name: &'static str,
        folder: &Path,
        server: &Server,
        trackers: &[Tracker; 2],
        ports: &mut Ports,
    ) -> Result<Self, Failure> {
        let home = folder.join(name);
        std::fs::create_dir(&home).map_err(|error| Failure::file(&home, "created", &error))?;
        let (relay, admin, config) = (ports.address()?, ports.address()?, home.join("config.toml"));
        // A single server commits alone; in production a standby confirms each commit.
        let journal = format!(
            "url = {:?}\ndurability = \"single\"   # one server, no standby\nnode = \"{name}\"\nspill_path = {:?}",
            server.url,
            home.join("spill.db")
        );
        let text = stage::config(&journal, relay, admin, trackers);
        std::fs::write(&config, text).map_err(|error| Failure::file(&config, "written", &error))?;
        let (admin, traffic) = (AdminClient::new(Contact::of(admin, None))?, Traffic::new(relay)?);
        let (log, dsn) = (home.join("log"), format!("http://{KEY}@{relay}/1"));
        Ok(Self { name, config, log, dsn, admin, traffic, running: None })
    }

    /// Starts the relay, and waits until it accepts envelopes.
    async fn start(&mut self) -> Result<(), Failure> {
        let program = std::env::current_exe();
        let program = program.map_err(|error| Failure::new(Exit::Internal, format_args!("no program: {error}")))?;
        let config = self.config.display().to_string();
        for _ in 0..STARTS {
            // The earlier process ends first, because the new one takes its place.
            self.running = None;
            self.running = Some(Guarded::start(&program, &["run", "--config", &config], "KILL", None, &self.log)?);
            let began = Instant::now();
            while began.elapsed() < START {
                if self.admin.ready().await.is_ok() {
                    return Ok(());
                }
                sleep(EACH).await;
            }
        }
        Err(failed(&format!("{} does not start:\n{}", self.name, last_words(&self.log))))
    }
}

impl Cluster {
    async fn start() -> Result<Self, Failure> {
        let (folder, mut ports) = (Folder::own("")?, Ports::new());
        let server = Server::start(&mut ports).await?;
        let trackers = [Tracker::start("sentry", &mut ports)?, Tracker::start("glitchtip", &mut ports)?];
        let mut prepare = |name| Relay::prepare(name, folder.path(), &server, &trackers, &mut ports);
        let [one, two, three] = NAMES;
        let mut relays = [prepare(one)?, prepare(two)?, prepare(three)?];
        for relay in &mut relays {
            relay.start().await?;
        }
        Ok(Self { relays, trackers, sent: vec![], _server: server, _folder: folder })
    }

    fn introduce(&self) -> Result<(), Failure> {
        say(tint(
            Tone::Strong,
            "Three relays, one journal in PostgreSQL, two stand-in trackers, all on this machine.",
        ))?;
        for relay in &self.relays {
            say(format_args!("  {}  SENTRY_DSN {}  status page {}", relay.name, relay.dsn, relay.admin.url("/")))?;
        }
        let single =
            "one throw-away server, hence durability = \"single\": in production a standby confirms each commit";
        say(tint(Tone::Quiet, format_args!("  {single}")))
    }

    async fn mirror(&mut self) -> Result<(), Failure> {
        step(1, "SDKs send to any of them. Both trackers receive everything, once.")?;
        let began = Instant::now();
        for relay in &mut self.relays {
            let sent = relay.traffic.send(ROUND).await?;
            say(format_args!("  {}  takes {}; {}", relay.name, sent.len(), slowest(&sent)))?;
            self.sent.extend(sent);
        }
        for tracker in &self.trackers {
            wait_for_all(tracker, &self.sent, DEADLINE).await?;
        }
        say(tint(Tone::Quiet, format_args!("  all delivered {} after the first was sent", millis(began.elapsed()))))
    }

    async fn switch(&self) -> Result<(), Failure> {
        step(2, "A switch at relay-2 is live at all. Nothing restarts.")?;
        let reason = Some("the demo shows a switch");
        let order = Announcement { to: "glitchtip", reason, author: Some("switchyard demo"), announced: false };
        let (began, admin) = (Instant::now(), &self.relays[1].admin);
        admin.announce(&order).await.map_err(|silence| admin.failure(silence))?;
        for relay in &self.relays {
            let status = eventually(&relay.admin, "the switch is live", |status| status.primary == "glitchtip").await?;
            let times = status.switches.iter().filter(|switch| switch.reason.as_deref() == reason).count();
            if times > 1 {
                return Err(failed(&format!("{} tells of {times} switches", relay.name)));
            }
        }
        let live = tint(Tone::Good, format_args!("live at all three {} after the order", millis(began.elapsed())));
        say(format_args!("  primary = \"glitchtip\"  {live}"))
    }

    async fn kill(&mut self) -> Result<(), Failure> {
        step(3, "glitchtip hangs, and a relay is killed with work in hand. The others deliver it.")?;
        self.trackers[1].fall_silent().await?;
        for relay in &mut self.relays {
            self.sent.extend(relay.traffic.send(ROUND).await?);
        }
        wait_for_all(&self.trackers[0], &self.sent, DEADLINE).await?;
        let (victim, leases) = self.busiest().await?;
        self.relays[victim].running = None;
        let name = self.relays[victim].name;
        say(format_args!("  {name}  {}", tint(Tone::Bad, format_args!("killed with {leases} in hand (SIGKILL)"))))?;
        let began = Instant::now();
        self.trackers[1].come_back().await?;
        for relay in self.relays.iter_mut().filter(|relay| relay.running.is_some()) {
            let sent = relay.traffic.send(ROUND).await?;
            say(format_args!("  {}  takes {}; {}", relay.name, sent.len(), slowest(&sent)))?;
            self.sent.extend(sent);
        }
        wait_for_all(&self.trackers[1], &self.sent, MOVED).await?;
        let all = tint(Tone::Good, format_args!("has everything {} later", millis(began.elapsed())));
        say(format_args!("  glitchtip {all}; a relay is taken for dead after 15 s without a sign of life"))?;
        self.relays[victim].start().await?;
        say(format_args!("  {name}  is back"))
    }

    /// The relay that has the most records in hand, and their number.
    async fn busiest(&self) -> Result<(usize, u64), Failure> {
        let leases = |status: &Status| {
            let of =
                |name| status.journal.relays.iter().find(|relay| relay.name == name).map_or(0, |relay| relay.leases);
            NAMES.map(of)
        };
        let is_busy = |status: &Status| leases(status).iter().any(|count| *count > 0);
        let status = eventually(&self.relays[0].admin, "a relay has work in hand", is_busy).await?;
        let most = leases(&status).into_iter().enumerate().max_by_key(|(_, count)| *count);
        most.ok_or_else(|| failed("no relay has work in hand"))
    }

    async fn account(&self) -> Result<(), Failure> {
        step(4, "Nothing was lost, and all three tell one account, which balances.")?;
        let mut told = vec![];
        for relay in &self.relays {
            let status = eventually(&relay.admin, "the accounts are at rest", at_rest).await?;
            balanced(&status)?;
            let sums = |name: &str| {
                let upstream = status.upstreams.iter().find(|upstream| upstream.name == name);
                let accounts = upstream.map(|upstream| upstream.accounts.as_slice()).unwrap_or_default();
                accounts.iter().fold((0, 0), |sum, own| (sum.0 + own.accepted, sum.1 + own.delivered))
            };
            told.push(["sentry", "glitchtip"].map(sums));
        }
        if told.iter().any(|other| *other != told[0]) {
            return Err(failed(&format!("the relays tell different accounts: {told:?}")));
        }
        for (tracker, (accepted, delivered)) in self.trackers.iter().zip(told[0]) {
            say_all_received(tracker, &self.sent)?;
            say(format_args!("  {:<10} {accepted} items accepted, {delivered} delivered", ""))?;
        }
        say(format_args!("  {}", tint(Tone::Good, "accepted - delivered - dropped - waiting = 0")))
    }

    fn invite(&self) -> Result<(), Failure> {
        let (config, program) = (as_word(&self.relays[0].config), process::as_called());
        say(format_args!("\n{}", tint(Tone::Strong, "It keeps running; Ctrl-C ends it. In another terminal:")))?;
        say(format_args!("  {program} status --config {config}"))?;
        say(format_args!("  {program} switch sentry --config {config}"))?;
        say("  or point a real SDK at a SENTRY_DSN above; what the trackers receive shows here:\n")
    }
}

/// The time of the slowest answer.
fn slowest(sent: &[Sent]) -> String {
    let slowest = sent.iter().map(|sent| sent.took).max().unwrap_or_default();
    format!("the slowest 200 took {}", millis(slowest))
}
