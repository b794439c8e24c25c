//! Figures of a report whose window begins within an hour. They come from steps of five minutes, because the hour begins before the window.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::telemetry::lags::Lags;
use crate::telemetry::series::{self, FINE, Step};

/// Figures of an upstream that are finer than by the hour.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WithinReport {
    /// When they begin: the beginning of the step in which the window begins.
    pub since: Timestamp,
    /// The time that 99 of 100 deliveries did not exceed; `None` if there were none. Of a step of the first hour only its own such time is
    /// known, so all of its deliveries count with that.
    pub lag_p99_seconds: Option<f64>,
    /// Items that expired or were evicted in the first hour before `since`.
    pub lost_before: u64,
}

impl WithinReport {
    /// The figures from `steps`, which begin with the hour of `since`, and from the lags of later hours. `None` if `since` is in
    /// the first step of an hour, or if the steps of its hour have become one.
    pub fn new(since: Timestamp, now: Timestamp, steps: &[Step], later: &Lags) -> Option<Self> {
        let from = series::beginning(since);
        let is_whole = from.hour() * 3_600_000 == from.as_millis();
        if is_whole || since.hour() <= (now - FINE).hour() {
            return None;
        }
        let mut lags = later.clone();
        let mut lost_before = 0;
        for step in steps.iter().filter(|step| step.at.hour() == since.hour()) {
            match step.lag_p99 {
                _ if step.at < from => lost_before += step.lost,
                Some(ms) => lags.record_many(Duration::from_millis(ms), step.delivered.max(1)),
                None => {}
            }
        }
        let lag_p99_seconds = lags.quantile(0.99).map(|lag| lag.as_secs_f64());
        Some(Self { since: from, lag_p99_seconds, lost_before })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_that_begins_within_an_hour_uses_its_steps_and_the_later_hours() {
        let at = |minute: u64| Timestamp::from_millis(1_767_571_200_000 + minute * 60_000);
        let step = |minute: u64, ms: u64| Step {
            at: at(minute),
            delivered: 10,
            lost: 1,
            lag_p99: Some(ms),
            ..Step::default()
        };
        let steps = [step(0, 90_000), step(30, 40), step(55, 30), step(60, 7)];
        let within = |minute, later| WithinReport::new(at(minute), at(70), &steps, &later);
        let told = within(32, Lags::default()).unwrap();
        assert_eq!((told.since, told.lag_p99_seconds, told.lost_before), (at(30), Some(0.04), 1));
        assert_eq!(within(59, Lags::default()).unwrap().lag_p99_seconds, Some(0.03));
        let mut later = Lags::default();
        later.record_many(Duration::from_secs(5), 10);
        assert_eq!(within(59, later).unwrap().lag_p99_seconds, Some(5.0));
        assert_eq!(within(66, Lags::default()).unwrap().lag_p99_seconds, None);
        assert_eq!(within(3, Lags::default()), None, "nothing is left out");
        assert_eq!(
            WithinReport::new(at(32), at(32) + FINE, &steps, &Lags::default()),
            None,
            "those are an hour by now"
        );
    }
}
