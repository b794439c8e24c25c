//! Bodies on their way in: within a limit of size, which the caller knows before the first byte is read, and a limit of patience.

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
/// For how long it may bring less, whatever it brought before.
const GRACE: Duration = Duration::from_secs(30);

/// How a body keeps up. Bringing much at first buys no right to bring a byte now and then later: that would hold the room of a
/// large body, or a place at the primary, for hours.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// Until when more must have come, in time spent waiting for it.
    until: Duration,
    /// For how long less may come.
    grace: Duration,
}

impl Pace {
    pub(super) const fn new() -> Self {
        Self::within(GRACE)
    }

    /// Of what must keep up better than others, because it keeps more than memory waiting.
    pub(super) const fn within(grace: Duration) -> Self {
        Self { until: grace, grace }
    }

    /// Whether `bytes` came in time, after `waited` in all.
    pub(super) fn keeps(&mut self, bytes: usize, waited: Duration) -> bool {
        let bought = Duration::from_micros((bytes as u64).saturating_mul(1_000_000) / SLOWEST);
        let is_in_time = waited <= self.until;
        self.until = (self.until + bought).min(waited + self.grace);
        is_in_time
    }
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

/// A body on its way in, of which nothing is read but as the next piece.
pub(in crate::http) struct Incoming {
    body: Body,
    limit: Limit,
    announced: Option<u64>,
    total: u64,
    /// How long it was waited for.
    waited: Duration,
    pace: Pace,
}

impl Incoming {
    pub(in crate::http) fn new(body: Body, limit: Limit) -> Self {
        let announced = body.size_hint().exact();
        Self { body, limit, announced, total: 0, waited: Duration::ZERO, pace: Pace::new() }
    }

    /// The most of it.
    pub(super) const fn limit(&self) -> Limit {
        self.limit
    }

    /// Bytes that came so far.
    pub(super) const fn total(&self) -> u64 {
        self.total
    }

    /// What there will be soon: as much again as came so far, or what is left; what is small may become large only when it is.
    pub(super) fn soon(&self) -> u64 {
        let twice = self.total * 2;
        let soon = if self.total <= SMALL { twice.min(SMALL) } else { twice };
        self.announced.map_or(soon, |length| length.min(soon))
    }

    /// The next bytes. What announces that it is too large is refused before any are read.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, BodyError> {
        if self.announced.is_some_and(|length| length > self.limit.bytes()) {
            return Err(BodyError::too_large(self.limit));
        }
        // A client that is gone by now does not undo what it has sent: its connection would tell of an error here.
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

    /// Makes `held` be room for what came, and for as much again when more is to come, up to `most`; waits for it. Doubling keeps
    /// both the copies and the visits to the room few.
    pub(super) async fn follow(&mut self, room: &Room, held: &mut Held, most: u64) -> Result<(), BodyError> {
        if self.total > held.bytes() { room.extend(held, self.soon().min(most)).await } else { Ok(()) }
    }

    /// The body as it comes, none of it kept here; `held` becomes room for what came, up to `most`.
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

    /// All of it in memory: for the stand-in upstream, which has no files.
    pub(in crate::http) async fn whole(mut self, room: &Room, held: &mut Held) -> Result<Bytes, BodyError> {
        let mut all = Joined::default();
        while let Some(piece) = self.next().await? {
            self.follow(room, held, self.limit.bytes()).await?;
            all.push(piece, held);
        }
        Ok(all.into_bytes())
    }

    /// Reads it away, keeping nothing, for as long as it keeps its limits.
    pub(super) async fn discard(mut self) {
        while let Ok(Some(_)) = self.next().await {}
    }
}

/// The next bytes; trailers are passed over.
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
    async fn a_body_that_is_all_there_takes_its_own_size_and_one_that_is_still_coming_twice_what_came() {
        let mut held = Held::default();
        read(Body::from(vec![0; 5000]), MIB, &mut held).await.unwrap();
        assert_eq!(held.bytes(), 5000);
        let mut held = Held::default();
        read(chunked(vec![&[0; 3000], &[0; 3000], &[0; 1000]]), MIB, &mut held).await.unwrap();
        assert_eq!(held.bytes(), 14_000);
        // What is small so far takes no more than what is small may have.
        let mut held = Held::default();
        read(chunked(vec![&[0; 40_000]]), MIB, &mut held).await.unwrap();
        assert_eq!(held.bytes(), SMALL);
    }

    #[tokio::test]
    async fn too_much_is_refused_whether_announced_or_not() {
        let mut held = Held::default();
        for body in [Body::from("12345"), chunked(vec![b"123", b"45"])] {
            let error = read(body, 4, &mut held).await.unwrap_err().to_string();
            assert_eq!(error, "the body has more than 4 bytes, the limit of max_body");
        }
        assert_eq!(read(chunked(vec![b"12", b"34"]), 4, &mut held).await.unwrap(), "1234");
    }

    #[test]
    fn the_smaller_limit_counts_and_says_whose_it_is() {
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

    /// A body of these pieces, a second between them.
    fn second_by_second(pieces: impl Iterator<Item = usize> + Send + 'static) -> Body {
        Body::from_stream(stream::unfold(pieces, |mut pieces| async move {
            let next = pieces.next()?;
            sleep(Duration::from_secs(1)).await;
            Some((Ok::<_, std::io::Error>(Bytes::from(vec![0; next])), pieces))
        }))
    }

    #[tokio::test(start_paused = true)]
    async fn who_brought_much_at_once_may_not_bring_a_byte_now_and_then_for_ever() {
        let began = Instant::now();
        let drip = second_by_second(std::iter::once(500_000).chain(std::iter::repeat(1)));
        assert!(matches!(read(drip, MIB, &mut Held::default()).await, Err(BodyError::Timeout)));
        assert!(began.elapsed() < 2 * GRACE, "{:?}", began.elapsed());
        let steady = second_by_second(std::iter::repeat_n(4096, 200));
        assert_eq!(read(steady, MIB, &mut Held::default()).await.unwrap().len(), 200 * 4096);
    }
}
