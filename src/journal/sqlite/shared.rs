//! The state that the threads and the callers share.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::clock::Clock;
use crate::journal::shares::Shares;
use crate::journal::{JournalError, Primaries, Stats, TargetId};
use crate::policy::dedup::SECRET;
use crate::telemetry::ledger::Ledger;

use super::disk::Disk;
use super::held::Held;
use super::queue::Target;
use super::space::Files;
use super::spool::Spool;

/// The sender of an answer.
pub(super) type Reply<T> = oneshot::Sender<Result<T, JournalError>>;

/// A message with its place in the inbox. The place is free again when the message is taken out, even if the sender has given up waiting. A
/// message without a place uses the capacity beyond the places.
pub(super) type Placed<T> = (T, Option<OwnedSemaphorePermit>);

/// The state that the threads and the callers share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) clock: Clock,
    pub(super) ledger: Ledger,
    /// By number.
    pub(super) targets: RwLock<Arc<Vec<Arc<Target>>>>,
    /// By number.
    pub(super) projects: RwLock<Vec<Arc<str>>>,
    /// The projects' shares of the room, by the same numbers.
    pub(super) shares: RwLock<Shares>,
    /// Bytes in use, as the writer published them.
    pub(super) used: AtomicU64,
    pub(super) files: Files,
    /// The secret for the keys of repeats.
    pub(super) secret: [u8; SECRET],
    pub(super) spool: Arc<Spool>,
    pub(super) held: Held,
    pub(super) disk: Disk,
    pub(super) trouble: Mutex<Option<JournalError>>,
    pub(super) closed: AtomicBool,
    /// The targets whose backlog is never evicted; `None` until they are known.
    pub(super) primaries: RwLock<Option<Primaries>>,
    /// Whether a command that wakes the writer for settlements is in the inbox. There is only one, because it takes no place.
    pub(super) woken: AtomicBool,
    /// The same, for a command that does not wait for an append.
    pub(super) hurried: AtomicBool,
    pub(super) counters: Counters,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    /// Records looked at for room.
    #[cfg(test)]
    pub(super) walked: AtomicU64,
    pub(super) commits: [AtomicU64; Stats::BOUNDS.len() + 1],
    pub(super) nanos: AtomicU64,
    pub(super) errors: AtomicU64,
    pub(super) set_aside: AtomicU64,
}

impl Counters {
    pub(super) fn stats(&self) -> Stats {
        Stats {
            commits: std::array::from_fn(|i| self.commits[i].load(Ordering::Relaxed)),
            commit_time: Duration::from_nanos(self.nanos.load(Ordering::Relaxed)),
            errors: self.errors.load(Ordering::Relaxed),
            set_aside: self.set_aside.load(Ordering::Relaxed),
        }
    }

    pub(super) fn committed(&self, took: Duration) {
        self.commits[Stats::class(took)].fetch_add(1, Ordering::Relaxed);
        self.nanos.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

impl Shared {
    pub(super) fn targets(&self) -> Arc<Vec<Arc<Target>>> {
        Arc::clone(&self.targets.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn target(&self, id: TargetId) -> Result<Arc<Target>, JournalError> {
        let known = self.targets().get(usize::from(id.0)).map(Arc::clone);
        known.ok_or_else(|| JournalError::Failed(format!("target {} is not known", id.0)))
    }

    /// The name of a target. Rows name only known targets, because targets are never removed.
    pub(super) fn name(&self, target: u8) -> Arc<str> {
        self.targets().get(usize::from(target)).map_or_else(|| "unknown".into(), |target| Arc::clone(&target.name))
    }

    pub(super) fn projects(&self) -> RwLockReadGuard<'_, Vec<Arc<str>>> {
        self.projects.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn shares(&self) -> RwLockReadGuard<'_, Shares> {
        self.shares.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn change_shares(&self, change: impl FnOnce(&mut Shares)) {
        change(&mut self.shares.write().unwrap_or_else(PoisonError::into_inner));
    }

    /// The bit of each project's primary, by the project's number; `None` until they are known.
    pub(super) fn primary_bits(&self) -> Option<Vec<i64>> {
        let primaries = self.primaries.read().unwrap_or_else(PoisonError::into_inner);
        let primaries = primaries.as_ref()?;
        let bit = |name: &Arc<str>| primaries.of(name).map_or(0, |target| 1 << target.0);
        Some(self.projects().iter().map(bit).collect())
    }

    pub(super) fn trouble(&self) -> Option<JournalError> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_trouble(&self, trouble: Option<JournalError>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }
}

/// Waits for a place in the inbox, sends a message and awaits its answer.
pub(super) async fn send<T, M>(
    shared: &Shared,
    places: &Arc<Semaphore>,
    inbox: Option<&SyncSender<Placed<M>>>,
    message: impl FnOnce(Reply<T>) -> M,
) -> Result<T, JournalError> {
    if shared.closed.load(Ordering::Acquire) {
        return Err(JournalError::Closed);
    }
    let place = Arc::clone(places).acquire_owned().await.map_err(|_| JournalError::Closed)?;
    let (reply, answer) = oneshot::channel();
    // Whoever has a place finds capacity: this fails only if the thread is gone.
    inbox.ok_or(JournalError::Closed)?.try_send((message(reply), Some(place))).map_err(|_| JournalError::Closed)?;
    answer.await.map_err(|_| JournalError::Closed)?
}

/// The error that a caller gets for an error of the storage.
pub(super) fn failure(error: &rusqlite::Error) -> JournalError {
    match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::DiskFull) => JournalError::Full("the disk is full".into()),
        _ => JournalError::Failed(error.to_string()),
    }
}
