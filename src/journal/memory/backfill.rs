//! Backfills in memory.

use crate::clock::Timestamp;
use crate::journal::backfill::{BACKGROUND, Backfill, BackfillStep, Scope, Survey};
use crate::journal::{Progress, RecordId, TargetId};
use crate::policy::outcome::Outcome;

use super::{Kept, MemoryJournal, State, Waiting, turn};

fn lacks(scope: &Scope, kept: &Kept) -> bool {
    let record = &kept.record;
    let is_meant = scope.projects.contains(&record.project) && record.accepted_at >= scope.since;
    // A report of ours has nothing in it for others.
    is_meant && !record.quantities.is_empty() && !kept.targets.contains(&scope.target)
}

impl State {
    pub(super) fn survey(&self, scope: &Scope, from: RecordId) -> Survey {
        let found = || self.records.range(from.0 + 1..).filter(|(_, kept)| lacks(scope, kept));
        let bytes = found().map(|(_, kept)| kept.record.body.len()).sum();
        Survey { records: found().count() as u64, bytes, next: None }
    }
}

impl MemoryJournal {
    pub(super) fn step(&self, state: &mut State, target: TargetId, step: BackfillStep) -> Option<Backfill> {
        // Any moment will do: nothing reads it but the reports, and there is no clock in here.
        let now = Timestamp::default();
        let kept = state.backfills.get(&target.0).cloned();
        let after = match step {
            BackfillStep::Begin(begun) => Some(Backfill { until: RecordId(state.last), ..*begun }),
            BackfillStep::Cancel => kept.map(|kept| match kept.is_running() {
                true => Backfill { cancelled: true, ended_at: Some(now), ..kept },
                false => kept,
            }),
            BackfillStep::GoOn(limit) => kept.map(|kept| match kept.is_running() {
                true => self.go_on(state, kept, limit),
                false => kept,
            }),
        };
        state.backfills.extend(after.clone().map(|after| (target.0, after)));
        after
    }

    fn go_on(&self, state: &mut State, mut backfill: Backfill, limit: usize) -> Backfill {
        let State { records, targets, .. } = state;
        let target = &mut targets[usize::from(backfill.scope.target.0)];
        let mut waiting = target.waiting.values().filter(|waiting| !waiting.leased).count();
        for (id, kept) in records.range_mut(backfill.reached.0 + 1..).take_while(|(id, _)| **id <= backfill.until.0) {
            if lacks(&backfill.scope, kept) {
                if waiting >= limit {
                    return backfill;
                }
                waiting += 1;
                kept.targets.push(backfill.scope.target);
                kept.missed.remove(&backfill.scope.target);
                let due = Some(Timestamp::from_millis(BACKGROUND.as_millis() + id));
                let (progress, quantities) = (Progress::default(), kept.record.quantities.clone());
                self.post(Some(&target.name), &kept.record.project, Outcome::Returned, &quantities);
                let withheld = self.withheld(&target.name, &kept.record.project, &quantities);
                self.post(Some(&target.name), &kept.record.project, Outcome::Backfilled, &withheld);
                target.waiting.insert(*id, Waiting { due, progress, quantities, leased: false });
                target.claimable.insert(turn(*id, due));
                target.changed.notify_one();
                backfill.taken += 1;
            }
            backfill.reached = RecordId(*id);
        }
        (backfill.reached, backfill.ended_at) = (backfill.until, Some(Timestamp::default()));
        backfill
    }
}
