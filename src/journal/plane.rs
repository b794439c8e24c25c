//! What relays on one journal share besides it: which upstream is the primary, the common part of their configuration, and who leads.
//!
//! Invariants:
//!
//! - What all have is one value with a revision, which rises with each change and with nothing else. What a relay reads of it is as
//!   durable as a record.
//! - The first relay to ask says what nobody has said yet. What another one would have said counts for nothing.
//! - A switch is that of the relay that made it, by its name, through restarts. It alone takes it back, and only while nobody else has
//!   switched since.
//! - One relay at a time leads, for a [term](super::term) with a higher epoch than the one before. A relay that is gone leads no more,
//!   whatever it believes. The common part is changed under the term of the one that leads.
//! - A watch tells of each change that comes after the revision that it begins at, also of those before it began. It may tell of
//!   several at once; it misses none.
//! - Of each name the last start of a relay counts. One whose name another start has taken can do nothing any more, and is told.
//!
//! A relay that shares its journal with nobody has no such port.

use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use tokio_util::sync::CancellationToken;

use super::Call;
use super::term::Epoch;

/// What all relays have.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plane {
    /// Rises with each change.
    pub revision: i64,
    /// The upstream that is the primary.
    pub primary: String,
    /// Whether this relay made it the primary, in this run or in one before.
    pub is_ours: bool,
    /// The common part of the configuration.
    pub common: String,
}

/// Reads and changes what all relays have, as one of them.
pub trait ControlPlane: Send + Sync {
    /// What all relays have. The first relay to ask makes its own that of all, as far as there is none: a moved journal brings its
    /// primary alone.
    fn plane(&self, primary: &str, common: &str) -> Call<'_, Plane>;

    /// Makes an upstream the primary of all relays, and returns the one before. One that is the primary stays that of who made it so.
    fn share_primary(&self, name: &str) -> Call<'_, Option<String>>;

    /// Makes `before` the primary of all relays again, unless another relay has changed it since this one made `name` that.
    fn take_back_primary(&self, name: &str, before: &str) -> Call<'_, ()>;

    /// Makes a text the common part of the configuration of all relays, under a term of this one. Refused when another one leads.
    fn publish(&self, epoch: Epoch, common: &str) -> Call<'_, ()>;

    /// Notes by which names the file of this relay differs from the common part: every relay tells it of
    /// [this one](super::Node::differs).
    fn note_differing(&self, names: Vec<String>) -> Call<'_, ()>;

    /// Tells of changes that come after this revision.
    fn watch(&self, revision: i64) -> BoxStream<'static, ()>;

    /// The term of this relay, if it leads now, and for as long as a step takes. Also `None` while that cannot be told.
    fn leads(&self) -> BoxFuture<'_, Option<Epoch>>;

    /// Cancelled when another relay has taken the name of this one.
    fn replaced(&self) -> &CancellationToken;
}
