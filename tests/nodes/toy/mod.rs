//! A backend that several relays share, in the memory of this process, behind one lock that every call takes.
//!
//! Its only aim is to be obviously right: it finds waiting records by visiting every record. A [`Node`] has a name, an owner number and a
//! ledger. Every change of an account goes to the ledgers of all nodes. A node that dies says nothing: its leases expire, or a test that
//! knows of its death calls [`Cluster::bury`].

mod archive;
mod bodies;
mod facts;
mod log;
mod pace;
mod plane;
mod queues;
mod redelivery;
mod storage;
mod verification;

use std::collections::{BTreeMap, BTreeSet};
use std::future::ready;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::clock::{Clock, Timestamp};
use crate::journal::term::Epoch;
use crate::journal::verification::Verification;
use crate::journal::*;
use crate::policy::outcome::{DropReason, Outcome};
use crate::protocol::category::{Category, Quantities};
use crate::telemetry::ledger::{Account, AccountKey, Ledger, Posting};

/// The state that nodes share.
#[derive(Clone, Debug)]
pub(crate) struct Cluster(Arc<Mutex<State>>);

/// One of the relays that share a [`Cluster`].
#[derive(Debug)]
pub(crate) struct Node {
    cluster: Cluster,
    name: String,
    owner: u64,
    is_closed: AtomicBool,
    /// Cancelled when another node has taken the name of this one.
    replaced: CancellationToken,
}

#[derive(Debug)]
struct State {
    clock: Clock,
    /// The maximum room of bodies and records, in bytes.
    max: u64,
    nodes: BTreeMap<u64, Member>,
    /// Whether every settlement fails.
    is_broken: bool,
    /// The duration of a lease.
    lease_time: Duration,
    /// The number of lease extensions that will still fail, and of those that succeeded.
    extensions: (u32, u32),
    /// The last number given to a node.
    owner: u64,
    /// The last number given to a lease.
    lease: u64,
    /// The last number given to a record.
    last: u64,
    targets: Targets,
    records: BTreeMap<u64, Stored>,
    /// By hour and account.
    accounts: BTreeMap<(u64, AccountKey), Account>,
    /// The postings of the current call, each with its hour.
    news: Vec<(u64, Posting)>,
    /// The targets whose workers the current call wakes.
    woken: BTreeSet<TargetId>,
    projects: BTreeSet<Arc<str>>,
    drafts: bodies::Drafts,
    redelivery: redelivery::Kept,
    facts: facts::Kept,
    pace: pace::Kept,
    plane: plane::Kept,
}

/// The state of a node.
#[derive(Debug)]
struct Member {
    name: String,
    started_at: Timestamp,
    replaced: CancellationToken,
    ledger: Ledger,
    changed: BTreeMap<TargetId, Arc<Notify>>,
    /// The limits that it has used lately.
    busy: BTreeSet<crate::journal::pace::Limited>,
    /// The settings in which its file differs from the common part.
    differs: Vec<String>,
}

/// A record, and its standing with each target that knows of it.
#[derive(Debug)]
struct Stored {
    record: Arc<Record>,
    keys: Vec<u128>,
    standing: BTreeMap<TargetId, Standing>,
    /// The targets that never got the record, or a part of it.
    missed: BTreeMap<TargetId, archive::Fate>,
}

#[derive(Debug)]
enum Standing {
    /// The target was not meant to get it.
    Withheld(DropReason),
    Waiting(Waiting),
    Settled,
}

#[derive(Debug, Default)]
struct Waiting {
    /// The time of the next try; `None` before the first.
    due: Option<Timestamp>,
    /// Whether a backfill took it up and nobody has tried it since.
    is_backfilled: bool,
    progress: Progress,
    quantities: Quantities,
    lease: Option<Lease>,
}

impl Cluster {
    /// A cluster without nodes and records, with room for `max` bytes.
    pub(crate) fn new(max: u64) -> Self {
        Self(Arc::new(Mutex::new(State {
            clock: Clock::system(),
            max,
            nodes: BTreeMap::new(),
            is_broken: false,
            lease_time: LEASE,
            extensions: (0, 0),
            owner: 0,
            lease: 0,
            last: 0,
            targets: Targets::default(),
            records: BTreeMap::new(),
            accounts: BTreeMap::new(),
            news: vec![],
            woken: BTreeSet::new(),
            projects: BTreeSet::new(),
            drafts: bodies::Drafts::default(),
            redelivery: redelivery::Kept::default(),
            facts: facts::Kept::default(),
            pace: pace::Kept::default(),
            plane: plane::Kept::default(),
        })))
    }

    /// Adds a node, which replaces an earlier one of its name. Its ledger begins with the totals.
    pub(crate) fn join(&self, name: &str, ledger: Ledger) -> Node {
        let state = &mut *self.lock();
        let earlier = state.nodes.iter().find(|(_, member)| member.name == name).map(|(owner, _)| *owner);
        if let Some(replaced) = earlier.and_then(|owner| state.bury(owner)) {
            replaced.cancel();
        }
        for ((_, key), account) in &state.accounts {
            ledger.post(&storage::postings(key, account));
        }
        state.owner += 1;
        let (name, replaced) = (name.to_owned(), CancellationToken::new());
        let member = Member {
            name: name.clone(),
            started_at: state.clock.now(),
            replaced: replaced.clone(),
            ledger,
            changed: BTreeMap::new(),
            busy: BTreeSet::new(),
            differs: vec![],
        };
        state.nodes.insert(state.owner, member);
        Node { cluster: self.clone(), name, owner: state.owner, is_closed: AtomicBool::new(false), replaced }
    }

    /// Removes a node: its leases are free again, and its later calls fail.
    pub(crate) fn bury(&self, owner: u64) {
        self.lock().bury(owner);
    }

    /// Makes every settlement fail, or succeed again.
    pub(crate) fn set_broken(&self, is_broken: bool) {
        self.lock().is_broken = is_broken;
    }

    /// Sets the duration of new leases, and makes the next `failures` extensions fail.
    pub(crate) fn set_leases(&self, lease_time: Duration, failures: u32) {
        let mut state = self.lock();
        (state.lease_time, state.extensions) = (lease_time, (failures, 0));
    }

    /// The number of lease extensions that will still fail, and of those that succeeded.
    pub(crate) fn extensions(&self) -> (u32, u32) {
        self.lock().extensions
    }

    /// Ends all leases, as if their time had passed.
    pub(crate) fn end_leases(&self) {
        let state = &mut *self.lock();
        let now = Instant::now();
        for lease in state.all_waiting().filter_map(|waiting| waiting.lease.as_mut()) {
            lease.ends = now;
        }
        state.woken = state.targets.iter().map(|(target, _)| target).collect();
        state.publish();
    }

    /// The number of leases that a node holds.
    pub(crate) fn leased_by(&self, owner: u64) -> usize {
        self.lock().all_waiting().filter(|waiting| waiting.lease.is_some_and(|lease| lease.owner == owner)).count()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no test panics while holding it")
    }
}

impl Node {
    /// The owner number of the node.
    pub(crate) fn owner(&self) -> u64 {
        self.owner
    }

    /// The name of the node.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Runs a call under the lock.
    fn now<T>(&self, act: impl FnOnce(&mut State) -> Result<T, JournalError>) -> Result<T, JournalError> {
        let mut state = self.cluster.lock();
        if self.is_closed.load(Ordering::Acquire) || !state.nodes.contains_key(&self.owner) {
            return Err(JournalError::Closed);
        }
        state.plane.check(Epoch::current())?;
        let answer = act(&mut state);
        state.publish();
        answer
    }

    /// Runs a call when the future is first polled; dropping it before that has no effect.
    fn call<'a, T>(
        &'a self,
        act: impl FnOnce(&mut State) -> Result<T, JournalError> + Send + 'a,
    ) -> BoxFuture<'a, Result<T, JournalError>> {
        Box::pin(async move { self.now(act) })
    }
}

impl Journal for Node {
    fn verification(&self) -> &dyn Verification {
        self
    }

    fn pace(&self) -> Option<&dyn Pace> {
        Some(self)
    }

    fn control_plane(self: Arc<Self>) -> Option<Arc<dyn ControlPlane>> {
        Some(self)
    }
}

impl State {
    /// Removes a node and its leases; returns the token that tells it of its replacement.
    fn bury(&mut self, owner: u64) -> Option<CancellationToken> {
        let member = self.nodes.remove(&owner);
        self.drafts.bury(owner);
        for waiting in self.all_waiting() {
            waiting.lease.take_if(|lease| lease.owner == owner);
        }
        self.woken = self.targets.iter().map(|(target, _)| target).collect();
        self.publish();
        member.map(|member| member.replaced)
    }

    /// Posts an outcome in the account of a target; without a target, in that of the intake.
    fn post(
        &mut self,
        at: Timestamp,
        target: Option<TargetId>,
        project: &Arc<str>,
        outcome: Outcome,
        much: &Quantities,
    ) {
        let upstream = target.and_then(|target| self.targets.name(target).cloned());
        for (category, quantity) in much.iter().filter(|(_, quantity)| *quantity > 0) {
            let key = AccountKey { upstream: upstream.clone(), project: Arc::clone(project), category };
            self.news.push((at.hour(), Posting { key, outcome, quantity }));
        }
    }

    /// Posts that a target will not get a part of a record, and records the loss for its client report.
    fn drop_of(&mut self, (at, target): (Timestamp, TargetId), record: &Record, reason: DropReason, much: &Quantities) {
        self.post(at, Some(target), &record.project, Outcome::Dropped(reason), much);
        let Some(reason) = reason.reported_as() else { return };
        let transactions = much.iter().find(|(category, _)| *category == Category::Transaction);
        let spans = transactions.map(|(_, count)| (Category::Span, losses::spans_in(&record.body).max(count)));
        for (category, quantity) in much.iter().chain(spans) {
            let project = Arc::clone(&record.project);
            self.facts.lose(losses::Loss { target, project, reason, category, quantity });
        }
    }

    /// Applies the call's postings to the accounts and the ledgers of all nodes, and wakes the workers.
    fn publish(&mut self) {
        let news = std::mem::take(&mut self.news);
        for (hour, posting) in &news {
            let account = self.accounts.entry((*hour, posting.key.clone())).or_default();
            account.post(posting.outcome, posting.quantity);
        }
        let woken = std::mem::take(&mut self.woken);
        for node in self.nodes.values() {
            node.ledger.post(news.iter().map(|(_, posting)| posting));
            woken.iter().filter_map(|target| node.changed.get(target)).for_each(|changed| changed.notify_one());
        }
    }

    /// Everything that waits, for all targets.
    fn all_waiting(&mut self) -> impl Iterator<Item = &mut Waiting> {
        let all = self.records.values_mut().flat_map(|stored| stored.standing.values_mut());
        all.filter_map(|standing| match standing {
            Standing::Waiting(waiting) => Some(waiting),
            _ => None,
        })
    }

    /// Everything that waits for a target, in the order of acceptance.
    fn waiting(&mut self, target: TargetId) -> impl Iterator<Item = (u64, &Arc<Record>, &mut Waiting)> {
        self.records.iter_mut().filter_map(move |(id, stored)| match stored.standing.get_mut(&target) {
            Some(Standing::Waiting(waiting)) => Some((*id, &stored.record, waiting)),
            _ => None,
        })
    }
}
