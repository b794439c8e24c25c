//! Duplicates: what comes again within the window is answered like the first and goes nowhere.
//!
//! A key is *reserved* while its submission is on its way into the journal and *committed* when the journal has it; a failed
//! append releases it, so that the client's next try is not taken for a repeat of something that was never kept. A repeat
//! that comes in between waits for the first one's fate: an answer of 200 must never rest on an append that may yet fail.

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
    /// Keys under this secret; under the same one they are the same after a restart.
    pub fn new(secret: &[u8; SECRET]) -> Self {
        let mut key = [0; 16];
        key.copy_from_slice(&secret[..16]);
        Self(SipHasher24::new_with_key(&key))
    }

    /// The key of an item: the same for the same id, item type and project. `more` is what tells it from others with that id.
    pub fn key(&self, project: &str, kind: &ItemType, id: EventId, more: &[u8]) -> u128 {
        let mut hash = self.0;
        hash.write(&id.as_u128().to_le_bytes());
        // With their lengths, so that no two texts run into each other.
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
    /// The keys on their way; the token of one that somebody waits for is cancelled when its fate is decided.
    reserved: HashMap<u128, Option<CancellationToken>, BuildHasherDefault<AsIs>>,
}

/// What is known of a key.
#[derive(Debug)]
pub enum Answer {
    /// Not seen within the window: it is the caller's now.
    Fresh(Reservation),
    /// Committed within the window.
    Repeat,
    /// Another submission has it and is not decided yet: wait, then ask again.
    Undecided(CancellationToken),
}

/// A key held while its submission is on its way. Dropped without [`Reservation::commit`] it is released.
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

    /// Follows a changed configuration; what is remembered stays remembered.
    pub fn configure(&self, settings: &Settings) {
        let millis = settings.window.get().as_millis();
        self.0.length.store(u64::try_from(millis).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// How far back repeats are recognised.
    pub fn length(&self) -> Duration {
        Duration::from_millis(self.0.length.load(Ordering::Relaxed))
    }

    /// Takes the key for a submission, unless it was taken before.
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

    /// Remembers a key that the journal holds since `at`: refills the window after a restart.
    pub fn remember(&self, key: u128, at: Timestamp) {
        self.known().recent.insert(key, at, self.length());
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reservation {
    /// The key that is held.
    pub fn key(&self) -> u128 {
        self.key
    }

    /// The journal has it: repeats are recognised from `at` on.
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
