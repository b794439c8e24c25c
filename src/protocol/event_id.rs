//! Event ids: 128 bits, 32 hex digits on the wire.

use std::fmt;
use std::str::FromStr;

/// The id of an event ("Event Payloads": a UUID in lower-case hex; hyphens and upper case are accepted).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventId(u128);

impl EventId {
    /// A new random id (UUID version 4).
    pub fn random() -> Self {
        Self(uuid::Uuid::new_v4().as_u128())
    }

    /// The id with hyphens.
    pub fn hyphenated(self) -> String {
        uuid::Uuid::from_u128(self.0).to_string()
    }

    /// The id as a number.
    pub const fn as_u128(self) -> u128 {
        self.0
    }
}

impl From<u128> for EventId {
    fn from(bits: u128) -> Self {
        Self(bits)
    }
}

impl FromStr for EventId {
    type Err = InvalidEventId;
    fn from_str(text: &str) -> Result<Self, InvalidEventId> {
        // UUID parsers also take braces and URNs, which are no event ids.
        match text.len() {
            32 | 36 => uuid::Uuid::try_parse(text).map(|id| Self(id.as_u128())).map_err(|_| InvalidEventId),
            _ => Err(InvalidEventId),
        }
    }
}

/// The text is no UUID, with or without hyphens.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("an event id is 32 hex digits, with or without the hyphens of a UUID")]
pub struct InvalidEventId;

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(uuid::Uuid::from_u128(self.0).simple().encode_lower(&mut [0; 32]))
    }
}

impl fmt::Debug for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl serde::Serialize for EventId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hyphens_and_case_are_accepted_and_not_printed() {
        let id: EventId = "9EC79C33-EC99-42AB-8353-589FCB2E04DC".parse().unwrap();
        assert_eq!(id.to_string(), "9ec79c33ec9942ab8353589fcb2e04dc");
        assert_eq!(id.to_string().parse(), Ok(id));
    }

    #[test]
    fn other_spellings_are_refused() {
        for text in ["", "9ec79c33", "{9ec79c33-ec99-42ab-8353-589fcb2e04dc}", "zec79c33ec9942ab8353589fcb2e04dc"] {
            assert_eq!(text.parse::<EventId>(), Err(InvalidEventId), "{text}");
        }
    }
}
