//! How connections to upstreams come about: over TLS where the address says https, and counted.
//!
//! Rule: whom TLS trusts is read when the first such address is connected to, and never where all upstreams are near and speak http.

use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::Uri;
use http::uri::Scheme;
use hyper_rustls::{HttpsConnector, MaybeHttpsStream};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use tower::{BoxError, Service};

use super::line::{Line, Meter};
use super::localhost::Resolver;
use super::tls;

/// How long a connection may take to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Connects to addresses of either scheme.
#[derive(Clone, Debug)]
pub(super) struct Connector(HttpConnector<Resolver>);

impl Connector {
    pub(super) fn new() -> Self {
        let mut http = HttpConnector::new_with_resolver(Resolver::new());
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_connect_timeout(Some(CONNECT_TIMEOUT));
        http.set_keepalive(Some(Duration::from_secs(60)));
        Self(http)
    }
}

impl Service<Uri> for Connector {
    type Response = MaybeHttpsStream<TokioIo<Line>>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.0.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let config = if uri.scheme() == Some(&Scheme::HTTPS) { tls::config() } else { tls::nobody() };
        let meter = Meter::new();
        let dial = Dial { http: self.0.clone(), meter: meter.clone() };
        let connecting = HttpsConnector::from((dial, config)).call(uri);
        Box::pin(async move {
            let stream = connecting.await?;
            meter.renew();
            Ok(stream)
        })
    }
}

/// Connects without TLS.
#[derive(Clone, Debug)]
struct Dial {
    http: HttpConnector<Resolver>,
    meter: Meter,
}

impl Service<Uri> for Dial {
    type Response = TokioIo<Line>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.http.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let (connecting, meter) = (self.http.call(uri), self.meter.clone());
        Box::pin(async move { Ok(TokioIo::new(Line::new(connecting.await?.into_inner(), meter))) })
    }
}
