//! Counting and logging: metrics, accounts, observations, the status, the report, logs.

pub mod backfill;
pub mod gaps;
pub mod health;
mod journal;
pub mod lags;
pub mod ledger;
pub mod letters;
mod level;
pub mod log;
pub mod metrics;
pub mod numbers;
pub mod observations;
pub mod pulse;
pub mod report;
pub mod series;
pub mod status;
mod unstalled;
pub mod verification;
pub mod words;
