//! A client's socket: knows how long the client has read nothing, and closes so that the client gets to read our answer.
//!
//! Closing a socket with unread bytes makes the kernel send a reset, on which SDKs lose the answer and may loop. So the unread bytes
//! are read and discarded for a moment first.
//!
//! Writing to a client that has left is no error at first: what it sent before may still wait in the kernel, and is read.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::net::{RecvFlags, Shutdown};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::clock::{Clock, Timestamp};

use super::proxied::{self, Header, NoHeader};

/// How long and how much is read away before the socket is closed: a little more than the largest body, of a client that reads our
/// answer only when it has sent all of its own.
const LINGER: Duration = Duration::from_secs(10);
const LINGER_BYTES: usize = 256 * 1024 * 1024;
/// How long a client may send nothing meanwhile.
const SILENCE: Duration = Duration::from_secs(2);

/// The bytes that are written to a client that has left before that is an error: enough for the rest of a handshake and an answer of
/// our own, not for those of the primary.
const UNHEARD: usize = 64 * 1024;

/// How many bytes of a request's head are left in the kernel until it is complete: the kernel takes less memory for them than hyper.
const PEEKED: usize = proxied::LONGEST;

/// The first bytes of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Beginning {
    pub(super) first: u8,
    /// Whether they hold a whole head of a request, or as much of one as is waited for.
    pub(super) is_whole: bool,
    /// Whether they begin a header of the PROXY protocol.
    pub(super) is_proxied: bool,
}

impl Beginning {
    fn of(head: &[u8]) -> Option<Self> {
        let has = |end: &[u8]| memchr::memmem::find(head, end).is_some();
        let is_whole = head.len() >= PEEKED || has(b"\r\n\r\n") || has(b"\n\n");
        head.first().map(|first| Self { first: *first, is_whole, is_proxied: proxied::is_header(head) })
    }
}

/// A socket, shared between hyper, which reads and writes, and the task that watches and closes it.
#[derive(Clone, Debug)]
pub(super) struct Socket {
    stream: Arc<TcpStream>,
    said: Arc<Said>,
    clock: Clock,
}

/// The state of writing to the client.
#[derive(Debug, Default)]
struct Said {
    /// Since when the kernel takes no more bytes, in milliseconds; 0 if it does.
    blocked: AtomicU64,
    /// The bytes written for a client that has left.
    unheard: AtomicUsize,
}

impl Socket {
    pub(super) fn new(stream: TcpStream, clock: Clock) -> Self {
        Self { stream: Arc::new(stream), said: Arc::default(), clock }
    }

    /// How long the client has read nothing while bytes wait to be written; zero if none wait.
    pub(super) fn blocked_for(&self) -> Duration {
        match self.said.blocked.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            since => self.clock.now().since(Timestamp::from_millis(since)),
        }
    }

    /// Waits for the first bytes, and leaves them to be read; `None` if the connection ends without.
    pub(super) async fn beginning(&self) -> Option<Beginning> {
        self.peek(|head, _| Beginning::of(head)).await
    }

    /// As [`Socket::beginning`], but waits until hyper can make something of the bytes, or no more come.
    pub(super) async fn whole_beginning(&self) -> Option<Beginning> {
        // A client that has closed its side sends nothing more.
        self.peek(|head, is_all| Beginning::of(head).filter(|beginning| beginning.is_whole || is_all)).await
    }

    /// Waits for a whole header of the PROXY protocol, and reads it; `None` if the connection ends before anything came.
    pub(super) async fn proxy_header(&self) -> Option<Result<Header, NoHeader>> {
        let found = self.peek(|head, is_all| match proxied::header(head) {
            Ok(None) => is_all.then_some(Err(NoHeader)),
            Ok(Some(header)) => Some(Ok(header)),
            Err(none) => Some(Err(none)),
        });
        let header = match found.await? {
            Ok(header) => header,
            Err(none) => return Some(Err(none)),
        };
        let mut taken = [0; PEEKED];
        // All of the header is there: it was peeked.
        let read = self.stream.try_read(&mut taken[..header.length]).ok()?;
        (read == header.length).then_some(Ok(header))
    }

    /// Peeks at the bytes that are there until `look` makes something of them. `look` is told whether they are all that come.
    async fn peek<T>(&self, look: impl Fn(&[u8], bool) -> Option<T>) -> Option<T> {
        loop {
            let ready = self.stream.ready(Interest::READABLE).await.ok()?;
            let peeked = self.stream.try_io(Interest::READABLE, || {
                // In here, so that the buffer is no part of the future while the connection waits.
                let mut head = [0; PEEKED];
                let (read, _) = rustix::net::recv(&*self.stream, &mut head, RecvFlags::PEEK)?;
                if read == 0 {
                    return Ok(None);
                }
                let seen = look(&head[..read], ready.is_read_closed());
                seen.map(Some).ok_or_else(|| io::ErrorKind::WouldBlock.into())
            });
            match peeked {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return done.ok().flatten(),
            }
        }
    }

    /// Writes a last answer to a client that gets no other. It is lost if the kernel has no room for it.
    pub(super) fn say(&self, answer: &[u8]) {
        drop(self.stream.try_write(answer));
    }

    /// Ends the connection from our side, then reads and discards what the client still sends, within bounds.
    pub(super) async fn close(self) {
        // This fails if the client has left already, which does not matter.
        rustix::net::shutdown(&*self.stream, Shutdown::Write).unwrap_or(());
        let drain = async {
            let mut total = 0;
            while total < LINGER_BYTES && matches!(timeout(SILENCE, self.stream.readable()).await, Ok(Ok(()))) {
                // Not a part of the connection while it waits.
                match self.stream.try_read(&mut [0; 16 * 1024]) {
                    Ok(0) => break,
                    Ok(n) => total += n,
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                    Err(_) => break,
                }
            }
        };
        drop(timeout(LINGER, drain).await);
    }

    /// Writes by `attempt`, which has `bytes` to write in total.
    fn poll_say(
        &self,
        cx: &mut Context<'_>,
        bytes: usize,
        mut attempt: impl FnMut(&TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            let Poll::Ready(ready) = self.stream.poll_write_ready(cx) else {
                if self.said.blocked.load(Ordering::Relaxed) == 0 {
                    self.said.blocked.store(self.clock.now().as_millis(), Ordering::Relaxed);
                }
                return Poll::Pending;
            };
            ready?;
            match attempt(&self.stream) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) if is_gone(&e) && self.said.unheard.fetch_add(bytes, Ordering::Relaxed) < UNHEARD => {
                    return Poll::Ready(Ok(bytes));
                }
                done => {
                    self.said.blocked.store(0, Ordering::Relaxed);
                    return Poll::Ready(done);
                }
            }
        }
    }
}

/// Whether the error says that the client has left.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.stream.poll_read_ready(cx))?;
            let (before, room) = (buf.filled().len(), buf.remaining());
            let read = self.stream.try_io(Interest::READABLE, || match self.stream.try_read_buf(buf)? {
                // A read that leaves room in the buffer took all there was: the next read waits for news, and does not ask the kernel.
                read if 0 < read && read < room => Err(io::ErrorKind::WouldBlock.into()),
                _ => Ok(()),
            });
            match read {
                Err(e) if e.kind() != io::ErrorKind::WouldBlock => return Poll::Ready(Err(e)),
                Err(_) if buf.filled().len() == before => {}
                _ => return Poll::Ready(Ok(())),
            }
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_say(cx, buf.len(), |stream| stream.try_write(buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_say(cx, bufs.iter().map(|buf| buf.len()).sum(), |stream| stream.try_write_vectored(bufs))
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

#[cfg(test)]
mod tests {
    use futures_util::poll;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_time_that_a_client_reads_nothing_counts_until_it_reads_again() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let mut socket = Socket::new(stream, Clock::system());
        assert_eq!(socket.blocked_for(), Duration::ZERO);
        let piece = [b'x'; 64 * 1024];
        let mut filled = 0;
        // Until the kernel takes no more.
        while let Poll::Ready(written) = poll!(std::pin::pin!(socket.write(&piece))) {
            filled += written.unwrap();
        }
        tokio::time::advance(Duration::from_secs(7)).await;
        assert_eq!(socket.blocked_for(), Duration::from_secs(7));
        client.read_exact(&mut vec![0; filled]).await.unwrap();
        socket.write_all(b"more").await.unwrap();
        assert_eq!(socket.blocked_for(), Duration::ZERO);
        socket.shutdown().await.unwrap();
    }

    #[tokio::test]
    async fn bytes_sent_before_a_client_left_are_read_and_few_are_written() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let mut socket = Socket::new(listener.accept().await.unwrap().0, Clock::system());
        client.write_all(b"sent").await.unwrap();
        client.set_zero_linger().unwrap();
        drop(client);
        socket.write_all(&[b'x'; 1000]).await.unwrap();
        let mut read = [0; 4];
        socket.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"sent");
        socket.write_all(&[b'x'; UNHEARD]).await.unwrap();
        assert!(is_gone(&socket.write_all(b"x").await.unwrap_err()));
    }

    #[tokio::test]
    async fn a_head_stays_in_the_kernel_until_it_is_whole_or_ends() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        for (rest, whole) in [(&b"host: x\r\n\r\n"[..], true), (&[b'x'; PEEKED], true), (b"", false)] {
            let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let socket = Socket::new(listener.accept().await.unwrap().0, Clock::system());
            client.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
            assert_eq!(socket.beginning().await, Some(Beginning { first: b'G', is_whole: false, is_proxied: false }));
            let mut waiting = std::pin::pin!(socket.whole_beginning());
            assert!(poll!(waiting.as_mut()).is_pending());
            client.write_all(rest).await.unwrap();
            if !whole {
                client.shutdown().await.unwrap();
            }
            assert_eq!(waiting.await, Some(Beginning { first: b'G', is_whole: whole, is_proxied: false }));
        }
    }
}
