//! What each worker tells of its upstream: written by the worker when it changes, read by status and metrics. And how the canaries
//! fare there, of which the worker is one witness.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::clock::Timestamp;
use crate::policy::canary::Canary;
use crate::policy::circuit::State;
use crate::protocol::category::Category;
use crate::telemetry::status::LastError;

use super::batch_poison::Cause;

/// The state of one upstream, as its worker sees it.
#[derive(Clone, Debug)]
pub struct Report {
    /// Its circuit.
    pub circuit: State,
    /// Whether the last that was heard of it is an answer.
    pub up: bool,
    /// Whether it refuses our DSN for some project.
    pub misconfigured: bool,
    /// The projects that fail there while others are taken, each with the moment until which that is so if nothing more is heard.
    pub alone: Vec<(Arc<str>, Timestamp)>,
    /// What projects send there that a GlitchTip 5 loses together with other events, and when last.
    pub poison: Vec<(Arc<str>, Cause, Timestamp)>,
    /// Whether its API says that it is of a version that loses no event along with another.
    pub loses_no_batch: bool,
    /// How many of those answers may only pass.
    pub in_doubt: u64,
    /// When it last took an envelope.
    pub last_delivery: Option<Timestamp>,
    /// What last went wrong.
    pub last_error: Option<LastError>,
    /// What it last said when it refused our DSN.
    pub refusal: Option<LastError>,
    /// Its rate limits, over all projects.
    pub limits: Vec<(Category, Timestamp)>,
    /// Its canaries, when it gets any.
    pub canary: Option<Canary>,
}

impl Default for Report {
    fn default() -> Self {
        Self {
            circuit: State::Closed,
            up: true,
            misconfigured: false,
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

/// The most projects of which it is told what they send.
const TOLD: usize = 20;

impl Report {
    /// A project sends what others are lost with.
    pub(super) fn note_poison(&mut self, project: &Arc<str>, cause: Cause, now: Timestamp) {
        if let Some((.., at)) = self.poison.iter_mut().find(|(name, known, _)| name == project && *known == cause) {
            *at = now;
        } else if self.poison.len() < TOLD {
            self.poison.push((Arc::clone(project), cause, now));
        }
    }

    /// What explains its state: what last went wrong, and while it refuses our DSN for a project, how. Another project may have had
    /// another answer since.
    pub fn reason(&self) -> Option<&LastError> {
        let refusal = self.refusal.as_ref().filter(|_| self.circuit == State::Closed && self.misconfigured);
        refusal.or(self.last_error.as_ref())
    }

    /// The state in one word, the gravest first.
    pub fn word(&self, now: Timestamp) -> &'static str {
        match self.circuit {
            State::Open => "down",
            State::HalfOpen => "probing",
            State::Closed if self.misconfigured => "misconfigured",
            State::Closed if !self.up => "failing",
            State::Closed if self.limits.iter().any(|(_, until)| *until > now) => "limited",
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

    /// Acts on what is known of an upstream's canaries; `None` when no worker serves it.
    pub fn canary<T>(&self, upstream: &str, act: impl FnOnce(&mut Option<Canary>) -> T) -> Option<T> {
        let mut reports = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        reports.get_mut(upstream).map(|report| act(&mut report.canary))
    }

    /// Forgets the canaries of all upstreams but these.
    pub fn keep_canaries(&self, of: &[Arc<str>]) {
        let mut reports = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        reports.iter_mut().filter(|(name, _)| !of.contains(name)).for_each(|(_, report)| report.canary = None);
    }

    /// Forgets an upstream.
    pub(super) fn remove(&self, upstream: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(upstream);
    }

    /// The report of an upstream; `None` when no worker serves it.
    pub fn report(&self, upstream: &str) -> Option<Report> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(upstream).cloned()
    }
}
