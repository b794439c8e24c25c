//! A network line that can be cut like a pulled cable: bytes stop, and neither side is told.
//!
//! Rule: bytes in flight when the line is cut arrive in order once it is whole again, and so do the ends of connections.

use std::io;
use std::net::Ipv4Addr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::net;

/// A line to a local port.
pub(crate) struct Line {
    port: u16,
    is_cut: watch::Sender<bool>,
    _tasks: JoinSet<()>,
}

impl Line {
    /// Starts a line to the local port `far`.
    pub(crate) async fn to(far: u16) -> Self {
        let port = net::free_port();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.expect("the line's port");
        let (is_cut, state) = watch::channel(false);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((near, _)) = listener.accept().await {
                connections.spawn(carry(near, far, state.clone()));
                while connections.try_join_next().is_some() {}
            }
        });
        Self { port, is_cut, _tasks: tasks }
    }

    /// The port at which the line begins.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Cuts the line or restores it.
    pub(crate) fn cut(&self, is_cut: bool) {
        self.is_cut.send_replace(is_cut);
    }
}

async fn carry(near: TcpStream, far: u16, mut state: watch::Receiver<bool>) -> io::Result<()> {
    be_whole(&mut state).await;
    let far = TcpStream::connect((Ipv4Addr::LOCALHOST, far)).await?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    let ((from_near, to_near), (from_far, to_far)) = (near.into_split(), far.into_split());
    tokio::try_join!(pass(from_near, to_far, state.clone()), pass(from_far, to_near, state)).map(drop)
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut state: watch::Receiver<bool>) -> io::Result<()> {
    let mut piece = vec![0; 64 << 10];
    loop {
        let read = from.read(&mut piece).await;
        be_whole(&mut state).await;
        match read? {
            0 => return to.shutdown().await,
            n => to.write_all(&piece[..n]).await?,
        }
    }
}

async fn be_whole(state: &mut watch::Receiver<bool>) {
    // An error means that the line was dropped; its connections end with it.
    drop(state.wait_for(|is_cut| !is_cut).await);
}
