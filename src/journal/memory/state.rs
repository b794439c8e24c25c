//! What the journal in memory holds, and what can be asked of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::clock::Timestamp;
use crate::journal::backfill::BACKGROUND;
use crate::journal::shares::Giving;
use crate::journal::{Backlog, Claim, JournalError, TargetId};
use crate::policy::outcome::{DropReason, Outcome};
use crate::protocol::category::Category;

use super::{Kept, MemoryJournal, State, Target, Turn, turn};

impl MemoryJournal {
    /// Makes room for so many bytes of a project: settled records go first, then the oldest of what waits for shadows alone.
    pub(super) fn make_room(
        &self,
        state: &mut State,
        (project, size): (u32, u64),
        max: u64,
    ) -> Result<(), JournalError> {
        let all = Timestamp::from_millis(u64::MAX);
        loop {
            let left = state.shares.left_for_others(Some(project), size, state.bytes);
            if state.bytes + size + left <= max {
                return Ok(());
            }
            let giving = state.shares.giving(Some(project), size);
            let pruned = giving.iter().any(|giving| state.prune_of(all, 1, |number| giving.has(number)) > 0);
            if !pruned && !giving.iter().any(|giving| self.evict(state, giving)) {
                let used = format!("{} of {max} bytes are in use", state.bytes);
                let is_share = state.bytes + size <= max;
                return Err(if is_share { JournalError::Share(used) } else { JournalError::Full(used) });
            }
        }
    }

    /// Drops the oldest record of these projects that waits for shadows alone and is not being tried. False when there is none.
    fn evict(&self, state: &mut State, giving: &Giving) -> bool {
        let State { targets, records, letters, losses, primaries, shares, .. } = state;
        let Some(primaries) = primaries else { return false };
        let goes = |(id, kept): &(&u64, &Kept)| {
            if !shares.number(&kept.record.project).is_some_and(|number| giving.has(number)) {
                return false;
            }
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

    /// The number of a project; a new one gets the next.
    pub(super) fn number(&mut self, project: &Arc<str>) -> u32 {
        if self.shares.number(project).is_none() {
            self.shares.know(Arc::clone(project));
        }
        self.shares.number(project).unwrap_or_default()
    }

    pub(super) fn prune(&mut self, before: Timestamp, limit: usize) -> usize {
        self.prune_of(before, limit, |_| true)
    }

    fn prune_of(&mut self, before: Timestamp, limit: usize, is_of: impl Fn(u32) -> bool) -> usize {
        let Self { records, targets, bytes, letters, shares, .. } = self;
        let needed = |id: &u64| {
            targets.iter().any(|t| t.waiting.contains_key(id)) || letters.iter().any(|letter| letter.record.0 == *id)
        };
        let old = records.iter().take_while(|(_, kept)| kept.record.accepted_at < before);
        let old = old.filter(|(_, kept)| shares.number(&kept.record.project).is_some_and(&is_of)).map(|(id, _)| *id);
        let gone: Vec<u64> = old.filter(|id| !needed(id)).take(limit).collect();
        for id in &gone {
            let Some(Kept { record, .. }) = records.remove(id) else { continue };
            *bytes -= record.body.len();
            if let Some(count) = shares.number(&record.project).and_then(|number| shares.count(number)) {
                count.fetch_sub(record.body.len(), Ordering::Relaxed);
            }
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
