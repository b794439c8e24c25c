//! Duplicates: the second submission of an event or transaction within the window is answered like the first and goes nowhere.
//!
//! A key is *reserved* while its submission is on its way into the journal and *committed* when the journal has it; a failed
//! append releases it, so that the client's next try is not taken for a repeat of something that was never kept.

use serde::{Deserialize, Serialize};

use crate::units::Period;

/// The section `[dedup]` of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// How long a key is remembered.
    pub window: Period,
}

impl Default for Settings {
    fn default() -> Self {
        Self { window: Period::secs(600) }
    }
}
