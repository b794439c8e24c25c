//! Checks the status every few seconds and notifies receivers. It is its own task, so that a slow receiver delays nothing else.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::future::join_all;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::clock::{Clock, Timestamp};
use crate::http::Admin;
use crate::journal::evidence::{INCIDENT_BEGAN, INCIDENT_ENDED, Tally};
use crate::notify::receiver::Sender;
use crate::notify::{Settings, signs};
use crate::policy::backoff::Backoff;
use crate::policy::incidents::{Event, Incidents, Notice, Sign, Told};
use crate::telemetry::metrics::Metrics;

use super::Daemon;
use super::control::Control;

/// The time between two looks at the status.
const LOOK: Duration = Duration::from_secs(5);
/// The time between two looks at the report's verdict, which reads much.
const VERDICT: Duration = Duration::from_secs(3600);
/// The maximum number of notices kept for a receiver that cannot be reached; beyond it the oldest are dropped.
const KEPT: usize = 50;

/// The receivers of the configuration in force.
pub(super) type Receivers = Arc<ArcSwap<Vec<Settings>>>;

/// A receiver and the notices that it has not got yet.
struct Receiver {
    settings: Settings,
    incidents: Incidents,
    waiting: Vec<Notice>,
    /// When to send next at the earliest.
    due: Instant,
    failures: u32,
}

/// The state of the notifying task.
pub(super) struct Watcher {
    admin: Admin,
    clock: Clock,
    metrics: Metrics,
    max_size: u64,
    sender: Option<Sender>,
    verdict: Option<(Instant, Sign)>,
    receivers: Vec<Receiver>,
    /// The incidents that an earlier process reported and that have not ended; `None` until they are looked up.
    before: Option<Vec<Told>>,
    /// A receiver that is added now is notified of switches since this moment.
    since: Timestamp,
    /// The open incidents that some receiver was notified of.
    open: BTreeSet<Told>,
    news: News,
}

/// Incidents that began and ended, to be recorded in the journal.
pub(super) type News = Arc<Mutex<Vec<Tally>>>;

impl Daemon {
    /// Starts the task that notifies receivers.
    pub(super) fn start_notifying(&self) {
        let (receivers, control) = (Arc::clone(&self.receivers), Arc::clone(&self.control));
        let (mut watcher, stop) = (self.watcher(), self.tasks.stopping().clone());
        self.tasks.spawn("notifications", async move {
            let mut looks = interval(LOOK);
            looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            while stop.run_until_cancelled(looks.tick()).await.is_some() {
                stop.run_until_cancelled(watcher.round(&*control, &receivers)).await;
            }
        });
    }

    /// A watcher that knows nothing yet.
    pub(super) fn watcher(&self) -> Watcher {
        Watcher {
            admin: self.admin.clone(),
            clock: self.clock.clone(),
            metrics: self.metrics.clone(),
            max_size: self.config.journal.max_size.get(),
            sender: None,
            verdict: None,
            receivers: vec![],
            before: None,
            since: self.clock.now(),
            open: BTreeSet::new(),
            news: Arc::clone(&self.observed.incidents),
        }
    }
}

impl Watcher {
    /// Looks once and notifies receivers of news, if this relay leads; returns whether it does.
    pub(super) async fn round(&mut self, control: &dyn Control, receivers: &Receivers) -> bool {
        let Some(epoch) = control.leads().await else {
            self.hand_over();
            return false;
        };
        self.remember().await;
        self.follow(&receivers.load());
        self.look().await;
        // The look may have taken so long that another relay leads by now.
        let leads = control.leads().await == Some(epoch);
        if leads {
            self.tell().await;
        }
        leads
    }

    /// Follows a changed configuration. A receiver with unchanged settings keeps its incidents.
    fn follow(&mut self, settings: &[Settings]) {
        let mut before = std::mem::take(&mut self.receivers);
        for settings in settings {
            let known = before.iter().position(|receiver| receiver.settings == *settings);
            let receiver = known.map(|at| before.swap_remove(at));
            self.receivers.push(receiver.unwrap_or_else(|| self.receiver(settings)));
        }
        // A receiver that is added later begins with what is seen then.
        self.before = Some(vec![]);
        self.since = self.clock.now();
    }

    /// Forgets everything, because another relay leads. When this relay leads again, it begins with the journal's incidents.
    fn hand_over(&mut self) {
        self.receivers.clear();
        self.before = None;
        self.verdict = None;
    }

    /// Looks up once which incidents an earlier process reported that have not ended.
    async fn remember(&mut self) {
        if self.before.is_none() {
            let evidence = self.admin.evidence().await;
            self.before = Some(open_at_the_end(&evidence.intake));
            self.open = self.before.iter().flatten().cloned().collect();
        }
    }

    fn receiver(&self, settings: &Settings) -> Receiver {
        let own = self.before.iter().flatten().filter(|told| settings.events.contains(&told.event)).cloned();
        let own = own.map(|told| (told.clone(), signs::over(told.event, &told.subject)));
        let incidents = Incidents::after(own, self.clock.uptime(), self.since);
        Receiver { settings: settings.clone(), incidents, waiting: vec![], due: Instant::now(), failures: 0 }
    }

    /// Notes for the journal which incidents began and ended.
    fn note(&mut self) {
        let open: BTreeSet<Told> = self.receivers.iter().flat_map(|receiver| receiver.incidents.told()).collect();
        let tally = |what: &str, told: &Told| {
            let kind = format!("{} {}", told.event.name(), told.subject).into();
            Tally { what: what.into(), kind, count: 1 }
        };
        let began = open.difference(&self.open).map(|told| tally(INCIDENT_BEGAN, told));
        let ended = self.open.difference(&open).map(|told| tally(INCIDENT_ENDED, told));
        self.news.lock().unwrap_or_else(PoisonError::into_inner).extend(began.chain(ended));
        self.open = open;
    }

    /// Looks at the status, and queues the notices that follow.
    async fn look(&mut self) {
        if self.receivers.is_empty() {
            return;
        }
        let mut signs = signs::of(&self.admin.status().await, self.max_size);
        self.judge().await;
        signs.extend(self.verdict.iter().map(|(_, sign)| sign.clone()));
        let (uptime, now) = (self.clock.uptime(), self.clock.now());
        for receiver in &mut self.receivers {
            let own: Vec<Sign> =
                signs.iter().filter(|sign| receiver.settings.events.contains(&sign.event)).cloned().collect();
            let news = receiver.incidents.follow(&own, uptime, now, receiver.settings.after.get());
            receiver.waiting.extend(news);
            let surplus = receiver.waiting.len().saturating_sub(KEPT);
            receiver.waiting.drain(..surplus);
        }
    }

    /// Sends the queued notices.
    async fn tell(&mut self) {
        if self.receivers.is_empty() {
            return;
        }
        self.note();
        if self.sender.is_none() {
            self.sender = Sender::new().inspect_err(|error| tracing::error!(%error, "nobody can be notified")).ok();
        }
        let Some(sender) = &self.sender else { return };
        join_all(self.receivers.iter_mut().map(|receiver| receiver.send(sender, &self.metrics))).await;
    }

    /// Looks at the report's verdict, if a receiver wants it and it is due.
    async fn judge(&mut self) {
        let is_wanted = self.receivers.iter().any(|receiver| receiver.settings.events.contains(&Event::Ready));
        let is_due = self.verdict.as_ref().is_none_or(|(at, _)| at.elapsed() >= VERDICT);
        if is_wanted && is_due {
            let verdict = self.admin.verdict().await;
            self.verdict =
                verdict.map(|(name, ready, words)| (Instant::now(), signs::of_verdict(&name, ready, &words)));
        }
    }
}

/// The incidents that began and did not end. An incident that began several times before it ended is listed once.
fn open_at_the_end(tallies: &[Tally]) -> Vec<Told> {
    let count = |what: &str, kind: &str| {
        tallies
            .iter()
            .filter(|tally| &*tally.what == what && &*tally.kind == kind)
            .map(|tally| tally.count)
            .sum::<u64>()
    };
    let began = tallies.iter().filter(|tally| &*tally.what == INCIDENT_BEGAN);
    let open = began.filter(|tally| tally.count > count(INCIDENT_ENDED, &tally.kind));
    let told = |tally: &Tally| {
        let (name, subject) = tally.kind.split_once(' ')?;
        let event = Event::ALL.into_iter().find(|event| event.name() == name)?;
        Some(Told { event, subject: subject.to_owned() })
    };
    open.filter_map(told).collect()
}

impl Receiver {
    /// Sends the queued notices, if due.
    async fn send(&mut self, sender: &Sender, metrics: &Metrics) {
        if self.waiting.is_empty() || Instant::now() < self.due {
            return;
        }
        let count = |result| metrics.notifications_total.with_label_values(&[result]).inc();
        let sent = sender.send(&self.settings, &self.waiting).await;
        let shown = self.settings.shown();
        match sent {
            Ok(()) => {
                count("sent");
                if self.failures > 0 {
                    tracing::info!(receiver = shown, "notifications get through again");
                }
                self.waiting.clear();
                (self.failures, self.due) = (0, Instant::now() + self.settings.every.get());
            }
            Err(error) => {
                self.failures = self.failures.saturating_add(1);
                if !error.may_pass() {
                    count("given_up");
                    self.waiting.clear();
                    let advice = "look at its url and format, and try `switchyard notify test`";
                    tracing::warn!(receiver = shown, %error, "a notification was refused and is not sent again: {advice}");
                } else {
                    count("failed");
                    if self.failures == 1 {
                        tracing::warn!(receiver = shown, %error, "a notification did not get through, and is tried again");
                    }
                }
                self.due = Instant::now() + Backoff::RECORD.after(self.failures).max(self.settings.every.get());
            }
        }
    }
}
