//! Duplicates: what comes again within the window is answered like the first and goes nowhere.
//!
//! A key is *reserved* while its submission is on its way into the journal and *committed* when the journal has it; a failed
//! append releases it, so that the client's next try is not taken for a repeat of something that was never kept. A repeat
//! that comes in between waits for the first one's fate: an answer of 200 must never rest on an append that may yet fail.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::clock::Timestamp;
use crate::protocol::event_id::EventId;
use crate::protocol::item::ItemType;
use crate::units::Period;

mod recent;
pub use recent::CAPACITY;
use recent::Recent;

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

/// The key of an item: the same for the same id, item type and project, and the same after a restart. `more` is what tells it from
/// others with that id.
pub fn key(project: &str, kind: &ItemType, id: EventId, more: &[u8]) -> u128 {
    // FNV-1a: it need not resist anybody, for the id itself is the client's choice.
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    let name = project.bytes().chain([0]).chain(kind.name().bytes());
    let more = (!more.is_empty()).then_some(0).into_iter().chain(more.iter().copied());
    let hash = u128::from(name.chain(more).fold(0xcbf2_9ce4_8422_2325, step));
    id.as_u128() ^ (hash << 64 | hash)
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
    /// The keys on their way; each token is cancelled when its key's fate is decided.
    reserved: HashMap<u128, CancellationToken>,
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
        if let Some(undecided) = known.reserved.get(&key) {
            return Answer::Undecided(undecided.clone());
        }
        if known.recent.contains(key, now, self.length()) {
            return Answer::Repeat;
        }
        known.reserved.insert(key, CancellationToken::new());
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
        if let Some(undecided) = self.window.known().reserved.remove(&self.key) {
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
    fn project_and_type_tell_equal_event_ids_apart() {
        let id = EventId::from(7);
        let keys = [
            key("a", &ItemType::Event, id, &[]),
            key("b", &ItemType::Event, id, &[]),
            key("a", &ItemType::Transaction, id, &[]),
            key("a", &ItemType::Event, EventId::from(8), &[]),
            key("a", &ItemType::Event, id, &[0]),
            key("a", &ItemType::Event, id, &[0, 0]),
        ];
        let distinct: std::collections::BTreeSet<u128> = keys.into_iter().collect();
        assert_eq!(distinct.len(), 6);
    }
}
