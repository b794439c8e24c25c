//! The report: the evidence of a parallel run, and whether it suffices. `/api/report` returns it; the page and `switchyard report` show
//! it. Plain data, the same for all; [`criteria`] decides.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::policy::outcome::Cause;
use crate::protocol::category::Category;

use super::gaps::GapStatus;
use super::ledger::dropped_by;
use super::status::{CanaryStatus, LimitStatus, OutageStatus, SwitchStatus};
use super::verification::NotFound;

pub use content::ContentReport;
pub use dated::SLOW;
pub use within::WithinReport;

pub mod accepted;
mod back;
mod content;
pub mod criteria;
mod dated;
pub mod span;
mod within;

/// How two upstreams performed side by side, and whether the candidate is ready.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// The version of the relay that made it.
    pub version: String,
    /// When it was made, the end of its window.
    pub now: Timestamp,
    /// The beginning of its window.
    pub since: Timestamp,
    /// The beginning of the counts of items, attempts and lags, which are kept by the hour.
    pub counted_since: Timestamp,
    /// The beginning of what is known: the beginning of the window, or the relay's first known start if that is later.
    #[serde(default)]
    pub known_since: Timestamp,
    /// When the candidate was first seen: `known_since`, or when something first came for it if that is later; `now` if nothing did.
    #[serde(default)]
    pub seen_since: Timestamp,
    /// The time of the requests, lags and outages, which are kept every few seconds. Items are kept with each delivery.
    #[serde(default)]
    pub observed_at: Timestamp,
    /// Whether canaries are configured.
    #[serde(default)]
    pub canaries: bool,
    /// The upstream that the candidate is compared with.
    pub primary: String,
    /// The upstream that is judged.
    pub candidate: String,
    /// Whether every criterion holds.
    pub ready: bool,
    /// The verdict in one line.
    pub verdict: String,
    /// The criteria, demanded and found.
    pub criteria: Vec<Criterion>,
    /// When the relay ran.
    pub relay: RelayReport,
    /// The submissions.
    pub intake: IntakeReport,
    /// The primary, the candidate, and then the other upstreams.
    pub upstreams: Vec<UpstreamReport>,
    /// Which upstream got which of the records that are still kept.
    pub comparison: ComparisonReport,
    /// The expected services.
    pub services: Vec<ServiceReport>,
    /// The switches in the window, newest first.
    pub switches: Vec<SwitchStatus>,
}

/// A criterion.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Criterion {
    /// `seen`, `uptime`, `balance`, `withheld`, `lost`, `refused`, `availability`, `lag`, `services`, `canary`, `stored`, `content`.
    pub name: String,
    /// Whether it is met, or was not judged.
    pub passed: bool,
    /// Whether there was anything to judge. If not, it counts neither for nor against the candidate.
    #[serde(default = "yes")]
    pub judged: bool,
    /// What is demanded.
    pub demanded: String,
    /// What was found.
    pub found: String,
    /// The latest time until which the finding counts against the candidate if nothing is added to it; `None` if it is met or the time is
    /// unknown.
    #[serde(default)]
    pub until: Option<Timestamp>,
}

const fn yes() -> bool {
    true
}

/// When the relay ran.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct RelayReport {
    /// The length of the window, from the relay's first start on.
    pub window_seconds: f64,
    /// How long the relay ran in it. A crash counts from the last sign of life, at most ten seconds earlier.
    pub up_seconds: f64,
    /// The share of the window in which it ran, in percent.
    pub uptime_percent: f64,
    /// The number of times in the window that the relay was started, or went on after it had stood still.
    pub starts: u64,
    /// The number of runs that ended in the window without a stop.
    pub crashes: u64,
    /// The times in the window when it did not run. Data that services sent then is lost unless they repeat it, and nobody can count it.
    #[serde(default)]
    pub gaps: Vec<GapStatus>,
}

/// The submissions to the relay.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct IntakeReport {
    /// Items accepted, by category.
    pub accepted: BTreeMap<String, u64>,
    /// Items recognised as repeats, by category.
    pub duplicates: BTreeMap<String, u64>,
    /// Requests refused, by reason.
    pub refused: BTreeMap<String, u64>,
    /// Items that limits and storms refused, by reason.
    #[serde(default)]
    pub refused_items: BTreeMap<String, u64>,
}

/// How one upstream performed.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct UpstreamReport {
    /// Its name.
    pub name: String,
    /// `primary`, `candidate` or `shadow`.
    pub role: String,
    /// Its items, by category.
    pub categories: Vec<CategoryReport>,
    /// Items dropped over all categories, by reason.
    pub dropped: BTreeMap<String, u64>,
    /// When the last hour with a fault began, by kind of fault: the reason of a drop, `misconfigured`, `canary_failed`; for `slow`, when
    /// the last such step began.
    #[serde(default)]
    pub latest: BTreeMap<String, Timestamp>,
    /// The number of requests, by verdict: `delivered`, `rate_limited`, `failed`, `misconfigured`, `refused`, `unsupported`.
    pub attempts: BTreeMap<String, u64>,
    /// How long its deliveries took; `None` if there were none.
    pub lag: Option<LagReport>,
    /// Figures finer than by the hour; `None` if there are none.
    #[serde(default)]
    pub within: Option<WithinReport>,
    /// Its outages in the window, newest first.
    pub outages: Vec<OutageStatus>,
    /// How long its outages lasted together while the relay ran.
    pub outage_seconds: f64,
    /// The share of the relay's time without its outages, in percent.
    pub availability_percent: f64,
    /// Envelopes that wait for it now.
    pub waiting: u64,
    /// Envelopes that it refused for good and that are kept now.
    pub dead_letters: u64,
    /// Its present rate limits.
    pub limits: Vec<LimitStatus>,
    /// Whether it stores what it took; `None` if it has no `api` to ask.
    #[serde(default)]
    pub verification: Option<VerificationReport>,
    /// The number of times that canaries stopped getting through in the window.
    #[serde(default)]
    pub canaries_failed: u64,
    /// The present state of its canaries; `None` if it gets none.
    #[serde(default)]
    pub canary: Option<CanaryStatus>,
    /// The difference in its accounts: anything but 0 is a defect.
    pub difference: i64,
}

/// Whether an upstream stores the error events that it took in the window: stored + missing + lost + recent + unknown = delivered.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct VerificationReport {
    /// Error events that it answered with 2xx.
    pub delivered: u64,
    /// Found there.
    pub stored: u64,
    /// Missing there at present.
    pub missing: u64,
    /// Missing there until they were sent again or given up.
    pub lost: u64,
    /// The part of the lost events that were given up and are kept as dead letters.
    pub given_up: u64,
    /// When the last event that was given up was accepted.
    #[serde(default)]
    pub given_up_at: Option<Timestamp>,
    /// Taken too recently to be looked for.
    pub recent: u64,
    /// Events of unknown state.
    pub unknown: u64,
    /// The share that was found, in percent of all but the recent.
    pub stored_percent: f64,
    /// Some of the missing events, newest first.
    pub sample: Vec<NotFound>,
    /// Why the tracker's API cannot be asked now, with the remedy.
    pub trouble: Option<String>,
    /// The comparison of stored events with what was sent; `None` if it is turned off.
    #[serde(default)]
    pub content: Option<ContentReport>,
}

impl UpstreamReport {
    /// Items accepted for it.
    pub fn accepted(&self) -> u64 {
        self.items().map(|category| category.accepted).sum()
    }

    /// Items that it took.
    pub fn delivered(&self) -> u64 {
        self.items().map(|category| category.delivered).sum()
    }

    /// The categories that count items.
    fn items(&self) -> impl Iterator<Item = &CategoryReport> {
        self.categories.iter().filter(|category| Category::counts_items(&category.category))
    }

    /// Items that were dropped first, and wait again or were delivered later.
    pub fn returned(&self) -> u64 {
        self.items().map(|category| category.returned).sum()
    }

    /// Items that wait for it now.
    pub fn pending(&self) -> u64 {
        self.items().map(|category| category.pending).sum()
    }

    /// Items that were withheld from it, and that a backfill took up later.
    pub fn backfilled(&self) -> u64 {
        self.items().map(|category| category.backfilled).sum()
    }

    /// Items that it refused and that were retried later.
    pub fn retried(&self) -> u64 {
        self.items().map(|category| category.retried).sum()
    }

    /// Items dropped for reasons with this cause.
    pub fn dropped_by(&self, cause: Cause) -> u64 {
        dropped_by(&self.dropped, cause)
    }

    /// The longest of 99 of 100 deliveries, in seconds, from the beginning of the window on; `None` if nothing was delivered.
    pub fn lag_p99(&self) -> Option<f64> {
        match &self.within {
            Some(within) => within.lag_p99_seconds,
            None => self.lag.as_ref().map(|lag| lag.p99_seconds),
        }
    }

    /// The number of requests with this verdict.
    pub fn attempts_of(&self, result: &str) -> u64 {
        self.attempts.get(result).copied().unwrap_or(0)
    }
}

/// The items of one category at one upstream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CategoryReport {
    /// The category.
    pub category: String,
    /// Accepted for it.
    pub accepted: u64,
    /// Taken by it.
    pub delivered: u64,
    /// Dropped, by reason; reasons with 0 are left out.
    pub dropped: BTreeMap<String, u64>,
    /// Dropped first, and waiting again later: retried dead letters and backfilled records.
    pub returned: u64,
    /// The part that was withheld in the window and that a backfill has taken up since.
    #[serde(default)]
    pub backfilled: u64,
    /// The part that it refused in the window and that was retried since.
    #[serde(default)]
    pub retried: u64,
    /// Waiting for it now.
    pub pending: u64,
}

/// How long deliveries took, from acceptance to 2xx.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LagReport {
    /// The number of deliveries.
    pub count: u64,
    /// Half of the deliveries took no longer.
    pub p50_seconds: f64,
    /// 99 of 100 deliveries took no longer.
    pub p99_seconds: f64,
    /// The longest delivery; exact.
    pub max_seconds: f64,
    /// The greatest relative error of the quantiles, in percent.
    pub error_percent: f64,
}

/// Which upstream got which of the records that are still kept.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ComparisonReport {
    /// The number of records compared.
    pub compared: u64,
    /// When the oldest of them was accepted. Older records are no longer kept.
    pub oldest: Option<Timestamp>,
    /// Whether all kept records were compared.
    pub complete: bool,
    /// Records that the primary got and the candidate did not.
    pub candidate_missed: MissedReport,
    /// Records that the candidate got and the primary did not.
    pub primary_missed: MissedReport,
    /// The number of records that the primary got and that still wait for the candidate.
    pub candidate_waits: u64,
    /// The number of records that the candidate got and that still wait for the primary.
    pub primary_waits: u64,
}

/// Records that one upstream got and the other did not.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct MissedReport {
    /// The number of records.
    pub count: u64,
    /// The number by reason: `not_sent`, or the reason of a drop.
    pub reasons: BTreeMap<String, u64>,
    /// Some of the records, oldest first.
    pub sample: Vec<Missed>,
}

/// A record that one upstream got and the other did not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missed {
    /// The event id; `None` if it has none.
    pub event_id: Option<String>,
    /// The project.
    pub project: String,
    /// When it was accepted.
    pub accepted_at: Timestamp,
    /// The reason.
    pub reason: String,
}

/// An expected service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceReport {
    /// The name: a project, `server_name` or release.
    pub name: String,
    /// Whether it sent something.
    pub seen: bool,
    /// The projects whose keys it used.
    #[serde(default)]
    pub projects: Vec<String>,
}

impl ServiceReport {
    /// The name, with the projects unless the name begins with the only one.
    pub fn told(&self) -> String {
        let is_named = |project: &String| {
            self.name.strip_prefix(project.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        match self.projects.as_slice() {
            [] => self.name.clone(),
            [one] if is_named(one) => self.name.clone(),
            all => format!("{} (by {})", self.name, all.join(", ")),
        }
    }
}

impl Report {
    /// The beginning of the counts of items, attempts and lags, if it is before the window.
    pub fn counts_earlier(&self) -> Option<Timestamp> {
        Some(self.counted_since).filter(|counted| *counted < self.since)
    }

    /// The beginning of the judged lags and losses of the candidate, if it is known finer than by the hour.
    pub fn judged_since(&self) -> Option<Timestamp> {
        let candidate = self.upstreams.iter().find(|upstream| upstream.role == "candidate")?;
        candidate.within.as_ref().map(|within| within.since)
    }

    /// How long the candidate was seen.
    pub fn seen(&self) -> Duration {
        self.now.since(self.seen_since)
    }

    /// The length of the window.
    pub fn asked(&self) -> Duration {
        self.now.since(self.since)
    }

    /// The relay's first start, if it is in the window.
    pub fn first_start(&self) -> Option<Timestamp> {
        Some(self.known_since).filter(|known| *known > self.since)
    }
}
