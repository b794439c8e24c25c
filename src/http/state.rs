//! What the listeners share with the rest of the daemon.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::clock::{Clock, Timestamp};
use crate::delivery::board::Board;
use crate::delivery::settings::Settings as Upstream;
use crate::delivery::verifier::Verifier;
use crate::intake::browsers::Browsers;
use crate::intake::submit::Intake;
use crate::journal::Journal;
use crate::policy::routing::Routing;
use crate::policy::storm::Storms;
use crate::tasks::Tasks;
use crate::telemetry::ledger::Ledger;
use crate::telemetry::log::Damper;
use crate::telemetry::metrics::{Metrics, Refused};
use crate::telemetry::report::criteria;
use crate::telemetry::status::{ConfigStatus, Status};
use crate::units::Secret;

use super::admin::Control;
use super::doors::Doors;
use super::proxy::Proxy;
use super::room::Room;
use super::scrape;
use super::session::Sessions;
use super::settings::{Server, TunnelPath};
use super::tls::Certificate;
use super::verdict;

/// Whether the daemon can accept submissions now. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Readiness {
    journal: Arc<dyn Journal>,
    draining: CancellationToken,
}

impl Readiness {
    /// Ready as long as the journal takes records and `draining` has not begun.
    pub fn new(journal: Arc<dyn Journal>, draining: CancellationToken) -> Self {
        Self { journal, draining }
    }

    /// Why not, when not. An upstream's outage is no reason.
    pub fn not_ready(&self) -> Option<String> {
        if self.draining.is_cancelled() {
            return Some("shutting down".to_owned());
        }
        self.journal.writable().err().map(|error| error.to_string())
    }
}

/// What the public listener works with. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Public {
    pub(super) intake: Intake,
    pub(super) room: Room,
    pub(super) proxy: Proxy,
    pub(super) certificate: Arc<ArcSwapOption<Certificate>>,
    pub(super) server: Arc<ArcSwap<Server>>,
    pub(super) doors: Doors,
    pub(super) metrics: Metrics,
    /// For the lines about refusals, by reason and by project, or by the upstream that did not answer.
    pub(super) damper: Damper<(Refused, Box<str>)>,
    pub(super) readiness: Readiness,
    pub(super) tunnel: Option<TunnelPath>,
}

impl Public {
    /// The public listener's state. Answers of the primary are passed on in `tasks`.
    pub fn new(intake: Intake, server: &Server, metrics: Metrics, readiness: Readiness, tasks: Tasks) -> Self {
        Self {
            intake,
            room: Room::new(server.max_body, server.max_inflight_bytes),
            proxy: Proxy::new(tasks),
            certificate: Arc::default(),
            server: Arc::new(ArcSwap::from_pointee(server.clone())),
            doors: Doors::of_clients(metrics.open_connections.clone()),
            metrics,
            damper: Damper::new(),
            readiness,
            tunnel: server.tunnel.clone(),
        }
    }

    /// Follows a changed configuration. New connections are served with `certificate`, or without TLS when there is none.
    pub fn configure(
        &self,
        server: &Server,
        certificate: Option<Certificate>,
        upstreams: &BTreeMap<Arc<str>, Upstream>,
    ) {
        self.certificate.store(certificate.map(Arc::new));
        self.server.store(Arc::new(server.clone()));
        self.proxy.configure(upstreams);
    }
}

/// What of the configuration the admin listener shows.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// Who gets what.
    pub routing: Arc<Routing>,
    /// The configured upstreams, each with its `max_age`.
    pub upstreams: BTreeMap<Arc<str>, Duration>,
    /// What each of them is spared while it is not the primary, in words; absent, nothing.
    pub spared: BTreeMap<Arc<str>, String>,
    /// What a candidate must achieve.
    pub report: criteria::Settings,
    /// How long delivered envelopes are kept.
    pub retain: Duration,
    /// The file and its state.
    pub config: ConfigStatus,
    /// The token of the admin listener.
    pub token: Option<Secret>,
    /// Whether this machine may read without it.
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
    pub(super) readiness: Readiness,
    pub(super) control: Control,
    pub(super) sessions: Sessions,
    /// Notified when a backfill begins.
    pub(super) backfill_begun: Arc<Notify>,
    /// Held while the metrics are brought up to date and written: two at once would count what is new twice.
    pub(super) scraping: Arc<tokio::sync::Mutex<()>>,
    /// Whether the candidate is ready, as the page said last.
    pub(super) verdict: Arc<verdict::Last>,
}

impl Admin {
    /// The admin listener's state; it shows nothing until [`Admin::configure`].
    pub fn new(
        (journal, ledger): (Arc<dyn Journal>, Ledger),
        (board, verifier): (Board, Verifier),
        metrics: Metrics,
        clock: Clock,
        readiness: Readiness,
        control: Control,
    ) -> Self {
        let started_at = clock.now();
        Self {
            view: Arc::default(),
            journal,
            ledger,
            board,
            verifier,
            metrics,
            clock,
            started_at,
            readiness,
            control,
            sessions: Sessions::default(),
            backfill_begun: Arc::default(),
            scraping: Arc::default(),
            verdict: Arc::default(),
        }
    }

    /// Follows a changed configuration, or a changed state of its file. Another token ends all sessions.
    pub fn configure(&self, view: View) {
        let token = view.token.clone();
        let before = self.view.swap(Arc::new(view));
        if before.token != token {
            self.sessions.end_all();
        }
    }

    /// The status now.
    pub async fn status(&self) -> Status {
        scrape::status(self).await
    }

    /// Waits until a backfill is begun.
    pub async fn backfill_begun(&self) {
        self.backfill_begun.notified().await;
    }

    /// What is shown now.
    pub fn view(&self) -> View {
        View::clone(&self.view.load())
    }
}
