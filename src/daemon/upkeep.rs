//! What is done again and again, in small steps that delay nobody: follow the clock, expire, send client reports and canaries,
//! prune, and keep what was observed.
//!
//! Rule: with a journal that does not answer, each step takes seconds. So a round ends after the step in which the daemon is told to
//! stop.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;

use crate::clock::Timestamp;
use crate::delivery::settings::LONGEST_AGE;
use crate::journal::JournalError;
use crate::journal::evidence::{CANARY_FAILED, Observation, Tally};
use crate::policy::outcome::DropReason;
use crate::telemetry::ledger::Ledger;
use crate::telemetry::log;
use crate::telemetry::metrics::IntakeCounts;
use crate::telemetry::observations;
use crate::telemetry::pulse::Pulse;
use crate::telemetry::series::Series;

use super::{Daemon, heartbeat, notifying};

/// How much is done in one step.
const STEP: usize = 256;
/// How many steps are made each second.
const STEPS: usize = 32;

/// How often what was observed goes to the journal: what a crash takes, and by how much a stretch may seem too short after one.
const EACH: Duration = Duration::from_secs(10);

/// How many sightings of services wait for a journal that cannot be written.
const MOST_SEEN: usize = 4096;

/// What was kept last.
pub(super) struct Observed {
    /// When the stretch began of which the journal was last told.
    pub(super) started: Timestamp,
    pub(super) pulse: Pulse,
    at: Option<Timestamp>,
    ledger: Ledger,
    /// How the upstreams fared, as far as it was told.
    series: Series,
    /// Incidents that were told of, since the last time.
    pub(super) incidents: notifying::News,
    /// Services that were seen and that the journal has not taken yet.
    seen: Vec<Tally>,
}

impl Observed {
    /// Nothing yet.
    pub(super) fn new(pulse: Pulse, ledger: Ledger) -> Self {
        let (started, series) = (pulse.since(), Series::new(&ledger.accounts()));
        Self { started, pulse, at: None, ledger, series, incidents: Arc::default(), seen: vec![] }
    }

    /// Canaries stopped getting through to an upstream.
    pub(super) fn canary_failed(&mut self, upstream: &str) {
        self.seen.push(Tally { what: CANARY_FAILED.into(), kind: upstream.into(), count: 1 });
    }

    /// Puts what was told of incidents with what waits for the journal.
    fn take_incidents(&mut self) {
        let mut incidents = self.incidents.lock().unwrap_or_else(PoisonError::into_inner);
        self.seen.append(&mut incidents);
    }
}

impl Daemon {
    /// What has to be done again and again: follow the clock, expire, tell, send canaries, prune, keep what was observed.
    pub(super) async fn keep_up(&mut self) {
        self.clock.resync();
        log::tell_left_out();
        self.supervisor.follow_clock();
        let now = self.clock.now();
        if !self.clock.is_doubtful() {
            self.throw_away(now).await;
        }
        if self.draining.is_cancelled() {
            return;
        }
        self.keep_switches().await;
        self.tell_losses().await;
        if self.draining.is_cancelled() {
            return;
        }
        self.keep_canaries().await;
        self.keep_verifying().await;
        if self.draining.is_cancelled() {
            return;
        }
        let is_due = self.observed.at.is_none_or(|at| now.since(at) >= EACH || at > now);
        if is_due || self.observations.is_urgent() {
            self.keep_observations(now, false).await;
        }
    }

    /// What waited too long, and what was kept long enough.
    async fn throw_away(&self, now: Timestamp) {
        if let Some(epoch) = self.control.leads().await {
            epoch.under(|| self.expire(now)).await;
        }
        if self.draining.is_cancelled() {
            return;
        }
        if let Some(epoch) = self.control.leads().await {
            let prune = || self.journal.prune(now - self.config.journal.retain.get(), STEP);
            epoch.under(|| in_steps(prune)).await;
        }
    }

    async fn expire(&self, now: Timestamp) {
        for (target, name) in self.targets.iter() {
            let max_age = self.config.upstreams.get(name).map_or(LONGEST_AGE, |settings| settings.max_age);
            let discard = || self.journal.discard(target, now - max_age.get(), DropReason::Expired, STEP);
            let expired = in_steps(discard).await;
            if expired > 0
                && let Some(envelopes) = log::admit_sum("expired", name, expired as u64)
            {
                tracing::error!(upstream.name = &**name, envelopes, "expired before they could be delivered");
            }
            if self.draining.is_cancelled() {
                return;
            }
        }
    }

    /// How many envelopes wait, by upstream.
    async fn waiting(&self) -> Result<BTreeMap<Arc<str>, u64>, JournalError> {
        let mut waiting = BTreeMap::new();
        for (target, name) in self.targets.iter() {
            waiting.insert(Arc::clone(name), self.journal.backlog(target).await?.envelopes);
        }
        Ok(waiting)
    }

    /// Adds to the journal's evidence what was observed since the last time, and that we are alive. What it cannot take now is
    /// told the next time.
    pub(super) async fn keep_observations(&mut self, now: Timestamp, stopping: bool) {
        // This may be what runs first after the relay stood still.
        heartbeat::beat(&self.observed.pulse, &self.clock);
        let news = self.observations.take();
        match self.observe(now, stopping, &news).await {
            Ok((counts, series)) => {
                self.metrics.note_kept(counts);
                self.observed.series = series;
                self.observed.seen.clear();
            }
            Err(error) => {
                tracing::debug!(%error, "what was observed is kept later");
                self.observations.give_back(news);
                self.observed.seen.truncate(MOST_SEEN);
            }
        }
        self.observed.at = Some(now);
    }

    /// Adds it, and returns the counts and the series from which the next one goes on.
    async fn observe(
        &mut self,
        now: Timestamp,
        stopping: bool,
        news: &[(Arc<str>, observations::Observed)],
    ) -> Result<(IntakeCounts, Series), JournalError> {
        self.keep_gaps().await?;
        let counts = self.metrics.intake_counts();
        let upstreams = news.iter().filter_map(|(name, news)| Some((self.targets.of(name)?, news.clone()))).collect();
        self.observed.seen.extend(self.intake.sightings());
        self.observed.take_incidents();
        let news_of_intake = self.metrics.news_of(&counts).into_iter();
        let tally =
            |((what, kind), count): ((&str, String), u64)| Tally { what: what.into(), kind: kind.into(), count };
        let intake = news_of_intake.map(tally).chain(self.observed.seen.iter().cloned()).collect();
        let waiting = self.waiting().await?;
        let (steps, series) = self.observed.series.look(now, &self.observed.ledger.accounts(), news, &waiting);
        let steps = steps.into_iter().filter_map(|(name, step)| Some((self.targets.of(&name)?, step))).collect();
        let (started, canaries) = (self.observed.started, self.canaries_through().await?);
        let observation = Observation { started, now, stopping, upstreams, intake, steps, canaries };
        self.journal.observe(observation).await?;
        Ok((counts, series))
    }
}

/// Repeats a step as long as it finds as much as it may do, for a while; returns how much was done in all.
async fn in_steps<'a>(mut step: impl FnMut() -> BoxFuture<'a, Result<usize, JournalError>>) -> usize {
    let mut done = 0;
    for _ in 0..STEPS {
        match step().await {
            Ok(n) => done += n,
            Err(error) => {
                tracing::debug!(%error, "upkeep of the journal is put off");
                break;
            }
        }
        if !done.is_multiple_of(STEP) || done == 0 {
            break;
        }
    }
    done
}
