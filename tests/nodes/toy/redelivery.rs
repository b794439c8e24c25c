//! Dead letters and backfills: kept records that wait again.

use super::*;
use crate::journal::backfill::{Backfill, BackfillStep, Scope, Survey};
use crate::policy::outcome::Cause;

/// Dead letters and backfills.
#[derive(Debug, Default)]
pub(super) struct Kept {
    letters: BTreeMap<u64, Letter>,
    /// The last number given to a letter.
    letter: u64,
    backfills: BTreeMap<TargetId, Backfill>,
}

impl Kept {
    pub(super) fn keep_letter(
        &mut self,
        (target, upstream): (TargetId, Arc<str>),
        record: &Record,
        quantities: Quantities,
        refusal: DeadLetter,
    ) {
        self.letter += 1;
        let letter = Letter {
            id: self.letter,
            target,
            upstream,
            record: record.id,
            project: Arc::clone(&record.project),
            accepted_at: record.accepted_at,
            event_id: record.event_id,
            size: record.body.len(),
            quantities,
            refusal,
        };
        self.letters.insert(self.letter, letter);
    }

    /// Whether a record belongs to a dead letter.
    pub(super) fn needs(&self, record: u64) -> bool {
        self.letters.values().any(|letter| letter.record.number() == record)
    }

    /// The number of a target's dead letters.
    pub(super) fn count(&self, target: TargetId) -> u64 {
        self.letters.values().filter(|letter| letter.target == target).count() as u64
    }

    /// The oldest letters that `pick` selects.
    fn meant(&self, pick: &Pick, limit: usize) -> Vec<Letter> {
        self.letters.values().filter(|letter| pick.means(letter)).take(limit).cloned().collect()
    }
}

impl Redelivery for Node {
    fn letters(&self, pick: Pick, before: u64, limit: usize) -> BoxFuture<'_, Result<Vec<Letter>, JournalError>> {
        self.call(move |state| {
            let newest = state.redelivery.letters.range(..before).rev().map(|(_, letter)| letter);
            Ok(newest.filter(|letter| pick.means(letter)).take(limit).cloned().collect())
        })
    }

    fn letter(&self, id: u64) -> BoxFuture<'_, Result<Option<WithRecord>, JournalError>> {
        self.call(move |state| {
            let Some(letter) = state.redelivery.letters.get(&id) else { return Ok(None) };
            let stored = state.records.get(&letter.record.number());
            Ok(stored.map(|stored| (letter.clone(), Arc::clone(&stored.record))))
        })
    }

    fn retry_letters(&self, pick: Pick, limit: usize) -> BoxFuture<'_, Result<usize, JournalError>> {
        self.call(move |state| {
            let mut by_record = BTreeMap::<_, Vec<Letter>>::new();
            for letter in state.redelivery.meant(&pick, limit) {
                by_record.entry((letter.target, letter.record.number())).or_default().push(letter);
            }
            Ok(by_record.into_iter().map(|((target, id), letters)| state.retry(target, id, &letters)).sum())
        })
    }

    fn discard_letters(&self, pick: Pick, limit: usize) -> BoxFuture<'_, Result<usize, JournalError>> {
        self.call(move |state| {
            let meant = state.redelivery.meant(&pick, limit);
            meant.iter().for_each(|letter| drop(state.redelivery.letters.remove(&letter.id)));
            Ok(meant.len())
        })
    }

    fn survey(&self, scope: Scope, after: Cursor) -> BoxFuture<'_, Result<Survey, JournalError>> {
        self.call(move |state| {
            let lacking = state.records.range(after.number() + 1..).filter(|(_, stored)| lacks(&scope, stored));
            let sizes: Vec<u64> = lacking.map(|(_, stored)| stored.record.body.len()).collect();
            Ok(Survey { records: sizes.len() as u64, bytes: sizes.iter().sum(), next: None })
        })
    }

    fn backfill(&self, target: TargetId, step: BackfillStep) -> BoxFuture<'_, Result<Option<Backfill>, JournalError>> {
        self.call(move |state| {
            if let BackfillStep::Begin(begun) = step {
                let begun = Backfill { until: Cursor::from_number(state.last), reached: Cursor::START, ..*begun };
                state.redelivery.backfills.insert(target, begun.clone());
                return Ok(Some(begun));
            }
            let known = state.redelivery.backfills.get(&target).cloned();
            let Some(mut backfill) = known.filter(Backfill::is_running) else {
                return Ok(state.redelivery.backfills.get(&target).cloned());
            };
            match step {
                BackfillStep::GoOn(most) => state.go_on(&mut backfill, most),
                _ => (backfill.cancelled, backfill.ended_at) = (true, Some(state.clock.now())),
            }
            state.redelivery.backfills.insert(target, backfill.clone());
            Ok(Some(backfill))
        })
    }

    fn backfills(&self) -> BoxFuture<'_, Result<Vec<Backfill>, JournalError>> {
        self.call(|state| Ok(state.redelivery.backfills.values().cloned().collect()))
    }
}

/// Whether a backfill would take a record up.
fn lacks(scope: &Scope, stored: &Stored) -> bool {
    let record = &stored.record;
    let is_meant =
        !record.quantities.is_empty() && record.accepted_at >= scope.since && scope.projects.contains(&record.project);
    is_meant && matches!(stored.standing.get(&scope.target), None | Some(Standing::Withheld(_)))
}

impl State {
    /// Makes a record wait again at a target with everything that was refused of it; returns the number of letters.
    fn retry(&mut self, target: TargetId, id: u64, refused: &[Letter]) -> usize {
        let Some(stored) = self.records.get_mut(&id) else { return 0 };
        if matches!(stored.standing.get(&target), Some(Standing::Waiting(_))) {
            return 0;
        }
        let (now, project) = (self.clock.now(), Arc::clone(&stored.record.project));
        let (mut quantities, mut items) = (Quantities::new(), Some(vec![]));
        for letter in refused {
            quantities.extend(&letter.quantities);
            items = letters::together(items, letter.refusal.items.clone());
        }
        let progress = Progress { items, ..Progress::default() };
        let waiting = Waiting { due: Some(now), progress, quantities: quantities.clone(), ..Waiting::default() };
        stored.standing.insert(target, Standing::Waiting(waiting));
        stored.missed.remove(&target);
        self.post(now, Some(target), &project, Outcome::Returned, &quantities);
        for letter in refused {
            self.post(letter.refusal.at, Some(target), &project, Outcome::Retried, &letter.quantities);
            self.redelivery.letters.remove(&letter.id);
        }
        self.woken.insert(target);
        refused.len()
    }

    /// Takes up records until `most` records wait without a lease.
    fn go_on(&mut self, backfill: &mut Backfill, most: usize) {
        let (now, target, scope) = (self.clock.now(), backfill.scope.target, backfill.scope.clone());
        let idle = self.waiting(target).filter(|(_, _, waiting)| waiting.lease.is_none()).count();
        let range = backfill.reached.number() + 1..=backfill.until.number();
        let lacking = self.records.range(range).filter(|(_, stored)| lacks(&scope, stored)).map(|(id, _)| *id);
        let (mut lacking, room) = (lacking.collect::<Vec<_>>(), most.saturating_sub(idle));
        let is_all = lacking.len() <= room;
        lacking.truncate(room);
        for id in &lacking {
            let Some(stored) = self.records.get_mut(id) else { continue };
            let (record, quantities) = (Arc::clone(&stored.record), stored.record.quantities.clone());
            let waiting = Waiting { is_backfilled: true, quantities: quantities.clone(), ..Waiting::default() };
            let before = stored.standing.insert(target, Standing::Waiting(waiting));
            self.post(now, Some(target), &record.project, Outcome::Returned, &quantities);
            if matches!(before, Some(Standing::Withheld(reason)) if reason.cause() == Cause::Withheld) {
                self.post(record.accepted_at, Some(target), &record.project, Outcome::Backfilled, &quantities);
            }
        }
        backfill.taken += lacking.len() as u64;
        if is_all {
            (backfill.reached, backfill.ended_at) = (backfill.until, Some(now));
        } else if let Some(last) = lacking.last() {
            backfill.reached = Cursor::from_number(*last);
        }
        self.woken.insert(target);
    }
}
