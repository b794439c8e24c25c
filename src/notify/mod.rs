//! Notifies an operator when something breaks, without Prometheus: signs in the status become messages to webhooks.
//!
//! [`signs`] finds the signs in the status, [`crate::policy::incidents`] decides which to report, [`mod@format`] writes the message for
//! the receiver, and [`receiver`] sends it. None of this is on the path of an envelope. A receiver's address is a secret: services such
//! as Slack put the right to post into it.

pub mod format;
pub mod receiver;
mod settings;
pub mod signs;

pub use settings::Settings;
