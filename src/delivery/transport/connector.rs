//! How connections to upstreams come about: over TLS where the address says https.
//!
//! Rule: whom TLS trusts is read when the first such address is connected to, and never where all upstreams are near and speak http.

use std::task::{Context, Poll};

use http::Uri;
use http::uri::Scheme;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use tower::{BoxError, Service};

use super::localhost::Resolver;
use super::tls;

type Http = HttpConnector<Resolver>;

/// Connects to addresses of either scheme.
#[derive(Clone, Debug)]
pub(super) struct Connector(Http);

impl Connector {
    pub(super) const fn new(http: Http) -> Self {
        Self(http)
    }
}

impl Service<Uri> for Connector {
    type Response = <HttpsConnector<Http> as Service<Uri>>::Response;
    type Error = BoxError;
    type Future = <HttpsConnector<Http> as Service<Uri>>::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.0.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let config = if uri.scheme() == Some(&Scheme::HTTPS) { tls::config() } else { tls::nobody() };
        let connector = HttpsConnectorBuilder::new().with_tls_config(config).https_or_http().enable_http1();
        connector.wrap_connector(self.0.clone()).call(uri)
    }
}
