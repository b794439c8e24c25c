//! Listening sockets: taken over from systemd if it gives them, else bound here.
//!
//! With socket activation (sd_listen_fds(3)) the sockets outlive the process: a client that connects during a restart waits in the
//! kernel's queue and is not refused.

use std::io;
use std::net::{Ipv6Addr, SocketAddr};

use listenfd::ListenFd;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType, ipproto, sockopt};
use tokio::net::TcpListener;

/// The most connections that may wait to be accepted.
const BACKLOG: i32 = 1024;

/// The listeners that systemd gave to the process, looked up by address. By default there are none.
#[derive(Debug, Default)]
pub struct Listeners {
    inherited: Vec<std::net::TcpListener>,
}

impl Listeners {
    /// Takes the sockets from systemd, if there are any.
    pub fn inherit() -> io::Result<Self> {
        let mut fds = ListenFd::from_env();
        let mut inherited = Vec::new();
        for i in 0..fds.len() {
            inherited.extend(fds.take_tcp_listener(i)?);
        }
        Ok(Self { inherited })
    }

    /// Returns the listeners at `addresses`, or the first address that cannot be listened on, and why. On a machine without IPv6, `[::1]`
    /// is left out if an IPv4 address is listed, too: nobody could connect to it.
    pub fn bind_all(&mut self, addresses: &[SocketAddr]) -> Result<Vec<TcpListener>, (SocketAddr, io::Error)> {
        let mut bound = Vec::with_capacity(addresses.len());
        for &address in addresses {
            match self.bind(address) {
                Ok(listener) => bound.push(listener),
                Err(why) if addresses.iter().any(SocketAddr::is_ipv4) && is_without_ipv6(address, &why) => {
                    tracing::warn!(%address, %why, "not listened on: this machine has no IPv6");
                }
                Err(why) => return Err((address, why)),
            }
        }
        Ok(bound)
    }

    /// Returns the listener at `address`: the inherited one, or a new one.
    fn bind(&mut self, address: SocketAddr) -> io::Result<TcpListener> {
        let at = self.inherited.iter().position(|l| l.local_addr().is_ok_and(|have| have == address));
        let listener = match at {
            Some(i) => self.inherited.swap_remove(i),
            None => bind(address)?,
        };
        listener.set_nonblocking(true)?;
        TcpListener::from_std(listener)
    }

    /// The addresses of the sockets from systemd that are not used.
    pub fn unused(&self) -> Vec<SocketAddr> {
        self.inherited.iter().filter_map(|listener| listener.local_addr().ok()).collect()
    }
}

/// Whether `address` is the loopback address of IPv6, and `why` says that the machine has no IPv6 or has it turned off.
fn is_without_ipv6(address: SocketAddr, why: &io::Error) -> bool {
    let signs = [Errno::AFNOSUPPORT, Errno::ADDRNOTAVAIL];
    address.ip() == Ipv6Addr::LOCALHOST && signs.iter().any(|sign| why.raw_os_error() == Some(sign.raw_os_error()))
}

fn bind(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let family = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let socket = rustix::net::socket(family, SocketType::STREAM, Some(ipproto::TCP))?;
    rustix::io::fcntl_setfd(&socket, rustix::io::FdFlags::CLOEXEC)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if address.is_ipv6() {
        // Otherwise "[::]" means both families and is refused beside "0.0.0.0".
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_ipv6_loopback_may_be_missing_and_only_without_ipv6() {
        let is_without = |address: &str, errno: Errno| is_without_ipv6(address.parse().unwrap(), &errno.into());
        assert!(is_without("[::1]:8484", Errno::AFNOSUPPORT) && is_without("[::1]:8484", Errno::ADDRNOTAVAIL));
        assert!(!is_without("[::1]:8484", Errno::ADDRINUSE) && !is_without("[::1]:84", Errno::ACCESS));
        assert!(!is_without("[2001:db8::1]:8484", Errno::ADDRNOTAVAIL), "clients elsewhere may know it");
        assert!(!is_without("127.0.0.2:8484", Errno::ADDRNOTAVAIL));
    }

    #[tokio::test]
    async fn an_address_in_use_is_named() {
        let mut listeners = Listeners { inherited: vec![] };
        let free = SocketAddr::from(([127, 0, 0, 1], 0));
        let taken = bind(free).and_then(|listener| listener.local_addr().map(|address| (listener, address)));
        let (_taken, address) = taken.unwrap();
        let (which, why) = listeners.bind_all(&[free, address]).unwrap_err();
        assert_eq!((which, why.kind()), (address, io::ErrorKind::AddrInUse));
    }
}
