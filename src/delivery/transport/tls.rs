//! Whom everything that goes out over TLS trusts: the system's certificate authorities, Mozilla's where there are none.
//!
//! Rule: read once for the whole process.

use std::sync::LazyLock;

use hyper_rustls::ConfigBuilderExt as _;
use rustls::{ClientConfig, RootCertStore};

static CONFIG: LazyLock<ClientConfig> = LazyLock::new(|| {
    let tls = ClientConfig::builder();
    let tls = match tls.clone().with_native_roots() {
        Ok(tls) => tls,
        Err(error) => {
            tracing::warn!(%error, "the system has no certificate authorities, using Mozilla's");
            tls.with_webpki_roots()
        }
    };
    tls.with_no_client_auth()
});

static NOBODY: LazyLock<ClientConfig> =
    LazyLock::new(|| ClientConfig::builder().with_root_certificates(RootCertStore::empty()).with_no_client_auth());

/// For connections to upstreams. Clones share the authorities and the sessions to be resumed.
pub fn config() -> ClientConfig {
    CONFIG.clone()
}

/// For connections without TLS: it trusts nobody.
pub(super) fn nobody() -> ClientConfig {
    NOBODY.clone()
}
