//! What relays share besides the records of their journal: the primary, the common part of their configuration, and the leader.
//!
//! Invariants:
//!
//! - The shared state is one value with a revision, which rises with each change and with nothing else. What a relay reads of it is
//!   as durable as a record.
//! - The first relay to ask sets what is not set yet. What later relays would have set is ignored.
//! - A switch belongs to the relay that made it, by its name, through restarts. Only that relay takes it back, and only while no other
//!   relay has switched since.
//! - One relay at a time leads, for a [term](super::term) with a higher epoch than the last one. A relay that is gone no longer leads,
//!   whatever it believes. Only the leader changes the common part, under its term.
//! - A watch reports every change after the revision that it starts from, including changes before the watch began. It may report
//!   several at once.
//! - The last start of each relay name counts. An earlier start of that name is told, and can do nothing any more.
//!
//! A relay that does not share its journal has no such port.

use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use tokio_util::sync::CancellationToken;

use super::Call;
use super::term::Epoch;

/// The shared state, as one relay sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plane {
    /// Rises with each change.
    pub revision: i64,
    /// The upstream that is the primary.
    pub primary: String,
    /// Whether this relay made it the primary, in this run or an earlier one.
    pub is_ours: bool,
    /// The common part of the configuration.
    pub common: String,
}

/// Reads and changes the shared state, as one of the relays.
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

    /// Reports changes after this revision.
    fn watch(&self, revision: i64) -> BoxStream<'static, ()>;

    /// The term of this relay if it leads now and for the time of a step; `None` if it does not, or if that is unknown.
    fn leads(&self) -> BoxFuture<'_, Option<Epoch>>;

    /// Cancelled when another relay has taken this relay's name.
    fn replaced(&self) -> &CancellationToken;
}
