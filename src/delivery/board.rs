//! The board: each worker's report on its upstream, read by status and metrics. It also holds the canaries of each upstream; the worker is
//! one of those that report on them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::clock::Timestamp;
use crate::policy::canary::Canary;
use crate::policy::circuit::State;
use crate::policy::cooldown::Limited;
use crate::telemetry::status::LastError;

use super::batch_poison::Cause;

/// The state of one upstream, as its worker sees it.
#[derive(Clone, Debug)]
pub struct Report {
    /// The state of the circuit.
    pub circuit: State,
    /// Whether the upstream answers: false from a failure until the next answer. A failure of one project alone does not count.
    pub up: bool,
    /// The projects whose DSN it refuses.
    pub refused: Vec<Arc<str>>,
    /// The projects that fail while others are taken, each with the time until which it is reported as failing.
    pub alone: Vec<(Arc<str>, Timestamp)>,
    /// The projects that send events with which a GlitchTip 5 loses others, each with the cause and the last time.
    pub poison: Vec<(Arc<str>, Cause, Timestamp)>,
    /// Whether the API says that the upstream's version loses no event along with another.
    pub loses_no_batch: bool,
    /// The number of refusals of our DSN that may pass by themselves.
    pub in_doubt: u64,
    /// When the upstream last took an envelope.
    pub last_delivery: Option<Timestamp>,
    /// The last error.
    pub last_error: Option<LastError>,
    /// The last refusal of our DSN.
    pub refusal: Option<LastError>,
    /// The categories that the upstream limits, over all projects.
    pub limits: Vec<Limited>,
    /// The canaries of the upstream; `None` when it gets none.
    pub canary: Option<Canary>,
}

impl Default for Report {
    fn default() -> Self {
        Self {
            circuit: State::Closed,
            up: true,
            refused: vec![],
            alone: vec![],
            poison: vec![],
            loses_no_batch: false,
            in_doubt: 0,
            last_delivery: None,
            last_error: None,
            refusal: None,
            limits: vec![],
            canary: None,
        }
    }
}

/// The most entries of [`Report::poison`].
const TOLD: usize = 20;

impl Report {
    /// Notes that a project sends events with which others are lost.
    pub(super) fn note_poison(&mut self, project: &Arc<str>, cause: Cause, now: Timestamp) {
        if let Some((.., at)) = self.poison.iter_mut().find(|(name, known, _)| name == project && *known == cause) {
            *at = now;
        } else if self.poison.len() < TOLD {
            self.poison.push((Arc::clone(project), cause, now));
        }
    }

    /// The error that explains the state: the last refusal while our DSN is refused for a project and the circuit is closed, because
    /// another project may have had another answer since; else the last error.
    pub fn reason(&self) -> Option<&LastError> {
        let refusal = self.refusal.as_ref().filter(|_| self.circuit == State::Closed && !self.refused.is_empty());
        refusal.or(self.last_error.as_ref())
    }

    /// The state in one word: the gravest that applies.
    pub fn word(&self, now: Timestamp) -> &'static str {
        match self.circuit {
            State::Open => "down",
            State::HalfOpen => "probing",
            State::Closed if !self.refused.is_empty() => "misconfigured",
            State::Closed if !self.up => "failing",
            State::Closed if self.limits.iter().any(|limit| limit.until > now) => "limited",
            State::Closed => "up",
        }
    }
}

/// The reports of all upstreams. Cheap to clone; clones share them.
#[derive(Clone, Debug, Default)]
pub struct Board(Arc<Mutex<BTreeMap<Arc<str>, Report>>>);

impl Board {
    /// Changes the report of an upstream.
    pub(super) fn update(&self, upstream: &Arc<str>, change: impl FnOnce(&mut Report)) {
        let mut reports = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match reports.get_mut(upstream) {
            Some(report) => change(report),
            None => change(reports.entry(Arc::clone(upstream)).or_default()),
        }
    }

    /// Calls `act` with the canaries of an upstream; `None` when no worker serves it.
    pub fn canary<T>(&self, upstream: &str, act: impl FnOnce(&mut Option<Canary>) -> T) -> Option<T> {
        let mut reports = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        reports.get_mut(upstream).map(|report| act(&mut report.canary))
    }

    /// Removes the canaries of all upstreams but these.
    pub fn keep_canaries(&self, of: &[Arc<str>]) {
        let mut reports = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        reports.iter_mut().filter(|(name, _)| !of.contains(name)).for_each(|(_, report)| report.canary = None);
    }

    /// Removes the report of an upstream.
    pub(super) fn remove(&self, upstream: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(upstream);
    }

    /// The report of an upstream; `None` when no worker serves it.
    pub fn report(&self, upstream: &str) -> Option<Report> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(upstream).cloned()
    }
}
