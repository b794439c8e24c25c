//! Sentry's wire format: bytes to values and back. No sockets, no files, no clock, no policy.
//!
//! The rules come from Sentry's developer documentation ("Envelopes", "Rate Limiting", "Authentication"), and from the source of
//! getsentry/relay where its behaviour differs. Each place names its source.

pub mod answer;
pub mod auth;
pub mod category;
pub mod client_report;
pub mod dsn;
pub mod endpoint;
pub mod envelope;
pub mod event_id;
pub mod item;
pub mod marked;
pub mod rate_limits;
