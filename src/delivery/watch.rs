//! What a worker's upstream does, told to operators: counted in metrics, and logged where somebody may have to act.

use std::sync::Arc;
use std::time::Duration;

use prometheus::{Histogram, IntCounter};

use crate::clock::Timestamp;
use crate::journal::{Claim, Record};
use crate::policy::verdict::Verdict;
use crate::telemetry::log::Damper;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::observations::Observations;

/// The watch over one upstream.
#[derive(Clone, Debug)]
pub(super) struct Watch {
    upstream: Arc<str>,
    attempts: [IntCounter; Verdict::ALL.len()],
    duration: Histogram,
    lag: Histogram,
    batch_poison: IntCounter,
    observations: Observations,
    damper: Damper<Line>,
}

/// The lines that would repeat.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Line {
    Failed,
    Refused,
    Unreadable,
    Misconfigured(Arc<str>),
    NoDsn(Arc<str>),
    BatchPoison(Arc<str>),
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
            observations,
            damper: Damper::new(),
        }
    }

    /// A request for a claim came to its end `now`. What was backfilled was late before the upstream was asked at all.
    pub(super) fn attempted(&self, verdict: Verdict, took: Duration, claim: &Claim, now: Timestamp) {
        self.attempts[verdict as usize].inc();
        self.duration.observe(took.as_secs_f64());
        let has_lag = verdict == Verdict::Delivered && !claim.backfilled;
        let lag = has_lag.then(|| now.since(claim.record.accepted_at));
        if let Some(lag) = lag {
            self.lag.observe(lag.as_secs_f64());
        }
        self.observations.attempted(&self.upstream, now, verdict, lag);
    }

    /// A delivery failed; `down_since` when that opened the circuit.
    pub(super) fn failed(&self, down_since: Option<Timestamp>, why: &str) {
        if let Some(since) = down_since {
            self.observations.down(&self.upstream, since, why);
            tracing::warn!(upstream.name = &*self.upstream, why, "upstream is down; envelopes wait in the journal");
        } else if self.damper.lets_through(&Line::Failed) {
            tracing::info!(upstream.name = &*self.upstream, why, "a delivery failed and will be tried again");
        }
    }

    pub(super) fn recovered(&self) {
        tracing::info!(upstream.name = &*self.upstream, "upstream is back; its backlog drains");
    }

    pub(super) fn misconfigured(&self, project: &Arc<str>, why: &str) {
        if self.damper.lets_through(&Line::Misconfigured(Arc::clone(project))) {
            let advice = "upstream refuses the DSN of this project: check key and project id; its envelopes wait";
            tracing::error!(upstream.name = &*self.upstream, project.name = &**project, why, "{advice}");
        }
    }

    pub(super) fn no_dsn(&self, project: &Arc<str>) {
        if self.damper.lets_through(&Line::NoDsn(Arc::clone(project))) {
            let advice = "envelopes wait for an upstream that has no DSN for their project any more";
            tracing::warn!(upstream.name = &*self.upstream, project.name = &**project, "{advice}");
        }
    }

    pub(super) fn batch_poison(&self, record: &Record, why: &str) {
        self.batch_poison.inc();
        if self.damper.lets_through(&Line::BatchPoison(Arc::clone(&record.project))) {
            let (upstream, project) = (&*self.upstream, &*record.project);
            let message = "upstream was sent an event that makes a GlitchTip 5 lose the whole batch it is stored with";
            tracing::warn!(upstream.name = upstream, project.name = project, record = %record.id, why, "{message}");
        }
    }

    pub(super) fn unreadable(&self, record: &Record, why: &str) {
        if self.damper.lets_through(&Line::Unreadable) {
            let (upstream, message) =
                (&*self.upstream, "the file of a large envelope cannot be read; it is tried again later");
            tracing::error!(upstream.name = upstream, record = %record.id, why, "{message}");
        }
    }

    pub(super) fn unsupported(&self, record: &Record, why: &str) {
        let Some(request) = &record.client.request else { return };
        let endpoint = request.path.split('/').next().unwrap_or_default();
        if self.damper.lets_through(&Line::Unsupported(endpoint.into())) {
            let message = "upstream has no such endpoint; what comes for it is dropped as unsupported there";
            tracing::warn!(upstream.name = &*self.upstream, endpoint, why, "{message}");
        }
    }

    pub(super) fn refused(&self, record: &Record, reason: &str, why: &str) {
        if self.damper.lets_through(&Line::Refused) {
            let project = &*record.project;
            let message = "upstream refused an envelope for good; it is kept as a dead letter";
            tracing::error!(upstream.name = &*self.upstream, project.name = project, record = %record.id, reason, why, "{message}");
        }
    }
}
