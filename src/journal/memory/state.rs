//! What the journal in memory holds, and what can be asked of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::clock::Timestamp;
use crate::journal::backfill::BACKGROUND;
use crate::journal::{Backlog, Claim, JournalError, TargetId};
use crate::policy::outcome::{DropReason, Outcome};
use crate::protocol::category::Category;

use super::{Kept, MemoryJournal, State, Target, Turn, turn};

impl MemoryJournal {
    /// Drops the oldest record that waits for shadows alone and is not being tried. False when there is none.
    pub(super) fn evict(&self, state: &mut State) -> bool {
        let State { targets, records, letters, losses, primaries, .. } = state;
        let Some(primaries) = primaries else { return false };
        let goes = |(id, kept): &(&u64, &Kept)| {
            let primary = primaries.of(&kept.record.project);
            let mut waiting =
                (0..).zip(&*targets).filter_map(|(n, target)| Some((TargetId(n), target.waiting.get(id)?)));
            let mut all = waiting.by_ref().peekable();
            let is_shown = || letters.iter().any(|letter| letter.record.0 == **id);
            all.peek().is_some() && all.all(|(n, waiting)| Some(n) != primary && !waiting.leased) && !is_shown()
        };
        let Some((id, kept)) = records.iter().find(goes) else { return false };
        for (n, target) in (0..).zip(targets) {
            let Some(waiting) = target.waiting.remove(id) else { continue };
            target.claimable.remove(&turn(*id, waiting.due));
            let (project, quantities) = (&kept.record.project, &waiting.quantities);
            self.post(Some(&target.name), project, Outcome::Dropped(DropReason::Evicted), quantities);
            losses.dropped(TargetId(n), project, DropReason::Evicted, (&kept.record.body, quantities));
        }
        true
    }
}

impl State {
    pub(super) fn target(&mut self, id: TargetId) -> Result<&mut Target, JournalError> {
        let unknown = || JournalError::Failed(format!("target {} is not known", id.0));
        self.targets.get_mut(usize::from(id.0)).ok_or_else(unknown)
    }

    pub(super) fn claim(&mut self, id: TargetId, now: Timestamp, max: usize) -> Result<Vec<Claim>, JournalError> {
        let Self { targets, records, .. } = self;
        let unknown = || JournalError::Failed(format!("target {} is not known", id.0));
        let target = targets.get_mut(usize::from(id.0)).ok_or_else(unknown)?;
        let due = target.claimable.range(..=(false, now, u64::MAX));
        let untried = target.claimable.range((true, Timestamp::default(), 0)..);
        let background = target.claimable.range((false, BACKGROUND, 0)..(true, Timestamp::default(), 0));
        let turns: Vec<Turn> = due.chain(untried).chain(background).take(max).copied().collect();
        let mut claims = Vec::new();
        for next in turns {
            target.claimable.remove(&next);
            if let (Some(waiting), Some(kept)) = (target.waiting.get_mut(&next.2), records.get(&next.2)) {
                waiting.leased = true;
                let (record, progress) = (Arc::clone(&kept.record), waiting.progress.clone());
                claims.push(Claim { record, progress, backfilled: waiting.due >= Some(BACKGROUND) });
            }
        }
        Ok(claims)
    }

    pub(super) fn prune(&mut self, before: Timestamp, limit: usize) -> usize {
        let Self { records, targets, bytes, letters, .. } = self;
        let needed = |id: &u64| {
            targets.iter().any(|t| t.waiting.contains_key(id)) || letters.iter().any(|letter| letter.record.0 == *id)
        };
        let old = records.iter().take_while(|(_, kept)| kept.record.accepted_at < before).map(|(id, _)| *id);
        let gone: Vec<u64> = old.filter(|id| !needed(id)).take(limit).collect();
        for id in &gone {
            *bytes -= records.remove(id).map_or(0, |kept| kept.record.body.len());
        }
        gone.len()
    }

    pub(super) fn backlog(&self, target: &Target) -> Backlog {
        let mut backlog = Backlog::default();
        let mut quantities: BTreeMap<(Arc<str>, Category), u64> = BTreeMap::new();
        for (id, waiting) in &target.waiting {
            let Some(Kept { record, .. }) = self.records.get(id) else { continue };
            backlog.envelopes += 1;
            backlog.bytes += record.body.len();
            let backfilled = waiting.due >= Some(BACKGROUND);
            backlog.oldest = backlog.oldest.or(Some(record.accepted_at).filter(|_| !backfilled));
            for (category, quantity) in waiting.quantities.iter() {
                *quantities.entry((Arc::clone(&record.project), category)).or_default() += quantity;
            }
        }
        backlog.quantities = quantities.into_iter().map(|((project, category), n)| (project, category, n)).collect();
        backlog
    }
}
