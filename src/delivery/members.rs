//! Members of a JSON object as the trackers' parsers take them: of repeated names the last one counts.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

/// The values of these names as they are written; `None` for an absent name. The rest must be JSON, and is skipped.
pub(super) fn last<'a, const N: usize>(
    json: &'a [u8],
    names: [&str; N],
) -> serde_json::Result<[Option<&'a RawValue>; N]> {
    let mut reader = serde_json::Deserializer::from_slice(json);
    let found = reader.deserialize_map(Members(names))?;
    reader.end()?;
    Ok(found)
}

struct Members<'n, const N: usize>([&'n str; N]);

impl<'de, const N: usize> Visitor<'de> for Members<'_, N> {
    type Value = [Option<&'de RawValue>; N];

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = [None; N];
        while let Some(place) = map.next_key_seed(Name(&self.0))? {
            match place.and_then(|place| found.get_mut(place)) {
                Some(value) => *value = Some(map.next_value()?),
                None => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(found)
    }
}

/// Reads a name in any spelling. Returns its position among these names.
struct Name<'n>(&'n [&'n str]);

impl<'de> DeserializeSeed<'de> for Name<'_> {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Name<'_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<Self::Value, E> {
        Ok(self.0.iter().position(|own| *own == name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(json: &str) -> Option<[Option<&str>; 2]> {
        last(json.as_bytes(), ["a", "b"]).ok().map(|found| found.map(|value| value.map(RawValue::get)))
    }

    #[test]
    fn the_last_of_repeated_names_counts_in_any_spelling() {
        assert_eq!(found(r#"{"a":1,"x":{"b":2},"\u0061": "é" }"#), Some([Some("\"é\""), None]));
        assert_eq!(found(r#"{"b":[1],"a":2,"b":null}"#), Some([Some("2"), Some("null")]));
        assert_eq!(found("{}"), Some([None, None]));
        for unreadable in ["", "[]", "no JSON", "{\"a\":1", "{\"a\":1} x", "{\"x\":NaN}", r#"{"\ud800":1}"#] {
            assert_eq!(found(unreadable), None, "{unreadable}");
        }
    }
}
