//! The three levels of health, and one of them with its reasons.

use serde::{Deserialize, Serialize};

/// How it goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// What comes is delivered.
    #[default]
    Well,
    /// Something does not work, and nothing is lost by it yet.
    Degraded,
    /// What services report is refused or dropped.
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

    /// What tells the levels apart without colours.
    pub const fn sign(self) -> &'static str {
        match self {
            Self::Well => "✔",
            Self::Degraded => "▲",
            Self::LosingData => "✖",
        }
    }
}

/// How it goes, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// In a word.
    pub level: Level,
    /// In one line: the level, and the reasons, the gravest first.
    pub sentence: String,
}
