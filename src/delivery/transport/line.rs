//! A connection to an upstream that counts incoming bytes and reads, so that an answer without an end costs a bounded number of both.
//!
//! Rule: it counts below TLS, so that endless TLS records and handshakes count too. It knows no HTTP: its user says when to count from
//! zero.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use hyper_util::client::legacy::connect::{Connected, Connection};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Duration, Instant};

/// The most bytes that may come before the head of an answer is complete, including interim answers. The limit applies again to the body of
/// a delivery's answer, and to the TLS handshake.
pub(super) const MOST_BYTES: usize = 32 * 1024;
/// The most reads for these bytes. A network delivers hundreds of bytes at a time.
const MOST_READS: usize = 1024;
/// The least average size of a read of a longer body, in bytes.
const LEAST_READ: usize = 512;

/// An answer without an end.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum Endless {
    #[error("the answer's head did not end within {} KiB", MOST_BYTES / 1024)]
    Bytes,
    #[error("the answer's head did not end within {MOST_READS} pieces")]
    Pieces,
}

/// The bytes and reads that one connection may still bring. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Meter(Arc<State>);

#[derive(Debug)]
struct State {
    bytes: AtomicUsize,
    reads: AtomicUsize,
    is_open: AtomicBool,
    /// The bytes that may come in addition.
    granted: AtomicUsize,
    /// Whether the other end is a proxy that takes requests to any address.
    is_proxied: AtomicBool,
    since: Instant,
}

impl Meter {
    /// The meter of a new connection.
    pub(super) fn new() -> Self {
        let (bytes, reads) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Self(Arc::new(State {
            bytes,
            reads,
            is_open: AtomicBool::new(false),
            granted: AtomicUsize::new(0),
            is_proxied: AtomicBool::new(false),
            since: Instant::now(),
        }))
    }

    /// Counts from zero again.
    pub(super) fn renew(&self) {
        self.0.bytes.store(0, Ordering::Relaxed);
        self.0.reads.store(0, Ordering::Relaxed);
        self.0.granted.store(0, Ordering::Relaxed);
    }

    /// Allows this many bytes more until the next [`Meter::renew`], in pieces of a sane size.
    pub(super) fn grant(&self, bytes: usize) {
        self.0.granted.store(bytes, Ordering::Relaxed);
    }

    /// Lifts all limits from now on.
    pub(super) fn open(&self) {
        self.0.is_open.store(true, Ordering::Relaxed);
    }

    /// Notes that the other end is a proxy that takes requests to any address.
    pub(super) fn to_a_proxy(&self) {
        self.0.is_proxied.store(true, Ordering::Relaxed);
    }

    /// The age of the connection.
    pub(super) fn age(&self) -> Duration {
        self.0.since.elapsed()
    }

    fn check(&self) -> Result<(), Endless> {
        let state = &self.0;
        let granted = state.granted.load(Ordering::Relaxed);
        if state.is_open.load(Ordering::Relaxed) {
            Ok(())
        } else if state.bytes.load(Ordering::Relaxed) >= MOST_BYTES + granted {
            Err(Endless::Bytes)
        } else if state.reads.load(Ordering::Relaxed) >= MOST_READS + granted / LEAST_READ {
            Err(Endless::Pieces)
        } else {
            Ok(())
        }
    }

    fn count(&self, bytes: usize) {
        self.0.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.0.reads.fetch_add(1, Ordering::Relaxed);
    }
}

/// A connection with its meter.
#[derive(Debug)]
pub(super) struct Line {
    stream: TcpStream,
    meter: Meter,
}

impl Line {
    pub(super) const fn new(stream: TcpStream, meter: Meter) -> Self {
        Self { stream, meter }
    }
}

impl Connection for Line {
    fn connected(&self) -> Connected {
        let is_proxied = self.meter.0.is_proxied.load(Ordering::Relaxed);
        Connected::new().proxy(is_proxied).extra(self.meter.clone())
    }
}

impl AsyncRead for Line {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.meter.check().map_err(io::Error::other)?;
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        self.meter.count(buf.filled().len() - before);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Line {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
