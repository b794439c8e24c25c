//! Submissions are appended, and records are pruned once every target has settled them and nothing else needs them.

use super::*;

impl Log for Node {
    fn target(&self, name: &str) -> BoxFuture<'_, Result<TargetId, JournalError>> {
        let name: Arc<str> = name.into();
        self.call(move |state| {
            if let Some(known) = state.targets.of(&name) {
                return Ok(known);
            }
            let count = state.targets.iter().count();
            if count == MAX_TARGETS {
                return Err(JournalError::Failed("there are too many targets".into()));
            }
            let (known, new) = (state.targets.clone(), TargetId::new(count as u8));
            let known = known.iter().map(|(target, name)| (target, Arc::clone(name)));
            state.targets = known.chain([(new, name)]).collect();
            Ok(new)
        })
    }

    fn targets(&self) -> BoxFuture<'_, Result<Targets, JournalError>> {
        self.call(|state| Ok(state.targets.clone()))
    }

    fn append(&self, submission: Submission) -> BoxFuture<'_, Result<RecordId, JournalError>> {
        Box::pin(async move {
            // Dropping the last handle on a body takes the lock to free its room, so it must not happen under the lock.
            let _body = submission.body.clone();
            self.now(|state| state.append(submission))
        })
    }

    fn recent_keys(
        &self,
        since: Timestamp,
        before: Option<Cursor>,
        limit: usize,
    ) -> BoxFuture<'_, Result<RecentKeys, JournalError>> {
        self.call(move |state| {
            let before = before.map_or(u64::MAX, Cursor::number);
            let (mut recent, mut last) = (RecentKeys::default(), None);
            for (count, (id, stored)) in state.records.range(..before).rev().enumerate() {
                let accepted_at = stored.record.accepted_at;
                if count == limit || accepted_at < since {
                    recent.next = last.filter(|_| count == limit);
                    break;
                }
                recent.keys.extend(stored.keys.iter().map(|key| (*key, accepted_at)));
                last = Some(Cursor::from_number(*id));
            }
            Ok(recent)
        })
    }

    fn prune(&self, before: Timestamp, limit: usize) -> BoxFuture<'_, Result<usize, JournalError>> {
        self.call(move |state| {
            let old = state.records.iter().filter(|(_, stored)| stored.record.accepted_at < before);
            let old: Vec<u64> = old.map(|(id, _)| *id).filter(|id| state.may_go(*id)).take(limit).collect();
            old.iter().for_each(|id| drop(state.records.remove(id)));
            Ok(old.len())
        })
    }
}

impl State {
    pub(super) fn append(&mut self, mut submission: Submission) -> Result<RecordId, JournalError> {
        let taken = self.taken(&submission.keys, submission.repeats_since);
        if !taken.is_empty() {
            return Err(JournalError::Repeated(taken));
        }
        self.make_room(
            Some(&submission.project),
            storage::room_of(&submission.body) - self.drafts.taken_by(&submission.body),
        )?;
        self.drafts.keep(&submission.body);
        self.last += 1;
        let (id, keys) = (RecordId::from_number(self.last), std::mem::take(&mut submission.keys));
        let (targets, withheld) = (std::mem::take(&mut submission.targets), std::mem::take(&mut submission.withheld));
        let record = Arc::new(submission.into_record(id));
        let Record { accepted_at: at, project, quantities, .. } = &*record;
        self.post(*at, None, project, Outcome::Accepted, quantities);
        let mut standing = BTreeMap::new();
        for target in targets {
            self.post(*at, Some(target), project, Outcome::Accepted, quantities);
            self.woken.insert(target);
            let waiting = Waiting { quantities: quantities.clone(), ..Waiting::default() };
            standing.insert(target, Standing::Waiting(waiting));
        }
        for (target, reason) in withheld {
            self.post(*at, Some(target), project, Outcome::Accepted, quantities);
            self.drop_of((*at, target), &record, reason, quantities);
            standing.insert(target, Standing::Withheld(reason));
        }
        self.records.insert(self.last, Stored { record, keys, standing, missed: BTreeMap::new() });
        Ok(id)
    }

    /// The keys among these that belong to a record accepted at `since` or later.
    fn taken(&self, keys: &[u128], since: Timestamp) -> Vec<u128> {
        let recent = || self.records.values().filter(|stored| stored.record.accepted_at >= since);
        keys.iter().copied().filter(|key| recent().any(|stored| stored.keys.contains(key))).collect()
    }

    /// Whether a record may be pruned: no target waits for it and no dead letter needs it.
    pub(super) fn may_go(&self, id: u64) -> bool {
        let waits = |standing: &Standing| matches!(standing, Standing::Waiting(_));
        let is_settled = self.records.get(&id).is_some_and(|stored| !stored.standing.values().any(waits));
        is_settled && !self.redelivery.needs(id)
    }
}
