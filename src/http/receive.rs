//! The body of a submission, read and decoded: in memory as long as it is small, through a file of the journal beyond that.
//!
//! Rule: what one body takes of the memory is bounded whatever its size; only `max_body` bounds that, as sent and as decoded.
//! Encoded bytes are decoded after they are all there, so that a slow client keeps no decoder.

use std::sync::Arc;

use axum::body::Body;
use bytes::{Bytes, BytesMut};

use crate::intake::decode::{self, DecodeError, Encoding};
use crate::intake::unpack;
use crate::journal::body::{self, IN_MEMORY};
use crate::journal::spool::BodyWriter;

use super::body::{BodyError, Held, Incoming, Room};
use super::error::ApiError;
use super::ingest::DECODED_INLINE;
use super::state::Public;

/// What a body takes of the memory while it goes through a file.
const STREAMED: u64 = 512 * 1024;

/// Reads a body and undoes its encodings.
pub(super) async fn receive(
    public: &Public,
    body: Body,
    encodings: Vec<Encoding>,
    held: &mut Held,
) -> Result<body::Body, ApiError> {
    let body = read(public, body, held).await?;
    if encodings.is_empty() { Ok(body) } else { decoded(public, body, encodings, held).await }
}

/// The most of one body that is held in memory. An encoded one may be there twice.
fn keep(room: &Room) -> u64 {
    (IN_MEMORY as u64).min(room.total() / 2)
}

async fn read(public: &Public, body: Body, held: &mut Held) -> Result<body::Body, ApiError> {
    let room = &public.room;
    let mut incoming = Incoming::new(body, room.max_body(), "max_body")?;
    let (start, more) = gather(room, &mut incoming, held).await?;
    let Some(more) = more else { return Ok(start.into()) };
    let mut writer = BodyWriter::new(Arc::clone(public.intake.journal())).beyond(keep(room));
    writer.write(&start).await?;
    drop(start);
    writer.write(&more).await?;
    drop(more);
    held.shrink(STREAMED.min(keep(room)));
    while let Some(piece) = incoming.next().await? {
        writer.write(&piece).await?;
    }
    Ok(writer.finish().await?)
}

/// What may be held in memory of a body, and the piece that was too much. A body that came in one piece, as small ones do, is not
/// copied.
async fn gather(room: &Room, incoming: &mut Incoming, held: &mut Held) -> Result<(Bytes, Option<Bytes>), BodyError> {
    let keep = keep(room);
    room.extend(held, incoming.expected().min(keep)).await?;
    let (mut first, mut all) = (Bytes::new(), BytesMut::new());
    while let Some(piece) = incoming.next().await? {
        if incoming.total() > keep {
            return Ok((if all.is_empty() { first } else { all.freeze() }, Some(piece)));
        }
        if first.is_empty() && all.is_empty() {
            first = piece;
            continue;
        }
        if all.is_empty() {
            all.reserve(usize::try_from(incoming.expected().max(incoming.total() * 2).min(keep)).unwrap_or(0));
            all.extend_from_slice(&std::mem::take(&mut first));
        }
        // Doubling keeps both the copies and the visits to the semaphore few.
        room.extend_for(held, incoming.total(), keep).await?;
        all.extend_from_slice(&piece);
    }
    Ok((if all.is_empty() { first } else { all.freeze() }, None))
}

/// Decodes where it is quick, and elsewhere where it is not.
async fn decoded(
    public: &Public,
    body: body::Body,
    encodings: Vec<Encoding>,
    held: &mut Held,
) -> Result<body::Body, ApiError> {
    let (room, keep) = (&public.room, keep(&public.room));
    if let body::Body::Memory(bytes) = &body
        && bytes.len() <= DECODED_INLINE
    {
        let limit = room.max_body().min(keep);
        match decode::decode(bytes.clone(), &encodings, limit) {
            Err(DecodeError::TooLarge { .. }) if room.max_body() > limit => {}
            done => {
                let text = done?;
                room.extend(held, (bytes.len() + text.len()) as u64).await?;
                return Ok(text.into());
            }
        }
    }
    // A decompressor may take a window of many MiB: few at a time.
    let _turn = room.turn().await;
    let size = unpack::size(&body, &encodings, room.max_body()).await?;
    room.extend(held, body.in_memory() as u64 + size.min(keep)).await?;
    let writer = BodyWriter::new(Arc::clone(public.intake.journal())).beyond(keep);
    Ok(unpack::unpack(body, encodings, size, writer).await?)
}
