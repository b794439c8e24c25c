//! Decides which items of an envelope are taken in. It excludes repeats, items over a limit of the project or of every upstream, and
//! errors beyond the first few of a storm.
//!
//! Rule: items that depend on an event share its fate. An envelope that is taken whole costs no allocation here, and payloads are read
//! only to detect storms.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::journal::body::Body;
use crate::policy::limiter::Buckets;
use crate::policy::outcome::RefusalReason;
use crate::policy::storm::{self, Answer, Storms};
use crate::protocol::category::{Category, Quantities};
use crate::protocol::client_report;
use crate::protocol::envelope::{Item, Outline};
use crate::protocol::item::ItemType;
use crate::protocol::rate_limits::RateLimit;
use crate::telemetry::log::{self, Line};
use crate::telemetry::metrics::Metrics;

use super::part;

/// The decision on an item.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    Kept,
    Repeat,
    Refused(RefusalReason),
}

/// The decisions on the items of an envelope.
pub(super) struct Sorting<'a> {
    pub(super) envelope: &'a Outline,
    /// By position; empty while all items are kept.
    fates: Vec<Fate>,
    /// The limits that were reached.
    pub(super) limits: Vec<RateLimit>,
}

impl<'a> Sorting<'a> {
    /// A sorting that keeps all items.
    pub(super) const fn new(envelope: &'a Outline) -> Self {
        Self { envelope, fates: vec![], limits: vec![] }
    }

    fn fate(&self, position: usize) -> Fate {
        self.fates.get(position).copied().unwrap_or(Fate::Kept)
    }

    fn decide(&mut self, position: usize, fate: Fate) {
        if self.fates.is_empty() {
            self.fates = vec![Fate::Kept; self.envelope.items().len()];
        }
        self.fates[position] = fate;
    }

    /// The positions of the items that are kept so far and match.
    fn kept(&self, which: impl Fn(&Item) -> bool) -> Vec<usize> {
        let items = self.envelope.items().iter().enumerate();
        items.filter(|(i, item)| self.fate(*i) == Fate::Kept && which(item)).map(|(i, _)| i).collect()
    }

    /// Gives this fate to the items that depend on events, if all events have it. Items that are judged alone keep theirs.
    fn share(&mut self, fate: Fate, is_judged_alone: impl Fn(usize) -> bool) {
        let mut events = (0..).zip(self.envelope.items()).filter(|(_, item)| item.is_event()).peekable();
        if self.fates.is_empty() || events.peek().is_none() || !events.all(|(i, _)| self.fate(i) == fate) {
            return;
        }
        for position in self.kept(|item| item.kind.depends_on_event()) {
            if !is_judged_alone(position) {
                self.decide(position, fate);
            }
        }
    }

    /// Excludes the items whose keys are repeated.
    pub(super) fn without_repeats(&mut self, keys: &[Option<u128>], repeated: &BTreeSet<u128>) {
        if repeated.is_empty() {
            return;
        }
        for (position, _) in (0..).zip(keys).filter(|(_, key)| key.is_some_and(|key| repeated.contains(&key))) {
            self.decide(position, Fate::Repeat);
        }
        self.share(Fate::Repeat, |position| keys.get(position).is_some_and(Option::is_some));
    }

    /// Excludes and counts the items that another relay turned out to have taken.
    pub(super) fn without_taken(
        &mut self,
        (keys, taken): (&[Option<u128>], &BTreeSet<u128>),
        project: &str,
        metrics: &Metrics,
    ) {
        let before = self.kept(|_| true);
        self.without_repeats(keys, taken);
        for position in before.into_iter().filter(|position| !self.keeps(*position)) {
            count_repeated(project, &self.envelope.items()[position].quantities(), metrics);
        }
    }

    /// Excludes errors beyond the limit of a storm.
    pub(super) async fn without_storms(
        &mut self,
        project: &Arc<str>,
        body: &Body,
        (storms, of): (&Storms, &storm::Settings),
        now: Timestamp,
    ) {
        for position in self.kept(|item| item.kind == ItemType::Event) {
            // A payload that cannot be read is an error later, when the record is kept.
            let Ok(payload) = part::payload(body, &self.envelope.items()[position]).await else { continue };
            let Some(signature) = storms.signature(project, &payload) else { continue };
            match storms.weather(project, signature, of, now) {
                Answer::Collapses => self.decide(position, Fate::Refused(RefusalReason::Collapsed)),
                Answer::Passes(None) => {}
                Answer::Passes(Some(storm)) => {
                    let Some(Line { suppressed }) = log::admit("storm", project) else { continue };
                    let message = "identical errors were dropped before this one";
                    tracing::info!(
                        project.name = &**project,
                        error.kind = &*storm.what,
                        errors = storm.collapsed,
                        suppressed,
                        "{message}"
                    );
                }
            }
        }
        self.share(Fate::Refused(RefusalReason::Collapsed), |_| false);
    }

    /// Excludes the items that no upstream in use takes now. For such an item `until` returns the limited category and the limit's end.
    pub(super) fn without_unwanted(&mut self, until: impl Fn(&Item) -> Option<(Category, Timestamp)>, now: Timestamp) {
        let fate = Fate::Refused(RefusalReason::UpstreamLimited);
        for is_event in [true, false] {
            for position in self.kept(|item| item.is_event() == is_event) {
                if let Some((category, until)) = until(&self.envelope.items()[position]) {
                    self.decide(position, fate);
                    note(&mut self.limits, told(category, until, now));
                }
            }
            self.share(fate, |_| false);
        }
    }

    /// Excludes the items over a limit. Events are judged first, so that items excluded with them take nothing from their buckets.
    pub(super) fn without_excess(&mut self, buckets: &Buckets, now: Duration) {
        for position in self.kept(Item::is_event) {
            self.take(position, buckets, now);
        }
        self.share(Fate::Refused(RefusalReason::RateLimited), |_| false);
        for position in self.kept(|item| !item.is_event()) {
            self.take(position, buckets, now);
        }
    }

    fn take(&mut self, position: usize, buckets: &Buckets, now: Duration) {
        let item = self.envelope.items()[position].quantities();
        if let Err(reached) = buckets.take(&item, now) {
            self.decide(position, Fate::Refused(RefusalReason::RateLimited));
            note(&mut self.limits, reached.told());
        }
    }

    /// Counts the items that are not kept.
    pub(super) fn count(&self, project: &str, metrics: &Metrics) {
        for (fate, item) in self.fates.iter().zip(self.envelope.items()) {
            for (category, quantity) in item.quantities().iter() {
                match fate {
                    Fate::Kept => {}
                    Fate::Repeat => {
                        metrics.duplicate_items_total.with_label_values(&[project, category.name()]).inc_by(quantity);
                    }
                    Fate::Refused(why) => metrics.refused_items(project, category, *why, quantity),
                }
            }
        }
    }

    /// The refused items with the reason and the quantities lost, which include the spans of a transaction.
    pub(super) async fn refused(&self, body: &Body) -> Vec<(&'a Item, RefusalReason, Quantities)> {
        let mut refused = Vec::new();
        for (fate, item) in self.fates.iter().zip(self.envelope.items()) {
            let Fate::Refused(reason) = fate else { continue };
            let mut lost = item.quantities();
            if item.kind == ItemType::Transaction {
                let spans = part::payload(body, item).await.map_or(1, |payload| client_report::spans(&payload));
                lost.add(Category::Span, spans);
            }
            refused.push((item, *reason, lost));
        }
        refused
    }

    /// Whether all items are kept.
    pub(super) fn is_whole(&self) -> bool {
        self.fates.is_empty()
    }

    /// Whether the item at this position is kept.
    pub(super) fn keeps(&self, position: usize) -> bool {
        self.fate(position) == Fate::Kept
    }

    /// The kept items.
    pub(super) fn kept_items(&self) -> impl Iterator<Item = &'a Item> {
        let items = self.envelope.items().iter().enumerate();
        items.filter(|(position, _)| self.keeps(*position)).map(|(_, item)| item)
    }

    /// Whether no item is kept.
    pub(super) fn keeps_nothing(&self) -> bool {
        (0..self.envelope.items().len()).all(|position| !self.keeps(position))
    }

    /// Whether limits refused all items.
    pub(super) fn is_all_limited(&self) -> bool {
        let limits = [RefusalReason::RateLimited, RefusalReason::UpstreamLimited].map(Fate::Refused);
        !self.fates.is_empty() && self.fates.iter().all(|fate| limits.contains(fate))
    }

    /// The quantities of the kept items.
    pub(super) fn quantities(&self) -> Quantities {
        self.envelope.quantities_without_others(|position| self.keeps(position))
    }
}

/// An upstream's limit as it is told to clients.
pub(super) fn told(category: Category, until: Timestamp, now: Timestamp) -> RateLimit {
    RateLimit { retry_after: until.since(now), categories: Some(vec![category]) }
}

/// Counts a refused request that is no envelope.
pub(super) fn count_refused(project: &str, quantities: &Quantities, why: RefusalReason, metrics: &Metrics) {
    for (category, quantity) in quantities.iter() {
        metrics.refused_items(project, category, why, quantity);
    }
}

/// Counts quantities that are repeats.
pub(super) fn count_repeated(project: &str, quantities: &Quantities, metrics: &Metrics) {
    for (category, quantity) in quantities.iter() {
        metrics.duplicate_items_total.with_label_values(&[project, category.name()]).inc_by(quantity);
    }
}

/// Adds a limit. Of two limits on one category the longer wait counts.
fn note(limits: &mut Vec<RateLimit>, reached: RateLimit) {
    match limits.iter_mut().find(|limit| limit.categories == reached.categories) {
        Some(limit) => limit.retry_after = limit.retry_after.max(reached.retry_after),
        None => limits.push(reached),
    }
}
