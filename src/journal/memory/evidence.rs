//! The evidence in memory, in its plainest form: everything since the beginning, without hours.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::clock::Timestamp;
use crate::journal::evidence::{Comparison, Evidence, Fate, Latest, Observation, Outage, Stretch, Tally, Unequal};
use crate::journal::{RecordId, TargetId};
use crate::policy::outcome::DropReason;
use crate::telemetry::ledger::{Account, AccountKey};
use crate::telemetry::observations::{Change, Performance};
use crate::telemetry::series::Step;

use super::{Kept as KeptRecord, State, Target};

/// What was observed.
#[derive(Debug, Default)]
pub(super) struct Kept {
    performance: BTreeMap<TargetId, Performance>,
    outages: Vec<(TargetId, Outage)>,
    intake: Vec<Tally>,
    stretches: Vec<Stretch>,
    steps: BTreeMap<(TargetId, Timestamp), Step>,
    latest: BTreeMap<TargetId, Latest>,
}

impl Kept {
    pub(super) fn observe(&mut self, observation: Observation) {
        let Observation { started, now, stopping, upstreams, intake, steps, canaries } = observation;
        canaries.into_iter().for_each(|(target, at)| self.latest.entry(target).or_default().note_canary(at));
        match self.stretches.iter_mut().find(|stretch| stretch.from == started) {
            Some(stretch) => (stretch.to, stretch.stopped) = (stretch.to.max(now), stopping),
            None => self.stretches.push(Stretch { from: started, to: now, stopped: stopping }),
        }
        for tally in intake {
            match self.intake.iter_mut().find(|kept| (&kept.what, &kept.kind) == (&tally.what, &tally.kind)) {
                Some(kept) => kept.count += tally.count,
                None => self.intake.push(tally),
            }
        }
        for (target, step) in steps {
            let kept = self.steps.entry((target, step.at)).or_insert_with(|| Step { at: step.at, ..Step::default() });
            kept.accepted += step.accepted;
            kept.delivered += step.delivered;
            kept.lost += step.lost;
            kept.waiting = step.waiting;
            kept.lag_p99 = step.lag_p99.or(kept.lag_p99);
        }
        for (target, observed) in upstreams {
            for performance in observed.hours.values() {
                self.performance.entry(target).or_default().merge(performance);
            }
            observed.changes.into_iter().for_each(|change| self.change(target, change));
        }
    }

    pub(super) fn latest(&self, target: TargetId) -> Latest {
        self.latest.get(&target).copied().unwrap_or_default()
    }

    fn change(&mut self, target: TargetId, change: Change) {
        let open = self.outages.iter_mut().find(|(of, outage)| *of == target && outage.to.is_none());
        match (change, open) {
            (Change::Down { at, cause }, None) => {
                self.outages.push((target, Outage { upstream: "".into(), from: at, to: None, cause }));
            }
            (Change::Up { at }, Some((_, outage))) => outage.to = Some(at.max(outage.from)),
            _ => {}
        }
    }

    pub(super) fn told(&self, accounts: BTreeMap<AccountKey, Account>, targets: &[Target]) -> Evidence {
        let named = self.performance.iter().map(|(id, performance)| (name(targets, *id), performance.clone()));
        let (intake, stretches) = (self.intake.clone(), self.stretches.clone());
        let mut steps = BTreeMap::<Arc<str>, Vec<Step>>::new();
        for ((target, _), step) in &self.steps {
            steps.entry(name(targets, *target)).or_default().push(step.clone());
        }
        let later_lags = BTreeMap::new();
        Evidence { accounts, performance: named.collect(), later_lags, intake, stretches, steps }
    }

    pub(super) fn outages(&self, since: Timestamp, limit: usize, targets: &[Target]) -> Vec<Outage> {
        let late = self.outages.iter().rev().filter(|(_, outage)| outage.to.is_none_or(|to| to > since)).take(limit);
        late.map(|(id, outage)| Outage { upstream: name(targets, *id), ..outage.clone() }).collect()
    }
}

fn name(targets: &[Target], id: TargetId) -> Arc<str> {
    targets.get(usize::from(id.0)).map_or_else(|| "unknown".into(), |target| Arc::clone(&target.name))
}

impl State {
    /// Notes that a target will not get a record, or part of it.
    pub(super) fn missed(&mut self, target: TargetId, record: u64, reason: Option<DropReason>) {
        if let (Some(reason), Some(kept)) = (reason, self.records.get_mut(&record)) {
            kept.missed.insert(target, reason);
        }
    }

    pub(super) fn compare(&self, (a, b): (TargetId, TargetId), since: Timestamp) -> Comparison {
        let mut comparison = Comparison::default();
        for kept in self.records.values() {
            let KeptRecord { record, targets, .. } = kept;
            let is_ours = record.quantities.is_empty();
            if !is_ours && record.accepted_at >= since && (targets.contains(&a) || targets.contains(&b)) {
                comparison.note(Unequal {
                    id: RecordId(record.id.0),
                    accepted_at: record.accepted_at,
                    project: Arc::clone(&record.project),
                    event_id: record.event_id,
                    a: self.fate(kept, a),
                    b: self.fate(kept, b),
                });
            }
        }
        comparison
    }

    fn fate(&self, kept: &KeptRecord, id: TargetId) -> Fate {
        if !kept.targets.contains(&id) {
            return Fate::NotSent;
        }
        if let Some(fate) = kept.missed.get(&id).and_then(|reason| Fate::of(*reason)) {
            return fate;
        }
        let waits = self.targets.get(usize::from(id.0)).is_some_and(|t| t.waiting.contains_key(&kept.record.id.0));
        if waits { Fate::Pending } else { Fate::Delivered }
    }
}
