//! The status: what `/api/status` answers, what the status page and `switchyard status` show. Plain data, one shape for all.

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

/// The state of the daemon and of every upstream.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// The version that runs.
    pub version: String,
    /// When it started.
    pub started_at: Timestamp,
    /// The time of this status.
    pub now: Timestamp,
    /// Whether submissions are accepted now; if not, why.
    pub ready: bool,
    /// Why not, when not.
    #[serde(default)]
    pub not_ready: Option<String>,
    /// Why the journal cannot be read, when it cannot: what waits and dead letters are not known then, and told as 0.
    #[serde(default)]
    pub unread: Option<String>,
    /// How it goes, in a word and a sentence.
    #[serde(default)]
    pub health: Health,
    /// The upstream the team trusts now.
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
    /// What was not accepted, since the start of the daemon.
    #[serde(default)]
    pub refused: Vec<RefusedStatus>,
    /// Requests refused as a whole in this hour of the clock and the one before, by reason.
    #[serde(default)]
    pub refused_requests: BTreeMap<String, u64>,
    /// Whether submissions are being refused for want of room: one was within the last minute.
    #[serde(default)]
    pub refusing: bool,
    /// The last storms of identical errors, the most recent first, since the start of the daemon.
    #[serde(default)]
    pub storms: Vec<StormStatus>,
    /// When the relay did not run in this hour of the clock and the one before: what services sent then nobody can count.
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
    /// How many requests were refused lately for such reasons.
    pub fn turned_away(&self, is_meant: fn(Refused) -> bool) -> u64 {
        let of = |reason: Refused| self.refused_requests.get(reason.name()).copied().unwrap_or(0);
        Refused::ALL.into_iter().filter(|reason| is_meant(*reason)).map(of).sum()
    }

    /// The projects with another primary or mirror than the rest.
    pub fn exceptions(&self) -> impl Iterator<Item = &ProjectStatus> {
        self.projects.iter().filter(|project| project.primary != self.primary || project.mirror != self.mirror)
    }

    /// The names of the projects that browsers use.
    pub fn browsers(&self) -> impl Iterator<Item = &str> {
        self.projects.iter().filter(|project| project.browsers).map(|project| project.name.as_str())
    }

    /// What an upstream is, in words: its role, and whose primary it is although it is not that of the rest.
    pub fn role_of(&self, upstream: &UpstreamStatus) -> String {
        let own = self.exceptions().filter(|project| project.primary == upstream.name && upstream.role != "primary");
        match own.map(|project| project.name.as_str()).collect::<Vec<_>>().as_slice() {
            [] => upstream.role.clone(),
            [one] => format!("{}, primary of {one}", upstream.role),
            more => format!("{}, primary of {} projects", upstream.role, more.len()),
        }
    }
}

/// The configuration in force, and whether the file is still it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ConfigStatus {
    /// The file.
    pub path: String,
    /// When it was last loaded.
    pub loaded_at: Timestamp,
    /// The problems of the file as it is now, when it cannot be loaded.
    pub error: Option<String>,
}

/// A project and what it overrides.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ProjectStatus {
    /// Its name.
    pub name: String,
    /// Its id in the path of requests.
    pub id: String,
    /// Its primary, its own or the global one.
    pub primary: String,
    /// Whether its shadows receive new envelopes: its own setting or the global one.
    #[serde(default)]
    pub mirror: bool,
    /// Whether browsers use it, so that default limits hold for what has none.
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
    /// Why: `rate_limited`, `collapsed`, `upstream_limited`.
    pub reason: String,
    /// How many.
    pub items: u64,
}

/// Errors that were dropped because they were identical to others.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StormStatus {
    /// The project.
    pub project: String,
    /// Their type, or their fingerprint.
    pub what: String,
    /// How many were dropped.
    pub collapsed: u64,
    /// When the last of them came.
    pub last: Timestamp,
}

/// A switch of the primary.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SwitchStatus {
    /// When it went live.
    pub at: Timestamp,
    /// The project, when only its primary changed.
    pub project: Option<String>,
    /// The primary before.
    pub from: Option<String>,
    /// The primary since.
    pub to: String,
    /// Why.
    pub reason: Option<String>,
    /// Who.
    pub author: Option<String>,
}

/// One upstream.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct UpstreamStatus {
    /// Its name.
    pub name: String,
    /// `primary`, `shadow`, or `removed` when it is no longer configured and something still waits for it.
    pub role: String,
    /// What it is spared as a shadow, in words; `None` for the primary, and when it is spared nothing.
    #[serde(default)]
    pub spared: Option<String>,
    /// `up`, `failing`, `down`, `probing`, `limited`, `misconfigured`, `removed`.
    pub state: String,
    /// Items delivered since the journal began.
    pub delivered: u64,
    /// Items dropped since the journal began, by reason.
    pub dropped: BTreeMap<String, u64>,
    /// Items dropped and taken up again since the journal began: retried dead letters, backfills.
    #[serde(default)]
    pub returned: u64,
    /// What was lost there in this hour of the clock and the one before.
    #[serde(default)]
    pub lately: LatelyStatus,
    /// What waits.
    pub backlog: BacklogStatus,
    /// Envelopes it refused for good.
    pub dead_letters: u64,
    /// When it last took an envelope; through restarts, the last that services sent.
    pub last_delivery_at: Option<Timestamp>,
    /// What last went wrong, since the start of the daemon.
    pub last_error: Option<LastError>,
    /// What waits for it of projects that have no DSN there in the file.
    #[serde(default)]
    pub stranded: Vec<StrandedStatus>,
    /// The projects that fail there while others are taken, and wait alone.
    #[serde(default)]
    pub alone: Vec<String>,
    /// What projects sent there in the last day that it loses together with other events.
    #[serde(default)]
    pub poison: Vec<PoisonStatus>,
    /// Its outages of the last day, newest first, no more than a few.
    #[serde(default)]
    pub outages: Vec<OutageStatus>,
    /// How canaries fare there; `None` where there is none.
    #[serde(default)]
    pub canary: Option<CanaryStatus>,
    /// Whether it stores what it took; `None` where it has no `api` to be asked.
    #[serde(default)]
    pub verification: Option<VerificationStatus>,
    /// Its rate limits now.
    pub limits: Vec<LimitStatus>,
    /// Its accounts, by project and category.
    pub accounts: Vec<AccountStatus>,
    /// The differences of its accounts added up.
    pub difference: i64,
}

impl UpstreamStatus {
    /// What there is to say of the projects that wait alone.
    pub fn alone(&self) -> impl Iterator<Item = String> {
        let line = |name: &String| {
            format!(
                "project {name} fails here while others are taken: it waits alone, and what keeps failing becomes a dead letter"
            )
        };
        self.alone.iter().map(line)
    }
}

/// What a project sends to a tracker that loses it together with other events.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PoisonStatus {
    /// The project's name.
    pub project: String,
    /// What is wrong with it.
    pub cause: String,
    /// What to do about it.
    pub remedy: String,
    /// When it was last seen.
    pub at: Timestamp,
}

impl std::fmt::Display for PoisonStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { project, cause, remedy, .. } = self;
        write!(f, "project {project} sends what this tracker loses with the events beside it: {cause}; {remedy}")
    }
}

/// Items that an upstream got and did not get in this hour of the clock and the one before.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LatelyStatus {
    /// Dropped because they could not be kept long enough.
    pub lost: u64,
    /// Refused by it for good.
    pub refused: u64,
    /// Delivered in each five minutes of that time, oldest first; the last are not over yet.
    #[serde(default)]
    pub delivered: Vec<u64>,
    /// Delivered in a minute now.
    #[serde(default)]
    pub per_minute: f64,
}

/// What waits for an upstream.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct BacklogStatus {
    /// Envelopes.
    pub envelopes: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Age of the oldest.
    pub oldest_seconds: f64,
}

/// What went wrong, and when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastError {
    /// When.
    pub at: Timestamp,
    /// What.
    pub what: String,
}

/// What waits for an upstream of a project that has no DSN there in the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StrandedStatus {
    /// The project's name.
    pub project: String,
    /// How many items.
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

/// A time in which an upstream did not answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutageStatus {
    /// From the first failure on.
    pub from: Timestamp,
    /// To the next answer; absent while it lasts.
    pub to: Option<Timestamp>,
    /// What went wrong at first.
    pub cause: String,
}

/// How canaries fare at an upstream.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CanaryStatus {
    /// `through` when the last of which it is decided got through in time, else `failing`; `under_way` before the first is decided.
    pub state: String,
    /// When the last was sent.
    pub sent_at: Timestamp,
    /// When the last that got through was taken, or, where it is read back, found stored.
    pub through_at: Option<Timestamp>,
    /// The time since then; since the first was sent when none got through.
    pub age_seconds: f64,
    /// Why not, when failing.
    pub why: Option<String>,
}

/// A rate limit of an upstream.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LimitStatus {
    /// The limited category.
    pub category: String,
    /// Until when.
    pub until: Timestamp,
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
    /// Items it took.
    pub delivered: u64,
    /// Items it will not get, by reason; reasons with 0 are left out.
    pub dropped: BTreeMap<String, u64>,
    /// Items dropped and taken up again.
    #[serde(default)]
    pub returned: u64,
    /// Items that wait, counted in the journal.
    pub pending: u64,
    /// Of those delivered, found there.
    #[serde(default)]
    pub stored: u64,
    /// Of those delivered, missing there now.
    #[serde(default)]
    pub missing: u64,
    /// Of those delivered, missing there until they were sent again or given up.
    #[serde(default)]
    pub lost: u64,
    /// What does not add up.
    pub difference: i64,
}
