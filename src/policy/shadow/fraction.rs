//! A fraction of a category, chosen by id.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A fraction from 0 to 1, written `0.1`; in millionths.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fraction(u32);

const WHOLE: u32 = 1_000_000;

impl Fraction {
    /// Whether an id belongs to the fraction. The same id always gets the same answer.
    pub fn has(self, id: u128) -> bool {
        // SplitMix64's finish (Steele, Lea, Flood: "Fast Splittable Pseudorandom Number Generators"): ids need not be random.
        let mix = |n: u64| {
            let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            n ^ (n >> 31)
        };
        let place = mix(mix((id >> 64) as u64).wrapping_add(id as u64).wrapping_add(0x9e37_79b9_7f4a_7c15));
        // The upper half of the product is the position in millionths.
        (u128::from(place) * u128::from(WHOLE)) >> 64 < self.0.into()
    }

    /// Whether no id belongs to it.
    pub const fn is_nothing(self) -> bool {
        self.0 == 0
    }
}

impl fmt::Display for Fraction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", f64::from(self.0) / f64::from(WHOLE / 100))
    }
}

impl<'de> Deserialize<'de> for Fraction {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Number;
        impl de::Visitor<'_> for Number {
            type Value = Fraction;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number from 0 to 1")
            }
            fn visit_i64<E: de::Error>(self, n: i64) -> Result<Fraction, E> {
                match n {
                    0 => Ok(Fraction(0)),
                    1 => Ok(Fraction(WHOLE)),
                    _ => Err(E::invalid_value(de::Unexpected::Signed(n), &self)),
                }
            }
            fn visit_f64<E: de::Error>(self, n: f64) -> Result<Fraction, E> {
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to a million")]
                match n {
                    // A fraction above zero is not rounded to zero.
                    0.0..=1.0 => Ok(Fraction(((n * f64::from(WHOLE)).round() as u32).max(u32::from(n > 0.0)))),
                    _ => Err(E::invalid_value(de::Unexpected::Float(n), &self)),
                }
            }
        }
        deserializer.deserialize_any(Number)
    }
}

impl Serialize for Fraction {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(f64::from(self.0) / f64::from(WHOLE))
    }
}
