//! What every peer needs of the network: a free loopback port, and a plain HTTP client that goes nowhere else.
//!
//! Rule: ports lie below the range from which outgoing connections take theirs. It knows no peer.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use reqwest::Client;
use reqwest::header::HeaderMap;
use serde_json::Value;
use tokio::net::TcpSocket;

const FIRST: u16 = 10_000;
/// `switchyard demo` takes its ports from 24,000 on: it runs beside these tests.
const COUNT: u16 = 14_000;

/// A port on 127.0.0.1 where nobody listens, between 10,000 and 24,000; never the same one twice in this process.
pub(crate) fn free_port() -> u16 {
    static TURN: AtomicU16 = AtomicU16::new(0);
    // Processes that run at the same time start far apart.
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

/// Whether nobody listens there. The look does not listen itself: a process that another test starts has a copy of its socket until it
/// runs its program, and as long as one listens, nobody else can.
fn is_free(port: u16) -> bool {
    let bound = TcpSocket::new_v4().and_then(|socket| {
        socket.set_reuseaddr(true)?;
        socket.bind((Ipv4Addr::LOCALHOST, port).into())
    });
    bound.is_ok()
}

/// A client for plain http on this machine: no proxy, ten seconds for an answer.
pub(crate) fn client() -> Client {
    client_with(HeaderMap::new())
}

/// The same with these headers on every request.
pub(crate) fn client_with(headers: HeaderMap) -> Client {
    // An error says that another test has installed it already.
    rustls::crypto::ring::default_provider().install_default().ok();
    Client::builder()
        .no_proxy()
        .default_headers(headers)
        .timeout(Duration::from_secs(10))
        .build()
        .expect("an HTTP client")
}

/// The body of a GET that was answered with 2xx; otherwise what went wrong.
pub(crate) async fn text(client: &Client, url: &str) -> Result<String, String> {
    let answer = client.get(url).send().await.map_err(|error| format!("{url}: {error}"))?;
    let status = answer.status();
    let body = answer.text().await.map_err(|error| format!("{url}: {error}"))?;
    if status.is_success() { Ok(body) } else { Err(format!("{url}: {status}: {body}")) }
}

/// Like [`text`], for an answer in JSON.
pub(crate) async fn json(client: &Client, url: &str) -> Result<Value, String> {
    let body = text(client, url).await?;
    serde_json::from_str(&body).map_err(|error| format!("{url}: {error}: {body}"))
}
