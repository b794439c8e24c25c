//! Sockets: who may connect, TLS, and the connections that bring requests. Knows no route.

pub(super) mod cut_short;
pub(super) mod doors;
pub(super) mod files;
pub(super) mod listen;
pub mod network;
mod phase;
mod proxied;
pub(super) mod received;
mod sent;
pub(super) mod serve;
mod socket;
pub mod tls;
pub(super) mod window;
