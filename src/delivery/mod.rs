//! One upstream's way out: a worker each, with its own connections, circuit and cooldowns. Workers meet nowhere but at the
//! journal, so that nothing one upstream does is felt by another.

mod batch_poison;
pub mod board;
pub mod headers;
mod large;
mod load;
mod parcel;
mod quirks;
pub mod read_back;
mod rewrite;
mod sent;
pub mod settings;
pub mod supervisor;
pub mod transport;
mod watch;
mod worker;
