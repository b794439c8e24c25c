//! Switchyard: a durable relay at the address in a Sentry DSN.

pub mod cli;
pub mod clock;
pub mod config;
pub mod daemon;
pub mod delivery;
pub mod http;
pub mod intake;
pub mod journal;
pub mod policy;
pub mod protocol;
pub mod tasks;
pub mod telemetry;
pub mod units;
