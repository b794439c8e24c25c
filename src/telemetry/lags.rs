//! How long deliveries took, as a histogram that can be added up and stored: one for each upstream and hour.
//!
//! The classes are fixed: one for each millisecond below 64, and 32 for each doubling above. So any two histograms can be merged, the
//! relative error of a quantile is at most [`ERROR`], and a histogram has at most `CLASSES` numbers.

use std::collections::BTreeMap;
use std::time::Duration;

/// The greatest relative error of a quantile; the maximum is exact.
pub const ERROR: f64 = 1.0 / 64.0;

/// The number of classes for each doubling.
const STEPS: u64 = 32;
/// The greatest value, 2^40 ms or about 34 years; longer deliveries count as this.
const LONGEST: u64 = (1 << 40) - 1;
/// The number of classes.
const CLASSES: u16 = class(LONGEST) + 1;

/// A histogram of how long deliveries took, in milliseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lags {
    /// The count of each class that is not empty.
    counts: BTreeMap<u16, u64>,
    max: u64,
}

/// The class of a number of milliseconds.
const fn class(ms: u64) -> u16 {
    // Below 2 × STEPS each value has its own class. Above, the leading bit and the next five bits make the class.
    let shift = (64 - ms.leading_zeros()).saturating_sub(6) as u64;
    (shift * STEPS + (ms >> shift)) as u16
}

/// The middle of a class, in milliseconds.
fn middle(class: u16) -> u64 {
    let class = u64::from(class);
    let shift = (class / STEPS).saturating_sub(1);
    let first = (class - shift * STEPS) << shift;
    first + ((1 << shift) >> 1)
}

impl Lags {
    /// Counts one delivery.
    pub fn record(&mut self, lag: Duration) {
        self.record_many(lag, 1);
    }

    /// Counts several deliveries that took the same time.
    pub fn record_many(&mut self, lag: Duration, count: u64) {
        let ms = u64::try_from(lag.as_millis()).unwrap_or(u64::MAX).min(LONGEST);
        *self.counts.entry(class(ms)).or_default() += count;
        self.max = self.max.max(ms);
    }

    /// Adds the counts of another histogram.
    pub fn merge(&mut self, other: &Self) {
        for (class, count) in &other.counts {
            *self.counts.entry(*class).or_default() += count;
        }
        self.max = self.max.max(other.max);
    }

    /// The number of deliveries.
    pub fn count(&self) -> u64 {
        self.counts.values().sum()
    }

    /// The longest time.
    pub fn max(&self) -> Duration {
        Duration::from_millis(self.max)
    }

    /// The time that a `share` of the deliveries, from 0 to 1, do not exceed, within [`ERROR`]; `None` for an empty histogram.
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let rank = ((self.count() as f64 * share).ceil() as u64).max(1);
        let mut seen = 0;
        let found = self.counts.iter().find(|(_, count)| {
            seen += **count;
            seen >= rank
        })?;
        Some(Duration::from_millis(middle(*found.0).min(self.max)))
    }

    /// The bytes for [`Lags::decode`]: the maximum, then class and count of each class that is not empty, as LEB128.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        write(&mut bytes, self.max);
        for (class, count) in &self.counts {
            write(&mut bytes, u64::from(*class));
            write(&mut bytes, *count);
        }
        bytes
    }

    /// The histogram in the bytes; `None` if they are not from [`Lags::encode`].
    pub fn decode(mut bytes: &[u8]) -> Option<Self> {
        let mut lags = Self { max: read(&mut bytes)?, ..Self::default() };
        while !bytes.is_empty() {
            let class = u16::try_from(read(&mut bytes)?).ok().filter(|class| *class < CLASSES)?;
            lags.counts.insert(class, read(&mut bytes)?);
        }
        Some(lags)
    }
}

fn write(bytes: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        bytes.push((n & 0x7f) as u8 | 0x80);
        n >>= 7;
    }
    bytes.push(n as u8);
}

fn read(bytes: &mut &[u8]) -> Option<u64> {
    let mut n = 0;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        n |= u64::from(first & 0x7f).checked_shl(shift)?;
        if first & 0x80 == 0 {
            return Some(n);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lags(all: &[u64]) -> Lags {
        let mut lags = Lags::default();
        all.iter().for_each(|ms| lags.record(Duration::from_millis(*ms)));
        lags
    }

    #[test]
    fn an_empty_histogram_has_no_quantile() {
        assert_eq!(Lags::default().quantile(0.5), None);
    }

    proptest! {
        #[test]
        fn the_error_of_a_quantile_is_bounded(
            mut all in prop::collection::vec(prop_oneof![0..200_u64, 0..1_u64 << 30], 1..200), share in 0.0..=1.0_f64,
        ) {
            let lags = lags(&all);
            all.sort_unstable();
            let rank = ((all.len() as f64 * share).ceil() as usize).max(1);
            let (exact, told) = (all[rank - 1] as f64, lags.quantile(share).unwrap().as_millis() as f64);
            prop_assert!((told - exact).abs() <= exact * ERROR, "{told} for {exact}");
            prop_assert_eq!(lags.max().as_millis() as u64, all[all.len() - 1]);
        }

        #[test]
        fn merging_equals_counting_together_and_the_bytes_read_back(
            a in prop::collection::vec(any::<u64>(), 0..50), b in prop::collection::vec(0..5000_u64, 0..50),
        ) {
            let mut merged = lags(&a);
            merged.merge(&lags(&b));
            prop_assert_eq!(&merged, &lags(&[a, b].concat()));
            prop_assert_eq!(Lags::decode(&merged.encode()), Some(merged));
        }

        #[test]
        fn arbitrary_bytes_never_make_the_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..50)) {
            drop(Lags::decode(&bytes));
        }
    }
}
