//! Waiting records are leased, settled, put off or given up.

use super::archive::Fate;
use super::*;

impl Queues for Node {
    fn claim(&self, target: TargetId, now: Timestamp, max: usize) -> BoxFuture<'_, Result<Vec<Claim>, JournalError>> {
        self.call(move |state| Ok(state.claim((self.owner, target), now, max)))
    }

    fn settle(&self, lease: &Lease, settlement: Settlement) -> BoxFuture<'static, Result<(), JournalError>> {
        Box::pin(ready(self.now(|state| state.settle((self.owner, lease), settlement))))
    }

    fn extend(&self, leases: Vec<Lease>) -> BoxFuture<'_, Result<Vec<Lease>, JournalError>> {
        self.call(move |state| {
            let (failures, answered) = &mut state.extensions;
            if *failures > 0 {
                *failures -= 1;
                return Err(JournalError::Failed("leases cannot be extended".into()));
            }
            *answered += 1;
            let ends = Instant::now() + state.lease_time;
            let mut extended = Vec::new();
            for lease in leases.into_iter().filter(|lease| lease.owner == self.owner) {
                if let Some(kept) = state.held(&lease).and_then(|waiting| waiting.lease.as_mut()) {
                    kept.ends = ends;
                    extended.push(*kept);
                }
            }
            Ok(extended)
        })
    }

    fn changed(&self, target: TargetId) -> Arc<Notify> {
        let mut state = self.cluster.lock();
        let own = state.nodes.get_mut(&self.owner);
        own.map(|own| Arc::clone(own.changed.entry(target).or_default())).unwrap_or_default()
    }

    fn next_due(&self, target: TargetId) -> BoxFuture<'_, Result<Option<Timestamp>, JournalError>> {
        self.call(move |state| {
            let free =
                state.waiting(target).filter(|(_, _, waiting)| waiting.lease.is_none() && !waiting.is_backfilled);
            Ok(free.filter_map(|(_, _, waiting)| waiting.due).min())
        })
    }

    fn discard(
        &self,
        target: TargetId,
        before: Timestamp,
        reason: DropReason,
        limit: usize,
    ) -> BoxFuture<'_, Result<usize, JournalError>> {
        self.call(move |state| {
            let old = state.waiting(target).take_while(|(_, record, _)| record.accepted_at < before);
            let free = old.filter(|(_, _, waiting)| waiting.lease.is_none()).take(limit);
            let victims: Vec<u64> = free.map(|(id, ..)| id).collect();
            for id in &victims {
                let Some(stored) = state.records.get_mut(id) else { continue };
                let record = Arc::clone(&stored.record);
                if let Some(Standing::Waiting(waiting)) = stored.standing.insert(target, Standing::Settled) {
                    stored.missed.extend(Fate::of(reason).map(|fate| (target, fate)));
                    let now = state.clock.now();
                    state.drop_of((now, target), &record, reason, &waiting.quantities);
                }
            }
            Ok(victims.len())
        })
    }

    fn hasten(&self, target: TargetId, limit: usize) -> BoxFuture<'_, Result<usize, JournalError>> {
        self.call(move |state| {
            let now = state.clock.now();
            let free = state.waiting(target).filter(|(_, _, waiting)| waiting.lease.is_none());
            let mut later: Vec<_> =
                free.map(|(.., waiting)| waiting).filter(|waiting| waiting.due > Some(now)).collect();
            later.sort_by_key(|waiting| waiting.due);
            later.truncate(limit);
            let count = later.len();
            later.into_iter().for_each(|waiting| waiting.due = Some(now));
            state.woken.insert(target);
            Ok(count)
        })
    }

    fn backlog(&self, target: TargetId) -> BoxFuture<'_, Result<Backlog, JournalError>> {
        self.call(move |state| {
            let (mut backlog, mut sums) = (Backlog::default(), BTreeMap::<_, u64>::new());
            for (_, record, waiting) in state.waiting(target) {
                backlog.envelopes += 1;
                backlog.bytes += record.body.len();
                if !waiting.is_backfilled {
                    backlog.oldest = backlog.oldest.or(Some(record.accepted_at));
                }
                for (category, quantity) in waiting.quantities.iter() {
                    *sums.entry((Arc::clone(&record.project), category)).or_default() += quantity;
                }
            }
            backlog.quantities = sums.into_iter().map(|((project, category), sum)| (project, category, sum)).collect();
            Ok(backlog)
        })
    }
}

impl State {
    fn claim(&mut self, (owner, target): (u64, TargetId), now: Timestamp, max: usize) -> Vec<Claim> {
        let (at, mut turns) = (Instant::now(), Vec::new());
        for (id, _, waiting) in self.waiting(target) {
            if waiting.lease.take_if(|lease| lease.ends <= at).is_some() {
                waiting.due = Some(now);
            }
            let turn = match (waiting.is_backfilled, waiting.due) {
                (true, _) => 2,
                (false, None) => 1,
                (false, Some(_)) => 0,
            };
            if waiting.lease.is_none() && waiting.due.is_none_or(|due| due <= now) {
                turns.push((turn, waiting.due, id));
            }
        }
        turns.sort_unstable();
        let mut claims = Vec::new();
        for (.., id) in turns.into_iter().take(max) {
            self.lease += 1;
            let lease = Lease {
                target,
                record: RecordId::from_number(id),
                owner,
                number: self.lease,
                ends: at + self.lease_time,
            };
            let Some(stored) = self.records.get_mut(&id) else { continue };
            if let Some(Standing::Waiting(waiting)) = stored.standing.get_mut(&target) {
                waiting.lease = Some(lease);
                let (record, progress) = (Arc::clone(&stored.record), waiting.progress.clone());
                claims.push(Claim { lease, record, progress, backfilled: waiting.is_backfilled });
            }
        }
        claims
    }

    /// The entry under a lease; `None` when the lease no longer holds.
    fn held(&mut self, lease: &Lease) -> Option<&mut Waiting> {
        match self.records.get_mut(&lease.record.number())?.standing.get_mut(&lease.target)? {
            Standing::Waiting(waiting) if waiting.lease.is_some_and(|kept| kept.number == lease.number) => {
                Some(waiting)
            }
            _ => None,
        }
    }

    fn settle(&mut self, (owner, lease): (u64, &Lease), settlement: Settlement) -> Result<(), JournalError> {
        let Settlement { delivered, dropped, rest, dead_letter } = settlement;
        if self.is_broken {
            return Err(JournalError::Failed("it takes no settlement".into()));
        }
        if lease.owner != owner || self.held(lease).is_none() {
            return Err(JournalError::LeaseLost);
        }
        let (now, target, id) = (self.clock.now(), lease.target, lease.record.number());
        let Some(stored) = self.records.get_mut(&id) else { return Err(JournalError::LeaseLost) };
        let record = Arc::clone(&stored.record);
        let rest = rest.map(|Rest { due, progress, quantities }| {
            Standing::Waiting(Waiting { due: Some(due), progress, quantities, ..Waiting::default() })
        });
        stored.standing.insert(target, rest.unwrap_or(Standing::Settled));
        if let Some((reason, much)) = &dropped {
            stored.missed.extend(Fate::of(*reason).map(|fate| (target, fate)));
            self.drop_of((now, target), &record, *reason, much);
        }
        if !delivered.is_empty() {
            self.post(now, Some(target), &record.project, Outcome::Delivered, &delivered);
            self.facts.note_delivered(target, now);
        }
        if let Some(refusal) = dead_letter {
            let quantities = dropped.map_or_else(|| record.quantities.clone(), |(_, much)| much);
            let upstream = self.targets.name(target).cloned().unwrap_or_else(|| "".into());
            self.redelivery.keep_letter((target, upstream), &record, quantities, refusal);
        }
        self.woken.insert(target);
        Ok(())
    }
}
