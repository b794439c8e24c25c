//! Bodies: read within a limit each, a limit of memory together, and a limit of patience.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use futures_util::{Stream, stream};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

use crate::units::ByteSize;

/// How long the next bytes of a body may take.
const SILENCE: Duration = Duration::from_secs(10);
/// Bytes a second that a body must bring after half a minute.
const SLOWEST: u64 = 4096;
/// How many large bodies are decoded at once.
const DECODERS: usize = 2;
/// How long a body waits for others to leave memory.
const PATIENCE: Duration = Duration::from_secs(5);
/// What a body of unknown length is given to begin with: most are smaller.
const FIRST: u64 = 64 * 1024;

/// Why a body was not read to its end.
#[derive(Debug, thiserror::Error)]
pub(super) enum BodyError {
    /// It is larger than one body may be: 413.
    #[error("the body has more than {limit} bytes, the limit of {name}")]
    TooLarge {
        /// The limit in bytes.
        limit: u64,
        /// The option that sets it.
        name: &'static str,
    },
    /// Nothing came for too long: 408.
    #[error("nothing more of the body arrived for {} seconds", SILENCE.as_secs())]
    Timeout,
    /// The bodies in memory together have reached their limit: 503.
    #[error("too many bytes are in flight, try again later")]
    Overloaded,
    /// The client left, or its chunks cannot be read: 400, if anybody still listens.
    #[error("the body broke off")]
    Disconnected,
}

/// Room for bodies in memory, `max_inflight_bytes` in all.
#[derive(Clone, Debug)]
pub(super) struct Room {
    /// In units of a KiB, because permits are counted in 32 bits.
    kib: Arc<Semaphore>,
    freed: Arc<Notify>,
    total: u64,
    max_body: u64,
    turns: Arc<Semaphore>,
}

/// Room taken; given back when dropped.
#[derive(Debug, Default)]
pub(super) struct Held {
    permits: Option<OwnedSemaphorePermit>,
    bytes: u64,
    /// Told when the room is given back.
    freed: Option<Arc<Notify>>,
}

impl Held {
    /// Gives back what is more than `bytes`.
    pub(super) fn shrink(&mut self, bytes: u64) {
        let surplus = usize::try_from(self.bytes.saturating_sub(bytes) / 1024).unwrap_or(0);
        let Some(given_back) = self.permits.as_mut().and_then(|permits| permits.split(surplus)) else { return };
        drop(given_back);
        self.bytes -= surplus as u64 * 1024;
        if let Some(freed) = &self.freed {
            freed.notify_waiters();
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        drop(self.permits.take());
        if let Some(freed) = &self.freed {
            freed.notify_waiters();
        }
    }
}

impl Room {
    pub(super) fn new(max_body: ByteSize, max_inflight: ByteSize) -> Self {
        let kib = usize::try_from(max_inflight.get() / 1024).unwrap_or(usize::MAX).clamp(1, Semaphore::MAX_PERMITS);
        let (kib, freed) = (Arc::new(Semaphore::new(kib)), Arc::default());
        let turns = Arc::new(Semaphore::new(DECODERS));
        Self { kib, freed, turns, total: max_inflight.get(), max_body: max_body.get() }
    }

    /// The limit of one body, and the option that sets it: what all may have together is the most for one.
    pub(super) const fn limit(&self) -> (u64, &'static str) {
        if self.total < self.max_body { (self.total, "max_inflight_bytes") } else { (self.max_body, "max_body") }
    }

    /// Makes `held` be room for `bytes`.
    pub(super) async fn extend(&self, held: &mut Held, bytes: u64) -> Result<(), BodyError> {
        if bytes <= held.bytes {
            return Ok(());
        }
        let too_large = BodyError::TooLarge { limit: self.total, name: "max_inflight_bytes" };
        if bytes > self.total {
            // It would wait for what can never be free.
            return Err(too_large);
        }
        let more = u32::try_from((bytes - held.bytes).div_ceil(1024)).map_err(|_| too_large)?;
        let permit = timeout(PATIENCE, self.take(more)).await.map_err(|_| BodyError::Overloaded)?;
        match &mut held.permits {
            Some(permits) => permits.merge(permit),
            None => held.permits = Some(permit),
        }
        held.bytes += u64::from(more) * 1024;
        held.freed = Some(Arc::clone(&self.freed));
        Ok(())
    }

    /// Waits for room without a place in the semaphore's queue, whose first takes all that is free: a large body would keep
    /// small ones, for which there is room, from coming in.
    async fn take(&self, kib: u32) -> OwnedSemaphorePermit {
        loop {
            let mut freed = std::pin::pin!(self.freed.notified());
            freed.as_mut().enable();
            if let Ok(permit) = Arc::clone(&self.kib).try_acquire_many_owned(kib) {
                return permit;
            }
            freed.await;
        }
    }

    /// The turns at decoding large bodies.
    pub(super) fn turns(&self) -> Arc<Semaphore> {
        Arc::clone(&self.turns)
    }

    /// A body as it comes, none of it kept here.
    pub(super) fn pieces(&self, body: Body) -> impl Stream<Item = Result<Bytes, BodyError>> + Send + 'static {
        let (limit, began) = (self.max_body, Instant::now());
        stream::try_unfold((body, 0), move |(mut body, before)| async move {
            let Some(piece) = next(&mut body).await? else { return Ok(None) };
            let total = before + piece.len() as u64;
            if total > limit {
                return Err(BodyError::TooLarge { limit, name: "max_body" });
            }
            if total < began.elapsed().saturating_sub(3 * SILENCE).as_secs() * SLOWEST {
                return Err(BodyError::Timeout);
            }
            Ok(Some((piece, (body, total))))
        })
    }

    /// A turn at decoding a large body.
    pub(super) async fn turn(&self) -> OwnedSemaphorePermit {
        Arc::clone(&self.turns).acquire_owned().await.expect("the semaphore is never closed")
    }

    /// What all bodies may take together.
    pub(super) const fn total(&self) -> u64 {
        self.total
    }

    /// What one body may have, wherever it is kept.
    pub(super) const fn max_body(&self) -> u64 {
        self.max_body
    }

    /// Makes `held` be room for `bytes`, and for as much again, up to `most`, when it is not yet.
    pub(super) async fn extend_for(&self, held: &mut Held, bytes: u64, most: u64) -> Result<(), BodyError> {
        if bytes > held.bytes { self.extend(held, (bytes * 2).min(most)).await } else { Ok(()) }
    }

    /// Reads a body into memory, up to [`Room::limit`]. One that came in one piece, as small ones do, is not copied.
    pub(super) async fn read(&self, body: Body, held: &mut Held) -> Result<Bytes, BodyError> {
        let (limit, name) = self.limit();
        let mut incoming = Incoming::new(body, limit, name)?;
        self.extend(held, incoming.expected()).await?;
        let (mut first, mut all) = (Bytes::new(), BytesMut::new());
        while let Some(piece) = incoming.next().await? {
            if first.is_empty() && all.is_empty() {
                first = piece;
                continue;
            }
            if all.is_empty() {
                all.reserve(usize::try_from(incoming.expected().max(incoming.total() * 2)).unwrap_or(0));
                all.extend_from_slice(&std::mem::take(&mut first));
            }
            // Doubling keeps both the copies and the visits to the semaphore few.
            self.extend_for(held, incoming.total(), limit).await?;
            all.extend_from_slice(&piece);
        }
        Ok(if all.is_empty() { first } else { all.freeze() })
    }

    /// Reads a body away, keeping nothing.
    pub(super) async fn discard(&self, body: &mut Body) -> Result<(), BodyError> {
        let (limit, name) = self.limit();
        let mut total = 0;
        while let Some(piece) = next(body).await? {
            total += piece.len() as u64;
            if total > limit {
                return Err(BodyError::TooLarge { limit, name });
            }
        }
        Ok(())
    }
}

/// A body on its way in, within its limits of size and time.
pub(super) struct Incoming {
    body: Body,
    limit: u64,
    /// The option that sets the limit.
    name: &'static str,
    /// As announced, or what most have.
    expected: u64,
    total: u64,
    began: Instant,
}

impl Incoming {
    /// Refuses at once what announces that it is too large.
    pub(super) fn new(body: Body, limit: u64, name: &'static str) -> Result<Self, BodyError> {
        let length = body.size_hint().exact();
        if length.is_some_and(|length| length > limit) {
            return Err(BodyError::TooLarge { limit, name });
        }
        let expected = length.unwrap_or(FIRST.min(limit));
        Ok(Self { body, limit, name, expected, total: 0, began: Instant::now() })
    }

    /// The length as announced, or what most bodies stay below.
    pub(super) const fn expected(&self) -> u64 {
        self.expected
    }

    /// Bytes that came so far.
    pub(super) const fn total(&self) -> u64 {
        self.total
    }

    /// The next bytes.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, BodyError> {
        let Some(piece) = next(&mut self.body).await? else { return Ok(None) };
        self.total += piece.len() as u64;
        if self.total > self.limit {
            return Err(BodyError::TooLarge { limit: self.limit, name: self.name });
        }
        // A byte now and then would hold the room of a large body for ever.
        let grace = self.began.elapsed().saturating_sub(3 * SILENCE);
        if self.total < grace.as_secs() * SLOWEST { Err(BodyError::Timeout) } else { Ok(Some(piece)) }
    }
}

/// The next bytes; trailers are passed over.
async fn next(body: &mut Body) -> Result<Option<Bytes>, BodyError> {
    loop {
        let frame = timeout(SILENCE, body.frame()).await.map_err(|_| BodyError::Timeout)?;
        match frame {
            None => return Ok(None),
            Some(Err(_)) => return Err(BodyError::Disconnected),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) if data.is_empty() => {}
                Ok(data) => return Ok(Some(data)),
                Err(_) => {}
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(max_body: u64, inflight: u64) -> Room {
        Room::new(ByteSize::bytes(max_body), ByteSize::bytes(inflight))
    }

    fn chunked(pieces: Vec<&'static [u8]>) -> Body {
        let frames = pieces.into_iter().map(|p| Ok::<_, std::io::Error>(Bytes::from_static(p)));
        Body::from_stream(stream::iter(frames))
    }

    #[tokio::test]
    async fn pieces_become_one_body_and_room_comes_back() {
        let room = room(10_000, 100 * 1024);
        let mut held = Held::default();
        assert_eq!(room.read(chunked(vec![b"ab", b"", b"cd"]), &mut held).await.unwrap(), "abcd");
        assert!(room.kib.available_permits() < 100);
        drop(held);
        assert_eq!(room.kib.available_permits(), 100);
    }

    #[tokio::test]
    async fn room_that_is_needed_no_longer_can_be_given_back_early() {
        let room = room(1 << 20, 100 * 1024);
        let mut held = Held::default();
        room.extend(&mut held, 80 * 1024).await.unwrap();
        held.shrink(30 * 1024);
        assert_eq!(room.kib.available_permits(), 70);
        held.shrink(40 * 1024);
        room.extend(&mut held, 50 * 1024).await.unwrap();
        assert_eq!(room.kib.available_permits(), 50);
        drop(held);
        assert_eq!(room.kib.available_permits(), 100);
    }

    #[tokio::test]
    async fn too_much_is_refused_whether_announced_or_not() {
        let room = room(4, 1024 * 1024);
        let mut held = Held::default();
        assert!(matches!(room.read(Body::from("12345"), &mut held).await, Err(BodyError::TooLarge { limit: 4, .. })));
        assert!(matches!(room.read(chunked(vec![b"123", b"45"]), &mut held).await, Err(BodyError::TooLarge { .. })));
        assert_eq!(room.read(chunked(vec![b"12", b"34"]), &mut held).await.unwrap(), "1234");
    }

    #[tokio::test(start_paused = true)]
    async fn silence_ends_a_body() {
        let stream = stream::pending::<Result<Bytes, std::io::Error>>();
        let read = room(10, 1024).read(Body::from_stream(stream), &mut Held::default()).await;
        assert!(matches!(read, Err(BodyError::Timeout)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_for_which_no_room_comes_free_is_told_to_come_back() {
        let room = room(2048, 2048);
        let mut first = Held::default();
        room.extend(&mut first, 2048).await.unwrap();
        assert!(matches!(room.read(Body::from("x"), &mut Held::default()).await, Err(BodyError::Overloaded)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_large_body_that_waits_keeps_no_small_one_waiting_and_gets_the_room_that_comes_free() {
        let room = room(2048, 2048);
        let (mut first, mut large, mut small) = (Held::default(), Held::default(), Held::default());
        room.extend(&mut first, 1024).await.unwrap();
        let waiting = room.extend(&mut large, 2048);
        let others = async {
            tokio::task::yield_now().await;
            let began = Instant::now();
            room.extend(&mut small, 1024).await.unwrap();
            assert!(began.elapsed().is_zero());
            drop((small, first));
        };
        assert!(tokio::join!(waiting, others).0.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn what_can_never_fit_is_too_large_and_does_not_wait() {
        let room = room(4096, 2048);
        let began = Instant::now();
        let extended = room.extend(&mut Held::default(), 2049).await;
        assert!(matches!(extended, Err(BodyError::TooLarge { limit: 2048, name: "max_inflight_bytes" })));
        assert!(began.elapsed().is_zero());
    }
}
