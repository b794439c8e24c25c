//! One client's socket: counts what phase its connection is in, and closes it so that the client gets to read our answer.
//!
//! Closing a socket with unread bytes makes the kernel send a reset, on which SDKs lose the answer and may loop; so what is
//! left is read and thrown away for a moment first.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::net::Shutdown;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use crate::clock::{Clock, Timestamp};

/// How long and how much is read away before the socket is closed.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 16 * 1024 * 1024;

/// What goes on between requests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Phase {
    /// Nothing since then.
    Idle(Timestamp),
    /// A request has begun to come in then, and its headers are not complete.
    Head(Timestamp),
    /// A request is being answered, or the connection speaks HTTP/2, which looks after itself.
    Busy,
}

/// A socket shared between the HTTP implementation, which reads and writes, and us, who watch and close.
#[derive(Clone, Debug)]
pub(super) struct Socket {
    stream: Arc<TcpStream>,
    phase: Arc<PhaseCell>,
    /// Holds a permit from the first request on.
    asked: Arc<Notify>,
    clock: Clock,
}

/// The phase as one number: the moment in the upper bits, [`HEAD`] in the lowest.
#[derive(Debug)]
struct PhaseCell(AtomicU64);

const BUSY: u64 = u64::MAX;
const HTTP2: u64 = u64::MAX - 1;
const HEAD: u64 = 1;

impl Socket {
    pub(super) fn new(stream: TcpStream, clock: Clock) -> Self {
        let phase = PhaseCell(AtomicU64::new(clock.now().as_millis() << 1));
        Self { stream: Arc::new(stream), phase: Arc::new(phase), asked: Arc::default(), clock }
    }

    pub(super) fn phase(&self) -> Phase {
        match self.phase.0.load(Ordering::Relaxed) {
            BUSY | HTTP2 => Phase::Busy,
            n if n & HEAD == HEAD => Phase::Head(Timestamp::from_millis(n >> 1)),
            n => Phase::Idle(Timestamp::from_millis(n >> 1)),
        }
    }

    /// A request is complete as far as its headers go.
    pub(super) fn request_began(&self) {
        self.set(BUSY);
        self.asked.notify_one();
    }

    /// Returns when a request has begun on this connection, now or at any time before. For one caller.
    pub(super) async fn first_request(&self) {
        self.asked.notified().await;
    }

    /// Its answer is on its way.
    pub(super) fn request_ended(&self) {
        self.set(self.clock.now().as_millis() << 1);
    }

    fn set(&self, phase: u64) {
        if self.phase.0.load(Ordering::Relaxed) != HTTP2 {
            self.phase.0.store(phase, Ordering::Relaxed);
        }
    }

    /// Idle becomes head with the first byte; a preface of HTTP/2 ends the watch.
    fn has_read(&self, bytes: &[u8]) {
        let phase = self.phase.0.load(Ordering::Relaxed);
        if phase == BUSY || phase == HTTP2 || phase & HEAD == HEAD || bytes.is_empty() {
            return;
        }
        let next = if bytes.starts_with(b"PRI") { HTTP2 } else { self.clock.now().as_millis() << 1 | HEAD };
        self.phase.0.store(next, Ordering::Relaxed);
    }

    /// Writes a last answer to a client that has stalled; it gets lost where there is no room for it.
    pub(super) fn say(&self, answer: &[u8]) {
        drop(self.stream.try_write(answer));
    }

    /// Ends the connection from our side, then reads away what the client still sends, within bounds.
    pub(super) async fn close(self) {
        // A client that is gone already needs no end.
        rustix::net::shutdown(&*self.stream, Shutdown::Write).unwrap_or(());
        let drain = async {
            let (mut sink, mut total) = ([0; 4096], 0);
            while total < LINGER_BYTES && self.stream.readable().await.is_ok() {
                match self.stream.try_read(&mut sink) {
                    Ok(0) => break,
                    Ok(n) => total += n,
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                    Err(_) => break,
                }
            }
        };
        drop(tokio::time::timeout(LINGER, drain).await);
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.stream.poll_read_ready(cx))?;
            let before = buf.filled().len();
            match self.stream.try_read_buf(buf) {
                Ok(_) => {
                    self.has_read(&buf.filled()[before..]);
                    return Poll::Ready(Ok(()));
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Poll::Ready(Err(e)),
            }
        }
    }
}

impl Socket {
    fn poll_try<T>(
        &self,
        cx: &mut Context<'_>,
        mut attempt: impl FnMut(&TcpStream) -> io::Result<T>,
    ) -> Poll<io::Result<T>> {
        loop {
            ready!(self.stream.poll_write_ready(cx))?;
            match attempt(&self.stream) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done),
            }
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_try(cx, |stream| stream.try_write(buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_try(cx, |stream| stream.try_write_vectored(bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(rustix::net::shutdown(&*self.stream, Shutdown::Write).map_err(Into::into))
    }
}
