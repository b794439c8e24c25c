//! The use of the daily caps of `[upstreams.NAME.shadow]`.
//!
//! Rule: everything that an upstream gets counts, even as the primary, when the cap does not apply. A submission that is not accepted
//! in the end is given back. The accounts tell what came before the counting began.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::clock::Timestamp;
use crate::protocol::category::{Category, Quantities};
use crate::units::ByteSize;

use super::Settings;

const DAY: Duration = Duration::from_secs(86_400);

/// The most in a day: pieces, written `5000`, or bytes, written `"1GiB"`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cap {
    most: u64,
    /// Written as a size.
    bytes: bool,
}

impl fmt::Display for Cap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.bytes { ByteSize::bytes(self.most).fmt(f) } else { self.most.fmt(f) }
    }
}

impl<'de> Deserialize<'de> for Cap {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Written;
        impl de::Visitor<'_> for Written {
            type Value = Cap;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number, or a size as in \"1GiB\"")
            }
            fn visit_i64<E: de::Error>(self, n: i64) -> Result<Cap, E> {
                let most = u64::try_from(n).map_err(|_| E::invalid_value(de::Unexpected::Signed(n), &self))?;
                Ok(Cap { most, bytes: false })
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Cap, E> {
                let size: ByteSize = text.parse().map_err(E::custom)?;
                Ok(Cap { most: size.get(), bytes: true })
            }
        }
        deserializer.deserialize_any(Written)
    }
}

impl Serialize for Cap {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.bytes { serializer.collect_str(self) } else { serializer.serialize_u64(self.most) }
    }
}

/// The quantities that upstreams with caps got today. Clones share the counts.
#[derive(Clone, Debug, Default)]
pub struct Caps(Arc<Mutex<Day>>);

#[derive(Debug, Default)]
struct Day {
    /// The day, counted from the epoch.
    number: u64,
    used: HashMap<Arc<str>, Counts>,
}

type Counts = BTreeMap<Category, u64>;

impl Day {
    fn counts(&mut self, upstream: &Arc<str>) -> &mut Counts {
        self.used.entry(Arc::clone(upstream)).or_default()
    }
}

/// When the day of this moment began (UTC).
pub fn day_of(now: Timestamp) -> Timestamp {
    Timestamp::from_millis(now.as_millis() - now.as_millis() % DAY.as_millis() as u64)
}

impl Caps {
    /// Counts the upstreams in `capped` from now on, and no others. Returns those that are new, for [`Caps::begin`].
    pub fn follow<'a>(&self, capped: impl IntoIterator<Item = &'a Arc<str>>, now: Timestamp) -> Vec<Arc<str>> {
        let mut day = self.day(now);
        let capped: Vec<Arc<str>> = capped.into_iter().cloned().collect();
        day.used.retain(|upstream, _| capped.contains(upstream));
        capped.into_iter().filter(|upstream| !day.used.contains_key(upstream)).collect()
    }

    /// Adds what an upstream got today before it was counted.
    pub fn begin(&self, upstream: &Arc<str>, used: impl IntoIterator<Item = (Category, u64)>, now: Timestamp) {
        let mut day = self.day(now);
        let counts = day.counts(upstream);
        for (category, quantity) in used {
            add(counts, category, quantity);
        }
    }

    fn day(&self, now: Timestamp) -> MutexGuard<'_, Day> {
        let mut day = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let number = now.hour() / 24;
        // What was accepted just before midnight may be counted just after it. A clock that was further ahead is set right by now.
        if number > day.number || number + 1 < day.number {
            *day = Day { number, used: HashMap::new() };
        }
        day
    }
}

fn add(counts: &mut Counts, category: Category, quantity: u64) {
    let count = counts.entry(category).or_default();
    *count = count.saturating_add(quantity);
}

/// What one submission used of the caps. Dropping it without [`Spent::keep`] gives it back.
#[derive(Debug)]
pub struct Spent {
    caps: Caps,
    now: Timestamp,
    quantities: Vec<(Arc<str>, Quantities)>,
}

impl Spent {
    /// Nothing used yet.
    pub const fn nothing(caps: Caps, now: Timestamp) -> Self {
        Self { caps, now, quantities: vec![] }
    }

    /// Takes an item's quantities. Returns false and takes nothing if one of its categories has too little left.
    pub fn take(&mut self, upstream: &Arc<str>, settings: &Settings, item: &Quantities) -> bool {
        if settings.daily_cap.is_empty() {
            return true;
        }
        let caps = self.caps.clone();
        let mut day = caps.day(self.now);
        let counts = day.counts(upstream);
        let used = |category| counts.get(&category).copied().unwrap_or(0_u64);
        let most = |category| settings.daily_cap.get(&category).map(|cap| cap.most);
        let fits = !item.iter().any(|(c, n)| most(c).is_some_and(|most| used(c).saturating_add(n) > most));
        if fits {
            self.note(counts, upstream, item);
        }
        fits
    }

    /// Counts an item's quantities in categories that have a cap, whatever is left.
    pub fn count(&mut self, upstream: &Arc<str>, settings: &Settings, item: &Quantities) {
        if settings.daily_cap.is_empty() {
            return;
        }
        let caps = self.caps.clone();
        self.note(caps.day(self.now).counts(upstream), upstream, item);
    }

    fn note(&mut self, counts: &mut Counts, upstream: &Arc<str>, item: &Quantities) {
        item.iter().for_each(|(category, quantity)| add(counts, category, quantity));
        self.quantities.push((Arc::clone(upstream), item.clone()));
    }

    /// Keeps what was used: the submission is accepted.
    pub fn keep(mut self) {
        self.quantities.clear();
    }
}

impl Drop for Spent {
    fn drop(&mut self) {
        for (upstream, quantities) in std::mem::take(&mut self.quantities) {
            let mut day = self.caps.day(self.now);
            let is_today = day.number == self.now.hour() / 24;
            let Some(counts) = day.used.get_mut(&upstream).filter(|_| is_today) else { continue };
            for (category, quantity) in quantities.iter() {
                counts.entry(category).and_modify(|count| *count = count.saturating_sub(quantity));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: Timestamp = Timestamp::from_millis(1_700_000_000_000);

    /// Whether so many errors fit under a cap of 5.
    fn fits(caps: &Caps, count: u64, now: Timestamp) -> Option<Spent> {
        let daily_cap = BTreeMap::from([(Category::Error, Cap { most: 5, bytes: false })]);
        let settings = Settings { daily_cap, ..Settings::default() };
        let mut spent = Spent::nothing(caps.clone(), now);
        let item = Quantities::from_iter([(Category::Error, count), (Category::Span, 1000)]);
        spent.take(&"old".into(), &settings, &item).then_some(spent)
    }

    fn keep(spent: Option<Spent>) -> bool {
        spent.map(Spent::keep).is_some()
    }

    #[test]
    fn a_cap_is_of_a_day() {
        let caps = Caps::default();
        assert!(
            keep(fits(&caps, 3, T)) && !keep(fits(&caps, 3, T)) && keep(fits(&caps, 2, T)) && !keep(fits(&caps, 1, T))
        );
        let midnight = day_of(T) + DAY;
        let before = midnight - Duration::from_millis(1);
        assert!(!keep(fits(&caps, 1, before)) && keep(fits(&caps, 5, midnight)) && !keep(fits(&caps, 1, before)));
    }

    #[test]
    fn a_clock_that_was_days_ahead_and_is_set_back_keeps_no_cap_used_up() {
        let caps = Caps::default();
        assert!(keep(fits(&caps, 5, T + DAY * 30)));
        assert!(keep(fits(&caps, 5, T)) && !keep(fits(&caps, 1, T)));
        assert!(keep(fits(&caps, 5, T + DAY)), "the next day is another one");
    }

    #[test]
    fn what_is_not_accepted_is_given_back_to_its_own_day() {
        let caps = Caps::default();
        assert!(fits(&caps, 5, T).is_some());
        let late = fits(&caps, 4, T).expect("it was given back");
        assert!(!keep(fits(&caps, 2, T)) && keep(fits(&caps, 1, T)));
        assert!(keep(fits(&caps, 5, T + DAY)));
        drop(late);
        assert!(!keep(fits(&caps, 1, T + DAY)));
    }

    #[test]
    fn what_was_used_before_is_told_once_for_each_upstream_and_forgotten_with_its_cap() {
        let (caps, old): (Caps, Arc<str>) = (Caps::default(), "old".into());
        assert_eq!(caps.follow([&old], T), [Arc::clone(&old)]);
        caps.begin(&old, [(Category::Error, 4)], T);
        assert_eq!(caps.follow([&old], T), []);
        assert!(!keep(fits(&caps, 2, T)) && keep(fits(&caps, 1, T)));
        assert_eq!(caps.follow([], T), []);
        assert_eq!(caps.follow([&old], T), [Arc::clone(&old)]);
        assert!(keep(fits(&caps, 5, T)));
    }

    #[test]
    fn a_cap_is_a_number_or_a_size() {
        let caps: BTreeMap<Category, Cap> = toml::from_str("error = 0\nattachment = \"1GiB\"").unwrap();
        assert_eq!((caps[&Category::Error].most, caps[&Category::Attachment].most), (0, 1 << 30));
        assert_eq!(serde_json::to_string(&caps).unwrap(), r#"{"error":0,"attachment":"1GiB"}"#);
        for wrong in ["error = -1", "error = 0.5", "error = \"5\"", "internal = 1", "eror = 1"] {
            assert!(toml::from_str::<BTreeMap<Category, Cap>>(wrong).is_err(), "{wrong}");
        }
    }
}
