//! Large bodies, on their way out: what they weigh, and how they are opened before anything is decided about them, so that
//! the worker itself never waits for the disk.

use std::sync::Arc;
use std::time::Duration;

use crate::journal::Claim;
use crate::journal::body::{Body, Pieces, Unreadable};
use crate::tasks;

use super::quirks::Quirks;

/// How long a record waits whose body cannot be read.
pub(super) const UNREADABLE: Duration = Duration::from_secs(60);
/// What a large body takes of the memory on its way out.
const STREAMED: usize = 512 << 10;

/// The memory that a body takes on its way out.
pub(super) fn weight(body: &Body) -> usize {
    if let Body::Memory(bytes) = body { bytes.len() } else { STREAMED }
}

/// Opens a large body, and sees to it that an envelope's outline is at hand, and what its events say where the upstream's quirks ask for
/// that.
pub(super) async fn open(claim: &Claim, quirks: &Quirks) -> Result<Option<Arc<dyn Pieces>>, Unreadable> {
    let Body::Large(large) = &claim.record.body else { return Ok(None) };
    let (body, large) = (claim.record.body.clone(), Arc::clone(large));
    let is_envelope = claim.record.client.request.is_none();
    let looks_into = quirks.look_into_events();
    tasks::blocking(move || {
        if is_envelope {
            body.outline()?;
        }
        if is_envelope && looks_into {
            body.read_events()?;
        }
        Ok(Some(Arc::from(large.open()?)))
    })
    .await
}
