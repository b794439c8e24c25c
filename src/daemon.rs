//! Assembly: the only file that sees every part. Start order, reload, shutdown order.
//!
//! Start: open the journal, bind the addresses, remember the recent keys of the journal, start the workers, serve the addresses. So
//! nothing is accepted before it can be kept, and a process that cannot bind its addresses sends nothing. Stop: the workers, the public
//! listener, the admin listener, the journal. So everything accepted is kept.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::signal::unix::Signal;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::config::diagnostics::Form;
use crate::config::{Config, Fingerprint, Loaded, diff};
use crate::delivery::settings::Settings;
use crate::delivery::supervisor::Supervisor;
use crate::delivery::verifier::Verifier;
use crate::http::{Admin, Listeners, Public, Readiness, SwitchOrder, View};
use crate::intake::submit::Intake;
use crate::journal::{Journal, JournalError, OpenError, Switch, TargetId, Targets};
use crate::policy::dedup::{Dedup, Keys};
use crate::policy::routing::Routing;
use crate::tasks::Tasks;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::observations::Observations;
use crate::telemetry::pulse::Pulse;
use crate::telemetry::status::ConfigStatus;

mod backend;
mod backfilling;
mod canary;
mod caps;
mod control;
mod heartbeat;
pub mod moving;
mod notifying;
mod pace_exchange;
mod remembering;
mod renewal;
mod reporting;
mod serving;
mod sharing;
mod stranded;
mod switching;
#[cfg(test)]
mod tests;
mod upkeep;
mod verifying;

pub use backend::Backend;
use control::Control;
use renewal::Renewal;
use serving::{Serving, bind};
use switching::{Announced, primaries};
use upkeep::Observed;

/// How long requests under way may take during a stop.
const REQUESTS_PATIENCE: Duration = Duration::from_secs(8);
/// How long requests of operators under way may take at the end of a stop.
const ADMIN_PATIENCE: Duration = Duration::from_secs(1);
/// How long deliveries under way may take during a stop; an interrupted one is repeated after the next start.
const DELIVERIES_PATIENCE: Duration = Duration::from_secs(4);
/// How long the last commit of the journal may take.
const JOURNAL_PAUSE: Duration = Duration::from_secs(10);

/// The options of a daemon.
#[derive(Debug)]
pub struct Options {
    /// The configuration file, watched while running.
    pub path: PathBuf,
    /// The content of the file.
    pub loaded: Loaded,
    /// The sockets from systemd, if any.
    pub listeners: Listeners,
    /// The clock.
    pub clock: Clock,
    /// SIGHUP, which asks for a reload. It is handled from before the start, because an earlier signal would end the process.
    pub hangup: Signal,
}

/// Why a daemon did not start, or could not go on.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The journal cannot be opened: exit code 74.
    #[error(transparent)]
    Journal(#[from] OpenError),
    /// A listener cannot be bound: exit code 69.
    #[error("cannot listen on {address}: {why}")]
    Listen {
        /// The address of the configuration.
        address: SocketAddr,
        /// The error of the system.
        why: std::io::Error,
    },
    /// A part of the daemon failed while running: exit code 70.
    #[error("{0}")]
    Failed(String),
}

impl From<JournalError> for DaemonError {
    fn from(error: JournalError) -> Self {
        Self::Failed(error.to_string())
    }
}

/// Runs on the journal that the configuration names until `stop` is cancelled. Calls `ready` once requests are accepted.
pub async fn run(options: Options, stop: CancellationToken, ready: impl FnOnce()) -> Result<(), DaemonError> {
    let backend = Backend::of(&options.loaded.config.journal, options.clock.clone()).await?;
    run_on(backend, options, stop, ready).await
}

/// Like [`run`], on any backend.
pub async fn run_on(
    backend: Backend,
    mut options: Options,
    stop: CancellationToken,
    ready: impl FnOnce(),
) -> Result<(), DaemonError> {
    let control = backend.control(&mut options).await?;
    let Options { path, loaded, listeners, clock, mut hangup } = options;
    let bound = bind(&loaded.config, listeners)?;
    let (path, draining) = (path.display().to_string(), stop.child_token());
    let mut daemon = Daemon::assemble(backend, control, path, loaded.config, clock, draining).await?;
    let serving = Serving::default();
    let addresses = daemon.serve(bound, &serving);
    let mut changed = daemon.control.watch(&daemon.tasks);
    let mut upkeep = interval(Duration::from_secs(1));
    upkeep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    daemon.announce_start(&addresses);
    ready();
    let outcome = loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break Ok(()),
            failure = daemon.tasks.first_failure() => break Err(DaemonError::Failed(failure)),
            failure = serving.public.first_failure() => break Err(DaemonError::Failed(failure)),
            failure = serving.admin.first_failure() => break Err(DaemonError::Failed(failure)),
            Some(order) = daemon.orders.recv() => daemon.carry_out(order).await,
            Some(()) = changed.recv() => daemon.reload(false).await,
            Some(()) = hangup.recv() => daemon.reload_as_asked().await,
            _ = upkeep.tick() => {
                daemon.keep_up().await;
                daemon.follow_certificate().await;
            }
        }
    };
    notify(NotifyState::Stopping);
    tracing::info!("stopping: finishing what is under way");
    daemon.stop(serving).await;
    outcome
}

/// Everything that runs, and its configuration.
struct Daemon {
    control: Arc<dyn Control>,
    config: Config,
    status: ConfigStatus,
    clock: Clock,
    metrics: Metrics,
    journal: Arc<dyn Journal>,
    /// The upstreams that the journal knows.
    targets: Targets,
    observations: Observations,
    observed: Observed,
    dedup: Dedup,
    intake: Intake,
    supervisor: Supervisor,
    verifier: Verifier,
    public: Public,
    admin: Admin,
    /// Cancelled as soon as the daemon is told to stop.
    draining: CancellationToken,
    tasks: Tasks,
    orders: mpsc::Receiver<SwitchOrder>,
    announced: Option<(Announced, Instant)>,
    /// Switches that the journal has not kept yet.
    unkept: VecDeque<Switch>,
    renewal: Renewal,
    /// The file as it was last applied.
    seen: Option<Fingerprint>,
    /// Since when client reports are collected.
    gathering: reporting::Gathering,
    receivers: notifying::Receivers,
}

impl Daemon {
    async fn assemble(
        backend: Backend,
        control: Arc<dyn Control>,
        path: String,
        config: Config,
        clock: Clock,
        draining: CancellationToken,
    ) -> Result<Self, DaemonError> {
        let Backend { journal, ledger, secret } = backend;
        let (metrics, tasks, keys) = (Metrics::new(), Tasks::new(), Keys::new(&secret));
        metrics.know_daemon(env!("CARGO_PKG_VERSION"), option_env!("SWITCHYARD_COMMIT").unwrap_or("unknown"));
        let dedup = Dedup::new(&config.dedup);
        remembering::remember(&dedup, &*journal, clock.now()).await?;
        let observations = Observations::default();
        let supervisor = Supervisor::new(
            Arc::clone(&journal),
            clock.clone(),
            (metrics.clone(), observations.clone()),
            tasks.child(),
        );
        let cooldowns = supervisor.cooldowns();
        let intake =
            Intake::new(Arc::clone(&journal), (dedup.clone(), keys), cooldowns, clock.clone(), metrics.clone());
        let readiness = Readiness::new(Arc::clone(&journal), draining.clone());
        let (order, orders) = mpsc::channel(8);
        let public = Public::new(intake.clone(), &config.server, metrics.clone(), readiness.clone(), tasks.clone());
        let verifier = Verifier::new(Arc::clone(&journal), clock.clone(), supervisor.board());
        let shown = (supervisor.board(), verifier.clone());
        let pulse = Pulse::new(clock.now(), clock.since_boot());
        let (observed, time) = (Observed::new(pulse.clone(), ledger.clone()), (clock.clone(), pulse));
        let admin = Admin::new((Arc::clone(&journal), ledger), shown, metrics.clone(), time, readiness, order);
        let mut daemon = Self {
            control,
            status: ConfigStatus { path, loaded_at: clock.now(), error: None },
            observed,
            observations,
            clock,
            metrics,
            journal,
            targets: Targets::default(),
            dedup,
            intake,
            supervisor,
            verifier,
            public,
            admin,
            draining,
            tasks,
            orders,
            announced: None,
            unkept: VecDeque::new(),
            renewal: Renewal::of(&config),
            seen: None,
            gathering: reporting::Gathering::new(),
            receivers: notifying::Receivers::default(),
            config: config.clone(),
        };
        daemon.apply(config).await?;
        pace_exchange::start(&daemon.tasks, &daemon.journal, daemon.supervisor.paces(), daemon.intake.clone()).await;
        let (journal, control) = (Arc::clone(&daemon.journal), Arc::clone(&daemon.control));
        backfilling::start(&daemon.tasks, journal, daemon.admin.clone(), control);
        daemon.start_notifying();
        daemon.start_beating();
        daemon.note_first_primary().await?;
        Ok(daemon)
    }

    /// Puts a configuration into force. The intake's view is replaced as a whole; that is the moment of a switch.
    async fn apply(&mut self, config: Config) -> Result<(), JournalError> {
        let routing = Arc::new(config.routing());
        let mut targets: HashMap<Arc<str>, TargetId> = HashMap::new();
        let mut upstreams = BTreeMap::new();
        for (name, settings) in &config.upstreams {
            let target = self.journal.target(name).await?;
            targets.insert(Arc::clone(name), target);
            upstreams.insert(Arc::clone(name), (target, settings.clone()));
        }
        self.targets = self.journal.targets().await?;
        caps::follow(self.intake.caps(), &config, &*self.journal, self.clock.now()).await?;
        for project in &config.projects {
            self.metrics.know_project(&project.name, project.dsns.keys().map(|upstream| &**upstream));
        }
        self.supervisor.configure(Arc::clone(&routing), &self.targets, &upstreams);
        self.dedup.configure(&config.dedup);
        self.public.configure(&config.server, config.certificate.clone(), &config.upstreams);
        self.journal.protect(primaries(&routing, &targets));
        self.journal.split(routing.projects.iter().map(|project| Arc::clone(&project.name)).collect());
        self.intake.expect(&config.report.expect);
        self.follow_trackers(&config, &targets);
        let shadows = config.upstreams.iter().filter(|(_, settings)| !settings.shadow.is_open());
        let shadows = shadows.map(|(name, settings)| (Arc::clone(name), settings.shadow.clone())).collect();
        self.intake.configure(Arc::clone(&routing), targets, &config.limits, shadows);
        self.receivers.store(Arc::new(config.notify.clone()));
        self.renewal.follow(&config);
        self.config = config;
        self.status.loaded_at = self.clock.now();
        self.status.error = None;
        self.show(routing);
        Ok(())
    }

    fn show(&self, routing: Arc<Routing>) {
        let max_age = |(name, settings): (&Arc<str>, &Settings)| (Arc::clone(name), settings.max_age.get());
        let upstreams = self.config.upstreams.iter().map(max_age).collect();
        let spared = |(name, settings): (&Arc<str>, &Settings)| {
            (!settings.shadow.is_open()).then(|| (Arc::clone(name), settings.shadow.to_string()))
        };
        let spared = self.config.upstreams.iter().filter_map(spared).collect();
        let (config, admin) = (self.status.clone(), self.config.admin.clone());
        let (token, open_on_loopback, hosts) = (admin.token, admin.open_on_loopback, admin.hosts);
        let (retain, report) = (self.config.journal.retain.get(), self.config.report.clone());
        let (storms, browsers) = (self.intake.storms().clone(), self.intake.browsers().clone());
        self.admin.configure(View {
            routing,
            targets: self.targets.clone(),
            upstreams,
            spared,
            retain,
            report,
            canaries: self.config.canary.interval.is_some(),
            config,
            token,
            open_on_loopback,
            hosts,
            storms,
            browsers,
        });
    }

    /// Loads the file again, because it changed or somebody asked for it. The whole file comes into force, or nothing.
    async fn reload(&mut self, is_asked: bool) {
        notify(NotifyState::Reloading);
        let outcome = match self.control.load(is_asked).await {
            Ok(loaded) => self.take_over(loaded).await,
            Err(error) => Err(error.render(Form::Log)),
        };
        if let Err(problem) = outcome {
            if is_asked || self.status.error.as_ref() != Some(&problem) {
                tracing::error!(config.path = self.status.path, "the changed configuration is not used:\n{problem}");
            }
            self.status.error = Some(problem);
            self.show(Arc::clone(&self.admin.view().routing));
        }
        notify(NotifyState::Ready);
    }

    async fn take_over(&mut self, loaded: Loaded) -> Result<(), String> {
        sharing::goes_over_to(&self.config, &loaded.config, (&self.status.path, &loaded))?;
        let changes = diff::changes(&self.config, &loaded.config);
        // The relay's own edit of the file is seen by the watch after it was applied.
        let before = self.seen.replace(loaded.fingerprint);
        let is_news = !changes.is_empty() || self.status.error.is_some() || before != self.seen;
        if is_news && !loaded.warnings.is_empty() {
            tracing::warn!("the configuration is used, but:\n{}", loaded.warnings.render(Form::Log));
        }
        let before = self.config.routing();
        self.apply(loaded.config).await.map_err(|error| error.to_string())?;
        if is_news {
            let changes = if changes.is_empty() { vec!["none".to_owned()] } else { changes };
            tracing::info!(changes = changes.join("; "), "the configuration was reloaded");
        }
        self.note_stranded(&before).await;
        self.note_switches(&before).await;
        Ok(())
    }

    async fn stop(mut self, serving: Serving) {
        self.draining.cancel();
        // Orders that wait, and later ones, are refused.
        self.orders.close();
        while self.orders.try_recv().is_ok() {}
        // The listener outlives the workers, because SDKs lose events at a closed port. Such events wait for the next start.
        self.supervisor.stop(DELIVERIES_PATIENCE).await;
        if !serving.public.stop(REQUESTS_PATIENCE).await {
            tracing::warn!("requests under way were cut off");
        }
        serving.admin.stop(ADMIN_PATIENCE).await;
        self.tasks.stop(Duration::ZERO).await;
        self.intake.keep_losses().await;
        self.keep_observations(self.clock.now(), true).await;
        self.keep_switches().await;
        self.journal.close(JOURNAL_PAUSE).await;
    }
}

/// Notifies systemd, if the daemon runs under it.
fn notify(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::debug!(%error, "systemd was not told");
    }
}
