//! Large bodies on their way out: their weight in memory, and how they are opened before anything is decided about them, so that the worker
//! itself never waits for the disk.

use std::sync::Arc;
use std::time::Duration;

use crate::journal::Claim;
use crate::journal::body::{Body, Pieces, Unreadable};
use crate::tasks;

use super::quirks::Quirks;

/// How long a record with an unreadable body waits.
pub(super) const UNREADABLE: Duration = Duration::from_secs(60);
/// The memory that a large body takes on its way out, in bytes.
const STREAMED: usize = 512 << 10;

/// The memory that a body takes on its way out, in bytes.
pub(super) fn weight(body: &Body) -> usize {
    if let Body::Memory(bytes) = body { bytes.len() } else { STREAMED }
}

/// Opens a large body. Loads the outline of an envelope, and its events if the upstream's quirks look into them. `None` for a body in
/// memory.
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
