//! The phase of one connection, from the bytes that are read: whether it is idle, reads a head or is busy, since when, and whether a
//! request line is too long. Sees the bytes before hyper does, after TLS if there is any, and parses no requests. Replaces the answers
//! that hyper gives by itself.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::{Sleep, sleep};
use tokio_util::sync::CancellationToken;

use crate::clock::{Clock, Timestamp};

use super::cut_short::CutShort;
use super::window::Window;

/// The first bytes of an HTTP/2 connection, and of no other (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The longest request line, in bytes: less than hyper's limit for a head, which hyper would report as too many headers.
const LONGEST_LINE: usize = 60 * 1024;

/// How long the end of an HTTP/2 connection is withheld: its implementation forgets the requests that came with the end.
const WITHHELD: Duration = Duration::from_millis(20);

/// The phase of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Phase {
    /// Idle since then.
    Idle(Timestamp),
    /// A request began to come in then, and its headers are not complete.
    Head(Timestamp),
    /// A request is being answered, or the connection speaks HTTP/2, which has its own keep-alive.
    Busy,
}

/// The phase of a connection, shared between the stream that reads it and the task that watches it.
#[derive(Clone, Debug)]
pub(super) struct Phases(Arc<Cell>);

#[derive(Debug)]
struct Cell {
    /// The phase as one number: [`BUSY`], [`HTTP2`], or the time in milliseconds in the upper bits and [`HEAD`] in the lowest.
    phase: AtomicU64,
    /// The bytes of the preface that have come; [`NO_PREFACE`] if others came.
    preface: AtomicUsize,
    /// Bytes of a request line that has not ended; [`ENDED`] when there is none to end.
    line: AtomicUsize,
    /// Whether a request line was too long.
    endless: AtomicBool,
    /// Whether there was a request.
    began: AtomicBool,
    /// Whether the last one has a body that was not read to its end.
    unread: AtomicBool,
    /// Holds a permit from the first request on.
    asked: Notify,
    clock: Clock,
    /// Tells the daemon to stop.
    stop: CancellationToken,
}

const BUSY: u64 = u64::MAX;
const HTTP2: u64 = u64::MAX - 1;
const HEAD: u64 = 1;
/// In place of a length: the line has ended.
const ENDED: usize = usize::MAX;
/// In place of a length: the connection did not begin with the preface.
const NO_PREFACE: usize = usize::MAX;

impl Phases {
    /// A connection that is idle since now.
    pub(super) fn new(clock: Clock, stop: CancellationToken) -> Self {
        let (phase, asked) = (AtomicU64::new(clock.now().as_millis() << 1), Notify::new());
        let (preface, line) = <(AtomicUsize, AtomicUsize)>::default();
        let (endless, began, unread) = <(AtomicBool, AtomicBool, AtomicBool)>::default();
        Self(Arc::new(Cell { phase, preface, line, endless, began, unread, asked, clock, stop }))
    }

    pub(super) fn phase(&self) -> Phase {
        match self.0.phase.load(Ordering::Relaxed) {
            BUSY | HTTP2 => Phase::Busy,
            n if n & HEAD == HEAD => Phase::Head(Timestamp::from_millis(n >> 1)),
            n => Phase::Idle(Timestamp::from_millis(n >> 1)),
        }
    }

    /// Whether the connection was ended because a request line was too long.
    pub(super) fn has_endless_line(&self) -> bool {
        self.0.endless.load(Ordering::Relaxed)
    }

    /// A request is complete as far as its headers go. It is under way until what is returned is dropped.
    pub(super) fn request_began(&self, has_body: bool) -> UnderWay {
        self.set(BUSY);
        self.0.unread.store(has_body, Ordering::Relaxed);
        self.0.began.store(true, Ordering::Relaxed);
        self.0.asked.notify_one();
        UnderWay(self.clone())
    }

    /// Waits for the first request of this connection; returns at once if it has begun before. For one caller.
    pub(super) async fn first_request(&self) {
        self.0.asked.notified().await;
    }

    /// All of its body has been read.
    pub(super) fn body_ended(&self) {
        self.0.unread.store(false, Ordering::Relaxed);
    }

    /// All of its answer has been handed on. What is left of a body comes next, and is no request line.
    fn request_ended(&self) {
        let line = if self.0.unread.load(Ordering::Relaxed) { ENDED } else { 0 };
        self.0.line.store(line, Ordering::Relaxed);
        self.set(self.0.clock.now().as_millis() << 1);
    }

    /// The token that tells the daemon to stop.
    pub(super) fn stopping(&self) -> &CancellationToken {
        &self.0.stop
    }

    fn is_http2(&self) -> bool {
        self.0.phase.load(Ordering::Relaxed) == HTTP2
    }

    /// Whether no request has begun, so that what is written now is hyper's own answer to bytes that are no request.
    fn is_before_requests(&self) -> bool {
        !self.0.began.load(Ordering::Relaxed) && !self.is_http2()
    }

    fn set(&self, phase: u64) {
        if !self.is_http2() {
            self.0.phase.store(phase, Ordering::Relaxed);
        }
    }

    /// Reports bytes that were read. The first byte turns idle to head, and the whole preface of HTTP/2 ends the watch. An error, for too
    /// long a request line, ends the connection.
    fn has_read(&self, bytes: &[u8]) -> io::Result<()> {
        let phase = self.0.phase.load(Ordering::Relaxed);
        if phase == BUSY || phase == HTTP2 || bytes.is_empty() {
            return Ok(());
        }
        if self.ends_preface(bytes) {
            self.0.phase.store(HTTP2, Ordering::Relaxed);
            return Ok(());
        }
        if phase & HEAD == 0 {
            self.0.phase.store(self.0.clock.now().as_millis() << 1 | HEAD, Ordering::Relaxed);
        }
        self.has_read_of_line(bytes)
    }

    /// Returns whether these bytes complete the preface. As hyper does, looks for it only in the first bytes of the connection.
    fn ends_preface(&self, bytes: &[u8]) -> bool {
        let before = self.0.preface.load(Ordering::Relaxed);
        let Some(rest) = PREFACE.get(before..) else { return false };
        let ends = bytes.starts_with(rest);
        let now = if rest.starts_with(bytes) { before + bytes.len() } else { NO_PREFACE };
        self.0.preface.store(now, Ordering::Relaxed);
        ends
    }

    fn has_read_of_line(&self, bytes: &[u8]) -> io::Result<()> {
        let before = self.0.line.load(Ordering::Relaxed);
        if before == ENDED {
            return Ok(());
        }
        let end = memchr::memchr(b'\n', bytes);
        let line = before + end.unwrap_or(bytes.len());
        if line > LONGEST_LINE {
            self.0.endless.store(true, Ordering::Relaxed);
            return Err(io::ErrorKind::InvalidData.into());
        }
        self.0.line.store(if end.is_some() { ENDED } else { line }, Ordering::Relaxed);
        Ok(())
    }
}

/// A request under way; dropping this ends it.
pub(super) struct UnderWay(Phases);

impl UnderWay {
    /// Whether its connection is to end with it: the daemon stops.
    pub(super) fn is_last(&self) -> bool {
        self.0.stopping().is_cancelled()
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.request_ended();
    }
}

/// A stream that keeps track of its phase.
pub(super) struct Followed<S> {
    stream: S,
    phases: Phases,
    /// The unwritten rest of our answer that replaces one of hyper's own.
    instead: Option<Bytes>,
    /// Withholds the end until it fires.
    end: Option<Pin<Box<Sleep>>>,
    window: Window,
    /// The wait for room for the window.
    opening: Option<BoxFuture<'static, io::Result<()>>>,
}

impl<S> Followed<S> {
    pub(super) fn new(stream: S, phases: Phases, window: Window) -> Self {
        Self { stream, phases, instead: None, end: None, window, opening: None }
    }

    /// Ready when an HTTP/2 connection may be read.
    fn poll_window(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.opening.is_none() && self.window.is_open() {
            return Poll::Ready(Ok(()));
        }
        let opening = self.opening.get_or_insert_with(|| Box::pin(self.window.clone().open()));
        let opened = ready!(opening.as_mut().poll(cx));
        self.opening = None;
        Poll::Ready(opened)
    }
}

impl<S: AsyncWrite + Unpin> Followed<S> {
    /// Writes our answer in place of `theirs`, if that is one that hyper gives by itself; ready when all of ours is written. `None` if
    /// `theirs` is another.
    fn poll_instead(&mut self, cx: &mut Context<'_>, theirs: &[u8]) -> Option<Poll<io::Result<()>>> {
        if !self.phases.is_before_requests() {
            return None;
        }
        if self.instead.is_none() {
            self.instead = Some(CutShort::of_answer(theirs)?.answer().into());
        }
        let left = self.instead.as_mut()?;
        while !left.is_empty() {
            match Pin::new(&mut self.stream).poll_write(cx, left) {
                Poll::Ready(Ok(written)) => left.advance(written),
                Poll::Ready(Err(error)) => return Some(Poll::Ready(Err(error))),
                Poll::Pending => return Some(Poll::Pending),
            }
        }
        Some(Poll::Ready(Ok(())))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Followed<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Some(end) = &mut self.end {
            ready!(end.as_mut().poll(cx));
        }
        if self.phases.is_http2() {
            ready!(self.poll_window(cx))?;
        }
        let before = buf.filled().len();
        let read = ready!(Pin::new(&mut self.stream).poll_read(cx, buf));
        let is_end = read.is_err() || (buf.filled().len() == before && buf.remaining() > 0);
        if is_end && self.end.is_none() && self.phases.is_http2() {
            // Reading again later loses nothing: the stream is still at its end then.
            ready!(self.end.insert(Box::pin(sleep(WITHHELD))).as_mut().poll(cx));
        }
        read?;
        Poll::Ready(self.phases.has_read(&buf.filled()[before..]))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Followed<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.poll_instead(cx, buf) {
            Some(said) => said.map_ok(|()| buf.len()),
            None => Pin::new(&mut self.stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.poll_instead(cx, bufs.first().map_or(&[][..], |buf| &buf[..])) {
            Some(said) => said.map_ok(|()| bufs.iter().map(|buf| buf.len()).sum()),
            None => Pin::new(&mut self.stream).poll_write_vectored(cx, bufs),
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn unseen() -> Phases {
        Phases::new(Clock::system(), CancellationToken::new())
    }

    #[tokio::test]
    async fn a_line_is_measured_over_all_its_pieces_and_each_request_begins_anew() {
        let phases = unseen();
        for _ in 0..3 {
            for _ in 0..50 {
                phases.has_read(&[b'x'; 1024]).unwrap();
            }
            phases.has_read(b" HTTP/1.1\r\nhost: x\r\n").unwrap();
            assert!(matches!(phases.phase(), Phase::Head(_)));
            // Headers follow, which hyper limits.
            phases.has_read(&[b'x'; 2 * LONGEST_LINE]).unwrap();
            let under_way = phases.request_began(false);
            assert_eq!(phases.phase(), Phase::Busy);
            drop(under_way);
            assert!(matches!(phases.phase(), Phase::Idle(_)));
        }
        phases.has_read(&[b'x'; LONGEST_LINE]).unwrap();
        assert!(!phases.has_endless_line());
        phases.has_read(b"x").unwrap_err();
        assert!(phases.has_endless_line());
    }

    #[tokio::test]
    async fn what_is_left_of_a_body_is_no_request_line() {
        let phases = unseen();
        for is_read in [false, true] {
            let under_way = phases.request_began(true);
            if is_read {
                phases.body_ended();
            }
            drop(under_way);
            assert_eq!(phases.has_read(&[b'x'; 2 * LONGEST_LINE]).is_err(), is_read);
        }
    }

    #[tokio::test]
    async fn http2_looks_after_itself_however_its_preface_comes() {
        for size in 1..=PREFACE.len() {
            let phases = unseen();
            for piece in PREFACE.chunks(size) {
                assert_ne!(phases.phase(), Phase::Busy);
                phases.has_read(piece).unwrap();
            }
            phases.has_read(&[0; 2 * LONGEST_LINE]).unwrap();
            drop(phases.request_began(false));
            assert_eq!(phases.phase(), Phase::Busy);
        }
    }

    #[tokio::test]
    async fn only_the_whole_preface_at_the_beginning_is_http2() {
        let follows_a_byte = [b"\n", PREFACE].concat();
        for bytes in [&PREFACE[..23], b"PRIX / HTTP/1.1\r\n\r\n", b"PRI * HTTP/1.1\r\n\r\n", &follows_a_byte] {
            for size in [1, bytes.len()] {
                let phases = unseen();
                for piece in bytes.chunks(size) {
                    phases.has_read(piece).unwrap();
                    assert!(matches!(phases.phase(), Phase::Head(_)));
                }
            }
        }
    }
}
