//! The sections `[server]` and `[admin]` of the configuration.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, de};

use crate::units::{ByteSize, Period, Secret};

use super::listener::network::Network;

/// The listener that SDKs talk to.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Server {
    /// The addresses listened on. Node resolves `localhost` to IPv4 or IPv6, so both by default.
    pub listen: Vec<SocketAddr>,
    /// The peers whose `X-Forwarded-For` and PROXY protocol headers are trusted: addresses and ranges.
    pub trusted_proxies: Vec<Network>,
    /// Whether trusted proxies begin each connection with a header of the PROXY protocol, version 1 or 2.
    pub proxy_protocol: bool,
    /// How long a connection may be idle between requests.
    pub keep_alive: Period,
    /// The most connections of one address at once. This machine and trusted proxies have no such limit.
    pub max_connections_per_address: NonZeroU32,
    /// A path that takes envelopes whose own `dsn` names the project: the `tunnel` of browser SDKs. None by default.
    pub tunnel: Option<TunnelPath>,
    /// The largest body, as sent and as decoded.
    pub max_body: ByteSize,
    /// The most bytes of all bodies in memory. No project takes more than it leaves to the others. A body over 1 MiB goes through a file
    /// beside the journal.
    pub max_inflight_bytes: ByteSize,
    /// The file with the certificate and its chain, in PEM form. With a certificate, all addresses speak TLS.
    pub tls_cert: Option<PathBuf>,
    /// The file with the certificate's key, in PEM form.
    pub tls_key: Option<PathBuf>,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            listen: vec![(Ipv4Addr::LOCALHOST, 8484).into(), (Ipv6Addr::LOCALHOST, 8484).into()],
            trusted_proxies: vec![],
            proxy_protocol: false,
            keep_alive: Period::secs(90),
            max_connections_per_address: NonZeroU32::new(1024).expect("it is not zero"),
            tunnel: None,
            max_body: ByteSize::mib(200),
            max_inflight_bytes: ByteSize::mib(64),
            tls_cert: None,
            tls_key: None,
        }
    }
}

/// The path of the tunnel, neither the root nor below `/api/`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct TunnelPath(String);

impl TunnelPath {
    /// The path, without a slash at its end.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TunnelPath {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let names = text.strip_prefix('/').unwrap_or_default();
        let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
        let is_name = |name: &str| name.bytes().all(is_plain) && !matches!(name, "" | "." | "..");
        if text.len() > 256 || !names.split('/').all(is_name) {
            return Err(format!("{text:?} is no path for a tunnel: write one as in \"/tunnel\""));
        }
        if names.split('/').next() == Some("api") {
            return Err("a tunnel cannot be under /api/, where trackers have their own paths".to_owned());
        }
        Ok(Self(text.to_owned()))
    }
}

impl<'de> Deserialize<'de> for TunnelPath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// The listener for metrics, health, status and the JSON API.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Admin {
    /// The address listened on.
    pub listen: SocketAddr,
    /// The token, sent as `Authorization: Bearer` or by signing in on the status page. If a token is set, changes and the contents of
    /// events need it from everywhere, and everything else needs it from other machines.
    pub token: Option<Secret>,
    /// Whether status, report and metrics can be read without the token from this machine.
    pub open_on_loopback: bool,
    /// The host names that the listener answers to without the token, besides loopback's.
    pub hosts: Vec<String>,
}

impl Default for Admin {
    fn default() -> Self {
        Self { listen: (Ipv4Addr::LOCALHOST, 8485).into(), token: None, open_on_loopback: true, hosts: vec![] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tunnel_has_a_plain_path_of_its_own() {
        for path in ["/tunnel", "/a/b-c_d.php", "/apiary"] {
            assert_eq!(path.parse::<TunnelPath>().unwrap().as_str(), path);
        }
        for path in ["", "/", "tunnel", "/tunnel/", "//t", "/a/../b", "/{x}", "/a b", "/a?b", "/api", "/api/1/envelope"]
        {
            assert!(path.parse::<TunnelPath>().is_err(), "{path}");
        }
    }
}
