//! The status: `/api/status` returns it, the status page and `switchyard status` show it. Plain data, the same for all.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;

use super::backfill::BackfillStatus;
use super::gaps::GapStatus;
pub use super::journal::{JournalStatus, RelayStatus, ShareStatus, StandbyStatus};
use super::level::Health;
use super::metrics::Refused;
use super::numbers::{some, verb};
use super::verification::VerificationStatus;

pub mod back;

/// The state of the daemon and of every upstream.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// The version that runs.
    pub version: String,
    /// When the daemon started.
    pub started_at: Timestamp,
    /// The time of this status.
    pub now: Timestamp,
    /// Whether submissions are accepted now.
    pub ready: bool,
    /// Why submissions are not accepted; `None` if they are.
    #[serde(default)]
    pub not_ready: Option<String>,
    /// Why the journal cannot be read; `None` if it can. Otherwise the backlogs and dead letters are unknown, and given as 0.
    #[serde(default)]
    pub unread: Option<String>,
    /// The health, in a word and a sentence.
    #[serde(default)]
    pub health: Health,
    /// The upstream that the team trusts now.
    pub primary: String,
    /// Whether shadows receive new envelopes.
    pub mirror: bool,
    /// The configuration in force.
    pub config: ConfigStatus,
    /// The journal.
    pub journal: JournalStatus,
    /// Each upstream, the primary first.
    pub upstreams: Vec<UpstreamStatus>,
    /// Each project.
    pub projects: Vec<ProjectStatus>,
    /// The items that were not accepted since the start of the daemon.
    #[serde(default)]
    pub refused: Vec<RefusedStatus>,
    /// The number of requests refused as a whole in the current clock hour and the one before, by reason.
    #[serde(default)]
    pub refused_requests: BTreeMap<String, u64>,
    /// Whether a submission was refused for lack of room within the last minute.
    #[serde(default)]
    pub refusing: bool,
    /// The number of items that were not accepted in the current clock hour and the one before, by reason.
    #[serde(default)]
    pub refused_items: BTreeMap<String, u64>,
    /// Whether an item was refused within the last minute because every upstream in use limits it.
    #[serde(default)]
    pub limiting: bool,
    /// The last storms of identical errors, the most recent first, since the start of the daemon.
    #[serde(default)]
    pub storms: Vec<StormStatus>,
    /// When the relay did not run or stood still in the current clock hour and the one before. Nobody can count what services sent then.
    #[serde(default)]
    pub gaps: Vec<GapStatus>,
    /// The last switches, newest first.
    pub switches: Vec<SwitchStatus>,
    /// The last backfill of each upstream.
    #[serde(default)]
    pub backfills: Vec<BackfillStatus>,
    /// Accepted and returned minus delivered minus dropped minus pending, over all accounts: anything but 0 is a defect.
    pub difference: i64,
}

impl Status {
    /// The number of requests that were recently refused for the reasons that match.
    pub fn turned_away(&self, is_meant: fn(Refused) -> bool) -> u64 {
        let of = |reason: Refused| self.refused_requests.get(reason.name()).copied().unwrap_or(0);
        Refused::ALL.into_iter().filter(|reason| is_meant(*reason)).map(of).sum()
    }

    /// The projects whose primary or mirror setting differs from the global one.
    pub fn exceptions(&self) -> impl Iterator<Item = &ProjectStatus> {
        self.projects.iter().filter(|project| project.primary != self.primary || project.mirror != self.mirror)
    }

    /// The names of the projects that browsers use.
    pub fn browsers(&self) -> impl Iterator<Item = &str> {
        self.projects.iter().filter(|project| project.browsers).map(|project| project.name.as_str())
    }

    /// An upstream's role in words, with the projects that have it as their own primary.
    pub fn role_of(&self, upstream: &UpstreamStatus) -> String {
        let own = self.exceptions().filter(|project| project.primary == upstream.name && upstream.role != "primary");
        match own.map(|project| project.name.as_str()).collect::<Vec<_>>().as_slice() {
            [] => upstream.role.clone(),
            [one] => format!("{}, primary of {one}", upstream.role),
            more => format!("{}, primary of {} projects", upstream.role, more.len()),
        }
    }
}

/// The configuration in force, and the problems of its file.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ConfigStatus {
    /// The path of the file.
    pub path: String,
    /// When it was last loaded.
    pub loaded_at: Timestamp,
    /// The problems of the present file; `None` if it is in force.
    pub error: Option<String>,
}

/// A project and its settings.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ProjectStatus {
    /// Its name.
    pub name: String,
    /// Its id in the path of requests.
    pub id: String,
    /// Its primary: its own setting or the global one.
    pub primary: String,
    /// Whether its shadows receive new envelopes: its own setting or the global one.
    #[serde(default)]
    pub mirror: bool,
    /// Whether browsers use it, so that default limits apply where none is configured.
    #[serde(default)]
    pub browsers: bool,
    /// The upstreams that have a DSN for it.
    pub upstreams: Vec<String>,
}

/// Items of a project that were not accepted.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RefusedStatus {
    /// The project.
    pub project: String,
    /// The category.
    pub category: String,
    /// The reason: `rate_limited`, `collapsed` or `upstream_limited`.
    pub reason: String,
    /// The number of items.
    pub items: u64,
}

/// A storm: errors that were dropped because they were identical to others.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StormStatus {
    /// The project.
    pub project: String,
    /// Their type, or their fingerprint.
    pub what: String,
    /// The number of errors dropped.
    pub collapsed: u64,
    /// When the last of them came.
    pub last: Timestamp,
}

/// A switch of the primary.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SwitchStatus {
    /// When it went live.
    pub at: Timestamp,
    /// The project, if only its primary changed.
    pub project: Option<String>,
    /// The primary before.
    pub from: Option<String>,
    /// The primary since.
    pub to: String,
    /// The reason that was given.
    pub reason: Option<String>,
    /// Who switched.
    pub author: Option<String>,
}

/// One upstream.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct UpstreamStatus {
    /// Its name.
    pub name: String,
    /// `primary`, `shadow`, or `removed` if it is no longer configured and records still wait for it.
    pub role: String,
    /// What it does not get as a shadow, in words; `None` for the primary, and for a shadow that gets everything.
    #[serde(default)]
    pub spared: Option<String>,
    /// `up`, `failing`, `down`, `probing`, `limited`, `misconfigured`, `removed`.
    pub state: String,
    /// Items delivered since the journal began.
    pub delivered: u64,
    /// Items dropped since the journal began, by reason.
    pub dropped: BTreeMap<String, u64>,
    /// Items dropped that waited again later, since the journal began: retried dead letters, backfills.
    #[serde(default)]
    pub returned: u64,
    /// Its figures of the current clock hour and the one before.
    #[serde(default)]
    pub lately: LatelyStatus,
    /// Its backlog.
    pub backlog: BacklogStatus,
    /// The number of envelopes that it refused for good and that are kept.
    pub dead_letters: u64,
    /// When it last took an envelope of a client: no canary, and no report of ours.
    pub last_delivery_at: Option<Timestamp>,
    /// The last error since the start of the daemon.
    pub last_error: Option<LastError>,
    /// Items that wait for it, of projects without a DSN there in the file.
    #[serde(default)]
    pub stranded: Vec<StrandedStatus>,
    /// The projects that fail there while others are taken, and so wait alone.
    #[serde(default)]
    pub alone: Vec<String>,
    /// The projects whose DSN it refuses; empty if it refuses none, or all.
    #[serde(default)]
    pub refused_projects: Vec<String>,
    /// What projects sent there in the last day that it loses together with other events.
    #[serde(default)]
    pub poison: Vec<PoisonStatus>,
    /// Its outages of the last day, newest first, at most a few.
    #[serde(default)]
    pub outages: Vec<OutageStatus>,
    /// The state of its canaries; `None` if it gets none.
    #[serde(default)]
    pub canary: Option<CanaryStatus>,
    /// Whether it stores what it took; `None` if it has no `api` to ask.
    #[serde(default)]
    pub verification: Option<VerificationStatus>,
    /// Its present rate limits.
    pub limits: Vec<LimitStatus>,
    /// Its accounts, by project and category.
    pub accounts: Vec<AccountStatus>,
    /// The sum of the differences of its accounts.
    pub difference: i64,
}

impl UpstreamStatus {
    /// A line for each project that waits alone.
    pub fn alone(&self) -> impl Iterator<Item = String> {
        let line = |name: &String| {
            format!(
                "project {name} fails here while others are taken: it waits alone, and what keeps failing becomes a dead letter"
            )
        };
        self.alone.iter().map(line)
    }
}

/// The kind of events of a project that a tracker loses together with other events.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PoisonStatus {
    /// The project's name.
    pub project: String,
    /// What is wrong with the events.
    pub cause: String,
    /// The remedy.
    pub remedy: String,
    /// When such an event was last seen.
    pub at: Timestamp,
}

impl std::fmt::Display for PoisonStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { project, cause, remedy, .. } = self;
        write!(f, "project {project} sends what this tracker loses with the events beside it: {cause}; {remedy}")
    }
}

/// The figures of an upstream for the current clock hour and the one before.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LatelyStatus {
    /// Items dropped because they could not be kept long enough.
    pub lost: u64,
    /// Items that it refused for good.
    pub refused: u64,
    /// Items delivered in each five minutes of that time, oldest first; the last five minutes are not over yet.
    #[serde(default)]
    pub delivered: Vec<u64>,
    /// Items delivered per minute, averaged over the last five to ten minutes.
    #[serde(default)]
    pub per_minute: f64,
    /// The same without the outages of that time; `None` if less than a minute is left of it.
    #[serde(default)]
    pub pace: Option<f64>,
}

/// The backlog of an upstream.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct BacklogStatus {
    /// The number of envelopes.
    pub envelopes: u64,
    /// Their size in bytes.
    pub bytes: u64,
    /// The age of the oldest envelope in seconds.
    pub oldest_seconds: f64,
}

/// An error and its time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastError {
    /// When it happened.
    pub at: Timestamp,
    /// What went wrong.
    pub what: String,
}

/// Items that wait for an upstream, of a project without a DSN there in the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StrandedStatus {
    /// The project's name.
    pub project: String,
    /// The number of items.
    pub items: u64,
}

impl std::fmt::Display for StrandedStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { project, items } = self;
        let (wait, expire) = (verb(*items, "waits", "wait"), verb(*items, "it expires", "they expire"));
        let items = some(*items, "item");
        write!(f, "{items} {wait} for project {project}, which has no DSN here in the file: put it back, or {expire}")
    }
}

/// An outage: a time in which an upstream did not answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutageStatus {
    /// The first failure.
    pub from: Timestamp,
    /// The next answer; `None` while the outage lasts.
    pub to: Option<Timestamp>,
    /// The error of the first failure.
    pub cause: String,
}

/// The state of the canaries of an upstream.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CanaryStatus {
    /// `through` if the last decided canary got through in time, otherwise `failing`; `under_way` before the first is decided.
    pub state: String,
    /// When the last canary was sent.
    pub sent_at: Timestamp,
    /// When the last canary that got through was taken, or found stored where it is read back.
    pub through_at: Option<Timestamp>,
    /// The time since then in seconds; since the first canary was sent if none got through.
    pub age_seconds: f64,
    /// Why it is failing; `None` if it is not.
    pub why: Option<String>,
}

/// A rate limit of an upstream.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LimitStatus {
    /// The limited category.
    pub category: String,
    /// When the limit ends.
    pub until: Timestamp,
    /// The projects that it concerns; empty if it concerns all.
    #[serde(default)]
    pub projects: Vec<String>,
}

/// One account: accepted + returned = delivered + dropped + pending.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct AccountStatus {
    /// The project.
    pub project: String,
    /// The category.
    pub category: String,
    /// Items accepted for this upstream.
    pub accepted: u64,
    /// Items that it took.
    pub delivered: u64,
    /// Items that it will not get, by reason; reasons with 0 are left out.
    pub dropped: BTreeMap<String, u64>,
    /// Items dropped that waited again later.
    #[serde(default)]
    pub returned: u64,
    /// Items that wait, as counted in the journal.
    pub pending: u64,
    /// The part of the delivered items that was found there.
    #[serde(default)]
    pub stored: u64,
    /// The part of the delivered items that is missing there now.
    #[serde(default)]
    pub missing: u64,
    /// The part of the delivered items that was missing there until they were sent again or given up.
    #[serde(default)]
    pub lost: u64,
    /// The difference in the account: anything but 0 is a defect.
    pub difference: i64,
}
