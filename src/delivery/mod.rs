//! Delivery: one worker for each upstream, with its own connections, circuit and cooldowns. Workers do not wait for each other, so that
//! trouble at one upstream affects no other.

mod api;
pub mod asking;
pub mod batch_poison;
pub mod board;
pub mod compress;
mod header_cache;
pub mod headers;
mod large;
mod load;
mod members;
pub mod mend;
pub mod pace;
mod parcel;
pub mod proxies;
mod quirks;
pub mod rewrite;
mod sent;
pub mod settings;
pub mod supervisor;
pub mod transport;
pub mod verifier;
mod watch;
mod worker;
