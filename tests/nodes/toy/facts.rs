//! Facts about the past: switches, losses and evidence, some of them by the hour.

use std::collections::HashMap;

use super::*;
use crate::journal::evidence::{CANARY_FAILED, Evidence, Figures, Latest, Observation, Outage, Stretch, Tally};
use crate::journal::losses::Loss;
use crate::policy::verdict::Verdict;
use crate::protocol::client_report::Reason;
use crate::telemetry::observations::{Change, Performance};
use crate::telemetry::series::Step;

/// Switches, losses and evidence.
#[derive(Debug, Default)]
pub(super) struct Kept {
    switches: Vec<Switch>,
    losses: BTreeMap<(TargetId, Arc<str>, Reason, Category), u64>,
    latest: BTreeMap<TargetId, Latest>,
    performance: BTreeMap<(u64, TargetId), Performance>,
    intake: BTreeMap<(u64, Box<str>, Box<str>), u64>,
    /// By their beginnings.
    stretches: BTreeMap<Timestamp, Stretch>,
    outages: Vec<(TargetId, Outage)>,
    steps: BTreeMap<(TargetId, Timestamp), Step>,
}

impl Kept {
    pub(super) fn lose(&mut self, loss: Loss) {
        if loss.category.can_be_reported() && loss.quantity > 0 {
            *self.losses.entry((loss.target, loss.project, loss.reason, loss.category)).or_default() += loss.quantity;
        }
    }

    pub(super) fn note_delivered(&mut self, target: TargetId, at: Timestamp) {
        let latest = self.latest.entry(target).or_default();
        latest.delivered_at = latest.delivered_at.max(Some(at));
    }

    fn observe(&mut self, observation: Observation, targets: &Targets) {
        let Observation { started, now, stopping, upstreams, intake, steps, canaries } = observation;
        let stretch = self.stretches.entry(started).or_insert(Stretch { from: started, to: now, stopped: false });
        (stretch.to, stretch.stopped) = (stretch.to.max(now), stopping);
        for Tally { what, kind, count } in intake {
            *self.intake.entry((now.hour(), what, kind)).or_default() += count;
        }
        for (target, step) in steps {
            let kept = self.steps.entry((target, step.at)).or_insert(Step { at: step.at, ..Step::default() });
            kept.accepted += step.accepted;
            kept.delivered += step.delivered;
            kept.lost += step.lost;
            kept.waiting = step.waiting;
            kept.lag_p99 = step.lag_p99.or(kept.lag_p99);
        }
        for (target, at) in canaries {
            let latest = self.latest.entry(target).or_default();
            latest.canary_at = latest.canary_at.max(Some(at));
        }
        for (target, observed) in upstreams {
            for (hour, performance) in &observed.hours {
                self.performance.entry((*hour, target)).or_default().merge(performance);
            }
            observed.changes.iter().for_each(|change| self.change(target, targets, change));
        }
    }

    fn change(&mut self, target: TargetId, targets: &Targets, change: &Change) {
        let open = self.outages.iter_mut().find(|(whose, outage)| *whose == target && outage.to.is_none());
        match (change, open) {
            (Change::Down { at, cause }, None) => {
                let upstream = targets.name(target).cloned().unwrap_or_else(|| "".into());
                self.outages.push((target, Outage { upstream, from: *at, to: None, cause: cause.clone() }));
            }
            (Change::Up { at }, Some((_, outage))) => outage.to = Some(outage.from.max(*at)),
            _ => {}
        }
    }
}

impl Facts for Node {
    fn record_switch(&self, switch: Switch) -> BoxFuture<'_, Result<(), JournalError>> {
        self.call(|state| {
            state.facts.switches.push(switch);
            Ok(())
        })
    }

    fn switches(&self, limit: usize) -> BoxFuture<'_, Result<Vec<Switch>, JournalError>> {
        self.call(move |state| Ok(state.facts.switches.iter().rev().take(limit).cloned().collect()))
    }

    fn observe(&self, observation: Observation) -> BoxFuture<'_, Result<(), JournalError>> {
        self.call(|state| {
            state.facts.observe(observation, &state.targets);
            Ok(())
        })
    }

    fn evidence(&self, since: Timestamp) -> BoxFuture<'_, Result<Evidence, JournalError>> {
        self.call(move |state| Ok(state.evidence(since)))
    }

    fn outages(&self, since: Timestamp, limit: usize) -> BoxFuture<'_, Result<Vec<Outage>, JournalError>> {
        self.call(move |state| {
            let newest = state.facts.outages.iter().rev().map(|(_, outage)| outage);
            Ok(newest.filter(|outage| outage.to.is_none_or(|to| to > since)).take(limit).cloned().collect())
        })
    }

    fn figures(&self) -> BoxFuture<'_, Result<HashMap<TargetId, Figures>, JournalError>> {
        self.call(|state| {
            let figures = |target| Figures {
                dead_letters: state.redelivery.count(target),
                latest: state.facts.latest.get(&target).copied().unwrap_or_default(),
            };
            Ok(state.targets.iter().map(|(target, _)| (target, figures(target))).collect())
        })
    }

    fn lose(&self, losses: Vec<Loss>) -> BoxFuture<'_, Result<(), JournalError>> {
        self.call(|state| {
            losses.into_iter().for_each(|loss| state.facts.lose(loss));
            Ok(())
        })
    }

    fn losses(&self) -> BoxFuture<'_, Result<Vec<Loss>, JournalError>> {
        self.call(|state| {
            let loss = |((target, project, reason, category), quantity): (&(_, Arc<str>, _, _), &u64)| Loss {
                target: *target,
                project: Arc::clone(project),
                reason: *reason,
                category: *category,
                quantity: *quantity,
            };
            Ok(state.facts.losses.iter().map(loss).collect())
        })
    }

    fn report(&self, told: Vec<Loss>, report: Option<Submission>) -> BoxFuture<'_, Result<(), JournalError>> {
        self.call(|state| {
            report.map(|report| state.append(report)).transpose()?;
            for Loss { target, project, reason, category, quantity } in told {
                if let Some(left) = state.facts.losses.get_mut(&(target, project, reason, category)) {
                    *left = left.saturating_sub(quantity);
                }
            }
            state.facts.losses.retain(|_, left| *left > 0);
            Ok(())
        })
    }
}

impl State {
    fn evidence(&self, since: Timestamp) -> Evidence {
        let (first, facts, mut told) = (since.hour(), &self.facts, Evidence::default());
        let name = |target| self.targets.name(target).cloned().unwrap_or_else(|| "".into());
        let hour = |hour: u64| Timestamp::from_millis(hour * 3_600_000);
        for ((at, key), account) in self.accounts.iter().filter(|((at, _), _)| *at >= first) {
            let kept = told.accounts.entry(key.clone()).or_default();
            for posting in storage::postings(key, account) {
                kept.post(posting.outcome, posting.quantity);
                if let Some(upstream) = &key.upstream {
                    told.latest.insert((Arc::clone(upstream), posting.outcome.name().into()), hour(*at));
                }
            }
        }
        for ((at, target), performance) in facts.performance.iter().filter(|((at, _), _)| *at >= first) {
            told.performance.entry(name(*target)).or_default().merge(performance);
            if *at > first {
                told.later_lags.entry(name(*target)).or_default().merge(&performance.lags);
            }
            if performance.attempts(Verdict::Misconfigured) > 0 {
                told.latest.insert((name(*target), Verdict::Misconfigured.name().into()), hour(*at));
            }
        }
        let mut tallies = BTreeMap::<_, u64>::new();
        for ((at, what, kind), count) in facts.intake.iter().filter(|((at, ..), _)| *at >= first) {
            *tallies.entry((what, kind)).or_default() += count;
            if **what == *CANARY_FAILED {
                told.latest.insert((Arc::from(&**kind), what.clone()), hour(*at));
            }
        }
        for ((what, kind), count) in tallies {
            told.intake.push(Tally { what: what.clone(), kind: kind.clone(), count });
        }
        let before = facts.stretches.values().rev().find(|stretch| stretch.to < since).map(|stretch| stretch.from);
        let is_told = |stretch: &&Stretch| stretch.to >= since || Some(stretch.from) == before;
        told.stretches = facts.stretches.values().filter(is_told).cloned().collect();
        for ((target, _), step) in facts.steps.iter().filter(|((_, at), _)| at.hour() >= first) {
            told.steps.entry(name(*target)).or_default().push(step.clone());
        }
        told
    }
}
