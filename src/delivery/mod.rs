//! One upstream's way out: a worker each, with its own connections, circuit and cooldowns. Workers meet nowhere but at the
//! journal, so that nothing one upstream does is felt by another.

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
