//! Until when a finding counts against a candidate. As time goes on, a fault leaves the window of a report: most faults with their hour,
//! slow deliveries with their step of five minutes.
//!
//! Rule: the latest possible time is given. A backfill, a retry or a repair may end the finding earlier.

use std::time::Duration;

use crate::clock::Timestamp;
use crate::policy::outcome::Cause;
use crate::telemetry::series::{FINE, STEP};

use super::{Criterion, Report, UpstreamReport};

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// The key in `latest` of deliveries that took longer than demanded.
pub const SLOW: &str = "slow";

impl Criterion {
    /// Adds the time until which the finding counts.
    pub(super) fn until(mut self, report: &Report, candidate: &UpstreamReport) -> Self {
        self.until = if self.passed { None } else { until(&self.name, report, candidate) };
        if let Some(until) = self.until {
            self.found += &format!("; counts until {} at the latest", until.in_words());
        }
        self
    }
}

/// The end of a step. In a long window it is the end of the hour: the steps of an hour have become one by the time the window leaves it.
fn end_of(step: Timestamp, window: Duration) -> Timestamp {
    match window + HOUR < FINE {
        true => step + STEP,
        false => Timestamp::from_millis(step.hour() * 3_600_000) + HOUR,
    }
}

fn until(name: &str, report: &Report, candidate: &UpstreamReport) -> Option<Timestamp> {
    let window = report.asked();
    let hours = |counts: &dyn Fn(&str) -> bool| {
        let last = candidate.latest.iter().filter(|(what, _)| counts(what)).map(|(_, at)| *at).max()?;
        Some(last + HOUR + window)
    };
    match name {
        "uptime" => Some(report.relay.gaps.last()?.to + window),
        "withheld" | "lost" | "refused" => hours(&|what| match Cause::of(what) {
            Some(cause) => cause.criterion() == Some(name),
            None => name == "refused" && what == "misconfigured",
        }),
        "lag" => {
            let step = *candidate.latest.get(SLOW).filter(|_| candidate.lag_p99().is_some())?;
            Some(end_of(step, window) + window)
        }
        "availability" => {
            let ends: Option<Vec<Timestamp>> = candidate.outages.iter().map(|outage| outage.to).collect();
            Some(ends?.into_iter().max()? + window)
        }
        "canary" => {
            let fails = candidate.canary.as_ref().is_some_and(|own| own.state == "failing");
            if fails { None } else { hours(&|what| what == "canary_failed") }
        }
        "stored" => {
            let own = candidate.verification.as_ref()?;
            let missing = own.sample.iter().map(|event| event.accepted_at).max();
            Some(missing.max(own.given_up_at)? + window)
        }
        "content" => {
            let sample = &candidate.verification.as_ref()?.content.as_ref()?.sample;
            let hour = sample.iter().map(|one| one.compared_at.hour()).max()?;
            Some(Timestamp::from_millis(hour * 3_600_000) + HOUR + window.max(DAY))
        }
        _ => None,
    }
}
