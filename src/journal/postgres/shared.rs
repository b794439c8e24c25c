//! The state that the parts of the backend share.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::clock::{Clock, Timestamp};
use crate::journal::term::Epoch;
use crate::journal::{Settings, Stats, TargetId};
use crate::telemetry::ledger::Ledger;

use super::connect::{Connection, Connector, Pen, Pool};
use super::fault::Fault;
use super::hand::Hand;
use super::over::Over;
use super::room::Room;
use super::spill::Spill;
use super::term::{self, Term};
use super::verification::Passed;

/// How long after the database last heard from it a relay stops handing out records: a little before others may take it for gone.
const DOUBTFUL: Duration = Duration::from_secs(12);
/// A longer time without being heard is a gap in [`Heard`].
const GAP: Duration = Duration::from_secs(5);

/// The state that the parts share.
pub(super) struct Shared {
    pub(super) settings: Settings,
    pub(super) clock: Clock,
    pub(super) ledger: Ledger,
    /// The runtime that serves connections and runs calls, so that a caller that goes away leaves none half done.
    pub(super) runtime: Handle,
    pub(super) connector: Arc<Connector>,
    pub(super) pool: Pool,
    pub(super) pen: Arc<tokio::sync::Mutex<Pen>>,
    /// The number of this start of this relay, and its time.
    pub(super) incarnation: i32,
    pub(super) started_at: Timestamp,
    /// The number of live relays at that time, this one included.
    pub(super) joined: u32,
    /// The last record number that was given, without its incarnation.
    last: AtomicI64,
    /// The store for submissions while no server takes writes.
    pub(super) spill: Spill,
    /// Whether no server took writes at the last attempt.
    is_away: AtomicBool,
    term: Term,
    names: ArcSwap<Names>,
    hands: RwLock<HashMap<TargetId, Arc<Hand>>>,
    /// The position of pruning: the acceptance time and the number of the last record that it looked at.
    pub(super) pruned: Mutex<(i64, i64)>,
    /// The days that have a partition for bodies, as read last.
    pub(super) days: ArcSwap<Vec<i64>>,
    over: Mutex<Over>,
    /// The numbers of large bodies that were dropped before they had a record.
    dropped_bodies: Mutex<Vec<i64>>,
    heard: Mutex<Heard>,
    pub(super) is_closed: AtomicBool,
    /// Cancelled when another relay has taken our name.
    pub(super) is_replaced: CancellationToken,
    stats: Mutex<Stats>,
    pub(super) set_aside: AtomicU64,
    pub(super) room: Room,
    /// Notified when another relay may have told something.
    pub(super) stirred: Notify,
    /// The frontiers of targets at times in the past.
    pub(super) passed: Passed,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("incarnation", &self.incarnation).finish_non_exhaustive()
    }
}

/// When the database heard from this relay.
#[derive(Clone, Copy, Debug)]
pub(super) struct Heard {
    /// The beginning of the time without a gap.
    pub(super) since: Instant,
    pub(super) last: Instant,
}

impl Heard {
    fn now() -> Self {
        let now = Instant::now();
        Self { since: now, last: now }
    }

    /// Reports that the database heard from this relay at this time.
    pub(super) fn note(&mut self, at: Instant) {
        if self.last.elapsed() > GAP {
            self.since = at;
        }
        self.last = at;
    }
}

/// The names of targets and projects by their numbers.
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    targets: Vec<(i16, Arc<str>)>,
    projects: HashMap<i32, Arc<str>>,
    numbers: HashMap<Arc<str>, i32>,
}

impl Names {
    /// The names with those that were read. No name is ever removed, so two readers at once take none from each other.
    fn with(&self, targets: &[(i16, Arc<str>)], projects: &[(i32, Arc<str>)]) -> Self {
        let mut names = self.clone();
        if targets.len() > names.targets.len() {
            names.targets = targets.to_vec();
        }
        for (number, name) in projects {
            names.numbers.insert(Arc::clone(name), *number);
            names.projects.insert(*number, Arc::clone(name));
        }
        names
    }

    /// Returns whether some of the names that were read are not known yet.
    fn lack(&self, targets: &[(i16, Arc<str>)], projects: &[(i32, Arc<str>)]) -> bool {
        targets.len() > self.targets.len() || projects.iter().any(|(number, _)| !self.projects.contains_key(number))
    }

    pub(super) fn target(&self, number: i16) -> Option<&Arc<str>> {
        self.targets.iter().find(|(known, _)| *known == number).map(|(_, name)| name)
    }

    /// The name of a target, to be said.
    pub(super) fn upstream(&self, target: TargetId) -> &str {
        self.target(target.0.into()).map_or("", |name| &**name)
    }

    pub(super) fn targets(&self) -> impl Iterator<Item = (TargetId, &Arc<str>)> {
        self.targets.iter().map(|(number, name)| (TargetId(u8::try_from(*number).unwrap_or(u8::MAX)), name))
    }

    pub(super) fn project(&self, number: i32) -> Option<&Arc<str>> {
        self.projects.get(&number)
    }

    pub(super) fn number(&self, project: &str) -> Option<i32> {
        self.numbers.get(project).copied()
    }
}

/// The parts to make a [`Shared`] from.
pub(super) struct Start {
    pub(super) settings: Settings,
    pub(super) clock: Clock,
    pub(super) ledger: Ledger,
    pub(super) runtime: Handle,
    pub(super) connector: Arc<Connector>,
    pub(super) pool: Pool,
    pub(super) incarnation: i32,
    pub(super) joined: u32,
    pub(super) started_at: Timestamp,
    pub(super) spill: Spill,
}

impl Shared {
    pub(super) fn new(start: Start) -> Self {
        let room = Room::new(start.settings.max_size.get());
        let Start { settings, clock, ledger, runtime, connector, pool, incarnation, joined, started_at, spill } = start;
        Self {
            settings,
            clock,
            ledger,
            runtime,
            connector,
            pool,
            pen: Arc::default(),
            incarnation,
            started_at,
            joined,
            last: AtomicI64::new(0),
            spill,
            is_away: AtomicBool::new(false),
            term: Term::default(),
            names: ArcSwap::default(),
            hands: RwLock::default(),
            pruned: Mutex::new((i64::MIN, 0)),
            days: ArcSwap::default(),
            over: Mutex::default(),
            dropped_bodies: Mutex::default(),
            heard: Mutex::new(Heard::now()),
            is_closed: AtomicBool::new(false),
            is_replaced: CancellationToken::new(),
            stats: Mutex::default(),
            set_aside: AtomicU64::new(0),
            room,
            stirred: Notify::new(),
            passed: Passed::default(),
        }
    }

    /// Reserves `count` record numbers and returns the first.
    pub(super) fn number(&self, count: i64) -> i64 {
        (i64::from(self.incarnation) << 40) + self.last.fetch_add(count, Ordering::AcqRel) + 1
    }

    /// Returns whether no server took writes at the last attempt.
    pub(super) fn is_away(&self) -> bool {
        self.is_away.load(Ordering::Acquire)
    }

    /// Records whether no server takes writes, and returns the previous value.
    pub(super) fn set_away(&self, is_away: bool) -> bool {
        self.is_away.swap(is_away, Ordering::AcqRel)
    }

    /// What is known of past days of bodies.
    pub(super) fn over(&self) -> MutexGuard<'_, Over> {
        self.over.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The numbers of large bodies that were dropped before they had a record, to be removed.
    pub(super) fn dropped_bodies(&self) -> MutexGuard<'_, Vec<i64>> {
        self.dropped_bodies.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When the database heard from this relay.
    pub(super) fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns whether other relays may take this one for gone, now or in a moment. It hands out nothing then.
    pub(super) fn may_be_gone(&self) -> bool {
        self.heard().last.elapsed() > DOUBTFUL
    }

    /// A pooled connection, to read or to change what is in no account.
    pub(super) async fn client(&self) -> Result<super::connect::Pooled, Fault> {
        pooled(&self.pool).await
    }

    /// The fault of a change that found no row of this relay: another relay has its name, unless that server was the primary before this
    /// relay entered.
    pub(super) async fn replaced(&self, client: &Connection) -> Fault {
        match client.make_certain().await {
            Ok(()) => {
                self.is_replaced.cancel();
                Fault::Failed("another relay has taken the name of this one".into())
            }
            Err(fault) => fault,
        }
    }

    /// The term of this relay if it leads now and for the time of a step; `None` if it does not, or if that is unknown.
    pub(super) async fn leads(&self) -> Option<Epoch> {
        let asks = async { term::ask(&*self.client().await?, self.incarnation).await };
        self.term.lead(self.connector.unless_given_up(asks)).await
    }

    /// The names that this relay knows.
    pub(super) fn names(&self) -> arc_swap::Guard<Arc<Names>> {
        self.names.load()
    }

    /// Reads the names. New ones are made certain: on another server the same number may stand for another name.
    pub(super) async fn know_names(&self) -> Result<(), Fault> {
        let client = self.client().await?;
        let targets = client.query("SELECT id, name FROM target ORDER BY id", &[]).await?;
        let projects = client.query("SELECT id, name FROM project", &[]).await?;
        let targets: Vec<(i16, Arc<str>)> =
            targets.iter().map(|row| (row.get(0), row.get::<_, &str>(1).into())).collect();
        let projects: Vec<(i32, Arc<str>)> =
            projects.iter().map(|row| (row.get(0), row.get::<_, &str>(1).into())).collect();
        if self.names().lack(&targets, &projects) {
            client.make_certain().await?;
        }
        self.room.know(projects.iter().map(|(project, name)| (*project, name)));
        self.names.rcu(|known| known.with(&targets, &projects));
        Ok(())
    }

    /// Returns the number of a project; inserts a new project.
    pub(super) async fn project(&self, name: &str) -> Result<i32, Fault> {
        if let Some(number) = self.names().number(name) {
            return Ok(number);
        }
        let client = self.client().await?;
        client.execute("INSERT INTO project (name) VALUES ($1) ON CONFLICT DO NOTHING", &[&name]).await?;
        drop(client);
        self.know_names().await?;
        self.names().number(name).ok_or_else(|| Fault::Failed(format!("the project {name:?} is not kept")))
    }

    /// This relay's hand of a target.
    pub(super) fn hand(&self, target: TargetId) -> Arc<Hand> {
        if let Some(hand) = self.hands.read().unwrap_or_else(PoisonError::into_inner).get(&target) {
            return Arc::clone(hand);
        }
        let mut hands = self.hands.write().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(hands.entry(target).or_default())
    }

    /// The hands of all targets.
    pub(super) fn hands(&self) -> Vec<(TargetId, Arc<Hand>)> {
        let hands = self.hands.read().unwrap_or_else(PoisonError::into_inner);
        hands.iter().map(|(target, hand)| (*target, Arc::clone(hand))).collect()
    }

    /// Notifies workers that there may be more to claim.
    pub(super) fn wake(&self, targets: impl IntoIterator<Item = TargetId>) {
        for target in targets {
            self.hand(target).wake();
        }
    }

    /// Counts a commit with its duration, or an error if it failed.
    pub(super) fn count_commit(&self, took: Duration, worked: bool) {
        let mut stats = self.stats.lock().unwrap_or_else(PoisonError::into_inner);
        if !worked {
            stats.errors += 1;
            return;
        }
        stats.commits[Stats::class(took)] += 1;
        stats.commit_time += took;
    }

    /// The statistics of the storage so far.
    pub(super) fn stats(&self) -> MutexGuard<'_, Stats> {
        let mut stats = self.stats.lock().unwrap_or_else(PoisonError::into_inner);
        stats.set_aside = self.set_aside.load(Ordering::Relaxed);
        stats
    }
}

/// Takes a connection from a pool.
pub(super) async fn pooled(pool: &Pool) -> Result<super::connect::Pooled, Fault> {
    use deadpool::managed::PoolError;
    pool.get().await.map_err(|error| match error {
        PoolError::Backend(fault) => fault,
        other => Fault::Failed(format!("no connection to PostgreSQL: {other}")),
    })
}
