//! Regular upkeep in small steps that delay nothing else: follow the clock, expire, send client reports and canaries, prune, and record
//! observations.
//!
//! Rule: when the journal does not answer, each step takes seconds. A round therefore ends after the step in which the daemon is told to
//! stop.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio_util::sync::CancellationToken;

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

/// The maximum number of records in one step.
const STEP: usize = 256;
/// The maximum number of steps a second.
const STEPS: usize = 32;

/// The time between two records of observations: a crash loses that much of them, and of the running time.
const EACH: Duration = Duration::from_secs(10);

/// The maximum number of sightings of services that wait for the journal.
const MOST_SEEN: usize = 4096;

/// Observations that are not recorded in the journal yet.
pub(super) struct Observed {
    /// The start of the running time that is being recorded.
    pub(super) started: Timestamp,
    pub(super) pulse: Pulse,
    at: Option<Timestamp>,
    ledger: Ledger,
    /// The state of upstreams' accounts at the last record.
    series: Series,
    /// Incidents that were reported since the last record.
    pub(super) incidents: notifying::News,
    /// Sightings of services, incidents and failed canaries since the last record.
    seen: Vec<Tally>,
}

impl Observed {
    /// Begins without observations.
    pub(super) fn new(pulse: Pulse, ledger: Ledger) -> Self {
        let (started, series) = (pulse.since(), Series::new(&ledger.accounts()));
        Self { started, pulse, at: None, ledger, series, incidents: Arc::default(), seen: vec![] }
    }

    /// Reports that canaries stopped getting through to an upstream.
    pub(super) fn canary_failed(&mut self, upstream: &str) {
        self.seen.push(Tally { what: CANARY_FAILED.into(), kind: upstream.into(), count: 1 });
    }

    /// Moves the reported incidents to what waits for the journal.
    fn take_incidents(&mut self) {
        let mut incidents = self.incidents.lock().unwrap_or_else(PoisonError::into_inner);
        self.seen.append(&mut incidents);
    }
}

impl Daemon {
    /// Does one round of upkeep.
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
        if is_due || self.observations.is_urgent() || self.intake.sightings().has_test() {
            self.keep_observations(now, false).await;
        }
    }

    /// Expires envelopes that waited too long, and prunes records whose retention is over.
    async fn throw_away(&self, now: Timestamp) {
        if let Some(epoch) = self.control.leads().await {
            epoch.under(|| self.expire(now)).await;
        }
        if self.draining.is_cancelled() {
            return;
        }
        if let Some(epoch) = self.control.leads().await {
            let prune = || self.journal.prune(now - self.config.journal.retain.get(), STEP);
            epoch.under(|| in_steps(&self.draining, prune)).await;
        }
    }

    async fn expire(&self, now: Timestamp) {
        for (target, name) in self.targets.iter() {
            let max_age = self.config.upstreams.get(name).map_or(LONGEST_AGE, |settings| settings.max_age);
            let discard = || self.journal.discard(target, now - max_age.get(), DropReason::Expired, STEP);
            let expired = in_steps(&self.draining, discard).await;
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

    /// The number of waiting envelopes of each upstream.
    async fn waiting(&self) -> Result<BTreeMap<Arc<str>, u64>, JournalError> {
        let mut waiting = BTreeMap::new();
        for (target, name) in self.targets.iter() {
            waiting.insert(Arc::clone(name), self.journal.backlog(target).await?.envelopes);
        }
        Ok(waiting)
    }

    /// Records in the journal what was observed since the last time, and that the relay is alive. If it fails, the next call repeats it.
    pub(super) async fn keep_observations(&mut self, now: Timestamp, stopping: bool) {
        // This may be the first code to run after the relay stood still.
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

    /// Records observations. Returns the counts and the series that the next record goes on from.
    async fn observe(
        &mut self,
        now: Timestamp,
        stopping: bool,
        news: &[(Arc<str>, observations::Observed)],
    ) -> Result<(IntakeCounts, Series), JournalError> {
        self.keep_gaps().await?;
        let counts = self.metrics.intake_counts();
        let upstreams = news.iter().filter_map(|(name, news)| Some((self.targets.of(name)?, news.clone()))).collect();
        self.observed.seen.extend(self.intake.sightings().take());
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

/// Repeats a step while it does as much as it may, up to [`STEPS`] times or until the daemon is told to stop. Returns how much was done
/// in all.
async fn in_steps<'a>(
    draining: &CancellationToken,
    mut step: impl FnMut() -> BoxFuture<'a, Result<usize, JournalError>>,
) -> usize {
    let mut done = 0;
    for _ in 0..STEPS {
        match step().await {
            Ok(n) => done += n,
            Err(error) => {
                tracing::debug!(%error, "upkeep of the journal is put off");
                break;
            }
        }
        if !done.is_multiple_of(STEP) || done == 0 || draining.is_cancelled() {
            break;
        }
    }
    done
}
