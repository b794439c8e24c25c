//! Accepted differences, which somebody has seen and finds right: `accept_drift` in the section `[report]`.
//!
//! Rule: a name covers its field and everything below it. The positions in lists are not part of a name.

use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The longest name, in bytes.
const LONGEST: usize = 200;

/// A field whose differences are accepted, such as `extra` or `contexts.os`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcceptedField {
    written: Box<str>,
    plain: Box<str>,
}

/// The text is not the name of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a field as the report names it, as in \"extra\", \"contexts.os\" or \"exception.frames.lineno\"")]
pub struct InvalidField;

impl FromStr for AcceptedField {
    type Err = InvalidField;

    fn from_str(text: &str) -> Result<Self, InvalidField> {
        let plain = plain(text);
        let is_name =
            !plain.is_empty() && text.len() <= LONGEST && plain.split('.').all(|step| !step.trim().is_empty());
        if is_name { Ok(Self { written: text.into(), plain: plain.into() }) } else { Err(InvalidField) }
    }
}

impl AcceptedField {
    /// The name as it was written.
    pub fn as_str(&self) -> &str {
        &self.written
    }

    /// The top-level part of an event that the field is in, such as `contexts`.
    pub fn part(&self) -> &str {
        self.plain.split('.').next().unwrap_or_default()
    }

    /// Whether `field` is this field or below it.
    pub fn covers(&self, field: &str) -> bool {
        let field = plain(field);
        field.strip_prefix(&*self.plain).is_some_and(|below| below.is_empty() || below.starts_with('.'))
    }
}

/// A field without positions in lists: `exception[0].frames[].lineno` becomes `exception.frames.lineno`.
fn plain(field: &str) -> String {
    let mut out = String::new();
    let mut rest = field;
    while let Some((before, after)) = rest.split_once('[') {
        let behind = after.trim_start_matches(|c: char| c.is_ascii_digit());
        out.push_str(before);
        rest = match behind.strip_prefix(']') {
            Some(behind) => behind,
            None => {
                out.push('[');
                after
            }
        };
    }
    out + rest
}

impl<'de> Deserialize<'de> for AcceptedField {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl Serialize for AcceptedField {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.written)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_covers_its_field_and_what_is_below_it() {
        let covers = |name: &str, field: &str| name.parse::<AcceptedField>().unwrap().covers(field);
        assert!(covers("extra", "extra") && covers("extra", "extra.cart") && covers("extra", "extra[3].cart"));
        assert!(covers("contexts.os", "contexts.os.name") && covers("tags.user.id", "tags.user.id"));
        assert!(covers("exception.frames.lineno", "exception[0].frames[12].lineno"));
        assert!(covers("exception[].frames[].lineno", "exception[0].frames[12].lineno"));
        assert!(
            !covers("extra", "extras") && !covers("contexts.os", "contexts") && !covers("contexts.os", "contexts.osx")
        );
        assert!(!covers("exception.frames.lineno", "exception[0].frames"));
        assert!(covers("extra.a[b]", "extra.a[b].c"));
        assert_eq!("contexts[0].os".parse::<AcceptedField>().unwrap().part(), "contexts");
    }

    #[test]
    fn a_text_that_is_no_name_is_refused() {
        for text in ["", ".", "extra.", "[0]", " ", &"x".repeat(201)] {
            assert_eq!(text.parse::<AcceptedField>(), Err(InvalidField), "{text}");
        }
    }
}
