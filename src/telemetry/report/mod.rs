//! The report: the evidence of a parallel run, and whether it is enough. What `/api/report` answers, what the page and
//! `switchyard report` show. Plain data, one shape for all; `criteria` decides.

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
mod content;
pub mod criteria;
mod dated;
pub mod span;
mod within;

/// How two upstreams fared side by side, and whether the candidate is ready.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// The version that made it.
    pub version: String,
    /// When it was made: the end of its time.
    pub now: Timestamp,
    /// The beginning of its time.
    pub since: Timestamp,
    /// From when on items, attempts and lags are counted: they are kept by the hour.
    pub counted_since: Timestamp,
    /// From when on there is anything to tell: its beginning, or the first start of the relay that is known where that is later.
    #[serde(default)]
    pub known_since: Timestamp,
    /// From when on the candidate was seen: `known_since`, or the first that came for it where that is later.
    #[serde(default)]
    pub seen_since: Timestamp,
    /// The moment of requests, lags and outages: they are kept every few seconds, items with each delivery.
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
    /// The same in one line.
    pub verdict: String,
    /// What was demanded and what was found.
    pub criteria: Vec<Criterion>,
    /// When the relay ran.
    pub relay: RelayReport,
    /// What came in.
    pub intake: IntakeReport,
    /// The primary, the candidate, then others.
    pub upstreams: Vec<UpstreamReport>,
    /// Who got what, of the records that are still kept.
    pub comparison: ComparisonReport,
    /// The services that were expected.
    pub services: Vec<ServiceReport>,
    /// The switches in this time, newest first.
    pub switches: Vec<SwitchStatus>,
}

/// One thing that is demanded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Criterion {
    /// `seen`, `uptime`, `balance`, `withheld`, `lost`, `refused`, `availability`, `lag`, `services`, `canary`, `stored`, `content`.
    pub name: String,
    /// Whether nothing speaks against it.
    pub passed: bool,
    /// Whether there was anything to judge. Without, it counts neither for the candidate nor against it.
    #[serde(default = "yes")]
    pub judged: bool,
    /// What is demanded.
    pub demanded: String,
    /// What was found.
    pub found: String,
    /// Where it does not hold: until when at the latest what was found counts, if nothing more comes.
    #[serde(default)]
    pub until: Option<Timestamp>,
}

const fn yes() -> bool {
    true
}

/// When the relay ran.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct RelayReport {
    /// How long the time of the report is, from the relay's first start on.
    pub window_seconds: f64,
    /// How long it ran in it. A crash counts from the last sign of life, which is no older than ten seconds.
    pub up_seconds: f64,
    /// The share of it in percent.
    pub uptime_percent: f64,
    /// How often it was started in it, or went on after it had stood still.
    pub starts: u64,
    /// How many of those before ended without being told to.
    pub crashes: u64,
    /// When it did not run in that time. What services sent then is lost unless they sent it again, and nobody can count it.
    #[serde(default)]
    pub gaps: Vec<GapStatus>,
}

/// What came in.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct IntakeReport {
    /// Items accepted, by category.
    pub accepted: BTreeMap<String, u64>,
    /// Items recognised as repeats, by category.
    pub duplicates: BTreeMap<String, u64>,
    /// Requests refused, by reason.
    pub refused: BTreeMap<String, u64>,
    /// Items that were not let in, by reason: limits and storms.
    #[serde(default)]
    pub refused_items: BTreeMap<String, u64>,
}

/// How one upstream fared.
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
    /// The beginning of the hour in which something last went wrong, by what did: the reason of a drop, `misconfigured`, `canary_failed`.
    /// Of `slow`, that of the step.
    #[serde(default)]
    pub latest: BTreeMap<String, Timestamp>,
    /// Requests made, by what the answers meant: `delivered`, `rate_limited`, `failed`, `misconfigured`, `refused`.
    pub attempts: BTreeMap<String, u64>,
    /// How long its deliveries took; absent when there were none.
    pub lag: Option<LagReport>,
    /// What is known finer than by the hour; absent where nothing is.
    #[serde(default)]
    pub within: Option<WithinReport>,
    /// Its outages in this time, newest first.
    pub outages: Vec<OutageStatus>,
    /// How long they lasted together, while the relay ran.
    pub outage_seconds: f64,
    /// The share of the relay's time in which it had none, in percent.
    pub availability_percent: f64,
    /// Envelopes that wait for it now.
    pub waiting: u64,
    /// Envelopes it refused for good, kept now.
    pub dead_letters: u64,
    /// Its rate limits now.
    pub limits: Vec<LimitStatus>,
    /// Whether it stores what it took; absent where it has no `api` to be asked.
    #[serde(default)]
    pub verification: Option<VerificationReport>,
    /// Canaries that did not get through in this time.
    #[serde(default)]
    pub canaries_failed: u64,
    /// How canaries fare there now; absent where it gets none.
    #[serde(default)]
    pub canary: Option<CanaryStatus>,
    /// What does not add up in its accounts: anything but 0 is a defect.
    pub difference: i64,
}

/// Whether an upstream stores the error events that it took in this time: stored + missing + lost + recent + unknown = delivered.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct VerificationReport {
    /// Error events that it answered with 2xx.
    pub delivered: u64,
    /// Found there.
    pub stored: u64,
    /// Missing there now.
    pub missing: u64,
    /// Missing there until they were sent again or given up.
    pub lost: u64,
    /// Of those lost, how many were given up and are kept as dead letters.
    pub given_up: u64,
    /// When the last of these was accepted.
    #[serde(default)]
    pub given_up_at: Option<Timestamp>,
    /// Taken so recently that it is too early to look.
    pub recent: u64,
    /// Of which nobody knows.
    pub unknown: u64,
    /// The share that was found of all but the recent, in percent.
    pub stored_percent: f64,
    /// Some of the missing, the newest first.
    pub sample: Vec<NotFound>,
    /// Why the tracker cannot be asked now, with the remedy.
    pub trouble: Option<String>,
    /// What comparing stored events with what was sent showed; absent where that is turned off.
    #[serde(default)]
    pub content: Option<ContentReport>,
}

impl UpstreamReport {
    /// Items accepted for it.
    pub fn accepted(&self) -> u64 {
        self.items().map(|category| category.accepted).sum()
    }

    /// Items it took.
    pub fn delivered(&self) -> u64 {
        self.items().map(|category| category.delivered).sum()
    }

    /// The categories that count items.
    fn items(&self) -> impl Iterator<Item = &CategoryReport> {
        self.categories.iter().filter(|category| Category::counts_items(&category.category))
    }

    /// Items dropped first, and waiting again later or sent.
    pub fn returned(&self) -> u64 {
        self.items().map(|category| category.returned).sum()
    }

    /// Items waiting for it now.
    pub fn pending(&self) -> u64 {
        self.items().map(|category| category.pending).sum()
    }

    /// Items that were kept from it, and that a backfill took up later.
    pub fn backfilled(&self) -> u64 {
        self.items().map(|category| category.backfilled).sum()
    }

    /// Items that it refused, and that were retried later.
    pub fn retried(&self) -> u64 {
        self.items().map(|category| category.retried).sum()
    }

    /// Items dropped for reasons of that cause.
    pub fn dropped_by(&self, cause: Cause) -> u64 {
        dropped_by(&self.dropped, cause)
    }

    /// What 99 of 100 deliveries took at most, judged from the report's beginning on; `None` where nothing was delivered.
    pub fn lag_p99(&self) -> Option<f64> {
        match &self.within {
            Some(within) => within.lag_p99_seconds,
            None => self.lag.as_ref().map(|lag| lag.p99_seconds),
        }
    }

    /// Requests that ended so.
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
    /// Dropped first, and waiting again later: retried dead letters.
    pub returned: u64,
    /// Of what was kept from it in this time, taken up by a backfill since.
    #[serde(default)]
    pub backfilled: u64,
    /// Of what it refused in this time, retried since.
    #[serde(default)]
    pub retried: u64,
    /// Waiting for it now.
    pub pending: u64,
}

/// How long deliveries took, from acceptance to 2xx.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LagReport {
    /// How many.
    pub count: u64,
    /// Half of them took no longer.
    pub p50_seconds: f64,
    /// 99 of 100 took no longer.
    pub p99_seconds: f64,
    /// The longest, exactly.
    pub max_seconds: f64,
    /// By how much of themselves the quantiles may be wrong, in percent.
    pub error_percent: f64,
}

/// Who got what, of the records that are still kept.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ComparisonReport {
    /// Records compared.
    pub compared: u64,
    /// When the first of them was accepted: what is older is not kept any more.
    pub oldest: Option<Timestamp>,
    /// Whether all that are kept were compared.
    pub complete: bool,
    /// What the primary got and the candidate did not.
    pub candidate_missed: MissedReport,
    /// What the candidate got and the primary did not.
    pub primary_missed: MissedReport,
    /// How many the primary got and still wait for the candidate.
    pub candidate_waits: u64,
    /// The reverse.
    pub primary_waits: u64,
}

/// What one upstream got and the other did not.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct MissedReport {
    /// How many records.
    pub count: u64,
    /// Why: `not_sent`, or the reason of a drop.
    pub reasons: BTreeMap<String, u64>,
    /// Some of them, the oldest first.
    pub sample: Vec<Missed>,
}

/// A record that one upstream got and the other did not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missed {
    /// The event id, when it has one.
    pub event_id: Option<String>,
    /// The project.
    pub project: String,
    /// When it was accepted.
    pub accepted_at: Timestamp,
    /// Why.
    pub reason: String,
}

/// A service that was expected to send something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceReport {
    /// The project, `server_name` or release it is known by.
    pub name: String,
    /// Whether it sent something.
    pub seen: bool,
    /// The projects by whose keys it did.
    #[serde(default)]
    pub projects: Vec<String>,
}

impl ServiceReport {
    /// The service, and by which projects it was seen where its name does not say so.
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
    /// From when on items, attempts and lags are counted, where that is earlier than the report's beginning.
    pub fn counts_earlier(&self) -> Option<Timestamp> {
        Some(self.counted_since).filter(|counted| *counted < self.since)
    }

    /// From when on the lags and losses of the candidate are judged, where that is known finer than by the hour.
    pub fn judged_since(&self) -> Option<Timestamp> {
        let candidate = self.upstreams.iter().find(|upstream| upstream.role == "candidate")?;
        candidate.within.as_ref().map(|within| within.since)
    }

    /// How long the candidate was seen.
    pub fn seen(&self) -> Duration {
        self.now.since(self.seen_since)
    }

    /// How long a time was asked for.
    pub fn asked(&self) -> Duration {
        self.now.since(self.since)
    }

    /// The relay's first start, where it is later than the report's beginning.
    pub fn first_start(&self) -> Option<Timestamp> {
        Some(self.known_since).filter(|known| *known > self.since)
    }
}
