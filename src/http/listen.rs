//! Listening sockets: taken over from systemd when it gives them, else bound here.
//!
//! With socket activation (sd_listen_fds(3)) the sockets outlive the process: who connects during a restart waits in the
//! kernel's queue and is not refused.

use std::io;
use std::net::SocketAddr;

use listenfd::ListenFd;
use rustix::net::{AddressFamily, SocketType, ipproto, sockopt};
use tokio::net::TcpListener;

/// How many connections may wait to be accepted.
const BACKLOG: i32 = 1024;

/// The listeners of one process: those systemd gave, looked up by address.
#[derive(Debug)]
pub struct Listeners {
    inherited: Vec<std::net::TcpListener>,
}

impl Listeners {
    /// Takes what systemd gave, if anything.
    pub fn inherit() -> io::Result<Self> {
        let mut fds = ListenFd::from_env();
        let mut inherited = Vec::new();
        for i in 0..fds.len() {
            inherited.extend(fds.take_tcp_listener(i)?);
        }
        Ok(Self { inherited })
    }

    /// The listener at `address`: the inherited one, or a new one.
    pub fn bind(&mut self, address: SocketAddr) -> io::Result<TcpListener> {
        let at = self.inherited.iter().position(|l| l.local_addr().is_ok_and(|have| have == address));
        let listener = match at {
            Some(i) => self.inherited.swap_remove(i),
            None => bind(address)?,
        };
        listener.set_nonblocking(true)?;
        TcpListener::from_std(listener)
    }

    /// The addresses that systemd gave and nobody asked for.
    pub fn unused(&self) -> Vec<SocketAddr> {
        self.inherited.iter().filter_map(|listener| listener.local_addr().ok()).collect()
    }
}

fn bind(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let family = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let socket = rustix::net::socket(family, SocketType::STREAM, Some(ipproto::TCP))?;
    rustix::io::fcntl_setfd(&socket, rustix::io::FdFlags::CLOEXEC)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if address.is_ipv6() {
        // "[::]" beside "0.0.0.0" must not be refused because it already means both.
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket.into())
}
