//! Storage: the room that the journal takes, and whether there is any left.
//!
//! Invariants:
//!
//! - The space is bounded by `max_size`. Settled records go first, then the oldest of those that wait for shadows alone
//!   ([`Storage::protect`]). When neither is left, [`Full`](super::JournalError::Full) is the answer.
//! - No project takes what is another's part ([`Storage::split`]).
//! - Space is given back to the file system after draining. A full disk is an answer too, and passes when there is room again.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;

use super::{Call, Measures, Primaries};

/// Bounds and measures the room.
pub trait Storage: Send + Sync {
    /// Names the upstreams whose backlog is never evicted. When room is short, settled records are removed first; then the oldest records
    /// that wait only for other upstreams are dropped as evicted. Before the first call nothing is evicted.
    fn protect(&self, primaries: Primaries);

    /// Says between which projects the room is split. Half of it is parts, one for each; the other half is common. One that is
    /// beyond its part takes of the common half alone ([`Share`](super::JournalError::Share)), and is the first to give way.
    fn split(&self, projects: Vec<Arc<str>>);

    /// How much room is taken and by whom, and what the storage did so far.
    fn measure(&self) -> Call<'_, Measures>;

    /// Whether an append would be accepted now, and if not, why. Who appends is told by the append itself.
    fn writable(&self) -> Call<'_, ()>;

    /// Commits what is under way and closes. Calls made later answer [`Closed`](super::JournalError::Closed).
    fn close(&self, patience: Duration) -> BoxFuture<'_, ()>;
}
