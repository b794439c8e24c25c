//! Resolves names with the system's resolver. `localhost` has both loopback addresses whatever the hosts file says (RFC 6761, section 6.3):
//! a tracker on this machine may listen in one family only, and connecting shows in which.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use hyper_util::client::legacy::connect::dns::{GaiResolver, Name};
use tower::Service;

/// The system's resolver, which knows `localhost` in both families.
#[derive(Clone, Debug)]
pub(super) struct Resolver(GaiResolver);

impl Resolver {
    pub(super) fn new() -> Self {
        Self(GaiResolver::new())
    }
}

impl Service<Name> for Resolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Self::Response>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let is_localhost = name.as_str().eq_ignore_ascii_case("localhost");
        let lookup = self.0.call(name);
        Box::pin(async move {
            let found = lookup.await;
            if is_localhost {
                return Ok(both_families(found.into_iter().flatten().collect()));
            }
            Ok(found?.collect::<Vec<_>>().into_iter())
        })
    }
}

/// The addresses found, in their order, then the missing loopback addresses. The connector sets the port.
fn both_families(mut found: Vec<SocketAddr>) -> std::vec::IntoIter<SocketAddr> {
    for loopback in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
        if !found.iter().any(|address| address.ip() == loopback) {
            found.push(SocketAddr::new(loopback, 0));
        }
    }
    found.into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_missing_loopback_address_follows_those_of_the_system() {
        let both = |found: &[&str]| {
            let found = found.iter().map(|ip| SocketAddr::new(ip.parse().unwrap(), 0)).collect();
            both_families(found).map(|address| address.ip().to_string()).collect::<Vec<_>>()
        };
        assert_eq!(both(&[]), ["127.0.0.1", "::1"]);
        assert_eq!(both(&["::1"]), ["::1", "127.0.0.1"]);
        assert_eq!(both(&["127.0.0.1", "::1"]), ["127.0.0.1", "::1"]);
    }
}
