//! What is left of an envelope without its repeats, as an envelope of its own.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use crate::journal::bodies::BodyWriter;
use crate::journal::body::Body;
use crate::journal::{Journal, JournalError};
use crate::protocol::envelope::Item;
use crate::tasks;

/// What is copied at once.
const PIECE: u64 = 256 * 1024;

/// The header line, these ranges of the body (items, each with the newline before it), and a newline.
pub(super) async fn of(
    journal: &Arc<dyn Journal>,
    project: &Arc<str>,
    body: &Body,
    header: &Bytes,
    ranges: &[Range<u64>],
) -> Result<Body, JournalError> {
    let mut writer = BodyWriter::new(Arc::clone(journal), Some(Arc::clone(project)));
    writer.write(header).await?;
    for range in ranges {
        copy(body, range.clone(), &mut writer).await?;
    }
    writer.write(b"\n").await?;
    writer.finish().await
}

/// No more than the first `most` bytes of an item's payload.
pub(super) async fn beginning(body: &Body, item: &Item, most: u64) -> std::io::Result<Bytes> {
    let range = item.payload().start..item.payload().end.min(item.payload().start + most);
    match body {
        Body::Memory(bytes) => Ok(bytes.slice(range.start as usize..range.end as usize)),
        Body::Large(large) => {
            let large = Arc::clone(large);
            tasks::blocking(move || large.open()?.read(range)).await
        }
    }
}

/// The payload of an item that is known to be small.
pub(super) async fn payload(body: &Body, item: &Item) -> std::io::Result<Bytes> {
    match body {
        Body::Memory(_) => body.payload(item),
        Body::Large(_) => {
            let (body, item) = (body.clone(), item.clone());
            tasks::blocking(move || body.payload(&item)).await
        }
    }
}

async fn copy(body: &Body, range: Range<u64>, writer: &mut BodyWriter) -> Result<(), JournalError> {
    if let Body::Memory(bytes) = body {
        return writer.write(&bytes[range.start as usize..range.end as usize]).await;
    }
    for start in range.clone().step_by(PIECE as usize) {
        let (body, piece) = (body.clone(), start..range.end.min(start + PIECE));
        let piece = tasks::blocking(move || body.piece(piece)).await;
        writer.write(&piece.map_err(|error| JournalError::Failed(error.to_string()))?).await?;
    }
    Ok(())
}
