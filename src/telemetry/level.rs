//! The three levels of health, and the health itself: a level with its reasons.

use serde::{Deserialize, Serialize};

/// A level of health.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Submissions are delivered.
    #[default]
    Well,
    /// Something does not work, but no data is lost by it yet.
    Degraded,
    /// Data of services is refused or dropped.
    LosingData,
}

impl Level {
    /// The level in words.
    pub const fn words(self) -> &'static str {
        match self {
            Self::Well => "All well",
            Self::Degraded => "Degraded",
            Self::LosingData => "Losing data",
        }
    }

    /// A sign that distinguishes the levels without colours.
    pub const fn sign(self) -> &'static str {
        match self {
            Self::Well => "✔",
            Self::Degraded => "▲",
            Self::LosingData => "✖",
        }
    }
}

/// The health of the relay.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// The level.
    pub level: Level,
    /// One line: the level and its reasons, the gravest first.
    pub sentence: String,
}
