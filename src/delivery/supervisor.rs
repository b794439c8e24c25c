//! Starts and stops the workers as the configuration says.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::clock::{Clock, Timestamp};
use crate::journal::{Journal, TargetId, Targets};
use crate::policy::cooldown::Cooldowns;
use crate::policy::routing::Routing;
use crate::tasks::Tasks;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::observations::Observations;

use super::board::Board;
use super::compress::Packs;
use super::pace::Paces;
use super::quirks;
use super::settings::Settings;
use super::watch::Watch;
use super::worker::{Surroundings, Worker};

/// How long requests of a removed upstream may be under way before a warning.
const PATIENCE: Duration = Duration::from_secs(10);

/// The workers of all upstreams.
#[derive(Debug)]
pub struct Supervisor {
    journal: Arc<dyn Journal>,
    routing: Arc<ArcSwap<Routing>>,
    clock: Clock,
    /// The clock's epoch when the workers last heard of it.
    epoch: Timestamp,
    board: Board,
    cooldowns: Cooldowns,
    metrics: Metrics,
    observations: Observations,
    packs: Packs,
    paces: Paces,
    tasks: Tasks,
    workers: BTreeMap<Arc<str>, Running>,
    /// The last worker of each upstream that was removed. It may still have requests under way.
    removed: BTreeMap<Arc<str>, Tasks>,
}

#[derive(Debug)]
struct Running {
    target: TargetId,
    tasks: Tasks,
    settings: Arc<ArcSwap<Settings>>,
}

impl Supervisor {
    /// A supervisor without workers yet, which will run among `tasks`.
    pub fn new(
        journal: Arc<dyn Journal>,
        clock: Clock,
        (metrics, observations): (Metrics, Observations),
        tasks: Tasks,
    ) -> Self {
        let paces = Paces::new(journal.pace().is_some());
        let (routing, board, cooldowns) = (Arc::default(), Board::default(), Cooldowns::default());
        let (epoch, workers, removed) = (clock.epoch(), BTreeMap::new(), BTreeMap::new());
        Self {
            journal,
            routing,
            clock,
            epoch,
            board,
            cooldowns,
            metrics,
            observations,
            packs: Packs::default(),
            paces,
            tasks,
            workers,
            removed,
        }
    }

    /// The reports of the workers.
    pub fn board(&self) -> Board {
        self.board.clone()
    }

    /// What the upstreams take now, as their workers know it.
    pub fn cooldowns(&self) -> Cooldowns {
        self.cooldowns.clone()
    }

    /// The exchange of the workers with those of other relays.
    pub fn paces(&self) -> Paces {
        self.paces.clone()
    }

    /// Follows a configuration: running workers get new DSNs and settings, new upstreams get a worker, removed ones lose theirs. The
    /// backlog of a removed upstream stays in the journal until it expires. `known` are the journal's targets.
    pub fn configure(
        &mut self,
        routing: Arc<Routing>,
        known: &Targets,
        upstreams: &BTreeMap<Arc<str>, (TargetId, Settings)>,
    ) {
        self.routing.store(routing);
        for (_, name) in known.iter().filter(|(_, name)| !upstreams.contains_key(*name)) {
            self.observations.removed(name, self.clock.now());
        }
        let gone: Vec<Arc<str>> = self.workers.keys().filter(|name| !upstreams.contains_key(*name)).cloned().collect();
        for name in gone {
            if let Some(worker) = self.workers.remove(&name) {
                self.board.remove(&name);
                self.cooldowns.forget(&name);
                self.removed.insert(Arc::clone(&name), worker.tasks.clone());
                self.tasks.spawn("the end of a worker", async move {
                    if !worker.tasks.stop(PATIENCE).await {
                        let message = "requests of a removed upstream are still under way; put back, it gets others when they have ended";
                        tracing::warn!(upstream.name = &*name, "{message}");
                    }
                });
            }
        }
        for (name, (target, settings)) in upstreams {
            self.cooldowns.know(name, quirks::of(settings.kind).never_stores);
            match self.workers.get(name) {
                Some(worker) => {
                    worker.settings.store(Arc::new(settings.clone()));
                    // The worker may be asleep because of something that the configuration has just mended.
                    self.journal.changed(*target).notify_one();
                }
                None => self.start(name, *target, settings),
            }
        }
    }

    /// Wakes the workers when the clock was set, because the ends of their waits have moved.
    pub fn follow_clock(&mut self) {
        let epoch = self.clock.epoch();
        if std::mem::replace(&mut self.epoch, epoch) != epoch {
            self.workers.values().for_each(|worker| self.journal.changed(worker.target).notify_one());
        }
    }

    fn start(&mut self, name: &Arc<str>, target: TargetId, settings: &Settings) {
        let settings = Arc::new(ArcSwap::from_pointee(settings.clone()));
        let around = Surroundings {
            journal: Arc::clone(&self.journal),
            routing: Arc::clone(&self.routing),
            clock: self.clock.clone(),
            board: self.board.clone(),
            cooldowns: self.cooldowns.clone(),
            packs: self.packs.clone(),
            paces: self.paces.clone(),
            watch: Watch::new(name, &self.metrics, self.observations.clone()),
        };
        let tasks = self.tasks.child();
        let worker = Worker::new(Arc::clone(name), target, Arc::clone(&settings), around);
        let (before, stop) = (self.removed.remove(name), tasks.stopping().clone());
        tasks.spawn("a delivery worker", async move {
            // One worker at a time: requests under way belong to the one before.
            if let Some(before) = before {
                before.ended().await;
            }
            worker.run(stop).await;
        });
        self.workers.insert(Arc::clone(name), Running { target, tasks, settings });
    }

    /// Stops all workers; requests under way get up to `patience`. The backlog stays in the journal.
    pub async fn stop(&mut self, patience: Duration) {
        let all = std::mem::take(&mut self.workers);
        futures_util::future::join_all(
            all.into_values().map(|worker| async move { worker.tasks.stop(patience).await }),
        )
        .await;
    }
}
