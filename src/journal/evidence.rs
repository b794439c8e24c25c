//! Evidence: what upstreams did in each hour, their outages, and when the relay ran. The journal keeps it beside records and accounts.
//!
//! Rule: evidence is bounded, kept for [`KEPT`], and written every few seconds, not with each delivery. A crash loses what came since
//! the last [`Facts::observe`](super::Facts::observe), but no part of the accounts.

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

/// How long evidence and the hourly accounts are kept.
pub const KEPT: Duration = Duration::from_secs(90 * 24 * 3600);

/// For backends: the most outages and stretches that are kept, and told.
pub(super) const MOST: i64 = 10_000;

/// What was observed since the last time, and that the relay is alive.
#[derive(Clone, Debug)]
pub struct Observation {
    /// When this process started, which identifies its stretch.
    pub started: Timestamp,
    /// Now.
    pub now: Timestamp,
    /// Whether the relay is stopping in order.
    pub stopping: bool,
    /// What the upstreams answered.
    pub upstreams: Vec<(TargetId, Observed)>,
    /// What the intake did.
    pub intake: Vec<Tally>,
    /// The steps to add to those of the upstreams.
    pub steps: Vec<(TargetId, Step)>,
    /// When the last canary reached each upstream.
    pub canaries: Vec<(TargetId, Timestamp)>,
}

/// When an upstream last took something. It survives restarts and crashes. `None` when it is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Latest {
    /// When it last took a client's submission, committed with the settlement.
    pub delivered_at: Option<Timestamp>,
    /// When it last took a canary.
    pub canary_at: Option<Timestamp>,
}

impl Latest {
    /// Records a delivery.
    pub(super) fn note_delivered(&mut self, at: Timestamp) {
        self.delivered_at = self.delivered_at.max(Some(at));
    }

    /// Records a canary that arrived.
    pub(super) fn note_canary(&mut self, at: Timestamp) {
        self.canary_at = self.canary_at.max(Some(at));
    }
}

/// Figures of a target besides its backlog.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// The number of its dead letters.
    pub dead_letters: u64,
    /// When it last took something.
    pub latest: Latest,
}

/// The name of the [`Tally`] that counts failures of an upstream's canary. Its kind is the upstream.
pub const CANARY_FAILED: &str = "canary_failed";

/// The name of the [`Tally`] that counts notified incidents. An incident that began and did not end is open when the next process
/// starts. Its kind is the event's name, a blank, and the subject.
pub const INCIDENT_BEGAN: &str = "incident_began";
/// The name of the [`Tally`] that counts notified ends. See [`INCIDENT_BEGAN`].
pub const INCIDENT_ENDED: &str = "incident_ended";

/// How often the intake did something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tally {
    /// `duplicate`, `refused`, `refused_item` or `seen`; from older versions `service`, without the project.
    pub what: Box<str>,
    /// The kind: a category, a reason, or a service with its project, as in `shop/api`.
    pub kind: Box<str>,
    /// How often.
    pub count: u64,
}

impl Tally {
    /// The tally of a service that was seen `count` times.
    pub fn seen(project: &str, name: &str, count: u64) -> Self {
        Self { what: "seen".into(), kind: format!("{project}/{name}").into(), count }
    }
}

/// By upstream and name of the occurrence, the start of the hour in which it last happened.
pub type LastHours = BTreeMap<(Arc<str>, Box<str>), Timestamp>;

/// The evidence since the start of an hour.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    /// The accounts' changes in that time.
    pub accounts: BTreeMap<AccountKey, Account>,
    /// The performance of each upstream, by name.
    pub performance: BTreeMap<Arc<str>, Performance>,
    /// The delivery lags of each upstream, without the first hour.
    pub later_lags: BTreeMap<Arc<str>, Lags>,
    /// The tallies of the intake.
    pub intake: Vec<Tally>,
    /// When the relay ran, oldest first, beginning with the last stretch that ended before that time.
    pub stretches: Vec<Stretch>,
    /// The hour of the last drop for each reason, of `misconfigured`, and of [`CANARY_FAILED`], by upstream.
    pub latest: LastHours,
    /// The steps of each upstream, by name, oldest first. Steps over 48 hours old are an hour long.
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
    /// The start.
    pub from: Timestamp,
    /// The last sign of life.
    pub to: Timestamp,
    /// Whether it ended in order: false while it runs, and after a crash.
    pub stopped: bool,
}

/// A period during which an upstream did not answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outage {
    /// The upstream.
    pub upstream: Arc<str>,
    /// The first failure.
    pub from: Timestamp,
    /// The next answer; `None` while the outage lasts.
    pub to: Option<Timestamp>,
    /// The first error.
    pub cause: Box<str>,
}
