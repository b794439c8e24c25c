//! How it went lately, from what the journal keeps: what upstreams did not get in this hour and the one before, what they got in each
//! five minutes of that time, what was refused at the door, and the data of the charts.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::journal::evidence::{Outage, Stretch, Tally};
use crate::policy::outcome::Cause;
use crate::protocol::category::Category;
use crate::telemetry::gaps::GapStatus;
use crate::telemetry::metrics::IntakeCounts;
use crate::telemetry::series::{STEP, Step, beginning};
use crate::telemetry::status::{LatelyStatus, OutageStatus};

use super::running;
use super::state::Admin;

const HOUR: Duration = Duration::from_secs(3600);
const MINUTE: Duration = Duration::from_secs(60);
/// The most outages of all charts.
const MOST_OUTAGES: usize = 500;

/// What happened since the beginning of the last hour.
pub(super) struct Lately {
    pub(super) upstreams: BTreeMap<Arc<str>, LatelyStatus>,
    /// When the relay did not run, or stood still.
    pub(super) gaps: Vec<GapStatus>,
    /// Requests refused as a whole, by reason.
    pub(super) refused: BTreeMap<String, u64>,
    /// Items that were not accepted, by reason.
    pub(super) refused_items: BTreeMap<String, u64>,
}

/// Nothing when the journal cannot be read: then it says so itself.
pub(super) async fn of_all(admin: &Admin, outages: &[Outage], now: Timestamp) -> Lately {
    // Looked at first: what the journal is told meanwhile counts twice for a moment, and is never missing.
    let unkept = admin.metrics.news_of(&admin.metrics.intake_counts());
    let evidence = admin.journal.evidence(now - HOUR).await.unwrap_or_default();
    let mut all = BTreeMap::<Arc<str>, LatelyStatus>::new();
    let gaps = gaps(admin, &evidence.stretches, now);
    let refused = counts_of("refused", &evidence.intake, &unkept);
    let refused_items = counts_of("refused_item", &evidence.intake, &unkept);
    for (key, account) in evidence.accounts {
        let Some(upstream) = key.upstream.filter(|_| Category::counts_items(key.category.name())) else { continue };
        let own = all.entry(upstream).or_default();
        own.lost += account.dropped_by(Cause::Lost);
        own.refused += account.refused();
    }
    for (upstream, steps) in &evidence.steps {
        let own = all.entry(Arc::clone(upstream)).or_default();
        own.delivered = delivered(now, steps);
        let window = (lately_from(now).max(running::first_start(admin, &evidence.stretches)), now);
        let outages = outages.iter().filter(|outage| outage.upstream == *upstream);
        (own.per_minute, own.pace) = paces(window, steps, outages);
    }
    Lately { upstreams: all, gaps, refused, refused_items }
}

/// The counts of one kind of refusal, by reason: as the journal knows them, and what it was not told yet. A full disk keeps it from
/// knowing.
fn counts_of(what: &str, kept: &[Tally], unkept: &IntakeCounts) -> BTreeMap<String, u64> {
    let kept = kept.iter().filter(|tally| &*tally.what == what && tally.count > 0);
    let mut refused: BTreeMap<String, u64> = kept.map(|tally| (tally.kind.to_string(), tally.count)).collect();
    for ((_, reason), count) in unkept.iter().filter(|((own, _), _)| *own == what) {
        *refused.entry(reason.clone()).or_default() += count;
    }
    refused
}

/// When the relay did not run since the beginning of the last hour. The time before its first start does not count.
fn gaps(admin: &Admin, stretches: &[Stretch], now: Timestamp) -> Vec<GapStatus> {
    let window = (beginning_of_lately(now).max(running::first_start(admin, stretches)), now);
    running::gaps(&running::up(stretches, admin.pulse.since(), window), window)
}

fn beginning_of_lately(now: Timestamp) -> Timestamp {
    Timestamp::from_millis((now - HOUR).hour() * 3_600_000)
}

/// The items delivered in each step since the beginning of the last hour.
fn delivered(now: Timestamp, steps: &[Step]) -> Vec<u64> {
    let mut at = beginning_of_lately(now);
    let mut delivered = vec![];
    while at <= now {
        delivered.push(steps.iter().filter(|step| step.at == at).map(|step| step.delivered).sum());
        at = at + STEP;
    }
    delivered
}

/// The beginning of the step before this one.
fn lately_from(now: Timestamp) -> Timestamp {
    beginning(now) - STEP
}

/// The items delivered per minute, averaged over this step and the one before, or over the time since the relay's first start. And the
/// same without the outages of that time, if a minute is left of it.
fn paces<'a>(
    (from, now): (Timestamp, Timestamp),
    steps: &[Step],
    outages: impl Iterator<Item = &'a Outage>,
) -> (f64, Option<f64>) {
    let delivered: u64 = steps.iter().filter(|step| step.at >= lately_from(now)).map(|step| step.delivered).sum();
    #[expect(clippy::cast_precision_loss, reason = "no ten minutes have 2^53 items")]
    let per_minute = |time: Duration| delivered as f64 * 60.0 / time.as_secs_f64();
    let all = now.since(from);
    let down = outages.map(|outage| outage.to.unwrap_or(now).since(outage.from.max(from))).sum();
    let up = all.saturating_sub(down);
    (per_minute(all.max(MINUTE)), (up >= MINUTE).then(|| per_minute(up)))
}

/// The data of charts: of 48 hours on the status page, of a report's whole time in the report.
#[derive(Default)]
pub(super) struct History {
    steps: BTreeMap<Arc<str>, Vec<Step>>,
    outages: BTreeMap<String, Vec<OutageStatus>>,
}

impl History {
    /// Reads the data since `since`; empty if the journal cannot be read.
    pub(super) async fn read(admin: &Admin, since: Timestamp) -> Self {
        let steps = admin.journal.evidence(since).await.unwrap_or_default().steps;
        let mut outages = BTreeMap::<String, Vec<OutageStatus>>::new();
        for outage in admin.journal.outages(since, MOST_OUTAGES).await.unwrap_or_default() {
            let told = OutageStatus { from: outage.from, to: outage.to, cause: outage.cause.to_string() };
            outages.entry(outage.upstream.to_string()).or_default().push(told);
        }
        Self { steps, outages }
    }

    /// The steps and the outages of one upstream.
    pub(super) fn of(&self, upstream: &str) -> (&[Step], &[OutageStatus]) {
        (self.steps.get(upstream).map_or(&[], Vec::as_slice), self.outages.get(upstream).map_or(&[], Vec::as_slice))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_slows_the_pace_of_a_backlog_only_until_the_upstream_is_back_for_a_minute() {
        let at = |minute: u64| Timestamp::from_millis(minute * 60_000);
        let steps = |delivered| [Step { at: at(15), delivered, ..Step::default() }];
        let outage = |to| [Outage { upstream: "a".into(), from: at(2), to, cause: "refused".into() }];
        let paces = |now, delivered, to| paces((at(10), now), &steps(delivered), outage(to).iter());
        assert_eq!(paces(at(18), 0, None), (0.0, None), "it is down");
        assert_eq!(paces(at(18), 80, Some(at(17) + Duration::from_secs(1))), (10.0, None));
        assert_eq!(paces(at(18), 160, Some(at(16))), (20.0, Some(80.0)));
        assert_eq!(paces(at(18), 160, Some(at(9))), (20.0, Some(20.0)), "it was over before");
    }
}
