//! The public listener, for SDKs: the routes, incoming bodies, and requests that only a tracker can answer.

pub(super) mod body;
mod caller;
mod circle;
mod crash;
mod error;
mod ingest;
pub(super) mod limit;
mod path;
mod peer;
mod proxy;
mod raw;
mod receive;
pub(super) mod room;
pub(super) mod routes;
mod shares;
pub(super) mod state;
