//! A TCP proxy between relay and upstream that breaks connections in a chosen way.
//!
//! Rule: a fault begins with the client's first bytes and applies to every connection made while it is set. A change of the fault closes
//! earlier connections. The proxy knows bytes and no HTTP.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::net;

/// What the proxy does to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Pass bytes unchanged.
    Pass,
    /// Delay each piece of an answer.
    Delay(Duration),
    /// Accept the connection and never answer.
    BlackHole,
    /// End the connection with RST once the client has sent something.
    Reset,
    /// Close the proxy's side and go on reading.
    HalfClose,
    /// Break the answer off after this many bytes.
    CutAfter(usize),
    /// Answer with bytes that are no HTTP.
    Garbage,
    /// Send the answer one byte at a time, with this pause in between.
    Drip(Duration),
}

/// A running proxy.
pub(crate) struct FaultProxy {
    address: SocketAddr,
    fault: watch::Sender<Fault>,
    _tasks: JoinSet<()>,
}

impl FaultProxy {
    /// Starts a proxy that passes everything to `upstream`, a `host:port`, until a fault is set.
    pub(crate) async fn start(upstream: &str) -> Self {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, net::free_port()));
        let listener = TcpListener::bind(address).await.expect("the proxy's address");
        let (fault, state) = watch::channel(Fault::Pass);
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, upstream.to_owned(), state));
        Self { address, fault, _tasks: tasks }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The DSN of a project behind the proxy.
    pub(crate) fn dsn(&self, key: &str, project: u64) -> String {
        format!("http://{key}@{}/{project}", self.address)
    }

    /// Applies this fault from now on.
    pub(crate) fn set(&self, fault: Fault) {
        self.fault.send_replace(fault);
    }
}

async fn accept(listener: TcpListener, upstream: String, state: watch::Receiver<Fault>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((client, _)) = listener.accept().await else { continue };
        let (upstream, mut state) = (upstream.clone(), state.clone());
        connections.spawn(async move {
            let fault = *state.borrow_and_update();
            tokio::select! {
                // The test looks at both ends of the connection, so its result is dropped.
                ended = serve(client, &upstream, fault) => drop(ended),
                _ = state.changed() => {}
            }
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn serve(mut client: TcpStream, upstream: &str, fault: Fault) -> std::io::Result<()> {
    let mut first = vec![0; 4096];
    let n = client.read(&mut first).await?;
    if n == 0 {
        return Ok(());
    }
    match fault {
        Fault::BlackHole => swallow(&mut client).await,
        Fault::Reset => {
            client.set_zero_linger()?;
            Ok(())
        }
        Fault::HalfClose => {
            client.shutdown().await?;
            swallow(&mut client).await
        }
        Fault::Garbage => {
            client.write_all(b"\x00\x17 what is this\r\n\r\n").await?;
            swallow(&mut client).await
        }
        Fault::Pass | Fault::Delay(_) | Fault::CutAfter(_) | Fault::Drip(_) => {
            let mut server = TcpStream::connect(upstream).await?;
            server.write_all(&first[..n]).await?;
            relay(&mut client, &mut server, fault).await
        }
    }
}

/// Reads and discards bytes until the other side closes.
async fn swallow(client: &mut TcpStream) -> std::io::Result<()> {
    let mut sink = vec![0; 4096];
    while client.read(&mut sink).await? > 0 {}
    Ok(())
}

async fn relay(client: &mut TcpStream, server: &mut TcpStream, fault: Fault) -> std::io::Result<()> {
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    let requests = tokio::io::copy(&mut from_client, &mut to_server);
    let answers = async {
        let (mut piece, mut passed) = (vec![0; 4096], 0);
        loop {
            let n = from_server.read(&mut piece).await?;
            let piece = match fault {
                Fault::CutAfter(most) => &piece[..n.min(most - passed)],
                _ => &piece[..n],
            };
            match fault {
                Fault::Delay(time) => sleep(time).await,
                Fault::Drip(time) => {
                    for byte in piece {
                        sleep(time).await;
                        to_client.write_all(&[*byte]).await?;
                    }
                    continue;
                }
                _ => {}
            }
            to_client.write_all(piece).await?;
            passed += piece.len();
            if n == 0 || fault == Fault::CutAfter(passed) {
                return Ok(());
            }
        }
    };
    tokio::select! {
        ended = requests => ended.map(drop),
        ended = answers => ended,
    }
}
