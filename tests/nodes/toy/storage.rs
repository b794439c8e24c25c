//! Room and its shares. Delivered records give way, except for a body of no known project; waiting ones never do.

use std::time::Duration;

use super::*;
use crate::journal::body::Body;

/// The room that a record takes besides its body, in bytes.
const OVERHEAD: u64 = 256;

/// The room of a record with this body, in bytes.
pub(super) fn room_of(body: &Body) -> u64 {
    body.len() + OVERHEAD
}

/// The postings that make up an account.
pub(super) fn postings(key: &AccountKey, account: &Account) -> Vec<Posting> {
    let dropped = DropReason::ALL.map(|reason| (Outcome::Dropped(reason), account.dropped(reason)));
    let sides = [
        (Outcome::Accepted, account.accepted),
        (Outcome::Delivered, account.delivered),
        (Outcome::Returned, account.returned),
        (Outcome::Backfilled, account.backfilled),
        (Outcome::Retried, account.retried),
        (Outcome::Stored, account.stored),
        (Outcome::Vanished, account.vanished),
        (Outcome::Lost, account.lost),
    ];
    let all = sides.into_iter().chain(dropped).filter(|(_, quantity)| *quantity > 0);
    all.map(|(outcome, quantity)| Posting { key: key.clone(), outcome, quantity }).collect()
}

impl Storage for Node {
    fn protect(&self, _: Primaries) {}

    fn split(&self, projects: Vec<Arc<str>>) {
        self.cluster.lock().projects = projects.into_iter().collect();
    }

    fn measure(&self) -> BoxFuture<'_, Result<Measures, JournalError>> {
        self.call(|state| {
            let (part, mut takers) = (state.part(), state.takers());
            for project in &state.projects {
                takers.entry(Arc::clone(project)).or_default();
            }
            let own = |project: &Arc<str>| part.filter(|_| state.projects.contains(project));
            let share = |(project, bytes)| Share { part: part.map(|_| own(&project).unwrap_or(0)), project, bytes };
            let mut shares: Vec<Share> = takers.into_iter().map(share).collect();
            shares.sort_by_key(|share| std::cmp::Reverse(share.bytes));
            let space = Space { used: state.used(), files: 0, disk_free: None };
            Ok(Measures { space, shares, nodes: state.known(self.owner), ..Measures::default() })
        })
    }

    fn writable(&self) -> BoxFuture<'_, Result<(), JournalError>> {
        self.call(|state| if state.used() < state.max { Ok(()) } else { Err(full()) })
    }

    fn close(&self, _: Duration) -> BoxFuture<'_, ()> {
        self.is_closed.store(true, Ordering::Release);
        self.cluster.bury(self.owner);
        Box::pin(ready(()))
    }
}

fn full() -> JournalError {
    JournalError::Full("no more fits into the memory that the nodes share".into())
}

impl State {
    /// The nodes as the node `own` reports them.
    fn known(&mut self, own: u64) -> Vec<crate::journal::Node> {
        let leases: Vec<u64> =
            self.all_waiting().filter_map(|waiting| waiting.lease).map(|lease| lease.owner).collect();
        let known = self.nodes.iter().map(|(owner, member)| crate::journal::Node {
            name: member.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_at: member.started_at,
            is_alive: true,
            is_own: *owner == own,
            leases: leases.iter().filter(|leased| *leased == owner).count() as u64,
            spilled: 0,
            spilled_bytes: 0,
            leads: self.plane.leads(*owner),
            differs: member.differs.clone(),
        });
        let mut known: Vec<_> = known.collect();
        known.sort_by(|one, other| one.name.cmp(&other.name));
        known
    }

    fn used(&self) -> u64 {
        self.takers().values().sum::<u64>() + self.drafts.of_nobody()
    }

    /// The bytes that each project takes.
    fn takers(&self) -> BTreeMap<Arc<str>, u64> {
        let mut takers = self.drafts.takers();
        for stored in self.records.values() {
            *takers.entry(Arc::clone(&stored.record.project)).or_default() += room_of(&stored.record.body);
        }
        takers
    }

    /// The share of each project; `None` with a single project.
    fn part(&self) -> Option<u64> {
        (self.projects.len() > 1).then(|| self.max / 2 / self.projects.len() as u64)
    }

    /// Prunes records until `need` more bytes of a project fit.
    pub(super) fn make_room(&mut self, project: Option<&Arc<str>>, need: u64) -> Result<(), JournalError> {
        loop {
            let (used, left) = (self.used(), self.left_for_others(project, need));
            if used + need + left <= self.max {
                return Ok(());
            }
            let oldest = || self.records.keys().copied().find(|id| self.may_go(*id));
            let Some(oldest) = project.and_then(|_| oldest()) else {
                let is_share = used + need <= self.max;
                return Err(if is_share { JournalError::Share("what is left is for others".into()) } else { full() });
            };
            self.records.remove(&oldest);
        }
    }

    /// The bytes that a project over its share must leave free.
    fn left_for_others(&self, project: Option<&Arc<str>>, need: u64) -> u64 {
        let Some(part) = self.part().filter(|_| self.used() + need > self.max / 2) else { return 0 };
        let takers = self.takers();
        let has = |project: &Arc<str>| takers.get(project).copied().unwrap_or(0);
        let own = project.filter(|project| self.projects.contains(*project));
        if own.is_some_and(|own| has(own) + need <= part) {
            return 0;
        }
        let others = self.projects.iter().filter(|other| Some(*other) != own);
        others.map(|other| part.saturating_sub(has(other))).sum()
    }
}
