//! Makes connections to upstreams: directly or through a forward proxy, over TLS where the address says https, and with a meter.
//!
//! Rule: the system's certificate authorities are read for the first connection over TLS, and never if there is none.

use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::Uri;
use http::uri::Scheme;
use hyper_rustls::{HttpsConnector, MaybeHttpsStream};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::{SocksV5, Tunnel};
use hyper_util::rt::TokioIo;
use tower::{BoxError, Service};

use super::super::proxies::{self, Choice, InvalidProxy, Proxy};
use super::super::settings::Settings;
use super::line::{Line, Meter};
use super::localhost::Resolver;
use super::tls::Credentials;
use super::{chain, tls};

/// The timeout for making a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection to an upstream or to a proxy.
type Link = MaybeHttpsStream<TokioIo<Line>>;

/// Connects to addresses of either scheme.
#[derive(Clone, Debug)]
pub(super) struct Connector {
    http: HttpConnector<Resolver>,
    choice: Choice,
    credentials: Credentials,
}

impl Connector {
    pub(super) fn new(settings: &Settings) -> Self {
        let mut http = HttpConnector::new_with_resolver(Resolver::new());
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_connect_timeout(Some(CONNECT_TIMEOUT));
        http.set_keepalive(Some(Duration::from_secs(60)));
        Self { http, choice: settings.proxy.clone(), credentials: settings.credentials.clone() }
    }
}

impl Service<Uri> for Connector {
    type Response = MaybeHttpsStream<Link>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.http.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let proxy = match self.choice.proxy(&uri) {
            Ok(proxy) => proxy.cloned(),
            Err(error) => return Box::pin(async move { Err(error.into()) }),
        };
        let meter = Meter::new();
        let dial = Dial { http: self.http.clone(), proxy, meter: meter.clone() };
        let trust = match is_https(&uri) {
            true => self.credentials.config(),
            false => Ok(tls::nobody()),
        };
        let trust = match trust {
            Ok(trust) => trust,
            Err(error) => return Box::pin(async move { Err(error.into()) }),
        };
        let connecting = HttpsConnector::from((dial, trust)).call(uri);
        Box::pin(async move {
            let stream = connecting.await?;
            meter.renew();
            Ok(stream)
        })
    }
}

fn is_https(uri: &Uri) -> bool {
    uri.scheme() == Some(&Scheme::HTTPS)
}

/// Connects without the upstream's TLS, through the proxy if there is one.
#[derive(Clone, Debug)]
struct Dial {
    http: HttpConnector<Resolver>,
    proxy: Option<Proxy>,
    meter: Meter,
}

/// Why there is no connection through a proxy.
#[derive(Debug, thiserror::Error)]
#[error("by way of the proxy {proxy}: {why}")]
struct NoWay {
    proxy: Proxy,
    why: String,
}

impl Service<Uri> for Dial {
    type Response = Link;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Link, BoxError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.http.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let mut plain = Plain { http: self.http.clone(), meter: self.meter.clone() };
        let Some(proxy) = self.proxy.clone() else {
            let connecting = plain.call(uri);
            return Box::pin(async move { Ok(Link::Http(connecting.await?)) });
        };
        let meter = self.meter.clone();
        Box::pin(async move {
            let outcome = through(&proxy, plain, meter, uri.clone()).await;
            outcome.map_err(|error| NoWay { why: explained(&*error, &uri), proxy }.into())
        })
    }
}

async fn through(proxy: &Proxy, plain: Plain, meter: Meter, uri: Uri) -> Result<Link, BoxError> {
    let place = proxy.uri().ok_or(InvalidProxy)?;
    let mut link = HttpsConnector::from((plain, if is_https(&place) { tls::config() } else { tls::nobody() }));
    match proxy.scheme() {
        proxies::Scheme::Socks5 | proxies::Scheme::Socks5h => {
            let is_local = proxy.scheme() == proxies::Scheme::Socks5;
            let mut socks = SocksV5::new(place, link).local_dns(is_local);
            if let Some((user, password)) = proxy.user() {
                socks = socks.with_auth(user.to_owned(), password.to_owned());
            }
            Ok(socks.call(uri).await?)
        }
        _ if is_https(&uri) => {
            let mut tunnel = Tunnel::new(place, link);
            if let Some(authorization) = proxy.authorization() {
                tunnel = tunnel.with_auth(authorization);
            }
            Ok(tunnel.call(uri).await?)
        }
        _ => {
            meter.to_a_proxy();
            link.call(place).await
        }
    }
}

/// The meaning of a proxy's refusal. The library says less than the proxy did.
fn explained(error: &(dyn std::error::Error + 'static), uri: &Uri) -> String {
    let why = chain(error);
    match why.as_str() {
        "tunnel error: proxy authorization required" => WANTS_USER.to_owned(),
        "tunnel error: unsuccessful" => {
            let authority = uri.authority().map(ToString::to_string).unwrap_or_default();
            format!("it does not connect to {authority}")
        }
        _ => why,
    }
}

/// The meaning of 407.
pub(super) const WANTS_USER: &str = "it wants a user and a password, or other ones (407)";

/// Connects without TLS.
#[derive(Clone, Debug)]
struct Plain {
    http: HttpConnector<Resolver>,
    meter: Meter,
}

impl Service<Uri> for Plain {
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
