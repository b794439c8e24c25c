//! Bodies: read within a limit each, a limit of memory together, and a limit of patience.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use futures_util::{Stream, stream};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use tokio::sync::{Mutex, Notify, OwnedSemaphorePermit, Semaphore};
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
/// Bodies of up to this size may take the last of the room; what is larger leaves a quarter of it to them.
pub(super) const SMALL: u64 = 64 * 1024;

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
    /// How much it is, in bytes.
    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

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

    /// Makes `held` be room for `bytes`; waits for others to leave memory.
    pub(super) async fn extend(&self, held: &mut Held, bytes: u64) -> Result<(), BodyError> {
        if bytes > self.total {
            // It would wait for what can never be free.
            return Err(BodyError::TooLarge { limit: self.total, name: "max_inflight_bytes" });
        }
        let more = missing(held, bytes);
        if more > 0 {
            let permit = timeout(PATIENCE, self.take(more)).await.map_err(|_| BodyError::Overloaded)?;
            self.add(held, permit);
        }
        Ok(())
    }

    /// Makes `held` be room for `bytes` if that is free now beside the quarter that is for small bodies. Whether it is.
    pub(super) fn extend_now(&self, held: &mut Held, bytes: u64) -> bool {
        let more = missing(held, bytes);
        let free = self.kib.available_permits().saturating_sub(usize::try_from(self.total / 4 / 1024).unwrap_or(0));
        if more == 0 || more as usize > free {
            return more == 0;
        }
        let taken = Arc::clone(&self.kib).try_acquire_many_owned(more);
        taken.map(|permit| self.add(held, permit)).is_ok()
    }

    fn add(&self, held: &mut Held, permit: OwnedSemaphorePermit) {
        held.bytes += permit.num_permits() as u64 * 1024;
        match &mut held.permits {
            Some(permits) => permits.merge(permit),
            None => held.permits = Some(permit),
        }
        if held.freed.is_none() {
            held.freed = Some(Arc::clone(&self.freed));
        }
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

    /// A body as it comes, none of it kept here; `held` becomes room for what came, up to `most`.
    pub(super) fn pieces(
        &self,
        body: Body,
        held: Arc<Mutex<Held>>,
        most: u64,
    ) -> Result<impl Stream<Item = Result<Bytes, BodyError>> + Send + 'static, BodyError> {
        let (incoming, room) = (Incoming::new(body, self.max_body, "max_body")?, self.clone());
        Ok(stream::try_unfold((incoming, room, held), move |(mut incoming, room, held)| async move {
            let Some(piece) = incoming.next().await? else { return Ok(None) };
            room.follow(&mut *held.lock().await, &incoming, most).await?;
            Ok(Some((piece, (incoming, room, held))))
        }))
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

    /// Makes `held` be room for what came, and for as much again when more is to come, up to `most`: what is only announced takes
    /// none. Doubling keeps both the copies and the visits to the semaphore few.
    pub(super) fn follow<'a>(
        &'a self,
        held: &'a mut Held,
        incoming: &Incoming,
        most: u64,
    ) -> impl Future<Output = Result<(), BodyError>> + Send + use<'a> {
        let wanted = if incoming.total() > held.bytes { incoming.soon().min(most) } else { 0 };
        self.extend(held, wanted)
    }

    /// Reads a body into memory, up to [`Room::limit`]. One that came in one piece, as small ones do, is not copied.
    pub(super) async fn read(&self, body: Body, held: &mut Held) -> Result<Bytes, BodyError> {
        let (limit, name) = self.limit();
        let (mut incoming, mut all) = (Incoming::new(body, limit, name)?, Joined::default());
        while let Some(piece) = incoming.next().await? {
            self.follow(held, &incoming, limit).await?;
            all.push(piece, held);
        }
        Ok(all.into_bytes())
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

/// Room that `held` lacks for `bytes`, in KiB.
fn missing(held: &Held, bytes: u64) -> u32 {
    u32::try_from(bytes.saturating_sub(held.bytes).div_ceil(1024)).unwrap_or(u32::MAX)
}

/// The pieces of a body made one. One that came in one piece is not copied.
#[derive(Default)]
pub(super) struct Joined {
    first: Bytes,
    all: BytesMut,
}

impl Joined {
    /// Adds a piece, for which there is room in `held`.
    pub(super) fn push(&mut self, piece: Bytes, held: &Held) {
        if self.first.is_empty() && self.all.is_empty() {
            self.first = piece;
            return;
        }
        let first = std::mem::take(&mut self.first);
        let needed = self.all.len() + first.len() + piece.len();
        if needed > self.all.capacity() {
            let capacity = needed.max(usize::try_from(held.bytes).unwrap_or(needed));
            self.all.reserve(capacity - self.all.len());
        }
        self.all.extend_from_slice(&first);
        self.all.extend_from_slice(&piece);
    }

    pub(super) fn into_bytes(self) -> Bytes {
        if self.all.is_empty() { self.first } else { self.all.freeze() }
    }
}

/// A body on its way in, within its limits of size and time.
pub(super) struct Incoming {
    body: Body,
    limit: u64,
    /// The option that sets the limit.
    name: &'static str,
    announced: Option<u64>,
    total: u64,
    began: Instant,
}

impl Incoming {
    /// Refuses at once what announces that it is too large.
    pub(super) fn new(body: Body, limit: u64, name: &'static str) -> Result<Self, BodyError> {
        let announced = body.size_hint().exact();
        if announced.is_some_and(|length| length > limit) {
            return Err(BodyError::TooLarge { limit, name });
        }
        Ok(Self { body, limit, name, announced, total: 0, began: Instant::now() })
    }

    /// What there will be soon: as much again as came so far, or what is left.
    pub(super) fn soon(&self) -> u64 {
        self.announced.map_or(self.total * 2, |length| length.min(self.total * 2))
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
    async fn a_body_that_is_all_there_takes_its_own_size_and_one_that_is_still_coming_twice_what_came() {
        let room = room(1 << 20, 100 * 1024);
        let mut held = Held::default();
        room.read(Body::from(vec![0; 5000]), &mut held).await.unwrap();
        assert_eq!(held.bytes(), 5 * 1024);
        let mut held = Held::default();
        room.read(chunked(vec![&[0; 3000], &[0; 3000], &[0; 1000]]), &mut held).await.unwrap();
        assert_eq!(held.bytes(), 14 * 1024);
    }

    #[tokio::test]
    async fn what_is_large_leaves_a_quarter_of_the_room() {
        let room = room(1 << 20, 100 * 1024);
        let (mut large, mut small) = (Held::default(), Held::default());
        assert!(!room.extend_now(&mut large, 76 * 1024));
        assert!(room.extend_now(&mut large, 75 * 1024));
        assert!(room.extend_now(&mut large, 75 * 1024) && !room.extend_now(&mut large, 75 * 1024 + 1));
        room.extend(&mut small, 25 * 1024).await.unwrap();
        assert_eq!((room.kib.available_permits(), large.bytes()), (0, 75 * 1024));
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
