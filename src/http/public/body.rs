//! Incoming bodies, with a limit of size, which the caller sets before the first byte is read, and limits of time.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use futures_util::{Stream, stream};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use super::limit::{BodyError, Limit, SLOWEST};
use super::room::{Held, Room, SMALL};

/// How long the next bytes of a body may take.
pub(super) const SILENCE: Duration = Duration::from_secs(10);
/// How long a body may bring less than [`SLOWEST`], whatever it brought before.
const GRACE: Duration = Duration::from_secs(30);

/// The least speed of a body. A fast beginning does not excuse a later drip, which would hold the room of a large body, or a place at
/// the primary, for hours.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// When the next piece is late, counted in time spent waiting for the body.
    until: Duration,
    /// How long the body may fall behind.
    grace: Duration,
}

impl Pace {
    pub(super) const fn new() -> Self {
        Self::within(GRACE)
    }

    /// A pace with another grace: shorter for a body that holds more than memory.
    pub(super) const fn within(grace: Duration) -> Self {
        Self { until: grace, grace }
    }

    /// Returns whether a piece of `bytes` came in time, after `waited` in total, and sets the time for the next one.
    pub(super) fn keeps(&mut self, bytes: usize, waited: Duration) -> bool {
        let bought = Duration::from_micros((bytes as u64).saturating_mul(1_000_000) / SLOWEST);
        let is_in_time = waited <= self.until;
        self.until = (self.until + bought).min(waited + self.grace);
        is_in_time
    }
}

/// The joined pieces of a body. A body of one piece is not copied.
#[derive(Default)]
pub(super) struct Joined {
    first: Bytes,
    all: BytesMut,
}

impl Joined {
    /// Adds a piece that `held` has room for.
    pub(super) fn push(&mut self, piece: Bytes, held: &Held) {
        if self.first.is_empty() && self.all.is_empty() {
            self.first = piece;
            return;
        }
        let first = std::mem::take(&mut self.first);
        let needed = self.all.len() + first.len() + piece.len();
        if needed > self.all.capacity() {
            let capacity = needed.max(usize::try_from(held.bytes()).unwrap_or(needed));
            self.all.reserve(capacity - self.all.len());
        }
        self.all.extend_from_slice(&first);
        self.all.extend_from_slice(&piece);
    }

    pub(super) fn into_bytes(self) -> Bytes {
        if self.all.is_empty() { self.first } else { self.all.freeze() }
    }
}

/// An incoming body, read piece by piece.
pub(in crate::http) struct Incoming {
    body: Body,
    limit: Limit,
    announced: Option<u64>,
    total: u64,
    /// The total time spent waiting for the body.
    waited: Duration,
    pace: Pace,
}

impl Incoming {
    pub(in crate::http) fn new(body: Body, limit: Limit) -> Self {
        let announced = body.size_hint().exact();
        Self { body, limit, announced, total: 0, waited: Duration::ZERO, pace: Pace::new() }
    }

    /// The size limit.
    pub(super) const fn limit(&self) -> Limit {
        self.limit
    }

    /// The bytes that came so far.
    pub(super) const fn total(&self) -> u64 {
        self.total
    }

    /// The bytes to make room for: twice what came, but at most the announced length, and at most [`SMALL`] until more has come.
    pub(super) fn soon(&self) -> u64 {
        let twice = self.total * 2;
        let soon = if self.total <= SMALL { twice.min(SMALL) } else { twice };
        self.announced.map_or(soon, |length| length.min(soon))
    }

    /// Reads the next bytes; `None` at the end. A body that announces too large a length is refused before any are read.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, BodyError> {
        if self.announced.is_some_and(|length| length > self.limit.bytes()) {
            return Err(BodyError::too_large(self.limit));
        }
        // The body is complete. Reading on would fail if the client has left, which does not undo what it has sent.
        if self.announced == Some(self.total) {
            return Ok(None);
        }
        let asked = Instant::now();
        let Some(piece) = next(&mut self.body).await? else { return Ok(None) };
        self.waited += asked.elapsed();
        self.total += piece.len() as u64;
        if self.total > self.limit.bytes() {
            return Err(BodyError::too_large(self.limit));
        }
        if self.pace.keeps(piece.len(), self.waited) { Ok(Some(piece)) } else { Err(BodyError::Timeout) }
    }

    /// Extends `held` to [`Incoming::soon`], at most `most`, when more came than it holds; waits for room. Doubling keeps the copies
    /// and the calls to the room few.
    pub(super) async fn follow(&mut self, room: &Room, held: &mut Held, most: u64) -> Result<(), BodyError> {
        if self.total > held.bytes() { room.extend(held, self.soon().min(most)).await } else { Ok(()) }
    }

    /// The body as a stream of pieces, which are not kept. `held` grows with what came, up to `most`.
    pub(super) fn pieces(
        self,
        room: Room,
        held: Arc<Mutex<Held>>,
        most: u64,
    ) -> impl Stream<Item = Result<Bytes, BodyError>> + Send + 'static {
        stream::try_unfold((self, room, held), move |(mut incoming, room, held)| async move {
            let Some(piece) = incoming.next().await? else { return Ok(None) };
            incoming.follow(&room, &mut *held.lock().await, most).await?;
            Ok(Some((piece, (incoming, room, held))))
        })
    }

    /// Reads the whole body into memory: for the stand-in upstream, which has no files.
    pub(in crate::http) async fn whole(mut self, room: &Room, held: &mut Held) -> Result<Bytes, BodyError> {
        let mut all = Joined::default();
        while let Some(piece) = self.next().await? {
            self.follow(room, held, self.limit.bytes()).await?;
            all.push(piece, held);
        }
        Ok(all.into_bytes())
    }

    /// Reads and discards the body as long as it keeps its limits.
    pub(super) async fn discard(mut self) {
        while let Ok(Some(_)) = self.next().await {}
    }
}

/// Reads the next bytes; skips trailers and empty pieces.
async fn next(body: &mut Body) -> Result<Option<Bytes>, BodyError> {
    loop {
        let frame = timeout(SILENCE, body.frame()).await.map_err(|_| BodyError::Timeout)?;
        match frame {
            None => return Ok(None),
            Some(Err(error)) => return Err(BodyError::of(error)),
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
    use tokio::time::sleep;

    use super::*;
    use crate::units::ByteSize;

    const MIB: u64 = 1 << 20;

    async fn read(body: Body, limit: u64, held: &mut Held) -> Result<Bytes, BodyError> {
        let room = Room::new(ByteSize::mib(1), ByteSize::mib(16));
        Incoming::new(body, Limit::option(limit, "max_body")).whole(&room, held).await
    }

    fn chunked(pieces: Vec<&'static [u8]>) -> Body {
        let frames = pieces.into_iter().map(|p| Ok::<_, std::io::Error>(Bytes::from_static(p)));
        Body::from_stream(stream::iter(frames))
    }

    #[tokio::test]
    async fn pieces_become_one_body() {
        let body = chunked(vec![b"ab", b"", b"cd"]);
        assert_eq!(read(body, MIB, &mut Held::default()).await.unwrap(), "abcd");
    }

    #[tokio::test]
    async fn a_body_takes_its_announced_size_or_twice_what_came() {
        let mut held = Held::default();
        read(Body::from(vec![0; 5000]), MIB, &mut held).await.unwrap();
        assert_eq!(held.bytes(), 5000);
        let mut held = Held::default();
        read(chunked(vec![&[0; 3000], &[0; 3000], &[0; 1000]]), MIB, &mut held).await.unwrap();
        assert_eq!(held.bytes(), 14_000);
        // A body that is small so far takes no more than a small body may.
        let mut held = Held::default();
        read(chunked(vec![&[0; 40_000]]), MIB, &mut held).await.unwrap();
        assert_eq!(held.bytes(), SMALL);
    }

    #[tokio::test]
    async fn a_body_over_its_limit_is_refused_announced_or_not() {
        let mut held = Held::default();
        for body in [Body::from("12345"), chunked(vec![b"123", b"45"])] {
            let error = read(body, 4, &mut held).await.unwrap_err().to_string();
            assert_eq!(error, "the body has more than 4 bytes, the limit of max_body");
        }
        assert_eq!(read(chunked(vec![b"12", b"34"]), 4, &mut held).await.unwrap(), "1234");
    }

    #[test]
    fn the_smaller_limit_applies_and_names_its_source() {
        let (option, event) = (Limit::option(MIB, "max_body"), Limit::event());
        assert_eq!((option.or(event), event.or(option)), (option, option));
        assert_eq!(event.to_string(), "2097152 bytes, too many for an event item, whose limit is 1048576");
        assert_eq!(Limit::one(7, "check-in").to_string(), "7 bytes, the limit of one check-in");
    }

    #[tokio::test(start_paused = true)]
    async fn silence_ends_a_body() {
        let stream = stream::pending::<Result<Bytes, std::io::Error>>();
        let read = read(Body::from_stream(stream), 10, &mut Held::default()).await;
        assert!(matches!(read, Err(BodyError::Timeout)));
    }

    /// A body of pieces of these sizes, each after a second.
    fn second_by_second(pieces: impl Iterator<Item = usize> + Send + 'static) -> Body {
        Body::from_stream(stream::unfold(pieces, |mut pieces| async move {
            let next = pieces.next()?;
            sleep(Duration::from_secs(1)).await;
            Some((Ok::<_, std::io::Error>(Bytes::from(vec![0; next])), pieces))
        }))
    }

    #[tokio::test(start_paused = true)]
    async fn a_fast_beginning_does_not_excuse_a_later_drip() {
        let began = Instant::now();
        let drip = second_by_second(std::iter::once(500_000).chain(std::iter::repeat(1)));
        assert!(matches!(read(drip, MIB, &mut Held::default()).await, Err(BodyError::Timeout)));
        assert!(began.elapsed() < 2 * GRACE, "{:?}", began.elapsed());
        let steady = second_by_second(std::iter::repeat_n(4096, 200));
        assert_eq!(read(steady, MIB, &mut Held::default()).await.unwrap().len(), 200 * 4096);
    }
}
