//! The section `[upstreams.NAME]` of the configuration.

use std::num::NonZeroU16;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::policy::shadow;
use crate::protocol::dsn::Dsn;
use crate::units::Period;

use super::compress::Compress;
use super::headers::Headers;
use super::mend::Mend;
use super::transport::tls::Credentials;
use super::{api, proxies};

/// The longest `max_age`, and how long the backlog of an upstream that is not configured is kept. So an upstream that comes back finds no
/// more of its backlog expired than its own `max_age` says.
pub const LONGEST_AGE: Period = Period::secs(30 * 24 * 3600);

/// How one upstream is treated.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The most requests under way at once.
    pub max_in_flight: NonZeroU16,
    /// The timeout of one request. For an envelope over 1 MiB: the longest time without progress, and the timeout of the answer after the
    /// last byte.
    pub timeout: Period,
    /// How long a record waits before it is dropped as expired; at most [`LONGEST_AGE`].
    pub max_age: Period,
    /// What happens to envelopes that the upstream limits.
    pub on_rate_limit: OnRateLimit,
    /// The least time between two reports to the upstream of what was dropped for it; zero for no reports.
    pub client_reports: Period,
    /// The kind of the upstream, for its known quirks.
    pub kind: Kind,
    /// The age at which a connection is no longer used; the next one looks up the upstream's address again.
    pub max_connection_age: Period,
    /// The forward proxy on the way there. Not shown: it may have a password.
    #[serde(skip_serializing)]
    pub proxy: proxies::Choice,
    /// The encoding of envelopes; `None` for the one that suits the kind best, and for none to an upstream on this machine.
    pub compress: Option<Compress>,
    /// For a GlitchTip: whether an event that makes it lose others is sent alone, with a pause before and after.
    pub spare_batches: bool,
    /// The changes that are allowed in an event so that a GlitchTip can store it.
    pub mend: Vec<Mend>,
    /// A file with certificates that TLS trusts there besides the system's authorities.
    pub tls_ca: Option<PathBuf>,
    /// A file with our certificate for servers that demand one, and the chain below it.
    pub tls_client_cert: Option<PathBuf>,
    /// A file with the key of that certificate.
    pub tls_client_key: Option<PathBuf>,
    /// The content of these files when the configuration was loaded.
    #[serde(skip)]
    pub credentials: Credentials,
    /// The headers of every request there. Not shown: the values are secrets.
    #[serde(skip_serializing)]
    pub headers: Headers,
    /// What it does not get while it is not the primary.
    pub shadow: shadow::Settings,
    /// The API that tells what it stores; `None` when its answers are proof enough.
    pub api: Option<api::Settings>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_in_flight: NonZeroU16::new(8).expect("eight is not zero"),
            timeout: Period::secs(30),
            max_age: Period::secs(72 * 3600),
            on_rate_limit: OnRateLimit::Hold,
            client_reports: Period::secs(60),
            kind: Kind::Generic,
            max_connection_age: Period::secs(60),
            proxy: proxies::Choice::default(),
            compress: None,
            spare_batches: true,
            mend: vec![],
            tls_ca: None,
            tls_client_cert: None,
            tls_client_key: None,
            credentials: Credentials::default(),
            headers: Headers::default(),
            shadow: shadow::Settings::default(),
            api: None,
        }
    }
}

impl Settings {
    /// The encoding of envelopes to this address.
    pub(super) fn compression(&self, to: &Dsn) -> Compress {
        self.compress.unwrap_or_else(|| match self.kind.compression() {
            how if how != Compress::None && to.is_on_this_machine() => Compress::None,
            how => how,
        })
    }
}

/// What happens to envelopes that the upstream limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OnRateLimit {
    /// They wait until the limit ends.
    Hold,
    /// They are dropped, as SDKs do.
    Drop,
}

/// The kind of an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Sentry SaaS or self-hosted Sentry.
    Sentry,
    /// GlitchTip.
    Glitchtip,
    /// Bugsink.
    Bugsink,
    /// Sentry's Relay.
    Relay,
    /// Anything that takes envelopes.
    Generic,
}

impl Kind {
    /// The name in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sentry => "sentry",
            Self::Glitchtip => "glitchtip",
            Self::Bugsink => "bugsink",
            Self::Relay => "relay",
            Self::Generic => "generic",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_gets_its_encoding_and_this_machine_none() {
        let of = |kind, dsn: &str| Settings { kind, ..Settings::default() }.compression(&dsn.parse().unwrap());
        for (kind, expected) in [
            (Kind::Sentry, Compress::Zstd),
            (Kind::Relay, Compress::Zstd),
            (Kind::Bugsink, Compress::Gzip),
            (Kind::Glitchtip, Compress::None),
            (Kind::Generic, Compress::None),
        ] {
            assert_eq!(of(kind, "https://k@tracker.example/1"), expected, "{kind:?}");
            for near in ["http://k@127.0.0.1:8080/1", "http://k@[::1]/1", "http://k@localhost/1"] {
                assert_eq!(of(kind, near), Compress::None);
            }
        }
        let wanted = Settings { compress: Some(Compress::Gzip), ..Settings::default() };
        assert_eq!(wanted.compression(&"http://k@localhost/1".parse().unwrap()), Compress::Gzip);
    }
}
