//! Shares a scarce resource among its holders.
//!
//! Rule: no holder takes more than it leaves free, except that everybody may have one piece. So a single holder gets half, and two that
//! take by turns get a third each. Knows neither the resource nor the holders.

use std::collections::HashMap;
use std::hash::Hash;

/// How much is free, and how much each holder has.
#[derive(Debug)]
pub(super) struct Shares<K> {
    free: u64,
    piece: u64,
    held: HashMap<K, u64>,
}

impl<K: Hash + Eq + Clone> Shares<K> {
    /// Shares of which `total` is free; `piece` is what everybody may have.
    pub(super) fn new(total: u64, piece: u64) -> Self {
        Self { free: total, piece, held: HashMap::new() }
    }

    /// How much is free.
    pub(super) const fn free(&self) -> u64 {
        self.free
    }

    /// Takes `amount` if `left` stays free and the holder's share allows it; `None` has no share to keep to. Returns whether it did.
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

    /// Takes again what was given back just now, without any check.
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
    fn a_single_holder_gets_half_and_each_next_one_half_of_the_rest() {
        let mut shares = Shares::new(64, 1);
        let mut most = |key: &str| (0..).take_while(|_| shares.take(Some(&key.to_owned()), 1, 0)).count();
        assert_eq!(["a", "b", "c", "d"].map(&mut most), [32, 16, 8, 4]);
        assert_eq!(["e", "f", "g", "h"].map(&mut most), [2, 1, 1, 0]);
        assert_eq!(most("a"), 0);
    }

    #[test]
    fn what_is_given_back_can_be_taken_and_empty_holders_are_forgotten() {
        let mut shares = Shares::new(10, 1);
        assert!(shares.take(Some(&"a"), 5, 0) && !shares.take(Some(&"a"), 1, 0));
        shares.give_back(Some(&"a"), 5);
        assert!(shares.held.is_empty() && shares.free() == 10);
        assert!(shares.take(None, 10, 0) && !shares.take(Some(&"b"), 1, 0));
        shares.give_back(None, 10);
        assert!(!shares.take(Some(&"b"), 3, 8) && shares.take(Some(&"b"), 2, 8));
    }
}
