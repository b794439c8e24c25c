//! What the admin listener shares with the rest of the daemon.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::Notify;

use crate::clock::{Clock, Timestamp};
use crate::delivery::board::Board;
use crate::delivery::verifier::Verifier;
use crate::http::readiness::Readiness;
use crate::intake::browsers::Browsers;
use crate::journal::{Journal, Targets};
use crate::policy::routing::Routing;
use crate::policy::storm::Storms;
use crate::telemetry::ledger::Ledger;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::pulse::Pulse;
use crate::telemetry::report::criteria;
use crate::telemetry::status::ConfigStatus;
use crate::units::Secret;

use super::names::Names;
use super::order::Control;
use super::session::Sessions;
use super::verdict::Last;

/// The parts of the configuration that the admin listener shows or needs.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// Which upstreams get what.
    pub routing: Arc<Routing>,
    /// The targets that the journal knows.
    pub targets: Targets,
    /// The configured upstreams, each with its `max_age`.
    pub upstreams: BTreeMap<Arc<str>, Duration>,
    /// What each upstream gets while it is not the primary, in words; absent if it gets everything.
    pub spared: BTreeMap<Arc<str>, String>,
    /// The criteria for a candidate.
    pub report: criteria::Settings,
    /// Whether canaries are sent.
    pub canaries: bool,
    /// How long delivered envelopes are kept.
    pub retain: Duration,
    /// The configuration file and its state.
    pub config: ConfigStatus,
    /// The token of the admin listener.
    pub token: Option<Secret>,
    /// Whether this machine may read without the token.
    pub open_on_loopback: bool,
    /// The host names that the admin listener answers to.
    pub hosts: Vec<String>,
    /// The storms of identical errors.
    pub storms: Storms,
    /// Which projects browsers use.
    pub browsers: Browsers,
}

/// What the admin listener works with. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Admin {
    pub(super) view: Arc<ArcSwap<View>>,
    pub(super) journal: Arc<dyn Journal>,
    pub(super) ledger: Ledger,
    pub(super) board: Board,
    pub(super) verifier: Verifier,
    pub(super) metrics: Metrics,
    pub(super) clock: Clock,
    pub(super) started_at: Timestamp,
    pub(super) pulse: Pulse,
    pub(super) readiness: Readiness,
    pub(super) control: Control,
    pub(super) sessions: Sessions,
    /// Notified when a backfill begins.
    pub(super) backfill_begun: Arc<Notify>,
    /// Held while the metrics are brought up to date and written: two at once would count new items twice.
    pub(super) scraping: Arc<tokio::sync::Mutex<()>>,
    /// The last answer of the status page on whether the candidate is ready.
    pub(super) verdict: Arc<Last>,
    /// The names of services that were searched for in the kept records.
    pub(super) kept_names: Arc<Names>,
}

impl Admin {
    /// Creates the state; it shows nothing until [`Admin::configure`].
    pub fn new(
        (journal, ledger): (Arc<dyn Journal>, Ledger),
        (board, verifier): (Board, Verifier),
        metrics: Metrics,
        (clock, pulse): (Clock, Pulse),
        readiness: Readiness,
        control: Control,
    ) -> Self {
        Self {
            view: Arc::default(),
            journal,
            ledger,
            board,
            verifier,
            metrics,
            clock,
            started_at: pulse.since(),
            pulse,
            readiness,
            control,
            sessions: Sessions::default(),
            backfill_begun: Arc::default(),
            scraping: Arc::default(),
            verdict: Arc::default(),
            kept_names: Arc::default(),
        }
    }

    /// Applies a changed configuration, or a changed state of its file. Another token ends all sessions.
    pub fn configure(&self, view: View) {
        let token = view.token.clone();
        let before = self.view.swap(Arc::new(view));
        if before.token != token {
            self.sessions.end_all();
        }
    }

    /// Waits until a backfill has begun.
    pub async fn backfill_begun(&self) {
        self.backfill_begun.notified().await;
    }

    /// A copy that keeps the present configuration, whatever comes into force meanwhile: a report is about one configuration.
    pub(super) fn of_now(&self) -> Self {
        Self { view: Arc::new(ArcSwap::new(self.view.load_full())), ..self.clone() }
    }

    /// What is shown now.
    pub fn view(&self) -> View {
        View::clone(&self.view.load())
    }
}
