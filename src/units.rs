//! Values of the configuration with a unit or a secret: they are validated when parsed and print as written.
//!
//! A [`Secret`] never prints its text, in any format.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A number of bytes, written `"64MiB"`: a whole number and one of B, KiB, MiB, GiB, TiB (powers of 1024) or KB, MB, GB, TB (powers of 1000).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct ByteSize(u64);

impl ByteSize {
    /// `n` bytes.
    pub const fn bytes(n: u64) -> Self {
        Self(n)
    }

    /// `n` × 1024 × 1024 bytes.
    pub const fn mib(n: u64) -> Self {
        Self(n * 1024 * 1024)
    }

    /// The number of bytes.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The number of bytes as a length in memory, at most `usize::MAX`.
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

const SIZES: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
    ("B", 1),
];

impl FromStr for ByteSize {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        parse_with_unit(text, &SIZES)
            .map(Self)
            .ok_or_else(|| format!("{text:?} is not a size: write a whole number and a unit, as in \"64MiB\""))
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        print_with_unit(f, self.0, &SIZES[..4], "B")
    }
}

/// A span of time, written `"10m"`: a whole number and one of ms, s, m, h, d.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct Period(Duration);

impl Period {
    /// `n` seconds.
    pub const fn secs(n: u64) -> Self {
        Self(Duration::from_secs(n))
    }

    /// The span as the standard library's type.
    pub const fn get(self) -> Duration {
        self.0
    }
}

const PERIODS: [(&str, u64); 5] = [("ms", 1), ("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000)];

impl FromStr for Period {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        parse_with_unit(text, &PERIODS).map(|ms| Self(Duration::from_millis(ms))).ok_or_else(|| {
            format!("{text:?} is not a period: write a whole number and a unit, as in \"30s\" or \"72h\"")
        })
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        // Up to three days print in hours, as operators write them: "72h".
        let units = if ms <= 259_200_000 { &PERIODS[2..] } else { &PERIODS[1..] };
        print_with_unit(f, ms, units, "ms")
    }
}

/// A number of items, written `500`, or of bytes, written `"20MiB"`; at least one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Amount {
    count: NonZeroU32,
    /// Whether it was written as a size.
    bytes: bool,
}

impl Amount {
    /// The number of items or bytes.
    pub const fn get(self) -> NonZeroU32 {
        self.count
    }
}

impl FromStr for Amount {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let bytes = !text.bytes().all(|b| b.is_ascii_digit());
        let count = if bytes { text.parse().ok().map(ByteSize::get) } else { text.parse().ok() };
        let count = count.and_then(|count| u32::try_from(count).ok()).and_then(NonZeroU32::new);
        let example = "write a whole number from 1 to 4294967295, or a size as in \"20MiB\"";
        count.map(|count| Self { count, bytes }).ok_or_else(|| format!("{text:?} is no amount: {example}"))
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.bytes { ByteSize(self.count.get().into()).fmt(f) } else { self.count.fmt(f) }
    }
}

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Written;
        impl de::Visitor<'_> for Written {
            type Value = Amount;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number or a size")
            }
            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Amount, E> {
                number.to_string().parse().map_err(E::custom)
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Amount, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Written)
    }
}

/// An amount per span of time, written `"100/s"`, or `"10MiB/s"` for bytes: an [`Amount`] and one of s, m, h, d.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rate {
    amount: Amount,
    per: Period,
}

const PER: [(&str, u64); 4] = [("s", 1), ("m", 60), ("h", 3600), ("d", 86_400)];

impl Rate {
    /// The amount in one [`Rate::per`].
    pub const fn amount(self) -> NonZeroU32 {
        self.amount.count
    }

    /// The span of time.
    pub const fn per(self) -> Duration {
        self.per.0
    }
}

impl FromStr for Rate {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let refusal = || format!("{text:?} is no rate: write an amount and one of s, m, h, d, as in \"100/s\"");
        let (amount, unit) = text.split_once('/').ok_or_else(refusal)?;
        let seconds = PER.iter().find(|(name, _)| *name == unit.trim()).ok_or_else(refusal)?.1;
        let rate = Self { amount: amount.trim().parse().map_err(|_| refusal())?, per: Period::secs(seconds) };
        // The relay's clock is no finer than nanoseconds.
        if Duration::from_nanos(rate.amount().get().into()) > rate.per() {
            return Err(format!("{text:?} is more than 1000000000 in a second: leave the limit out"));
        }
        Ok(rate)
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = PER.iter().find(|(_, seconds)| Period::secs(*seconds) == self.per).map_or("s", |(name, _)| name);
        write!(f, "{}/{unit}", self.amount)
    }
}

/// A share in percent, written `"99.9%"`: from 0% to 100%, with up to three decimal places.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct Percent(u32);

impl Percent {
    /// `n` thousandths of a percent.
    pub const fn thousandths(n: u32) -> Self {
        Self(n)
    }

    /// This share of a span of time.
    pub fn of(self, whole: Duration) -> Duration {
        whole / 100_000 * self.0
    }

    /// Whether a share in percent is at least this one.
    pub fn is_reached_by(self, percent: f64) -> bool {
        // Shares are quotients, so rounding errors are tolerated.
        percent * 1000.0 + 1e-6 >= f64::from(self.0)
    }
}

impl FromStr for Percent {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let parse = || {
            let (whole, part) = match text.strip_suffix('%')?.split_once('.') {
                Some((whole, part)) if (1..=3).contains(&part.len()) => (whole, part),
                Some(_) => return None,
                None => (text.strip_suffix('%')?, ""),
            };
            let digits = format!("{whole}{part:0<3}");
            let is_number = !whole.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
            digits.parse().ok().filter(|n| is_number && *n <= 100_000).map(Self)
        };
        parse().ok_or_else(|| format!("{text:?} is not a share: write a number up to 100 and a sign, as in \"99.9%\""))
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{}.{:03}", self.0 / 1000, self.0 % 1000);
        write!(f, "{}%", text.trim_end_matches('0').trim_end_matches('.'))
    }
}

fn parse_with_unit(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let factor = units.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit.trim()))?.1;
    number.parse::<u64>().ok()?.checked_mul(factor)
}

fn print_with_unit(f: &mut fmt::Formatter<'_>, n: u64, units: &[(&str, u64)], least: &str) -> fmt::Result {
    match units.iter().find(|(_, factor)| n >= *factor && n.is_multiple_of(*factor)) {
        Some((name, factor)) => write!(f, "{}{name}", n / factor),
        None => write!(f, "{n}{least}"),
    }
}

macro_rules! as_text {
    ($($t:ty),*) => {$(
        impl<'de> Deserialize<'de> for $t {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
            }
        }
        impl Serialize for $t {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
    )*};
}
as_text!(ByteSize, Period, Rate, Percent);

/// A secret text: wiped from memory when dropped, and printed as `***` everywhere.
#[derive(Clone, Default, Deserialize)]
#[serde(transparent)]
pub struct Secret(SecretString);

impl Secret {
    /// Wraps `text`.
    pub fn new(text: String) -> Self {
        Self(text.into())
    }

    /// The text itself, for its user only.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.expose() == other.expose()
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_periods_print_as_written() {
        for text in ["200MiB", "1GiB", "1536KiB", "17B", "0B"] {
            assert_eq!(text.parse::<ByteSize>().unwrap().to_string(), text);
        }
        for text in ["10m", "72h", "30s", "250ms", "24h", "90d"] {
            assert_eq!(text.parse::<Period>().unwrap().to_string(), text);
        }
        for text in ["99.9%", "100%", "0%", "99.95%", "10%", "0.001%"] {
            assert_eq!(text.parse::<Percent>().unwrap().to_string(), text);
        }
        assert_eq!("2GB".parse::<ByteSize>().unwrap().get(), 2_000_000_000);
    }

    #[test]
    fn rates_and_amounts_print_as_written() {
        for text in ["100/s", "6000/m", "1/h", "5000/d", "10MiB/s", "1KiB/h"] {
            assert_eq!(text.parse::<Rate>().unwrap().to_string(), text);
        }
        let rate: Rate = "2KiB/m".parse().unwrap();
        assert_eq!((rate.amount().get(), rate.per()), (2048, Duration::from_secs(60)));
        for text in ["500", "20MiB"] {
            assert_eq!(text.parse::<Amount>().unwrap().to_string(), text);
        }
        for text in ["", "100", "0/s", "1/y", "-1/s", "1.5/s", "5GiB/s", "/s", "2000000000/s"] {
            assert!(text.parse::<Rate>().is_err(), "{text}");
        }
    }

    #[test]
    fn nonsense_is_refused_with_an_example() {
        for text in ["", "10", "MiB", "-1s", "1.5h", "10 parsecs", "99999999999999999999TiB"] {
            assert!(text.parse::<ByteSize>().unwrap_err().contains("64MiB"), "{text}");
            assert!(text.parse::<Period>().unwrap_err().contains("30s"), "{text}");
        }
        for text in ["", "99", "%", ".5%", "1.%", "1.0000%", "100.001%", "-1%", "+1%", "1.5.5%"] {
            assert!(text.parse::<Percent>().unwrap_err().contains("99.9%"), "{text}");
        }
        assert!(Percent(99_900).is_reached_by(99.9) && !Percent(99_900).is_reached_by(99.899));
    }

    #[test]
    fn a_secret_shows_nothing() {
        let secret = Secret::new("hunter2".into());
        assert_eq!(format!("{secret} {secret:?}"), "*** ***");
    }
}
