//! What the journal keeps besides records and accounts, as evidence of how it went: what upstreams did in each hour, their
//! outages, and when the relay ran.
//!
//! Rule: kept for [`KEPT`], bounded, and written every few seconds, not with each delivery: a crash takes what came since the last
//! [`Facts::observe`](super::Facts::observe), never part of the accounts.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::policy::outcome::Outcome;
use crate::policy::verdict::Verdict;
use crate::protocol::category::Category;
use crate::telemetry::lags::Lags;
use crate::telemetry::ledger::{Account, AccountKey};
use crate::telemetry::observations::{Observed, Performance};
use crate::telemetry::series::Step;

use super::TargetId;

/// How long accounts are kept by the hour, and everything here.
pub const KEPT: Duration = Duration::from_secs(90 * 24 * 3600);

/// For backends: the most outages and stretches that are kept, and told.
pub(super) const MOST: i64 = 10_000;

/// What was observed since the last time, and that the relay is alive.
#[derive(Clone, Debug)]
pub struct Observation {
    /// When this process started: the name of its stretch.
    pub started: Timestamp,
    /// Now.
    pub now: Timestamp,
    /// Whether it is stopping in order.
    pub stopping: bool,
    /// What the upstreams did.
    pub upstreams: Vec<(TargetId, Observed)>,
    /// What the intake did.
    pub intake: Vec<Tally>,
    /// How the upstreams fared: added to the steps that are kept.
    pub steps: Vec<(TargetId, Step)>,
    /// When the last canary got through to upstreams.
    pub canaries: Vec<(TargetId, Timestamp)>,
}

/// When an upstream last took something, through restarts and crashes. `None` where that is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Latest {
    /// Something that services sent: committed with its settlement.
    pub delivered_at: Option<Timestamp>,
    /// A canary, as it was observed.
    pub canary_at: Option<Timestamp>,
}

impl Latest {
    /// Notes that something was delivered.
    pub(super) fn note_delivered(&mut self, at: Timestamp) {
        self.delivered_at = self.delivered_at.max(Some(at));
    }

    /// Notes that a canary got through.
    pub(super) fn note_canary(&mut self, at: Timestamp) {
        self.canary_at = self.canary_at.max(Some(at));
    }
}

/// What is known of a target besides what waits for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Its dead letters.
    pub dead_letters: u64,
    /// When it last took something.
    pub latest: Latest,
}

/// What a [`Tally`] is called that counts how often canaries stopped getting through to an upstream, which is its kind.
pub const CANARY_FAILED: &str = "canary_failed";

/// What a [`Tally`] is called that counts how often an incident was told to somebody, and its end: what began and did not end is open
/// when the next process starts. Its kind is the event, and behind a blank whose it is.
pub const INCIDENT_BEGAN: &str = "incident_began";
/// See [`INCIDENT_BEGAN`].
pub const INCIDENT_ENDED: &str = "incident_ended";

/// How often the intake did something: what, with which word for the kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tally {
    /// `duplicate`, `refused`, `refused_item` or `seen`; from older versions `service`, without the project.
    pub what: Box<str>,
    /// The category, the reason, or the service that was seen, behind its project as in `shop/api`.
    pub kind: Box<str>,
    /// How often.
    pub count: u64,
}

impl Tally {
    /// A service of a project was seen so often.
    pub fn seen(project: &str, name: &str, count: u64) -> Self {
        Self { what: "seen".into(), kind: format!("{project}/{name}").into(), count }
    }
}

/// By upstream and what happened there, the beginning of the hour in which it last did.
pub type LastHours = BTreeMap<(Arc<str>, Box<str>), Timestamp>;

/// What is kept of the time since some hour's beginning.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    /// The accounts' changes in that time.
    pub accounts: BTreeMap<AccountKey, Account>,
    /// What each upstream did, by its name.
    pub performance: BTreeMap<Arc<str>, Performance>,
    /// The lags of each, without those of the first hour.
    pub later_lags: BTreeMap<Arc<str>, Lags>,
    /// What the intake did.
    pub intake: Vec<Tally>,
    /// When the relay ran, oldest first: also the last stretch that ended before that time.
    pub stretches: Vec<Stretch>,
    /// The beginning of the hour in which it last happened at an upstream: the reason of a drop, `misconfigured`, [`CANARY_FAILED`].
    pub latest: LastHours,
    /// How each upstream fared in each step, by its name, oldest first; those of over 48 hours ago are an hour long.
    pub steps: BTreeMap<Arc<str>, Vec<Step>>,
}

/// For backends, row by row.
impl Evidence {
    /// Adds to an account, named by its category and outcome. What a newer version counts is left to it.
    pub(super) fn add_account(
        &mut self,
        (upstream, project): (Option<Arc<str>>, Arc<str>),
        (category, outcome): (&str, &str),
        quantity: u64,
    ) {
        if let (Some(category), Some(outcome)) = (Category::from_name(category), Outcome::from_name(outcome)) {
            self.accounts.entry(AccountKey { upstream, project, category }).or_default().post(outcome, quantity);
        }
    }

    /// Adds attempts of an upstream, with the name of what came of them.
    pub(super) fn add_attempts(&mut self, upstream: Arc<str>, result: &str, quantity: u64) {
        if let Some(verdict) = Verdict::ALL.into_iter().find(|verdict| verdict.name() == result) {
            self.performance.entry(upstream).or_default().attempts[verdict as usize] += quantity;
        }
    }

    /// Adds lags of an upstream; `is_later`: than the first hour.
    pub(super) fn add_lags(&mut self, upstream: Arc<str>, lags: &Lags, is_later: bool) {
        if is_later {
            self.later_lags.entry(Arc::clone(&upstream)).or_default().merge(lags);
        }
        self.performance.entry(upstream).or_default().lags.merge(lags);
    }
}

/// A stretch of time in which the relay ran.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// From.
    pub from: Timestamp,
    /// To: the last sign of life.
    pub to: Timestamp,
    /// Whether it ended in order; one that runs, or that crashed, did not.
    pub stopped: bool,
}

/// A time in which an upstream did not answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outage {
    /// The upstream.
    pub upstream: Arc<str>,
    /// From the first failure on.
    pub from: Timestamp,
    /// To the next answer; `None` while it lasts.
    pub to: Option<Timestamp>,
    /// What went wrong at first.
    pub cause: Box<str>,
}
