//! What the public listener shares with the rest of the daemon.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};

use crate::delivery::settings::Settings as Upstream;
use crate::http::listener::doors::Doors;
use crate::http::listener::files;
use crate::http::listener::tls::Certificate;
use crate::http::readiness::Readiness;
use crate::http::settings::{Server, TunnelPath};
use crate::intake::submit::Intake;
use crate::tasks::Tasks;
use crate::telemetry::log::Damper;
use crate::telemetry::metrics::{Metrics, Refused};

use super::proxy::places::Proxy;
use super::room::Room;

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
    /// Limits the log lines about refusals, by reason and by project, or by the upstream that did not answer.
    pub(super) damper: Damper<(Refused, Box<str>)>,
    pub(super) readiness: Readiness,
    pub(super) tunnel: Option<TunnelPath>,
}

impl Public {
    /// Creates the state. Answers of the primary are passed on in `tasks`.
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

    /// Applies a changed configuration. New connections are served with `certificate`, or without TLS if there is none.
    pub fn configure(
        &self,
        server: &Server,
        certificate: Option<Certificate>,
        upstreams: &BTreeMap<Arc<str>, Upstream>,
    ) {
        self.certificate.store(certificate.map(Arc::new));
        self.server.store(Arc::new(server.clone()));
        self.proxy.configure(upstreams);
        self.doors.leave(files::of_deliveries(upstreams));
    }
}
