//! Turns at decoding large bodies: a decompressor may need a window of many MiB, so only a few run at once.
//!
//! Rules: a turn lasts until the thread that decodes has ended, even if its caller is gone. The wait for a turn is longer than that for
//! room, because a client that is refused loses its body. Owners are served in turn: each has at most one place in the common line, and
//! its other bodies wait behind that one.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::tasks;

/// The number of turns.
const DECODERS: usize = 2;
/// How long a body waits for others to be decoded.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The owner of a share in a common resource.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Owner {
    /// The project of a body.
    Project(Arc<str>),
    /// The client of a body, while only the body can tell the project.
    Client(IpAddr),
}

impl Owner {
    /// The project; `None` for a client.
    pub fn project(&self) -> Option<Arc<str>> {
        match self {
            Self::Project(project) => Some(Arc::clone(project)),
            Self::Client(_) => None,
        }
    }
}

/// The turns. Cheap to clone; clones share them.
#[derive(Clone, Debug)]
pub struct Turns {
    line: Arc<Semaphore>,
    /// The place of each owner in the line; the bodies of a single project have no owner.
    places: Arc<std::sync::Mutex<Places>>,
}

type Places = HashMap<Option<Owner>, Weak<Mutex<()>>>;

/// A turn; it ends when its last clone is dropped.
#[derive(Clone, Debug)]
pub struct Turn {
    _permit: Arc<OwnedSemaphorePermit>,
}

impl Default for Turns {
    fn default() -> Self {
        Self { line: Arc::new(Semaphore::new(DECODERS)), places: Arc::default() }
    }
}

impl Turns {
    /// Waits for a turn; `None` if none comes within [`PATIENCE`].
    pub async fn take(&self, owner: Option<Owner>) -> Option<Turn> {
        let place = self.place(owner);
        let waiting = async {
            let _in_line = place.lock().await;
            Arc::clone(&self.line).acquire_owned().await.ok()
        };
        let permit = timeout(PATIENCE, waiting).await.ok()??;
        Some(Turn { _permit: Arc::new(permit) })
    }

    fn place(&self, owner: Option<Owner>) -> Arc<Mutex<()>> {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        places.retain(|_, place| place.strong_count() > 0);
        if let Some(place) = places.get(&owner).and_then(Weak::upgrade) {
            return place;
        }
        let place = Arc::default();
        places.insert(owner, Arc::downgrade(&place));
        place
    }
}

impl Turn {
    /// Runs the work on a thread of its own, and keeps the turn until it ends.
    pub(super) async fn run<T: Send + 'static>(self, work: impl FnOnce() -> T + Send + 'static) -> T {
        tasks::blocking(move || {
            let _turn = self;
            work()
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use futures_util::FutureExt as _;
    use futures_util::stream::{FuturesUnordered, StreamExt as _};

    use super::*;

    fn of(project: &str) -> Option<Owner> {
        Some(Owner::Project(project.into()))
    }

    #[tokio::test(start_paused = true)]
    async fn a_turn_is_waited_for_until_a_deadline_and_lasts_until_its_last_clone() {
        let turns = Turns::default();
        let (first, second) = (turns.take(None).await.unwrap(), turns.take(None).await.unwrap());
        let at_work = first.clone();
        drop(first);
        assert!(turns.take(None).await.is_none());
        drop(at_work);
        assert!(turns.take(None).await.is_some());
        drop(second);
    }

    #[tokio::test]
    async fn owners_are_served_in_turn_however_many_bodies_one_sends() {
        let turns = Turns::default();
        let mut at_work = vec![turns.take(of("web")).await.unwrap(), turns.take(of("web")).await.unwrap()];
        let client = Some(Owner::Client([203, 0, 113, 7].into()));
        let owners = std::iter::repeat_n(of("web"), 30).chain([of("shop"), client.clone(), of("shop")]);
        let mut waiting: FuturesUnordered<_> = owners
            .map(|owner| {
                let turns = &turns;
                async move { (turns.take(owner.clone()).await.unwrap(), owner) }
            })
            .collect();
        assert!(waiting.next().now_or_never().is_none(), "both are at work");
        let mut served = vec![];
        for _ in 0..6 {
            at_work.remove(0);
            let (turn, owner) = waiting.next().await.unwrap();
            at_work.push(turn);
            served.push(owner);
        }
        assert_eq!(served, [of("web"), of("shop"), client, of("web"), of("shop"), of("web")]);
        drop(waiting);
        at_work.clear();
        turns.take(None).await.unwrap();
        assert_eq!(turns.places.lock().unwrap().len(), 1, "who waits no more is not remembered");
    }

    #[tokio::test]
    async fn a_turn_lasts_until_its_work_ends_even_if_its_caller_is_gone() {
        let turns = Turns::default();
        let (begin, begun) = mpsc::channel();
        let (tell, told) = mpsc::channel::<()>();
        let turn = turns.take(None).await.unwrap();
        let working = turn.clone().run(move || {
            begin.send(()).unwrap();
            told.recv()
        });
        let _other = turns.take(None).await.unwrap();
        assert!(working.now_or_never().is_none());
        begun.recv().unwrap();
        drop(turn);
        assert!(turns.take(None).now_or_never().is_none(), "the thread is at work");
        drop(tell);
        assert!(turns.take(None).await.is_some());
    }
}
