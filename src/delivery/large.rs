//! Bodies in files, on their way out: what they weigh, and how they are opened before anything is decided about them, so that
//! the worker itself never waits for the disk.

use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use crate::journal::Claim;
use crate::journal::body::{Body, Unreadable};
use crate::tasks;

/// How long a record waits whose file cannot be read.
pub(super) const UNREADABLE: Duration = Duration::from_secs(60);
/// What a body from a file takes of the memory on its way out.
const STREAMED: usize = 512 << 10;

/// The memory that a body takes on its way out.
pub(super) fn weight(body: &Body) -> usize {
    if let Body::Memory(bytes) = body { bytes.len() } else { STREAMED }
}

/// Opens the file of a body that is in one, and sees to it that an envelope's outline is at hand.
pub(super) async fn open(claim: &Claim) -> Result<Option<Arc<File>>, Unreadable> {
    let Body::File(file) = &claim.record.body else { return Ok(None) };
    let (body, file) = (claim.record.body.clone(), Arc::clone(file));
    let is_envelope = claim.record.client.request.is_none();
    tasks::blocking(move || {
        if is_envelope {
            body.outline()?;
        }
        Ok(Some(Arc::new(file.open()?)))
    })
    .await
}
