//! Shares out something scarce among those who want it.
//!
//! Rule: nobody takes more than is left for the others, except one piece that everybody may have. So one alone gets half, two get
//! a third each, and there is always something for the next one. Knows neither what is shared nor who they are.

use std::collections::HashMap;
use std::hash::Hash;

/// What is left, and who has how much of the rest.
#[derive(Debug)]
pub(super) struct Shares<K> {
    free: u64,
    piece: u64,
    held: HashMap<K, u64>,
}

impl<K: Hash + Eq + Clone> Shares<K> {
    /// All of it is free; `piece` is what everybody may have.
    pub(super) fn new(total: u64, piece: u64) -> Self {
        Self { free: total, piece, held: HashMap::new() }
    }

    /// How much is free.
    pub(super) const fn free(&self) -> u64 {
        self.free
    }

    /// Takes `amount` when `left` is left after that, and for somebody also when that is no more than their share. Nobody in
    /// particular has none.
    pub(super) fn take(&mut self, somebody: Option<&K>, amount: u64, left: u64) -> bool {
        let Some(rest) = self.free.checked_sub(amount).filter(|rest| *rest >= left) else { return false };
        if let Some(key) = somebody {
            match self.held.get_mut(key) {
                Some(held) if *held + amount <= rest.max(self.piece) => *held += amount,
                None if amount <= rest.max(self.piece) => drop(self.held.insert(key.clone(), amount)),
                _ => return false,
            }
        }
        self.free = rest;
        true
    }

    /// Takes again what was given back just now, whatever else is so.
    pub(super) fn take_back(&mut self, somebody: Option<&K>, amount: u64) {
        self.free -= amount;
        if let Some(key) = somebody.filter(|_| amount > 0) {
            *self.held.entry(key.clone()).or_default() += amount;
        }
    }

    /// Gives back what was taken for `somebody`.
    pub(super) fn give_back(&mut self, somebody: Option<&K>, amount: u64) {
        self.free += amount;
        let Some((key, held)) = somebody.and_then(|key| Some((key, self.held.get_mut(key)?))) else { return };
        *held = held.saturating_sub(amount);
        if *held == 0 {
            self.held.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_is_alone_gets_half_and_there_is_always_something_for_the_next_one() {
        let mut shares = Shares::new(64, 1);
        let mut most = |key: &str| (0..).take_while(|_| shares.take(Some(&key.to_owned()), 1, 0)).count();
        assert_eq!(["a", "b", "c", "d"].map(&mut most), [32, 16, 8, 4]);
        assert_eq!(["e", "f", "g", "h"].map(&mut most), [2, 1, 1, 0]);
        assert_eq!(most("a"), 0);
    }

    #[test]
    fn what_is_given_back_can_be_taken_and_nobody_is_remembered_who_has_nothing() {
        let mut shares = Shares::new(10, 1);
        assert!(shares.take(Some(&"a"), 5, 0) && !shares.take(Some(&"a"), 1, 0));
        shares.give_back(Some(&"a"), 5);
        assert!(shares.held.is_empty() && shares.free() == 10);
        assert!(shares.take(None, 10, 0) && !shares.take(Some(&"b"), 1, 0));
        shares.give_back(None, 10);
        assert!(!shares.take(Some(&"b"), 3, 8) && shares.take(Some(&"b"), 2, 8));
    }
}
