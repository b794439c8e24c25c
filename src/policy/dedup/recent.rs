//! The keys of the window in little memory: eight bytes each in closed generations, and a hash set for the one that grows.
//!
//! Rule: a key is remembered for the window at least, and for a quarter of it longer at most, or twice as long when it came while the
//! clock was ahead, unless there are more than [`CAPACITY`]: then the oldest go first. Of a key only 64 bits under a secret of this process are kept, so that two different
//! ones are taken for the same once in 10^13 times, and nobody can bring that about.

use std::collections::{HashSet, VecDeque};
use std::hash::{BuildHasher as _, BuildHasherDefault, Hasher, RandomState};
use std::time::Duration;

use crate::clock::Timestamp;

/// The most keys remembered: 100,000 in each minute of a window of ten, and a quarter more for the generation that grows.
pub const CAPACITY: usize = 1_250_000;

/// The number of generations in a window.
const GENERATIONS: u32 = 4;
/// The number of keys at which a generation is closed early.
const MOST: usize = CAPACITY / (GENERATIONS as usize + 1);

/// The keys of the window.
#[derive(Debug, Default)]
pub(super) struct Recent {
    secret: RandomState,
    young: HashSet<u64, BuildHasherDefault<AsIs>>,
    /// When the first key of the growing generation came.
    since: Timestamp,
    /// When the latest key came.
    latest: Timestamp,
    /// Closed generations, latest first.
    closed: VecDeque<Generation>,
}

#[derive(Debug)]
struct Generation {
    /// When its last key came.
    ended: Timestamp,
    /// Sorted.
    keys: Box<[u64]>,
}

/// A hasher that passes on what is a hash already.
#[derive(Default)]
pub(super) struct AsIs(u64);

impl Hasher for AsIs {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.0 = self.0.rotate_left(8) ^ u64::from(*byte));
    }
    fn write_u64(&mut self, n: u64) {
        self.0 = n;
    }
    fn write_u128(&mut self, n: u128) {
        self.0 = n as u64;
    }
}

impl Recent {
    /// Whether the key came within the window.
    pub(super) fn contains(&mut self, key: u128, now: Timestamp, window: Duration) -> bool {
        self.forget(now, window);
        let key = self.secret.hash_one(key);
        !window.is_zero() && (self.young.contains(&key) || self.closed.iter().any(|old| old.holds(key)))
    }

    /// Remembers a key that came at `at`.
    pub(super) fn insert(&mut self, key: u128, at: Timestamp, window: Duration) {
        if window.is_zero() {
            return;
        }
        let is_old = !self.young.is_empty() && at.since(self.since) >= window / GENERATIONS;
        if is_old || self.young.len() >= MOST {
            self.close();
        }
        if self.young.is_empty() {
            self.since = at;
        }
        self.latest = self.latest.max(at);
        self.young.insert(self.secret.hash_one(key));
    }

    fn close(&mut self) {
        let mut keys: Box<[u64]> = std::mem::take(&mut self.young).into_iter().collect();
        keys.sort_unstable();
        self.closed.push_front(Generation { ended: self.latest, keys });
        while self.closed.iter().map(|old| old.keys.len()).sum::<usize>() > CAPACITY - MOST {
            self.closed.pop_back();
        }
    }

    /// Forgets the generations whose last key is older than the window. What came while the clock was ahead goes after two windows.
    fn forget(&mut self, now: Timestamp, window: Duration) {
        let latest = now + window;
        (self.since, self.latest) = (self.since.min(latest), self.latest.min(latest));
        self.closed.iter_mut().for_each(|old| old.ended = old.ended.min(latest));
        while self.closed.back().is_some_and(|old| now.since(old.ended) >= window) {
            self.closed.pop_back();
        }
        if !self.young.is_empty() && now.since(self.latest) >= window {
            self.young = HashSet::default();
        }
    }
}

impl Generation {
    fn holds(&self, key: u64) -> bool {
        self.keys.binary_search(&key).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: Timestamp = Timestamp::from_millis(1_000_000);
    const WINDOW: Duration = Duration::from_secs(600);

    #[test]
    fn a_hundred_thousand_keys_a_minute_are_remembered_for_ten_minutes() {
        let mut recent = Recent::default();
        let at = |n: u32| T + Duration::from_micros(600) * n;
        let all = 1_300_000;
        for n in 0..all {
            recent.insert(u128::from(n), at(n), WINDOW);
        }
        let now = at(all);
        let first = all - 1_000_000;
        assert!((first..all).step_by(7).all(|n| recent.contains(u128::from(n), now, WINDOW)));
        assert!((all..all + 100_000).all(|n| !recent.contains(u128::from(n), now, WINDOW)), "none that never came");
        assert!((0..first - 250_000).all(|n| !recent.contains(u128::from(n), now, WINDOW)), "none that is long past");
        let bytes =
            recent.closed.iter().map(|old| old.keys.len() * 8).sum::<usize>() + recent.young.capacity() * 9 * 8 / 7;
        assert!(bytes < 14 << 20, "{bytes}");
    }

    #[test]
    fn beyond_the_capacity_the_oldest_go_first() {
        let mut recent = Recent::default();
        let all = 2 * CAPACITY as u128;
        for n in 0..all {
            recent.insert(n, T, WINDOW);
        }
        assert!((all - (CAPACITY - MOST) as u128..all).step_by(11).all(|n| recent.contains(n, T, WINDOW)));
        assert!(!recent.contains(0, T, WINDOW));
        assert!(recent.closed.iter().map(|old| old.keys.len()).sum::<usize>() + recent.young.len() <= CAPACITY);
    }

    #[test]
    fn what_came_while_the_clock_was_ahead_is_forgotten_two_windows_after_it_was_set_back() {
        let (mut recent, ahead) = (Recent::default(), T + WINDOW * 1000);
        for minute in 0..6_u32 {
            recent.insert(minute.into(), ahead + WINDOW / 10 * minute, WINDOW);
        }
        assert!((0..6).all(|n| recent.contains(n, T, WINDOW)));
        assert!((0..6).all(|n| !recent.contains(n, T + WINDOW * 2, WINDOW)));
    }

    #[test]
    fn what_comes_in_another_order_is_remembered_as_long() {
        let mut recent = Recent::default();
        // After a restart the newest come first.
        for seconds in (0..600_u64).rev() {
            recent.insert(seconds.into(), T + Duration::from_secs(seconds), WINDOW);
        }
        assert!((0..600).all(|n| recent.contains(n, T + Duration::from_secs(599), WINDOW)));
        assert!(recent.contains(599, T + Duration::from_secs(1198), WINDOW));
        assert!(!recent.contains(599, T + Duration::from_secs(1199), WINDOW));
        assert!(!recent.contains(7, T, Duration::ZERO), "a window of nothing");
    }
}
