//! The demo's story, step by step. Each step does something, waits for its effect, and says what it saw.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::cli::admin::{AdminClient, Announcement};
use crate::cli::failure::Failure;
use crate::cli::process;
use crate::cli::terminal::{Tone, as_word, harmless, say, tint, write};
use crate::config::edit;
use crate::http::sink::Sink;
use crate::telemetry::status::{Status, UpstreamStatus};

use super::stage::Tracker;
use super::traffic::{KEY, ROUND, Sent, Traffic};
use super::watch::{DEADLINE, at_rest, balanced, eventually, failed, millis, say_all_received, step, wait_for_all};

/// The length of the outage: long enough to be seen.
const OUTAGE: Duration = Duration::from_millis(800);
/// The number of events sent during the outage.
const DURING_OUTAGE: usize = 10;

/// The story and its parts.
#[derive(Debug)]
pub(super) struct Script {
    config: PathBuf,
    relay: SocketAddr,
    admin: AdminClient,
    traffic: Traffic,
    trackers: [Tracker; 2],
    sent: Vec<Sent>,
}

impl Script {
    pub(super) fn new(
        config: PathBuf,
        relay: SocketAddr,
        admin: AdminClient,
        traffic: Traffic,
        trackers: [Tracker; 2],
    ) -> Self {
        Self { config, relay, admin, traffic, trackers, sent: vec![] }
    }

    /// The stand-in trackers.
    pub(super) fn sinks(&self) -> [&Sink; 2] {
        self.trackers.each_ref().map(|tracker| &tracker.sink)
    }

    /// Plays the whole story.
    pub(super) async fn play(&mut self) -> Result<(), Failure> {
        self.introduce()?;
        self.mirror().await?;
        self.switch().await?;
        self.outage().await?;
        self.account().await
    }

    fn introduce(&self) -> Result<(), Failure> {
        say(tint(Tone::Strong, "A relay and two stand-in trackers, all on this machine."))?;
        say(format_args!("  SENTRY_DSN   http://{KEY}@{}/1", self.relay))?;
        say(format_args!("  status page  {}", self.admin.url("/")))?;
        say(format_args!("  config       {}", self.config.display()))
    }

    async fn mirror(&mut self) -> Result<(), Failure> {
        step(1, "SDKs send to one address. Both trackers receive everything.")?;
        let began = Instant::now();
        let sent = self.traffic.send(ROUND).await?;
        for Sent { client, what, took, .. } in &sent {
            say(format_args!("  {client:<22} {what:<34} 200 in {}", millis(*took)))?;
        }
        self.sent.extend(sent);
        for at in 0..self.trackers.len() {
            self.wait_for_all(at).await?;
            self.say_received(at, ROUND)?;
        }
        say(tint(Tone::Quiet, format_args!("  all delivered {} after the first was sent", millis(began.elapsed()))))
    }

    async fn switch(&mut self) -> Result<(), Failure> {
        step(2, "One line of the file makes glitchtip the primary. Nothing restarts.")?;
        let announcement = Announcement {
            to: "glitchtip",
            reason: Some("the demo shows a switch"),
            author: Some("switchyard demo"),
            announced: true,
        };
        self.admin.announce(&announcement).await.map_err(|silence| self.admin.failure(silence))?;
        let began = Instant::now();
        edit::set_primary(&self.config, "glitchtip")?;
        say("  - primary = \"sentry\"\n  + primary = \"glitchtip\"")?;
        self.eventually("the switch is live", |status| status.primary == "glitchtip").await?;
        let live = tint(Tone::Good, format_args!("live {} after the file was saved", millis(began.elapsed())));
        say(format_args!("  {live}; putting the line back is the way back"))
    }

    async fn outage(&mut self) -> Result<(), Failure> {
        step(3, "glitchtip goes down. SDKs do not notice, sentry does not notice, nothing is dropped.")?;
        self.trackers[1].go_down().await?;
        let sent = self.traffic.send(DURING_OUTAGE).await?;
        let slowest = sent.iter().map(|sent| sent.took).max().unwrap_or_default();
        say(format_args!("  {DURING_OUTAGE} more are sent; the slowest 200 took {}", millis(slowest)))?;
        self.sent.extend(sent);
        self.wait_for_all(0).await?;
        self.say_received(0, DURING_OUTAGE)?;
        sleep(OUTAGE).await;
        let status = self.status().await?;
        let glitchtip = upstream(&status, "glitchtip")?;
        let waiting = tint(Tone::Bad, format_args!("{} wait in the journal", glitchtip.backlog.envelopes));
        let error = glitchtip.last_error.as_ref().and_then(|error| error.what.rsplit(": ").next()).unwrap_or_default();
        say(format_args!("  glitchtip  does not answer; {waiting}  {}", tint(Tone::Quiet, harmless(error, 80))))?;
        self.trackers[1].come_back().await?;
        let began = Instant::now();
        say("  glitchtip  is back")?;
        self.drain(began).await
    }

    /// Shows the backlog while it drains.
    async fn drain(&self, began: Instant) -> Result<(), Failure> {
        write("  glitchtip  backlog")?;
        let mut last = None;
        let mut written = Ok(());
        self.eventually("the backlog drains", |status| {
            let waiting = upstream(status, "glitchtip").map_or(0, |glitchtip| glitchtip.backlog.envelopes);
            if written.is_ok() && last.replace(waiting) != Some(waiting) {
                written = write(format_args!(" {waiting}"));
            }
            waiting == 0
        })
        .await?;
        written?;
        say(tint(Tone::Good, format_args!(": drained {} after it came back", millis(began.elapsed()))))?;
        self.wait_for_all(1).await
    }

    async fn account(&self) -> Result<(), Failure> {
        step(4, "Nothing was lost, nothing came twice, and the books balance.")?;
        let status = self.eventually("the accounts are at rest", at_rest).await?;
        for tracker in &self.trackers {
            if say_all_received(tracker, &self.sent)? > 0 {
                return Err(failed(&format!("{} received events twice", tracker.name)));
            }
        }
        balanced(&status)?;
        say(format_args!("  {}", tint(Tone::Good, "accepted - delivered - dropped - waiting = 0")))
    }

    /// Shows what to try next.
    pub(super) fn invite(&self) -> Result<(), Failure> {
        let (config, program) = (as_word(&self.config), process::as_called());
        say(format_args!("\n{}", tint(Tone::Strong, "It keeps running; Ctrl-C ends it. In another terminal:")))?;
        say(format_args!("  {program} switch sentry --config {config}"))?;
        say(format_args!("  {program} status --config {config}"))?;
        say(format_args!("  {program} send-test --config {config}"))?;
        say(format_args!("  or point a real SDK at the SENTRY_DSN above; what the trackers receive shows here:\n"))
    }

    fn say_received(&self, at: usize, count: usize) -> Result<(), Failure> {
        let Tracker { name, sink, .. } = &self.trackers[at];
        let (all, _) = sink.since(0);
        let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
        for arrival in all.iter().skip(all.len().saturating_sub(count)) {
            *kinds.entry(arrival.kind.as_str()).or_default() += 1;
        }
        let kinds: Vec<String> = kinds.into_iter().map(|(kind, n)| format!("{n} {kind}{}", plural(n))).collect();
        say(format_args!("  {name:<10} {} {}", tint(Tone::Good, "received"), kinds.join(", ")))
    }

    /// Waits until a tracker has every event that was sent.
    async fn wait_for_all(&self, at: usize) -> Result<(), Failure> {
        wait_for_all(&self.trackers[at], &self.sent, DEADLINE).await
    }

    async fn status(&self) -> Result<Status, Failure> {
        self.admin.status().await.map_err(|silence| self.admin.failure(silence))
    }

    /// Polls the status until it is as it must become.
    async fn eventually(&self, what: &str, is: impl FnMut(&Status) -> bool) -> Result<Status, Failure> {
        eventually(&self.admin, what, is).await
    }
}

fn upstream<'a>(status: &'a Status, name: &str) -> Result<&'a UpstreamStatus, Failure> {
    let found = status.upstreams.iter().find(|upstream| upstream.name == name);
    found.ok_or_else(|| failed(&format!("the daemon does not know {name}")))
}

fn plural(n: usize) -> &'static str {
    if n == 1 { "" } else { "s" }
}
