//! Tells operators what a worker's upstream does: counts it in metrics, and logs it where somebody may have to act.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus::{Histogram, IntCounter};

use crate::clock::Timestamp;
use crate::journal::{JournalError, Record};
use crate::policy::cooldown::Limited;
use crate::policy::refusals::Known;
use crate::policy::verdict::Verdict;
use crate::protocol::category::Category;
use crate::protocol::rate_limits::{REMARKABLE, RateLimit};
use crate::telemetry::log::Damper;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::observations::Observations;

use super::batch_poison::Cause;
use super::compress::Compress;
use super::sent::Sent;

/// The watch over one upstream.
#[derive(Clone, Debug)]
pub(super) struct Watch {
    upstream: Arc<str>,
    attempts: [IntCounter; Verdict::ALL.len()],
    duration: Histogram,
    lag: Histogram,
    batch_poison: IntCounter,
    mended: IntCounter,
    unsettled: IntCounter,
    observations: Observations,
    damper: Damper<Line>,
    told: Arc<Mutex<Told>>,
}

/// What the log said last of the upstream, so that the end of each reported trouble is logged as well.
#[derive(Debug, Default)]
struct Told {
    /// Whether it is down.
    down: Down,
    /// The projects whose DSN it refuses.
    refused: BTreeSet<Arc<str>>,
    limit: Limit,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Down {
    #[default]
    No,
    /// It is down, and the log does not say so yet.
    Untold,
    Told,
}

/// The rate limits of the upstream, as one span of time until it takes something again.
#[derive(Debug, Default)]
struct Limit {
    since: Option<Timestamp>,
    is_told: bool,
    is_over: bool,
}

/// The longest limit that is not logged, because short ones are usual.
const LONG_LIMIT: Duration = Duration::from_secs(60);

/// The lines that may repeat, and are damped.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Line {
    Down,
    Failed,
    FailsAlone(Arc<str>),
    JournalFails,
    Unsettled,
    LeaseLost,
    NotExtended,
    Limited,
    LongWait,
    Refused(Arc<str>),
    Unreadable(Arc<str>),
    Misconfigured(Arc<str>),
    NoDsn(Arc<str>),
    BatchPoison(Arc<str>),
    Mended(Arc<str>),
    Unsupported(Box<str>),
}

impl Watch {
    pub(super) fn new(upstream: &Arc<str>, metrics: &Metrics, observations: Observations) -> Self {
        metrics.know_upstream(upstream);
        let attempts = Verdict::ALL
            .map(|verdict| metrics.delivery_attempts_total.with_label_values(&[&**upstream, verdict.name()]));
        Self {
            upstream: Arc::clone(upstream),
            attempts,
            duration: metrics.delivery_duration_seconds.with_label_values(&[upstream]),
            lag: metrics.delivery_lag_seconds.with_label_values(&[upstream]),
            batch_poison: metrics.batch_poison_events_total.with_label_values(&[upstream]),
            mended: metrics.mended_envelopes_total.with_label_values(&[upstream]),
            unsettled: metrics.delivery_unsettled_total.with_label_values(&[upstream]),
            observations,
            damper: Damper::new(),
            told: Arc::default(),
        }
    }

    /// Reports that the request for a claim has ended `now`. Lag is not measured for a claim that was late before
    /// the upstream was asked. For a refusal in doubt, [`counted`](Self::counted) reports later how it counts.
    pub(super) fn attempted(&self, verdict: Verdict, in_doubt: bool, sent: &Sent, now: Timestamp) {
        let claim = &sent.claim;
        self.attempts[verdict as usize].inc();
        self.duration.observe(sent.took.as_secs_f64());
        let has_lag = verdict == Verdict::Delivered && !claim.backfilled;
        let lag = has_lag.then(|| now.since(claim.record.accepted_at));
        if let Some(lag) = lag {
            self.lag.observe(lag.as_secs_f64());
        }
        match (in_doubt, sent.is_foreign()) {
            // No outage ends, because the tracker has not answered.
            (true, true) => {}
            (false, true) => self.observations.counted(&self.upstream, now, verdict, 1),
            (true, false) => self.observations.answered(&self.upstream, now),
            (false, false) => self.observations.attempted(&self.upstream, now, verdict, lag),
        }
        if verdict == Verdict::Delivered {
            self.took(&claim.record.project, now);
        }
    }

    /// Reports how refusals in doubt count. One that passed by itself counts as a failure, which a retry mends.
    pub(super) fn counted(&self, known: Known, now: Timestamp) {
        self.observations.counted(&self.upstream, now, Verdict::Misconfigured, known.refusals);
        self.observations.counted(&self.upstream, now, Verdict::Failed, known.passing);
    }

    /// Reports that the upstream took something of the project. Logs the end of a refusal, or of a limit, whose beginning was logged.
    fn took(&self, project: &Arc<str>, now: Timestamp) {
        let (was_refused, limit) = {
            let mut told = self.told();
            let is_over = told.limit.is_over;
            (told.refused.remove(project), is_over.then(|| std::mem::take(&mut told.limit)))
        };
        if was_refused {
            let message = "upstream takes the DSN of this project again";
            tracing::info!(upstream.name = &*self.upstream, project.name = &**project, "{message}");
        }
        if let Some(since) = limit.filter(|limit| limit.is_told).and_then(|limit| limit.since) {
            let seconds = now.since(since).as_secs();
            let message = "upstream takes everything again; what its rate limit held back drains";
            tracing::info!(upstream.name = &*self.upstream, limited.seconds = seconds, "{message}");
        }
    }

    /// Reports the categories that the upstream limits now, each with the end of its limit.
    pub(super) fn limited(&self, limits: &[Limited], now: Timestamp) {
        let mut told = self.told();
        let limit = &mut told.limit;
        let Some(until) = limits.iter().map(|limit| limit.until).max() else {
            limit.is_over = limit.since.is_some();
            return;
        };
        limit.is_over = false;
        let since = *limit.since.get_or_insert(now);
        if limit.is_told || until.since(since) <= LONG_LIMIT {
            return;
        }
        let Some(line) = self.damper.admit(&Line::Limited) else { return };
        limit.is_told = true;
        drop(told);
        let categories: Vec<&str> = limits.iter().map(|limit| limit.category.name()).collect();
        let all = Category::ALL.into_iter().filter(|category| category.can_be_limited()).count();
        let categories = if categories.len() == all { "all".to_owned() } else { categories.join(",") };
        tracing::info!(
            upstream.name = &*self.upstream,
            categories,
            %until,
            suppressed = line.suppressed,
            "upstream limits what it is sent; envelopes wait in the journal, or are dropped where on_rate_limit says so"
        );
    }

    /// Reports the limits of an answer. A limit for days is likelier a mistake than a quota.
    pub(super) fn asked_for_a_long_wait(&self, limits: &[RateLimit]) {
        let Some(longest) = limits.iter().map(|limit| limit.retry_after).max().filter(|wait| *wait > REMARKABLE) else {
            return;
        };
        let Some(line) = self.damper.admit(&Line::LongWait) else { return };
        tracing::warn!(
            upstream.name = &*self.upstream,
            seconds = longest.as_secs(),
            suppressed = line.suppressed,
            "upstream asks for a wait of more than a day; it is tried again after an hour, and SDKs are told no more than that"
        );
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        // No holder of the lock panics.
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reports that a delivery failed; `down_since` if that opened the circuit.
    pub(super) fn failed(&self, down_since: Option<Timestamp>, why: &str) {
        if let Some(since) = down_since {
            self.observations.down(&self.upstream, since, why);
        }
        if self.tells_down(down_since.is_some(), why) {
            return;
        }
        if let Some(line) = self.damper.admit(&Line::Failed) {
            let suppressed = line.suppressed;
            let message = "a delivery failed and will be tried again";
            tracing::info!(upstream.name = &*self.upstream, why, suppressed, "{message}");
        }
    }

    /// Logs that the upstream is down, unless the log says so already. An upstream that goes up and down is logged once a minute.
    fn tells_down(&self, opened: bool, why: &str) -> bool {
        let mut told = self.told();
        if opened && told.down == Down::No {
            told.down = Down::Untold;
        }
        let line = (told.down == Down::Untold).then(|| self.damper.admit(&Line::Down)).flatten();
        let Some(line) = line else { return false };
        told.down = Down::Told;
        drop(told);
        let suppressed = line.suppressed;
        let message = "upstream is down; envelopes wait in the journal";
        tracing::warn!(upstream.name = &*self.upstream, why, suppressed, "{message}");
        true
    }

    /// Reports that a project's deliveries fail while others succeed.
    pub(super) fn fails_alone(&self, project: &Arc<str>, why: &str) {
        let Some(line) = self.damper.admit(&Line::FailsAlone(Arc::clone(project))) else { return };
        let (upstream, project, suppressed) = (&*self.upstream, &**project, line.suppressed);
        let message =
            "one project fails while others are taken: it waits alone, and what keeps failing becomes a dead letter";
        tracing::warn!(upstream.name = upstream, project.name = project, why, suppressed, "{message}");
    }

    pub(super) fn recovered(&self) {
        let before = std::mem::take(&mut self.told().down);
        if before == Down::Told {
            tracing::info!(upstream.name = &*self.upstream, "upstream is back; its backlog drains");
        }
    }

    pub(super) fn misconfigured(&self, project: &Arc<str>, why: &str) {
        let Some(line) = self.damper.admit(&Line::Misconfigured(Arc::clone(project))) else { return };
        self.told().refused.insert(Arc::clone(project));
        let (upstream, suppressed) = (&*self.upstream, line.suppressed);
        let advice = "upstream refuses the DSN of this project: check key and project id; its envelopes wait";
        tracing::error!(upstream.name = upstream, project.name = &**project, why, suppressed, "{advice}");
    }

    /// Reports that the upstream refused this encoding and took the same envelope uncompressed.
    pub(super) fn declined(&self, how: Option<Compress>) {
        let (upstream, encoding) = (&*self.upstream, how.map_or("", Compress::name));
        let message = "upstream refuses envelopes compressed like this and takes them as they are: they go out so until the next reload";
        tracing::warn!(upstream.name = upstream, encoding, "{message}");
    }

    pub(super) fn no_dsn(&self, project: &Arc<str>) {
        let Some(line) = self.damper.admit(&Line::NoDsn(Arc::clone(project))) else { return };
        let (upstream, suppressed) = (&*self.upstream, line.suppressed);
        let advice = "envelopes wait for an upstream that has no DSN for their project any more";
        tracing::warn!(upstream.name = upstream, project.name = &**project, suppressed, "{advice}");
    }

    pub(super) fn batch_poison(&self, record: &Record, cause: Cause) {
        self.batch_poison.inc();
        let Some(line) = self.damper.admit(&Line::BatchPoison(Arc::clone(&record.project))) else { return };
        let (upstream, project, suppressed) = (&*self.upstream, &*record.project, line.suppressed);
        let (why, help) = (cause.why(), cause.remedy());
        let message = "upstream was sent an event that a GlitchTip 5 loses with the whole batch it is stored with";
        tracing::warn!(upstream.name = upstream, project.name = project, record = %record.id, why, help, suppressed, "{message}");
    }

    pub(super) fn mended(&self, record: &Record) {
        self.mended.inc();
        let Some(line) = self.damper.admit(&Line::Mended(Arc::clone(&record.project))) else { return };
        let (upstream, project, suppressed) = (&*self.upstream, &*record.project, line.suppressed);
        let message = "a release of more than 255 characters is cut for the upstream: shorten it in the service";
        tracing::warn!(upstream.name = upstream, project.name = project, record = %record.id, suppressed, "{message}");
    }

    pub(super) fn unreadable(&self, record: &Record, why: &str) {
        let Some(line) = self.damper.admit(&Line::Unreadable(Arc::clone(&record.project))) else { return };
        let (upstream, project, suppressed) = (&*self.upstream, &*record.project, line.suppressed);
        let message = "the file of a large envelope cannot be read; it is tried again later";
        tracing::error!(upstream.name = upstream, project.name = project, record = %record.id, why, suppressed, "{message}");
    }

    pub(super) fn unsupported(&self, record: &Record, why: &str) {
        let Some(request) = &record.client.request else { return };
        let endpoint = request.path.split('/').next().unwrap_or_default();
        let Some(line) = self.damper.admit(&Line::Unsupported(endpoint.into())) else { return };
        let (upstream, suppressed) = (&*self.upstream, line.suppressed);
        let message = "upstream has no such endpoint; what comes for it is dropped as unsupported there";
        tracing::warn!(upstream.name = upstream, endpoint, why, suppressed, "{message}");
    }

    pub(super) fn refused(&self, record: &Record, reason: &str, why: &str) {
        let Some(line) = self.damper.admit(&Line::Refused(Arc::clone(&record.project))) else { return };
        let (upstream, project, suppressed) = (&*self.upstream, &*record.project, line.suppressed);
        let message = "upstream refused an envelope for good; it is kept as a dead letter";
        tracing::error!(
            upstream.name = upstream,
            project.name = project,
            record = %record.id,
            reason,
            why,
            suppressed,
            "{message}"
        );
    }

    /// Reports that the journal did not keep the outcome of a delivery.
    pub(super) fn unsettled(&self, error: &JournalError) {
        self.unsettled.inc();
        let upstream = &*self.upstream;
        match error {
            // The journal closes after the workers have ended or had their time, and logs that itself.
            JournalError::Closed => {}
            JournalError::LeaseLost => {
                let Some(line) = self.damper.admit(&Line::LeaseLost) else { return };
                let message =
                    "a delivery ended after its lease: somebody else delivers the envelope, which may arrive twice";
                tracing::warn!(upstream.name = upstream, suppressed = line.suppressed, "{message}");
            }
            _ => {
                let Some(line) = self.damper.admit(&Line::Unsettled) else { return };
                let message = "the journal did not keep the outcome of a delivery: it is made again in a minute";
                tracing::error!(upstream.name = upstream, %error, suppressed = line.suppressed, "{message}");
            }
        }
    }

    /// Reports that the journal does not extend leases.
    pub(super) fn not_extended(&self, error: &JournalError) {
        let Some(line) = self.damper.admit(&Line::NotExtended) else { return };
        let (upstream, suppressed) = (&*self.upstream, line.suppressed);
        let message = "the journal does not extend the leases of what is under way, which may be delivered twice";
        tracing::error!(upstream.name = upstream, %error, suppressed, "{message}");
    }

    /// Reports that the journal gives no records to send.
    pub(super) fn journal_fails(&self, error: &JournalError) {
        let Some(line) = self.damper.admit(&Line::JournalFails) else { return };
        let (upstream, suppressed) = (&*self.upstream, line.suppressed);
        tracing::error!(upstream.name = upstream, %error, suppressed, "the journal gives no records");
    }
}
