//! The bodies of a proxied request and its answer, passed on piece by piece. The client's has a size limit, both have time limits.
//!
//! At every moment the request waits either for the client or for the primary, and only that side runs out of time.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body as Incoming;
use bytes::Bytes;
use futures_util::stream;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};

use crate::http::public::body::{Pace, SILENCE};
use crate::http::public::limit::BodyError;
use crate::tasks::Tasks;

/// How long a client may read nothing of an answer.
const DEAF: Duration = Duration::from_secs(60);
/// The number of pieces of an answer that may be of any size.
const FEW: usize = 4096;
/// The least average size, in bytes, of all further pieces: a stream of single bytes would keep the processor from everybody else.
const LEAST_PIECE: usize = 64;
/// The longest time between two checks of a wait.
const LOOK: Duration = Duration::from_secs(1);

/// Why a request or its answer was not passed on to the end.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error("the body is too large")]
    TooLarge,
    #[error("the client stopped sending")]
    ClientSilent,
    #[error("the upstream stopped answering")]
    UpstreamSilent,
    #[error("the daemon stops")]
    Stopping,
    #[error("the body broke off")]
    Broken,
}

impl Fault {
    /// What a client's body broke off by.
    fn of(error: axum::Error) -> Self {
        match BodyError::of(error) {
            BodyError::Stopping => Self::Stopping,
            _ => Self::Broken,
        }
    }
}

/// How a request gets on, shared between its body, which moves, and who waits for the answer.
#[derive(Debug)]
pub(super) struct Progress(Mutex<State>);

#[derive(Debug)]
struct State {
    /// Whether the request waits for the client; otherwise it waits for the primary.
    on_client: bool,
    since: Instant,
    /// The total time spent waiting for the client.
    waited: Duration,
    fault: Option<Fault>,
}

impl Progress {
    pub(super) fn new() -> Self {
        Self(Mutex::new(State { on_client: false, since: Instant::now(), waited: Duration::ZERO, fault: None }))
    }

    /// The fault of the client's body, if it has failed.
    pub(super) fn fault(&self) -> Option<Fault> {
        self.state().fault
    }

    /// Waits until one side has kept the other waiting for too long: the client for [`SILENCE`], the primary for `patience`.
    pub(super) async fn stalled(&self, patience: Duration) -> Fault {
        loop {
            let (on_client, since) = {
                let state = self.state();
                (state.on_client, state.since)
            };
            let (most, fault) =
                if on_client { (SILENCE, Fault::ClientSilent) } else { (patience, Fault::UpstreamSilent) };
            let now = Instant::now();
            if now >= since + most {
                return fault;
            }
            sleep_until((since + most).min(now + LOOK)).await;
        }
    }

    fn turn(&self, on_client: bool) {
        let (mut state, now) = (self.state(), Instant::now());
        if state.on_client {
            let waited = now - state.since;
            state.waited += waited;
        }
        (state.on_client, state.since) = (on_client, now);
    }

    fn fail(&self, fault: Fault) -> Fault {
        self.state().fault = Some(fault);
        fault
    }

    /// Nobody panics while holding the lock.
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A client's body on its way to the primary.
pub(super) struct Upload {
    body: Incoming,
    length: SizeHint,
    passed: u64,
    limit: u64,
    pace: Pace,
    progress: Arc<Progress>,
}

impl Upload {
    /// `length` is what is known of the body's length.
    pub(super) fn new(body: Incoming, length: SizeHint, limit: u64, progress: Arc<Progress>) -> Self {
        Self { body, length, passed: 0, limit, pace: Pace::within(SILENCE), progress }
    }

    fn check(&mut self, more: usize) -> Result<(), Fault> {
        self.passed += more as u64;
        if self.passed > self.limit {
            return Err(self.progress.fail(Fault::TooLarge));
        }
        let waited = self.progress.state().waited;
        if self.pace.keeps(more, waited) { Ok(()) } else { Err(self.progress.fail(Fault::ClientSilent)) }
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        let this = &mut *self;
        let Poll::Ready(next) = Pin::new(&mut this.body).poll_frame(cx) else {
            if !this.progress.state().on_client {
                this.progress.turn(true);
            }
            return Poll::Pending;
        };
        this.progress.turn(false);
        Poll::Ready(match next {
            None => None,
            Some(Err(error)) => Some(Err(this.progress.fail(Fault::of(error)))),
            Some(Ok(frame)) => Some(this.check(frame.data_ref().map_or(0, Bytes::len)).map(|()| frame)),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.length.exact() == Some(self.passed)
    }

    /// The announced length, less the bytes that have passed.
    fn size_hint(&self) -> SizeHint {
        self.length.exact().map_or_else(SizeHint::new, |length| SizeHint::with_exact(length - self.passed.min(length)))
    }
}

/// The body of the primary's answer.
pub(super) trait Answer: Body<Data = Bytes, Error: Send> + Send + Unpin + 'static {}

impl<B: Body<Data = Bytes, Error: Send> + Send + Unpin + 'static> Answer for B {}

/// Passes the primary's answer to the client. A task of its own fetches it: otherwise a client that reads nothing would keep its place
/// and the connection to the primary for as long as it likes.
pub(super) fn download(body: impl Answer, patience: Duration, place: impl Send + 'static, tasks: &Tasks) -> Incoming {
    let (tell, told) = mpsc::channel(1);
    tasks.spawn_detached(async move {
        fetch(body, patience, &tell).await;
        drop(place);
    });
    Incoming::from_stream(stream::unfold(Some(told), |told| async {
        let mut told = told?;
        match told.recv().await.unwrap_or(Err(Fault::Broken)) {
            Ok(Some(piece)) => Some((Ok(piece), Some(told))),
            Ok(None) => None,
            // The client must not take a part of the answer for the whole.
            Err(fault) => Some((Err(fault), None)),
        }
    }))
}

/// Sends the answer piece by piece, then `None` if it is complete. Stops early when one of the two sides gives up.
async fn fetch(mut body: impl Answer, patience: Duration, tell: &mpsc::Sender<Result<Option<Bytes>, Fault>>) {
    let (mut pieces, mut bytes) = (0, 0);
    loop {
        pieces += 1;
        let next = tokio::select! {
            () = tell.closed() => return,
            next = timeout(patience, body.frame()) => next,
        };
        let piece = match next {
            Err(_) => Err(Fault::UpstreamSilent),
            Ok(Some(Err(_))) => Err(Fault::Broken),
            Ok(None) => Ok(None),
            Ok(Some(Ok(frame))) => match frame.into_data() {
                Ok(data) => {
                    bytes += data.len();
                    if pieces > FEW + bytes / LEAST_PIECE { Err(Fault::Broken) } else { Ok(Some(data)) }
                }
                // Trailers are not passed on.
                Err(_) => continue,
            },
        };
        let is_last = !matches!(piece, Ok(Some(_)));
        let taken = timeout(DEAF, tell.send(piece)).await.is_ok_and(|sent| sent.is_ok());
        if is_last || !taken {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::{OwnedSemaphorePermit, Semaphore};
    use tokio::time::sleep;

    use super::*;

    fn of_unknown_length(body: Incoming, limit: u64, progress: Arc<Progress>) -> Upload {
        Upload::new(body, SizeHint::new(), limit, progress)
    }

    fn upload(pieces: Vec<&'static [u8]>, limit: u64) -> (Upload, Arc<Progress>) {
        let progress = Arc::new(Progress::new());
        let frames = pieces.into_iter().map(|piece| Ok::<_, std::io::Error>(Bytes::from_static(piece)));
        (of_unknown_length(Incoming::from_stream(stream::iter(frames)), limit, Arc::clone(&progress)), progress)
    }

    #[tokio::test]
    async fn a_body_passes_up_to_its_limit() {
        let (body, progress) = upload(vec![b"12", b"34"], 4);
        assert_eq!(body.collect().await.unwrap().to_bytes(), "1234");
        assert_eq!(progress.fault(), None);
        let (body, progress) = upload(vec![b"12", b"345"], 4);
        assert_eq!(body.collect().await.unwrap_err(), Fault::TooLarge);
        assert_eq!(progress.fault(), Some(Fault::TooLarge));
    }

    #[tokio::test(start_paused = true)]
    async fn the_side_that_keeps_the_other_waiting_runs_out_of_time() {
        let progress = Arc::new(Progress::new());
        let began = Instant::now();
        assert_eq!(progress.stalled(Duration::from_secs(30)).await, Fault::UpstreamSilent);
        assert_eq!(began.elapsed().as_secs(), 30);
        let silent = stream::pending::<Result<Bytes, std::io::Error>>();
        let mut body = of_unknown_length(Incoming::from_stream(silent), 10, Arc::clone(&progress));
        let mut reading = std::pin::pin!(body.frame());
        let began = Instant::now();
        tokio::select! {
            _ = reading.as_mut() => panic!("nothing was sent"),
            fault = progress.stalled(Duration::from_secs(300)) => assert_eq!(fault, Fault::ClientSilent),
        }
        assert_eq!(began.elapsed(), SILENCE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_drips_bytes_runs_out_of_time() {
        let drip = stream::unfold((), |()| async {
            sleep(Duration::from_secs(5)).await;
            Some((Ok::<_, std::io::Error>(Bytes::from_static(b"x")), ()))
        });
        let progress = Arc::new(Progress::new());
        let body = of_unknown_length(Incoming::from_stream(drip), 1 << 20, Arc::clone(&progress));
        let began = Instant::now();
        assert_eq!(body.collect().await.unwrap_err(), Fault::ClientSilent);
        assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
    }

    async fn place(places: &Arc<Semaphore>) -> OwnedSemaphorePermit {
        Arc::clone(places).acquire_owned().await.unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_reads_nothing_loses_its_place_and_gets_an_error() {
        let (places, patience) = (Arc::new(Semaphore::new(1)), Duration::from_secs(30));
        let pieces = stream::iter((0..9).map(|_| Ok::<_, std::io::Error>(Bytes::from_static(b"x"))));
        let body = Incoming::from_stream(pieces);
        let mut answer = download(body, patience, place(&places).await, &Tasks::new());
        let began = Instant::now();
        drop(place(&places).await);
        assert_eq!(began.elapsed(), DEAF);
        assert_eq!(answer.frame().await.unwrap().unwrap().into_data().unwrap(), "x");
        assert!(answer.collect().await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_is_freed_when_the_answer_or_the_client_ends() {
        let (places, patience) = (Arc::new(Semaphore::new(1)), Duration::from_secs(30));
        let answer = download(Incoming::from("whole"), patience, place(&places).await, &Tasks::new());
        assert_eq!(answer.collect().await.unwrap().to_bytes(), "whole");
        for (is_read, after) in [(false, Duration::ZERO), (true, patience)] {
            let body = Incoming::from_stream(stream::pending::<Result<Bytes, std::io::Error>>());
            let answer = download(body, patience, place(&places).await, &Tasks::new());
            let began = Instant::now();
            if is_read {
                assert!(answer.collect().await.is_err());
            } else {
                drop(answer);
            }
            drop(place(&places).await);
            assert_eq!(began.elapsed(), after);
        }
    }
}
