//! Dead letters in memory.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::clock::Timestamp;
use crate::journal::letters::together;
use crate::journal::verification::LOST_BY_TRACKER;
use crate::journal::{DeadLetter, Letter, Pick, Progress, Record, TargetId, WithRecord};
use crate::policy::outcome::Outcome;
use crate::protocol::category::Quantities;

use super::{MemoryJournal, State, Waiting, turn};

impl State {
    pub(super) fn keep_letter(
        &mut self,
        target: TargetId,
        record: &Record,
        quantities: Quantities,
        refusal: DeadLetter,
    ) {
        self.last_letter += 1;
        self.letters.push(Letter {
            id: self.last_letter,
            target,
            upstream: self.targets[usize::from(target.0)].name.clone(),
            record: record.id,
            project: record.project.clone(),
            accepted_at: record.accepted_at,
            event_id: record.event_id,
            size: record.body.len(),
            quantities,
            refusal,
        });
    }

    /// The oldest of those meant.
    fn meant(&self, pick: &Pick, limit: usize) -> Vec<Letter> {
        self.letters.iter().filter(|letter| pick.means(letter)).take(limit).cloned().collect()
    }

    pub(super) fn newest(&self, pick: &Pick, before: u64, limit: usize) -> Vec<Letter> {
        let meant = self.letters.iter().rev().filter(|letter| letter.id < before && pick.means(letter));
        meant.take(limit).cloned().collect()
    }

    pub(super) fn letter(&self, id: u64) -> Option<WithRecord> {
        let letter = self.letters.iter().find(|letter| letter.id == id)?;
        Some((letter.clone(), Arc::clone(&self.records.get(&letter.record.0)?.record)))
    }

    pub(super) fn forget(&mut self, pick: &Pick, limit: usize) -> usize {
        let gone: Vec<u64> = self.meant(pick, limit).iter().map(|letter| letter.id).collect();
        self.letters.retain(|letter| !gone.contains(&letter.id));
        gone.len()
    }
}

impl MemoryJournal {
    pub(super) fn retry(&self, state: &mut State, pick: &Pick, limit: usize) -> usize {
        let (mut mine, mut gone) = (BTreeSet::new(), BTreeSet::new());
        for letter in state.meant(pick, limit) {
            let key = (letter.target, letter.record);
            let target = &mut state.targets[usize::from(letter.target.0)];
            match target.waiting.get_mut(&letter.record.0) {
                Some(waiting) if mine.contains(&key) => {
                    waiting.progress.items = together(waiting.progress.items.take(), letter.refusal.items);
                    waiting.quantities.extend(&letter.quantities);
                }
                Some(_) => continue,
                None => {
                    let due = Some(Timestamp::default());
                    let progress = Progress { items: letter.refusal.items, ..Progress::default() };
                    let waiting = Waiting { due, progress, quantities: letter.quantities.clone(), leased: false };
                    target.waiting.insert(letter.record.0, waiting);
                    target.claimable.insert(turn(letter.record.0, due));
                    target.changed.notify_one();
                    mine.insert(key);
                }
            }
            gone.insert(letter.id);
            if let Some(kept) = state.records.get_mut(&letter.record.0) {
                kept.missed.remove(&letter.target);
            }
            self.post(Some(&target.name), &letter.project, Outcome::Returned, &letter.quantities);
            if &*letter.refusal.reason != LOST_BY_TRACKER {
                self.post(Some(&target.name), &letter.project, Outcome::Retried, &letter.quantities);
            }
        }
        state.letters.retain(|letter| !gone.contains(&letter.id));
        gone.len()
    }
}
