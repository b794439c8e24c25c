//! Network helpers for every peer: a free loopback port, and a plain HTTP client without a proxy.
//!
//! Rule: ports lie below the ephemeral range, from which outgoing connections take theirs. It knows no peer.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use reqwest::Client;
use reqwest::header::HeaderMap;
use serde_json::Value;
use tokio::net::TcpSocket;

const FIRST: u16 = 10_000;
/// The number of ports, up to 24,000, where those of `switchyard demo` begin, which runs beside these tests.
const COUNT: u16 = 14_000;

/// A free port on 127.0.0.1 between 10,000 and 24,000. No call in this process returns the same port twice.
pub(crate) fn free_port() -> u16 {
    static TURN: AtomicU16 = AtomicU16::new(0);
    // Processes that run at the same time start at distant ports.
    let start = (std::process::id() % 500) as u16 * 28;
    for _ in 0..COUNT {
        let turn = TURN.fetch_add(1, Ordering::Relaxed);
        let port = FIRST + (start.wrapping_add(turn)) % COUNT;
        if is_free(port) {
            return port;
        }
    }
    panic!("no free port between {FIRST} and {}", FIRST + COUNT);
}

/// Whether nobody listens at the port. The check binds and does not listen: a process that another test starts holds a copy of the socket
/// until it runs its program, and a listening copy would keep everyone else from listening.
fn is_free(port: u16) -> bool {
    let bound = TcpSocket::new_v4().and_then(|socket| {
        socket.set_reuseaddr(true)?;
        socket.bind((Ipv4Addr::LOCALHOST, port).into())
    });
    bound.is_ok()
}

/// A client for plain HTTP on this machine: no proxy, a timeout of ten seconds.
pub(crate) fn client() -> Client {
    client_with(HeaderMap::new())
}

/// The same client with these headers on every request.
pub(crate) fn client_with(headers: HeaderMap) -> Client {
    // An error means that another test has installed the provider already.
    rustls::crypto::ring::default_provider().install_default().ok();
    Client::builder()
        .no_proxy()
        .default_headers(headers)
        .timeout(Duration::from_secs(10))
        .build()
        .expect("an HTTP client")
}

/// The body of a GET that was answered with 2xx; otherwise a description of the error.
pub(crate) async fn text(client: &Client, url: &str) -> Result<String, String> {
    let answer = client.get(url).send().await.map_err(|error| format!("{url}: {error}"))?;
    let status = answer.status();
    let body = answer.text().await.map_err(|error| format!("{url}: {error}"))?;
    if status.is_success() { Ok(body) } else { Err(format!("{url}: {status}: {body}")) }
}

/// Like [`text`], for a JSON answer.
pub(crate) async fn json(client: &Client, url: &str) -> Result<Value, String> {
    let body = text(client, url).await?;
    serde_json::from_str(&body).map_err(|error| format!("{url}: {error}: {body}"))
}
