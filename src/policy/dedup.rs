//! Duplicates: a repeat within the window is answered like the first submission and is not delivered.
//!
//! A key is *reserved* while its submission is being appended, and *committed* once the journal has it. A failed append releases the
//! key, so that the client's next try is not taken for a repeat of something that was never kept. A repeat that comes in between waits
//! for the first one's outcome: an answer of 200 must never rest on an append that may yet fail.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasherDefault, Hasher as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use siphasher::sip128::{Hasher128 as _, SipHasher24};
use tokio_util::sync::CancellationToken;

use crate::clock::Timestamp;
use crate::protocol::event_id::EventId;
use crate::protocol::item::ItemType;
use crate::units::Period;

mod recent;
pub use recent::CAPACITY;
use recent::{AsIs, Recent};

/// The section `[dedup]` of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// How long a key is remembered.
    pub window: Period,
}

impl Default for Settings {
    fn default() -> Self {
        Self { window: Period::secs(600) }
    }
}

/// Bytes of the secret under which keys are made.
pub const SECRET: usize = 32;

/// Makes the keys of items. Clients choose the ids, so the key is a keyed hash: nobody without the secret can choose an id whose key
/// is that of an item of another project.
#[derive(Clone)]
pub struct Keys(SipHasher24);

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").finish_non_exhaustive()
    }
}

impl Keys {
    /// A maker of keys. The same secret makes the same keys after a restart.
    pub fn new(secret: &[u8; SECRET]) -> Self {
        let mut key = [0; 16];
        key.copy_from_slice(&secret[..16]);
        Self(SipHasher24::new_with_key(&key))
    }

    /// The key of an item: the same for the same id, item type and project. `more` distinguishes items that share these.
    pub fn key(&self, project: &str, kind: &ItemType, id: EventId, more: &[u8]) -> u128 {
        let mut hash = self.0;
        hash.write(&id.as_u128().to_le_bytes());
        // With their lengths, so that no two pairs of texts hash alike.
        for text in [project, kind.name()] {
            hash.write(&(text.len() as u64).to_le_bytes());
            hash.write(text.as_bytes());
        }
        hash.write(more);
        hash.finish128().as_u128()
    }
}

/// The window of duplicates. Cheap to clone; clones share the window.
#[derive(Clone, Debug)]
pub struct Dedup(Arc<Window>);

#[derive(Debug)]
struct Window {
    /// Milliseconds.
    length: AtomicU64,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// The keys that were committed.
    recent: Recent,
    /// Reserved keys. If a repeat waits for one, its token is cancelled when the outcome is known.
    reserved: HashMap<u128, Option<CancellationToken>, BuildHasherDefault<AsIs>>,
}

/// The state of a key.
#[derive(Debug)]
pub enum Answer {
    /// Not seen within the window; it is reserved for the caller now.
    Fresh(Reservation),
    /// Committed within the window.
    Repeat,
    /// Reserved by another submission: wait for the token, then ask again.
    Undecided(CancellationToken),
}

/// A reserved key. Dropping it without [`Reservation::commit`] releases the key.
#[derive(Debug)]
pub struct Reservation {
    window: Dedup,
    key: u128,
}

impl Dedup {
    /// An empty window.
    pub fn new(settings: &Settings) -> Self {
        let window = Self(Arc::new(Window { length: AtomicU64::new(0), known: Mutex::default() }));
        window.configure(settings);
        window
    }

    /// Applies a changed configuration; remembered keys stay.
    pub fn configure(&self, settings: &Settings) {
        let millis = settings.window.get().as_millis();
        self.0.length.store(u64::try_from(millis).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// The length of the window.
    pub fn length(&self) -> Duration {
        Duration::from_millis(self.0.length.load(Ordering::Relaxed))
    }

    /// Reserves the key for a submission, unless it was seen before.
    pub fn reserve(&self, key: u128, now: Timestamp) -> Answer {
        let mut known = self.known();
        if let Some(undecided) = known.reserved.get_mut(&key) {
            return Answer::Undecided(undecided.get_or_insert_default().clone());
        }
        if known.recent.contains(key, now, self.length()) {
            return Answer::Repeat;
        }
        known.reserved.insert(key, None);
        Answer::Fresh(Reservation { window: self.clone(), key })
    }

    /// Adds a key of a record accepted at `at`: refills the window after a restart.
    pub fn remember(&self, key: u128, at: Timestamp) {
        self.known().recent.insert(key, at, self.length());
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reservation {
    /// The reserved key.
    pub fn key(&self) -> u128 {
        self.key
    }

    /// Commits the key of a record accepted at `at`.
    pub fn commit(self, at: Timestamp) {
        self.window.remember(self.key, at);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let undecided = self.window.known().reserved.remove(&self.key);
        if let Some(undecided) = undecided.flatten() {
            undecided.cancel();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: Timestamp = Timestamp::from_millis(1_000_000);

    fn window() -> Dedup {
        Dedup::new(&Settings::default())
    }

    fn reserve(window: &Dedup, key: u128, at: Timestamp) -> Reservation {
        match window.reserve(key, at) {
            Answer::Fresh(reservation) => reservation,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_committed_key_is_a_repeat_until_the_window_ends() {
        let window = window();
        reserve(&window, 1, T).commit(T);
        assert!(matches!(window.reserve(1, T + Duration::from_secs(599)), Answer::Repeat));
        assert!(matches!(window.reserve(2, T), Answer::Fresh(_)));
        assert!(matches!(window.reserve(1, T + Duration::from_secs(600)), Answer::Fresh(_)));
    }

    #[test]
    fn a_released_key_is_fresh_again_and_those_who_wait_are_told() {
        let window = window();
        let first = reserve(&window, 1, T);
        let Answer::Undecided(waiting) = window.reserve(1, T) else { panic!("the key is on its way") };
        assert!(!waiting.is_cancelled());
        drop(first);
        assert!(waiting.is_cancelled());
        assert!(matches!(window.reserve(1, T), Answer::Fresh(_)));
    }

    #[test]
    fn project_type_and_secret_tell_equal_event_ids_apart() {
        let (id, own) = (EventId::from(7), Keys::new(&[1; SECRET]));
        let keys = [
            own.key("a", &ItemType::Event, id, &[]),
            own.key("b", &ItemType::Event, id, &[]),
            own.key("a", &ItemType::Transaction, id, &[]),
            own.key("a", &ItemType::Event, EventId::from(8), &[]),
            own.key("a", &ItemType::Event, id, &[0]),
            own.key("a", &ItemType::Event, id, &[0, 0]),
            Keys::new(&[2; SECRET]).key("a", &ItemType::Event, id, &[]),
        ];
        let distinct: std::collections::BTreeSet<u128> = keys.into_iter().collect();
        assert_eq!(distinct.len(), 7);
        assert_eq!(keys[0], Keys::new(&[1; SECRET]).key("a", &ItemType::Event, id, &[]));
    }
}
