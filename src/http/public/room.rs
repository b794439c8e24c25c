//! Room for bodies in memory: `max_inflight_bytes` for all of them together.
//!
//! Rule: the last quarter of the room is for small bodies alone, and the quarter before it also for bodies that go through files. So
//! small bodies are taken however many large ones come, and however slowly. Bodies take room for what came, not for what they announce.
//! No project takes more than it leaves to the others, neither with small bodies nor with large ones. While the project is unknown, this
//! holds for the client.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

pub(super) use crate::intake::turns::Owner;
use crate::intake::turns::{Turn, Turns};
use crate::journal::body::IN_MEMORY;
use crate::units::ByteSize;

use super::limit::{BodyError, Limit};
use super::shares::Shares;

/// How long a body waits for room.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a body that was woken in vain does not look for room again: twice as long each time, between these two.
const SHORTEST_NAP: Duration = Duration::from_millis(4);
const LONGEST_NAP: Duration = Duration::from_millis(128);
/// Bodies of up to this size may take the last of the room.
pub(super) const SMALL: u64 = 64 * 1024;

/// The room. Cheap to clone; clones share it.
#[derive(Clone, Debug)]
pub(in crate::http) struct Room {
    free: Arc<Free>,
    total: u64,
    max_body: u64,
    turns: Turns,
}

/// What is shared apart, so that large bodies leave the same owner's small ones theirs.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
enum Class {
    #[default]
    Small,
    Large,
    /// The windows of HTTP/2 connections.
    Windows,
}

#[derive(Debug)]
struct Free {
    shares: Mutex<Shares<(Owner, Class)>>,
    /// Notified when room is given back.
    more: Notify,
}

impl Free {
    /// Nobody panics while holding the lock.
    fn shares(&self) -> MutexGuard<'_, Shares<(Owner, Class)>> {
        self.shares.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Room that was taken; dropping it gives it back.
#[derive(Debug, Default)]
pub(in crate::http) struct Held {
    of: Option<Arc<Free>>,
    /// Whose share the room is taken from; `None` for nobody's.
    account: Option<(Owner, Class)>,
    /// The project of the body, if it is known.
    project: Option<Arc<str>>,
    bytes: u64,
}

impl Held {
    /// No room yet; it will be taken from the owner's share.
    pub(super) fn of(owner: Owner) -> Self {
        Self { of: None, project: owner.project(), account: Some((owner, Class::default())), bytes: 0 }
    }

    /// No room yet, for a project that shares with nobody.
    pub(super) fn of_the_only(project: Arc<str>) -> Self {
        Self { of: None, project: Some(project), account: None, bytes: 0 }
    }

    /// No room yet; it will be taken from the owner's share of windows.
    pub(super) fn of_window(owner: Owner) -> Self {
        Self { of: None, project: None, account: Some((owner, Class::Windows)), bytes: 0 }
    }

    /// Whose share it is.
    pub(super) fn owner(&self) -> Option<&Owner> {
        self.account.as_ref().map(|(owner, _)| owner)
    }

    /// The project of the body, if it is known.
    pub(super) fn project(&self) -> Option<Arc<str>> {
        self.project.clone()
    }

    /// Notes the project that the body has named. The room in memory stays in the share of the client.
    pub(super) fn note_project(&mut self, project: Arc<str>) {
        self.project = Some(project);
    }

    /// The size of the room in bytes.
    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Gives back the room beyond `bytes`.
    pub(super) fn shrink(&mut self, bytes: u64) {
        let surplus = self.bytes.saturating_sub(bytes);
        if let Some(free) = self.of.as_ref().filter(|_| surplus > 0) {
            free.shares().give_back(self.account.as_ref(), surplus);
            free.more.notify_waiters();
        }
        self.bytes -= surplus;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.shrink(0);
    }
}

impl Room {
    pub(in crate::http) fn new(max_body: ByteSize, max_inflight: ByteSize) -> Self {
        let total = max_inflight.get().max(1024);
        let free = Arc::new(Free { shares: Mutex::new(Shares::new(total, SMALL)), more: Notify::new() });
        Self { free, total, max_body: max_body.get(), turns: Turns::default() }
    }

    /// The limit of one body, wherever it is kept.
    pub(super) const fn max_body(&self) -> Limit {
        Limit::option(self.max_body, "max_body")
    }

    /// The limit of a body that has to be in memory as a whole: half of the room.
    pub(super) const fn whole(&self) -> Limit {
        Limit::option(self.total / 2, "one body under max_inflight_bytes")
    }

    /// The most bytes of one body that stay in memory: 1 MiB, or a quarter of a small room, so that a body fits encoded and decoded into
    /// the half that is for large bodies.
    pub(super) fn keep(&self) -> u64 {
        (IN_MEMORY as u64).min(self.total / 4)
    }

    /// Extends `held` to `bytes`; a large body leaves a quarter of the room. Waits up to [`PATIENCE`] for room.
    ///
    /// There is no queue: a large body at its head would keep out small ones for which there is room.
    pub(super) async fn extend(&self, held: &mut Held, bytes: u64) -> Result<(), BodyError> {
        self.take_or_wait(held, bytes, if bytes <= SMALL { 0 } else { self.total / 4 }).await
    }

    /// Extends `held` to a window of `bytes`, or a quarter of a small room; waits up to [`PATIENCE`] for room. Windows leave an eighth of
    /// the room, and those of one client half of it.
    pub(super) async fn window(&self, held: &mut Held, bytes: u64) -> Result<(), BodyError> {
        self.take_or_wait(held, bytes.min(self.total / 4), self.total / 8).await
    }

    async fn take_or_wait(&self, held: &mut Held, bytes: u64, left: u64) -> Result<(), BodyError> {
        if self.take(held, bytes, left) {
            return Ok(());
        }
        let waiting = async {
            // A body that is woken in vain sleeps for a while, so that many waiting bodies cost those that come and go next to nothing.
            let mut nap = Duration::ZERO;
            loop {
                let mut more = std::pin::pin!(self.free.more.notified());
                more.as_mut().enable();
                if self.take(held, bytes, left) {
                    return;
                }
                more.await;
                sleep(nap).await;
                nap = (nap * 2).clamp(SHORTEST_NAP, LONGEST_NAP);
            }
        };
        timeout(PATIENCE, waiting).await.map_err(|_| BodyError::Overloaded)
    }

    /// Extends `held` to `bytes` for a large body that stays in memory, if that leaves half of the room now. Returns whether it did.
    pub(super) fn keep_now(&self, held: &mut Held, bytes: u64) -> bool {
        self.take(held, bytes, self.total / 2)
    }

    /// Extends `held` to `bytes` for a body that goes through a file, if that leaves a quarter of the room now. Returns whether it did.
    pub(super) fn pass_now(&self, held: &mut Held, bytes: u64) -> bool {
        self.take(held, bytes, self.total / 4)
    }

    fn take(&self, held: &mut Held, bytes: u64, left: u64) -> bool {
        let more = bytes.saturating_sub(held.bytes);
        if more > 0 && !self.take_more(held, more, left) {
            return false;
        }
        held.bytes += more;
        if held.of.is_none() {
            held.of = Some(Arc::clone(&self.free));
        }
        true
    }

    fn take_more(&self, held: &mut Held, more: u64, left: u64) -> bool {
        let mut shares = self.free.shares();
        let Some((owner, Class::Small)) = held.account.as_ref().filter(|_| held.bytes + more > SMALL) else {
            return shares.take(held.account.as_ref(), more, left);
        };
        // A small body that becomes large moves to the large ones with all of its room.
        let large = Some((owner.clone(), Class::Large));
        shares.give_back(held.account.as_ref(), held.bytes);
        if shares.take(large.as_ref(), held.bytes + more, left) {
            held.account = large;
            return true;
        }
        // The room was taken before, and the lock was held since.
        shares.take_back(held.account.as_ref(), held.bytes);
        false
    }

    /// The turns at decoding large bodies.
    pub(super) fn turns(&self) -> Turns {
        self.turns.clone()
    }

    /// A turn at decoding a large body of whoever has `held`; waits for others to end theirs.
    pub(super) async fn turn(&self, held: &Held) -> Result<Turn, BodyError> {
        self.turns.take(held.owner().cloned()).await.ok_or(BodyError::Overloaded)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream::FuturesUnordered;
    use futures_util::{FutureExt as _, StreamExt as _};
    use tokio::time::Instant;

    use super::*;

    const KIB: u64 = 1024;

    fn room(inflight: u64) -> Room {
        Room::new(ByteSize::mib(1), ByteSize::bytes(inflight))
    }

    fn free(room: &Room) -> u64 {
        room.free.shares().free()
    }

    #[tokio::test]
    async fn a_large_body_leaves_half_the_room_or_a_quarter_through_a_file() {
        let room = room(1024 * KIB);
        let (mut kept, mut passing, mut small) = (Held::default(), Held::default(), Held::default());
        assert!(!room.keep_now(&mut kept, 513 * KIB) && room.keep_now(&mut kept, 512 * KIB));
        assert!(room.keep_now(&mut kept, 512 * KIB) && !room.keep_now(&mut kept, 512 * KIB + 1));
        assert!(!room.pass_now(&mut passing, 257 * KIB) && room.pass_now(&mut passing, 256 * KIB));
        for at in 1..=4 {
            room.extend(&mut small, 64 * KIB).await.unwrap();
            assert_eq!(free(&room), (256 - at * 64) * KIB);
            std::mem::forget(std::mem::take(&mut small));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_large_body_never_takes_the_last_quarter_and_is_refused() {
        let room = room(1024 * KIB);
        let (mut large, mut other) = (Held::default(), Held::default());
        room.extend(&mut large, 768 * KIB).await.unwrap();
        assert!(matches!(room.extend(&mut other, 65 * KIB).await, Err(BodyError::Overloaded)));
        room.extend(&mut other, 64 * KIB).await.unwrap();
        // A small body that becomes large has to fit as well.
        assert!(matches!(room.extend(&mut other, 65 * KIB).await, Err(BodyError::Overloaded)));
        drop(large);
        room.extend(&mut other, 65 * KIB).await.unwrap();
        assert_eq!(free(&room), 959 * KIB);
    }

    #[tokio::test(start_paused = true)]
    async fn a_project_leaves_room_for_others_and_for_its_own_small_bodies() {
        let room = room(1024 * KIB);
        let of = |name: &str| Held::of(Owner::Project(name.into()));
        let fill = async |name: &str, bytes: u64| {
            let mut all = vec![];
            loop {
                let mut held = of(name);
                if room.extend(&mut held, bytes).await.is_err() {
                    return (all.len() as u64 * bytes / KIB, all);
                }
                all.push(held);
            }
        };
        let (large, _large) = fill("web", 128 * KIB).await;
        let (small, _small) = fill("web", 64 * KIB).await;
        assert_eq!((large, small, free(&room)), (512, 256, 256 * KIB));
        let (others, _others) = fill("app", 64 * KIB).await;
        assert_eq!((others, free(&room)), (128, 128 * KIB));
        let mut client = Held::of(Owner::Client([203, 0, 113, 7].into()));
        room.extend(&mut client, 64 * KIB).await.unwrap();
        // A body that cannot become large keeps its room.
        assert!(room.extend(&mut client, 65 * KIB).await.is_err());
        drop((client, _others, _small, _large));
        assert_eq!(free(&room), 1024 * KIB);
    }

    #[tokio::test]
    async fn room_can_be_given_back_early() {
        let room = room(1024 * KIB);
        let mut held = Held::default();
        room.extend(&mut held, 80 * KIB).await.unwrap();
        held.shrink(30 * KIB);
        assert_eq!(free(&room), 994 * KIB);
        held.shrink(40 * KIB);
        room.extend(&mut held, 50 * KIB).await.unwrap();
        assert_eq!((free(&room), held.bytes()), (974 * KIB, 50 * KIB));
        drop(held);
        assert_eq!(free(&room), 1024 * KIB);
    }

    #[tokio::test(start_paused = true)]
    async fn a_waiting_body_costs_others_next_to_nothing() {
        let room = room(1024 * KIB);
        let (mut first, mut large, looks) = (Held::default(), Held::default(), std::cell::Cell::new(0));
        room.extend(&mut first, 700 * KIB).await.unwrap();
        let mut waiting = std::pin::pin!(room.extend(&mut large, 700 * KIB));
        let waiting = std::future::poll_fn(|task| {
            looks.set(looks.get() + 1);
            waiting.as_mut().poll(task).map(Result::unwrap)
        });
        let others = async {
            for _ in 0..1000 {
                let mut small = Held::default();
                room.extend(&mut small, 10 * KIB).await.unwrap();
                sleep(Duration::from_millis(1)).await;
            }
            drop(first);
        };
        // Each future is polled only when it is woken itself.
        let both = FuturesUnordered::from_iter([waiting.boxed_local(), others.boxed_local()]);
        both.collect::<Vec<()>>().await;
        let looks = looks.get();
        assert!(looks < 50, "{looks} looks for 1000 who came and went");
    }

    #[tokio::test(start_paused = true)]
    async fn a_waiting_large_body_delays_no_small_one_and_gets_freed_room() {
        let room = room(1024 * KIB);
        let (mut first, mut large, mut small) = (Held::default(), Held::default(), Held::default());
        room.extend(&mut first, 500 * KIB).await.unwrap();
        let waiting = room.extend(&mut large, 700 * KIB);
        let others = async {
            tokio::task::yield_now().await;
            let began = Instant::now();
            room.extend(&mut small, 10 * KIB).await.unwrap();
            assert!(began.elapsed().is_zero());
            drop((small, first));
        };
        assert!(tokio::join!(waiting, others).0.is_ok());
    }
}
