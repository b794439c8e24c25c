//! What is counted and what is logged.

pub mod ledger;
