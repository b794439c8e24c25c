//! A word to an operator when something breaks, without Prometheus: signs of the status become messages to webhooks.
//!
//! [`signs`] reads them off the status, [`crate::policy::incidents`] decides what is told, [`mod@format`] writes it as a receiver wants
//! it, [`receiver`] sends it. Nothing of this is on the way of an envelope. A receiver's address is a secret: services like Slack put
//! the right to post into it.

pub mod format;
pub mod receiver;
mod settings;
pub mod signs;

pub use settings::Settings;
