//! The sections `[server]` and `[admin]` of the configuration.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::units::{ByteSize, Secret};

/// The listener that SDKs talk to.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Server {
    /// The addresses listened on. Node resolves `localhost` to IPv4 or IPv6, so both by default.
    pub listen: Vec<SocketAddr>,
    /// The peers whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpAddr>,
    /// The largest body, as sent and as decoded.
    pub max_body: ByteSize,
    /// All bodies in memory together; one over 1 MiB goes through a file beside the journal.
    pub max_inflight_bytes: ByteSize,
    /// The file with the certificate, in PEM form, its chain below it: with one, all addresses speak TLS.
    pub tls_cert: Option<PathBuf>,
    /// The file with its key, in PEM form.
    pub tls_key: Option<PathBuf>,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            listen: vec![(Ipv4Addr::LOCALHOST, 8484).into(), (Ipv6Addr::LOCALHOST, 8484).into()],
            trusted_proxies: vec![],
            max_body: ByteSize::mib(200),
            max_inflight_bytes: ByteSize::mib(64),
            tls_cert: None,
            tls_key: None,
        }
    }
}

/// The listener for metrics, health, status and the JSON API.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Admin {
    /// The address listened on.
    pub listen: SocketAddr,
    /// Asked for as `Authorization: Bearer` from everywhere but loopback.
    pub token: Option<Secret>,
}

impl Default for Admin {
    fn default() -> Self {
        Self { listen: (Ipv4Addr::LOCALHOST, 8485).into(), token: None }
    }
}
