//! Parts of an envelope: the payload of an item, and an envelope without the items that were excluded.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use crate::journal::bodies::BodyWriter;
use crate::journal::body::Body;
use crate::journal::{Journal, JournalError};
use crate::protocol::envelope::Item;
use crate::tasks;

/// The bytes that are copied at a time.
const PIECE: u64 = 256 * 1024;

/// An envelope of the header line, these ranges of the body (items, each with the newline before it), and a final newline.
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

/// The first bytes of an item's payload, at most `most`.
pub(super) async fn beginning(body: &Body, item: &Item, most: u64) -> io::Result<Bytes> {
    let Range { start, end } = item.payload();
    piece(body, start..end.min(start + most)).await
}

/// The payload of an item, for small items.
pub(super) async fn payload(body: &Body, item: &Item) -> io::Result<Bytes> {
    piece(body, item.payload()).await
}

async fn piece(body: &Body, range: Range<u64>) -> io::Result<Bytes> {
    match body {
        Body::Memory(_) => body.piece(range),
        Body::Large(_) => {
            let body = body.clone();
            tasks::blocking(move || body.piece(range)).await
        }
    }
}

async fn copy(body: &Body, range: Range<u64>, writer: &mut BodyWriter) -> Result<(), JournalError> {
    for start in range.clone().step_by(PIECE as usize) {
        let piece = piece(body, start..range.end.min(start + PIECE)).await;
        writer.write(&piece.map_err(|error| JournalError::Failed(error.to_string()))?).await?;
    }
    Ok(())
}
