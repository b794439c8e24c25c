//! The addresses that the daemon listens on.

use std::net::SocketAddr;

use sd_notify::NotifyState;
use tokio::net::TcpListener;

use crate::config::Config;
use crate::http::{Listeners, serve_admin, serve_public};
use crate::tasks::Tasks;

use super::{Daemon, DaemonError, notify};

/// The tasks of the listeners. The admin listener outlives the public one: it answers while requests and deliveries are finished.
#[derive(Default)]
pub(super) struct Serving {
    pub(super) public: Tasks,
    pub(super) admin: Tasks,
}

/// The bound addresses of a configuration. All are bound before one is served: otherwise a process that ends because an address is taken
/// would lose what it has accepted.
pub(super) struct Bound {
    public: Vec<TcpListener>,
    admin: Vec<TcpListener>,
}

/// Binds all addresses of a configuration.
pub(super) fn bind(config: &Config, mut listeners: Listeners) -> Result<Bound, DaemonError> {
    let failed = |(address, why)| DaemonError::Listen { address, why };
    let public = listeners.bind_all(&config.server.listen).map_err(failed)?;
    let admin = listeners.bind_all(&[config.admin.listen]).map_err(failed)?;
    for address in listeners.unused() {
        tracing::warn!(%address, "systemd gave a socket that the configuration does not listen on");
    }
    Ok(Bound { public, admin })
}

impl Daemon {
    /// Serves the bound addresses; returns the public ones.
    pub(super) fn serve(&self, Bound { public, admin }: Bound, serving: &Serving) -> Vec<SocketAddr> {
        let addresses = public.iter().filter_map(|listener| listener.local_addr().ok()).collect();
        for listener in public {
            let (public, clock, tasks) = (self.public.clone(), self.clock.clone(), serving.public.clone());
            serving.public.spawn("the public listener", serve_public(listener, public, clock, tasks));
        }
        for listener in admin {
            let (admin, clock, tasks) = (self.admin.clone(), self.clock.clone(), serving.admin.clone());
            serving.admin.spawn("the admin listener", serve_admin(listener, admin, clock, tasks));
        }
        addresses
    }

    pub(super) fn announce_start(&self, addresses: &[SocketAddr]) {
        let listen: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            primary = &*self.config.primary,
            listen = listen.join(" "),
            admin = %self.config.admin.listen,
            journal = self.config.journal.whereabouts(),
            "switchyard is ready"
        );
        notify(NotifyState::Ready);
    }
}
