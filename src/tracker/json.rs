//! JSON that is kept in part: the requested members as they are written, and the beginning of a list.

use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;

use serde::de::{Deserialize, Deserializer, IgnoredAny, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// The most entries of a list that are kept.
pub(super) const MOST: usize = 1000;

/// A member of an object: of any type, or absent.
#[derive(Clone, Copy, Default, serde::Deserialize)]
#[serde(transparent)]
pub(super) struct Member<'a>(#[serde(borrow)] Option<&'a RawValue>);

impl<'a> Member<'a> {
    /// The value as it is written; `None` when it is absent or `null`.
    pub(super) fn written(self) -> Option<&'a str> {
        self.0.map(RawValue::get)
    }

    /// The text; `None` when the value is no text.
    pub(super) fn text(self) -> Option<String> {
        serde_json::from_str(self.written()?).ok()
    }

    /// The text, parsed; `None` when the value is no text or cannot be parsed.
    pub(super) fn parsed<T: FromStr>(self) -> Option<T> {
        self.text()?.parse().ok()
    }
}

/// The first [`MOST`] entries of a list. The others are parsed and dropped.
#[derive(Default)]
pub(super) struct First<T>(pub(super) Vec<T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for First<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Reader<T> {
            type Value = First<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<First<T>, A::Error> {
                let mut first = vec![];
                while first.len() < MOST {
                    let Some(entry) = list.next_element()? else { return Ok(First(first)) };
                    first.push(entry);
                }
                while list.next_element::<IgnoredAny>()?.is_some() {}
                Ok(First(first))
            }
        }
        deserializer.deserialize_seq(Reader(PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_list_keeps_its_beginning_and_must_be_json_throughout() {
        let long = format!("[{}7]", "7,".repeat(5000));
        assert_eq!(serde_json::from_str::<First<u8>>(&long).unwrap().0, [7; MOST]);
        assert!(serde_json::from_str::<First<u8>>(&long.replace("7]", "x]")).is_err());
        assert!(serde_json::from_str::<First<u8>>("[]").unwrap().0.is_empty());
    }
}
