//! What is counted and what is logged.

pub mod ledger;
pub mod log;
pub mod metrics;
pub mod status;
