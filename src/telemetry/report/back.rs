//! What a report adds after a switch: its candidate may be the upstream to go back to.

use crate::telemetry::status::back;

use super::Report;

impl Report {
    /// That the candidate is the way back, in words; `None` if it is not.
    pub fn way_back(&self) -> Option<String> {
        let name = back::way_back(&self.switches, &self.primary).filter(|name| *name == self.candidate)?;
        Some(format!("the last switch came from {name}: to go back to it needs no verdict"))
    }
}
