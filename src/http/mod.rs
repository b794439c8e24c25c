//! The two listeners: the public one for SDKs, the admin one for operators. The only user of axum.

mod access;
mod admin;
mod backfill;
mod body;
mod changes;
mod crash;
mod cut_short;
mod error;
mod forms;
mod ingest;
mod letters;
mod listen;
mod page;
mod peer;
mod phase;
mod proxy;
mod raw;
mod receive;
mod report;
mod report_page;
mod room;
mod routes;
mod scrape;
mod serve;
mod session;
pub mod settings;
pub mod sink;
mod socket;
mod state;
pub mod tls;

pub use admin::{Control, SwitchOrder, SwitchRefusal};
pub use listen::Listeners;
pub use routes::{serve_admin, serve_public};
pub use state::{Admin, Public, Readiness, View};
